//! What is told while a load runs, and afterwards.

use std::fs;

use tokio::sync::mpsc;
use weightsd_client::{
    LoadRequest, Phase,
    proto::{EventKind, WatchEventsRequest, load_component_response},
};

use crate::{
    harness::{Home, WITHOUT_VERIFYING, events, leases, until},
    keeping::heavy,
    raw,
};

const REPO: &str = "test/z-image";

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_load_tells_of_its_progress_first() {
    let home = Home::new();
    let hub = home.tiny(REPO);
    let daemon = home.daemon();
    let mut service = raw::service(daemon.socket()).await;
    let request = home.request(REPO, "transformer").message().clone();
    // That they come before the component, `raw::load` sees to.
    let cold = raw::load(&mut service, request.clone()).await.unwrap();
    assert!(!cold.component.warm && !cold.progress.is_empty());
    assert!(cold.progress.iter().all(|step| step.sharers == 1 && step.phase() != Phase::Unspecified));
    let files = hub.written.weight_files_of("transformer").len() as u32;
    for step in cold.progress.iter().filter(|step| step.phase() == Phase::Open) {
        assert!(
            step.files_total == files && step.files_done <= files && step.bytes_done <= step.bytes_total,
            "{step:?}"
        );
    }
    let warm = raw::load(&mut service, request).await.unwrap();
    assert!(warm.component.warm && warm.progress.is_empty());
    assert_eq!(warm.tensors, cold.tensors);
    assert_eq!(warm.component.leases, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_joins_late_is_told_how_far_it_is() {
    const FILES: usize = 8;
    let home = Home::new();
    let model = home.path().join("heavy");
    fs::create_dir(&model).unwrap();
    // Without a config every request reads the headers to tell what the folder is, and the second joins too late.
    fs::write(model.join("config.json"), r#"{"model_type": "heavy"}"#).unwrap();
    for number in 1..=FILES {
        // Headers that take a while; the names of their tensors differ by length.
        let file = heavy(30_000);
        let text = String::from_utf8_lossy(&file[8..]).replace("\"tensor.", &format!("\"{number}."));
        let bytes = [(text.len() as u64).to_le_bytes().as_slice(), text.as_bytes()].concat();
        fs::write(model.join(format!("model-{number:05}-of-{FILES:05}.safetensors")), bytes).unwrap();
    }
    let daemon = home.daemon();
    let client = daemon.client().await;
    let request = LoadRequest::new(model.display().to_string(), "model");
    let (begun, mut begins) = mpsc::unbounded_channel();
    let first = tokio::spawn({
        let (client, request) = (client.clone(), request.clone());
        async move {
            let told = |step: &weightsd_client::Progress| drop(begun.send(step.clone()));
            client.load(request, told).await.unwrap()
        }
    });
    while begins.recv().await.unwrap().files_done == 0 {}
    let mut steps = Vec::new();
    let (second, status) = tokio::join!(client.load(request, |step| steps.push(step.clone())), client.status());
    let (first, second, running) = (first.await.unwrap(), second.unwrap(), status.unwrap().loads);
    assert_eq!((running.len(), running[0].component.as_str()), (1, "model"));
    let step = &steps[0];
    assert_eq!((step.phase(), step.files_total as usize, step.sharers), (Phase::Open, FILES, 2));
    assert!(step.files_done > 0 && step.bytes_done > 0 && step.bytes_total > step.bytes_done, "{step:?}");
    assert_eq!((first.id(), first.tensors().len()), (second.id(), FILES * 30_000));
    assert!(!second.info().warm);
    assert_eq!(events(&client, EventKind::Loaded).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_nobody_waits_for_is_given_up() {
    let home = Home::new();
    let model = home.path().join("heavy");
    fs::create_dir(&model).unwrap();
    for number in 1..=4 {
        fs::write(model.join(format!("model-{number:05}-of-00004.safetensors")), heavy(30_000)).unwrap();
    }
    let daemon = home.daemon();
    let client = daemon.client().await;
    let mut service = raw::service(daemon.socket()).await;
    let request = LoadRequest::new(model.display().to_string(), "model").message().clone();
    let mut stream = service.load_component(request).await.unwrap().into_inner();
    let begun = stream.message().await.unwrap().unwrap().event.unwrap();
    assert!(matches!(begun, load_component_response::Event::Progress(_)), "{begun:?}");
    drop(stream);
    until("the load ends", async || client.status().await.unwrap().loads.is_empty()).await;
    let failed = events(&client, EventKind::LoadFailed).await;
    assert!(failed.len() == 1 && failed[0].message.contains("given up"), "{failed:?}");
    assert_eq!((leases(&client).await, client.status().await.unwrap().components), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_replayed_from_where_one_asks_and_followed() {
    let home = Home::new();
    home.tiny(REPO);
    let daemon = home.daemon_with(&WITHOUT_VERIFYING);
    let client = daemon.client().await;
    let watch = async |from_sequence, past_only| {
        client.watch_events(WatchEventsRequest { from_sequence, past_only }).await.unwrap()
    };
    let mut empty = watch(0, true).await;
    assert_eq!(empty.next().await.unwrap(), None);
    let component = client.load(home.request(REPO, "transformer").client_name("a story"), |_| ()).await.unwrap();
    client.load(home.request(REPO, "unet"), |_| ()).await.unwrap_err();
    let mut following = watch(0, false).await;
    let mut next = async || following.next().await.unwrap().unwrap();
    let (loaded, leased) = (next().await.event.unwrap(), next().await.event.unwrap());
    assert_eq!((loaded.sequence, loaded.kind()), (1, EventKind::Loaded));
    assert_eq!((leased.sequence, leased.kind()), (2, EventKind::Leased));
    assert!(leased.message.contains(&format!("a story ({})", std::process::id())), "{leased:?}");
    assert!(loaded.component_id == component.id() && loaded.time.is_some(), "{loaded:?}");

    let mut late = watch(2, true).await;
    assert_eq!(late.next().await.unwrap().unwrap().event, Some(leased.clone()));
    assert_eq!(late.next().await.unwrap(), None);
    // One who asks for what has not happened yet waits for it.
    let mut early = watch(3, false).await;
    drop(component);
    let released = next().await;
    assert_eq!(released.event.as_ref().map(|event| (event.sequence, event.kind())), Some((3, EventKind::Released)));
    assert_eq!(early.next().await.unwrap(), Some(released));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_never_reads_holds_up_nobody_and_learns_what_it_missed() {
    // With two events each, more than the ring keeps, and so much that windows and queues fill up before.
    const LOADS: usize = 1300;
    let home = Home::new();
    home.tiny(REPO);
    let daemon = home.daemon_with(&["--grace", "100ms"]);
    let client = daemon.client().await;
    let mut service = raw::service(daemon.socket()).await;
    let mut lazy = service.watch_events(WatchEventsRequest::default()).await.unwrap().into_inner();
    let _lazier = service.clone().watch_events(WatchEventsRequest::default()).await.unwrap();
    let name = "x".repeat(64);
    for _ in 0..LOADS {
        drop(client.load(home.request(REPO, "vae").client_name(&name), |_| ()).await.unwrap());
    }
    until("all are released", async || leases(&client).await == 0).await;
    let _held = client.load(home.request(REPO, "transformer"), |_| ()).await.unwrap();
    let past = WatchEventsRequest { past_only: true, ..WatchEventsRequest::default() };
    let mut kept = client.watch_events(past).await.unwrap();
    let mut numbers = Vec::new();
    while let Some(response) = kept.next().await.unwrap() {
        numbers.push(response.event.unwrap().sequence);
    }
    let last = *numbers.last().unwrap();
    assert!(last > 2 * LOADS as u64, "{last}");
    assert!(numbers[0] > 1 && numbers.iter().copied().eq(numbers[0]..=last), "{numbers:?}");

    // What is skipped is counted, so that the numbers add up.
    let (mut expected, mut skipped) = (1, 0);
    while expected <= last {
        let response = lazy.message().await.unwrap().unwrap();
        skipped += response.skipped;
        expected += response.skipped;
        assert_eq!(response.event.unwrap().sequence, expected);
        expected += 1;
    }
    assert!(skipped > 0, "the reader was not slow enough to show anything");
    // Nor does one that still does not read hold up the end.
    assert_eq!(daemon.terminate().code(), Some(0), "{}", home.log());
}
