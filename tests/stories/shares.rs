//! Nobody takes everything: connections, descriptors under way, streams of events and what is idle are bounded for the
//! daemon and for each process.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use tonic::Code;
use weightsd_client::{
    Client, Hold, Layout,
    proto::{EventKind, ModelSelector, VerifyRequest, WatchEventsRequest},
};
use weightsd_core::handoff::{MAGIC, REPLY_LEN, Reply, Request, Status, Ticket};

use crate::{
    client_process::{ClientProcess, Job},
    harness::{Daemon, Home, PROGRAM, events, tiny, until},
    not_run::not_run,
    raw,
};

const REPO: &str = "test/z-image";

fn job() -> Job {
    Job { model: REPO.into(), component: "vae".into(), source_layout: true }
}

/// A connection that waits for the next hand-off.
fn idle(daemon: &Daemon) -> UnixStream {
    let mut stream = daemon.connect();
    let reply = raw::ask(&mut stream, &Request { ticket: Ticket([7; 16]) }.encode());
    assert_eq!(reply.status, Status::UnknownTicket);
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_hand_offs_of_one_process_give_way() {
    let home = Home::new();
    home.tiny(REPO);
    let daemon = home.daemon_with(&["--connections", "32"]);
    let client = daemon.client().await;
    // More than there may be: each new one is served, and the oldest goes.
    let held: Vec<_> = (0..64).map(|_| idle(&daemon)).collect();
    until("the limit holds", async || client.status().await.unwrap().connections <= 32).await;
    assert_eq!((&held[0]).read(&mut [0]).unwrap(), 0, "it gave way");
    assert_eq!(ClientProcess::start(&home, &job()).held().error, None);
    assert!(events(&client, EventKind::Refused).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_gets_its_share_and_the_refused_are_told_why() {
    let home = Home::new();
    home.tiny(REPO);
    let daemon = home.daemon_with(&["--connections", "32"]);
    let client = daemon.client().await;
    until("the harness has hung up", async || client.status().await.unwrap().connections == 1).await;
    // Connections of a kind that does not give way.
    let begin = || {
        let mut stream = daemon.connect();
        stream.write_all(b"PRI * HTTP/2.0\r\n").unwrap();
        stream
    };
    let held: Vec<_> = (0..23).map(|_| begin()).collect();
    until("its share is taken", async || client.status().await.unwrap().connections == 24).await;
    let mut told = Vec::new();
    begin().read_to_end(&mut told).unwrap();
    let text = String::from_utf8_lossy(&told);
    assert!(text.contains("24 connections open, which is the limit for one process"), "{text}");
    let mut refused = daemon.connect();
    refused.write_all(&[MAGIC]).unwrap();
    let mut reply = [0; REPLY_LEN];
    refused.read_exact(&mut reply).unwrap();
    assert_eq!(Reply::decode(&reply).unwrap().unwrap().status, Status::Full);
    assert_eq!(ClientProcess::start(&home, &job()).held().error, None, "another process is served");
    drop(held);
    until("all places but one are free", async || client.status().await.unwrap().connections == 1).await;
    assert_eq!(daemon.client().await.status().await.unwrap().pid, daemon.pid());
}

/// A daemon whose user may have so many files open, and so many descriptors under way. Root without its capabilities has
/// limits like everybody.
fn limited(home: &Home, files: usize, arguments: &[&str]) -> Option<Daemon> {
    const LIMITED: [&str; 4] = ["--bounding-set", "-all", "--inh-caps", "-all"];
    if !Command::new("setpriv").args(LIMITED).arg("true").status().is_ok_and(|status| status.success()) {
        not_run("only root can start a process without capabilities, and only with `setpriv`");
        return None;
    }
    let mut command = Command::new("sh");
    let serve = format!("ulimit -n {files}; exec setpriv {} {PROGRAM} serve \"$@\"", LIMITED.join(" "));
    command.args(["-c", &serve, "sh"]).args(arguments);
    Some(home.ready(home.start(home.around(command))))
}

#[tokio::test(flavor = "multi_thread")]
async fn descriptors_that_nobody_takes_hold_up_their_own_process_only() {
    let home = Home::new();
    let mut checkpoint = tiny(1);
    // Each tensor in a file of its own.
    checkpoint.component_mut("transformer").set_shard_bytes_max(1);
    checkpoint.write_hub_cache(home.hub_cache(), REPO, "main").unwrap();
    let Some(daemon) = limited(&home, 256, &["--connections", "64"]) else { return };
    let mut service = raw::service(daemon.socket()).await;
    let loaded = raw::load(&mut service, home.request(REPO, "transformer").message().clone()).await.unwrap();
    let segments = loaded.component.segments.len();
    assert!(segments * 20 > 2 * 256, "{segments} are to be too many for twenty");
    let request = Request { ticket: loaded.ticket() }.encode();
    // Each is granted and acknowledges nothing.
    let greedy: Vec<_> = (0..20)
        .map(|_| {
            let mut stream = daemon.connect();
            assert_eq!(raw::ask(&mut stream, &request).status, Status::Granted);
            stream
        })
        .collect();
    assert_eq!(ClientProcess::start(&home, &job()).held().error, None);
    drop(greedy);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_events_are_bounded_and_free_again_when_they_end() {
    let home = Home::new();
    let daemon = home.daemon();
    let client = daemon.client().await;
    let mut streams = Vec::new();
    let refused = loop {
        assert!(streams.len() < 1000, "there is no bound");
        match client.watch_events(WatchEventsRequest::default()).await {
            Ok(stream) => streams.push(stream),
            Err(error) => break error,
        }
    };
    assert_eq!(refused.daemon().unwrap().code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.retryable() && refused.to_string().contains("of them open"), "{refused}");
    streams.clear();
    until("a place is free", async || client.watch_events(WatchEventsRequest::default()).await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_events_that_nobody_reads_cost_little_and_it_is_given_back() {
    const CONNECTIONS: usize = 100;
    const STREAMS: usize = 256;
    const BOUND: u64 = 64 << 20;
    const GIVEN_BACK: u64 = 16 << 20;
    let home = Home::new();
    home.tiny(REPO);
    let daemon = home.daemon();
    let client = daemon.client().await;
    for _ in 0..300 {
        let _ = client.load(home.request(REPO, "vae"), |_| ()).await.unwrap();
    }
    let memory = async || client.status().await.unwrap().memory_bytes;
    let before = memory().await;
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        let service = raw::service(daemon.socket()).await;
        let watch =
            |mut service: raw::Service| async move { service.watch_events(WatchEventsRequest::default()).await };
        let streams = futures_util::future::join_all((0..STREAMS).map(|_| watch(service.clone()))).await;
        // What comes of them is not read.
        let streams: Vec<_> = streams.into_iter().filter_map(Result::ok).collect();
        connections.push((service, streams));
    }
    assert!(connections.iter().any(|(_, streams)| !streams.is_empty()));
    let grown = memory().await.saturating_sub(before);
    assert!(grown < BOUND, "{grown} bytes more than {before}");
    drop(connections);
    until("the memory is given back", async || memory().await < before + GIVEN_BACK).await;
}

/// A model of one file with so many tensors of a byte each.
fn file_with(home: &Home, name: &str, tensors: usize) -> PathBuf {
    let tensor =
        |number| format!(r#""{name}.{number}":{{"dtype":"U8","shape":[1],"data_offsets":[{number},{}]}}"#, number + 1);
    let header = format!("{{{}}}", (0..tensors).map(tensor).collect::<Vec<_>>().join(","));
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.resize(file.len() + tensors, 7);
    let path = home.path().join(format!("{name}.safetensors"));
    fs::write(&path, file).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_of_what_is_idle_is_bounded() {
    const TENSORS: usize = 2000;
    const MODELS: usize = 60;
    // Room for about eight of them; all would take ten times as much.
    const BOUND: u64 = 20 << 20;
    let home = Home::new();
    let daemon = home.daemon_with(&["--idle-memory", &format!("{BOUND}B")]);
    let client = daemon.client().await;
    let memory = async || client.status().await.unwrap().memory_bytes;
    let load = async |number: usize| {
        let path = file_with(&home, &format!("model{number}"), TENSORS);
        let request = home.request(path.to_str().unwrap(), "model").layout(Layout::Source);
        drop(client.load(request, |_| ()).await.unwrap());
    };
    load(0).await;
    let before = memory().await;
    for number in 1..=MODELS {
        load(number).await;
    }
    let evicted = || async { events(&client, EventKind::Evicted).await };
    until("some are dropped", async || !evicted().await.is_empty()).await;
    assert!(evicted().await[0].message.contains("bytes of the daemon's memory"), "{:?}", evicted().await[0]);
    until("the bound holds", async || memory().await < before + 2 * BOUND).await;
    assert!(client.status().await.unwrap().components > 2, "what fits is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_and_the_status_cost_the_same_beside_thousands_of_idle_components() {
    const MODELS: usize = 2000;
    const FEW: usize = 100;
    let home = Home::new();
    let daemon = home.daemon_with(&["--idle-components", "100000"]);
    let client = daemon.client().await;
    // What other tests do to the machine shows least in the quickest tenth.
    let quick = |mut times: Vec<Duration>| {
        times.sort();
        times[times.len() / 10]
    };
    let status = async || {
        let mut times = Vec::new();
        for _ in 0..FEW {
            let began = Instant::now();
            client.status().await.unwrap();
            times.push(began.elapsed());
        }
        quick(times)
    };
    let small = status().await;
    let mut loads = Vec::new();
    for number in 0..MODELS {
        let path = file_with(&home, &format!("model{number}"), 1);
        let request = home.request(path.to_str().unwrap(), "model").layout(Layout::Source).hold(Hold::None);
        let began = Instant::now();
        let _ = client.load(request, |_| ()).await.unwrap();
        loads.push(began.elapsed());
    }
    assert_eq!(client.status().await.unwrap().components as usize, MODELS);
    let large = status().await;
    assert!(large < 3 * small, "the status took {small:?} without components, and takes {large:?} with {MODELS}");
    let (first, last) = (quick(loads[..FEW].to_vec()), quick(loads[MODELS - FEW..].to_vec()));
    assert!(last < 3 * first, "the first loads took {first:?}, the last ones {last:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_idle_is_bounded_by_number_and_the_least_recently_used_goes() {
    let home = Home::new();
    let daemon = home.daemon_with(&["--idle-components", "8"]);
    let client = daemon.client().await;
    let load = async |number: u64| {
        let path = home.path().join(format!("model-{number}"));
        if !path.exists() {
            tiny(number).write_directory(&path).unwrap();
        }
        let request = home.request(path.to_str().unwrap(), "vae").layout(Layout::Source);
        client.load(request, |_| ()).await.unwrap()
    };
    let held = load(0).await;
    let mut first = String::new();
    for number in 1..=12 {
        let loaded = load(number).await;
        if number == 1 {
            first = loaded.id().to_string();
        }
    }
    // What is held does not count.
    until("the bound holds", async || client.status().await.unwrap().components <= 9).await;
    let evicted = events(&client, EventKind::Evicted).await;
    assert!(evicted[0].message.contains("idle components are kept, of 8 allowed"), "{evicted:?}");
    assert_eq!(evicted[0].component_id, first);
    assert!(load(0).await.info().warm && load(12).await.info().warm);
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_not_held_open_at_the_cost_of_connections() {
    let home = Home::new();
    // Half of these files, since connections and the daemon's own do not leave more.
    let Some(daemon) = limited(&home, 128, &["--connections", "16"]) else { return };
    let client = daemon.client().await;
    let mut held = Vec::new();
    let refused = loop {
        let number = held.len() as u64;
        assert!(number < 200, "there is no bound");
        let path = home.path().join(format!("model-{number}"));
        tiny(number).write_directory(&path).unwrap();
        let request = home.request(path.to_str().unwrap(), "vae").layout(Layout::Source);
        match client.load(request.hold(Hold::Stream), |_| ()).await {
            Ok(component) => held.push(component),
            Err(error) => break error,
        }
    };
    assert_eq!(refused.daemon().unwrap().code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.hint().unwrap().contains("ulimit -n"), "{refused}");
    // Those who come next are served.
    let next: Vec<Client> = futures_util::future::join_all((0..8).map(|_| daemon.client())).await;
    for client in &next {
        client.status().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_many_verify_is_hashed_once() {
    const BYTES: usize = 256 << 20;
    let home = Home::new();
    let daemon = home.daemon();
    let mut file = br#"{"a":{"dtype":"U8","shape":[268435456],"data_offsets":[0,268435456]}}"#.to_vec();
    file.splice(0..0, (file.len() as u64).to_le_bytes());
    file.resize(file.len() + BYTES, 7);
    let blob = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&file));
    let (folder, commit) = (home.hub_cache().join("models--a--large"), "c".repeat(40));
    for name in ["blobs", "refs", &format!("snapshots/{commit}")] {
        fs::create_dir_all(folder.join(name)).unwrap();
    }
    fs::write(folder.join("blobs").join(&blob), &file).unwrap();
    fs::write(folder.join("refs/main"), &commit).unwrap();
    let link = folder.join(format!("snapshots/{commit}/model.safetensors"));
    std::os::unix::fs::symlink(format!("../../blobs/{blob}"), link).unwrap();
    let read = || {
        let io = fs::read_to_string(format!("/proc/{}/io", daemon.pid())).unwrap();
        io.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse::<u64>().unwrap()
    };
    let mut clients = Vec::new();
    for _ in 0..60 {
        clients.push(daemon.client().await);
    }
    let before = read();
    let model = ModelSelector {
        spec: "a/large".into(),
        hub_cache: home.hub_cache().to_str().unwrap().into(),
        ..ModelSelector::default()
    };
    let verify = |client: &Client| {
        let (client, request) =
            (client.clone(), VerifyRequest { model: Some(model.clone()), ..VerifyRequest::default() });
        async move { client.verify(request, |_| ()).await.unwrap() }
    };
    let reports = futures_util::future::join_all(clients.iter().map(verify)).await;
    assert!(reports.iter().all(|report| report.clean && report.verdicts.len() == 1), "{:?}", reports[0]);
    let times = (read() - before) / BYTES as u64;
    assert!(times < 4, "it was read {times} times");
}
