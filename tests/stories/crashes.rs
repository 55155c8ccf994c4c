//! Either side is killed, at any moment, and the other does not suffer.

use std::{
    thread,
    time::{Duration, Instant},
};

use weightsd_client::{
    Client,
    proto::{EventKind, ListComponentsRequest},
};
use weightsd_fixtures::{Checkpoint, Contents, Dims};

use crate::{
    client_process::{ClientProcess, Job, Manner, checksum},
    harness::{Home, WITHOUT_VERIFYING, events, leases, until, within},
};

const REPO: &str = "test/z-image";
/// Within this time a dead client's leases are gone: this is promised.
const PROMISED: Duration = Duration::from_secs(1);
const KILLS: u32 = 40;

fn job(component: &str) -> Job {
    Job { model: REPO.into(), component: component.into(), source_layout: true }
}

/// Nobody but this client is connected, nobody holds anything, and no load is under way.
async fn is_alone(client: &Client) -> bool {
    let status = client.status().await.unwrap();
    let components = client.list(ListComponentsRequest::default()).await.unwrap().components;
    status.leases == 0
        && status.connections == 1
        && status.loads.is_empty()
        && components.iter().all(|component| component.holders.is_empty())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_killed_at_any_moment_leaves_nothing_behind() {
    let home = Home::new();
    let mut checkpoint = Checkpoint::new(&Dims::tiny(), Contents::Sparse).unwrap();
    // A file for each tensor, so that a load takes a while.
    checkpoint.component_mut("transformer").set_shard_bytes_max(1);
    checkpoint.write_hub_cache(home.hub_cache(), REPO, "main").unwrap();
    // The names of sparse blobs are not their hashes.
    let daemon = home.daemon_with(&WITHOUT_VERIFYING);
    let client = daemon.client().await;
    // Not kept alive, so that each load is a cold one.
    let manner = Manner { waits: true, keep_alive_ms: Some(0), ..Manner::default() };
    // The moments of the kills go well beyond a whole load, however long it takes on this machine.
    let step = {
        let mut process = ClientProcess::start_so(&home, &job("transformer"), &manner);
        process.connected();
        let started = Instant::now();
        process.go();
        assert_eq!(process.held().error, None);
        started.elapsed() * 2 / KILLS
    };
    until("the measured one is gone", async || is_alone(&client).await).await;
    let begun = events(&client, EventKind::Leased).await.len();
    let mut ends = Vec::new();
    for number in 0..KILLS {
        let mut process = ClientProcess::start_so(&home, &job("transformer"), &manner);
        process.connected();
        process.go();
        thread::sleep(step * number);
        process.kill();
        assert!(within(PROMISED, async || is_alone(&client).await).await, "kill {number}: {:?}", client.status().await);
        ends.push(events(&client, EventKind::Leased).await.len() - begun);
    }
    // Killed before it connects, and while it holds.
    ClientProcess::start(&home, &job("transformer")).kill();
    assert!(within(PROMISED, async || is_alone(&client).await).await);
    let mut process = ClientProcess::start_so(&home, &job("transformer"), &manner);
    process.connected();
    process.go();
    assert_eq!(process.held().error, None);
    assert_eq!(leases(&client).await, 1);
    process.kill();
    assert!(within(PROMISED, async || is_alone(&client).await).await);

    assert!(ends.iter().any(|&leased| leased > 0), "all were killed before they had a lease");
    assert!((ends[ends.len() - 1] as u32) < KILLS, "all were killed after they had a lease");
    let (leased, released) = (events(&client, EventKind::Leased).await, events(&client, EventKind::Released).await);
    assert_eq!(leased.len(), released.len());
    until("nothing is kept alive", async || client.status().await.unwrap().components == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_outlive_a_killed_daemon_and_the_next_one_serves_at_once() {
    let home = Home::new();
    home.tiny(REPO);
    let daemon = home.daemon();
    let client = daemon.client().await;
    let mut reader = ClientProcess::start(&home, &job("transformer"));
    // This one has never touched a page when the daemon dies.
    let manner = Manner { leaves_pages_alone: true, ..Manner::default() };
    let mut sleeper = ClientProcess::start_so(&home, &job("transformer"), &manner);
    let read = reader.held();
    assert_eq!((read.error.as_deref(), sleeper.held().bytes), (None, 0));
    let component =
        client.load(home.request(REPO, "vae").layout(weightsd_client::Layout::Source), |_| ()).await.unwrap();
    assert_eq!(leases(&client).await, 3);
    let first = daemon.pid();
    daemon.kill();

    for process in [&mut reader, &mut sleeper] {
        let again = process.read_again();
        assert_eq!((again.tensors, again.bytes, again.checksum), (read.tensors, read.bytes, read.checksum));
    }
    let vae = checksum(component.tensors().map(|tensor| tensor.bytes()));

    // Its socket and its lock file are where it left them.
    assert!(home.socket().exists());
    let daemon = home.daemon();
    assert_ne!(daemon.pid(), first);
    let mut late = ClientProcess::start(&home, &job("transformer"));
    assert_eq!(late.held().checksum, read.checksum);
    let mut late = ClientProcess::start(&home, &job("vae"));
    assert_eq!(late.held().checksum, vae);
    // A client of the dead daemon finds the new one by itself.
    let mut found = None;
    until("the old client finds the new daemon", async || {
        found = client.status().await.ok();
        found.is_some()
    })
    .await;
    assert_eq!(found.map(|status| status.pid), Some(daemon.pid()));
}
