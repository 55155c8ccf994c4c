//! Many want one cold repository, and it comes once.

use std::collections::BTreeSet;

use tokio::time::timeout;
use weightsd_fixtures::hub::{Fault, Hub, On, Rule, Side};

use crate::{
    client_process::{ClientProcess, Job, Manner},
    harness::{Daemon, Home, PATIENCE, until},
    hubs::{REPO, assert_sound, gets, is_file, load, partials, publish_weights, request, tiny_hub, visible},
    raw,
};

const PROCESSES: usize = 100;
const LENGTH: usize = 4_000_000;
/// More than half of the file.
const HALF: u64 = 2_500_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_processes_cause_one_request_for_each_file() {
    let home = Home::new();
    let (hub, fixture) = tiny_hub(&home);
    let daemon = home.daemon_on(&hub, &[]);
    let client = daemon.client().await;
    // Slow enough that all of them come while it runs.
    hub.fault(On::api("/revision/"), Fault::Late { by: std::time::Duration::from_millis(300) });
    let job = Job { model: REPO.into(), component: "transformer".into(), source_layout: true };
    let manner = Manner { waits: true, ..Manner::default() };
    let mut crowd: Vec<_> = (0..PROCESSES).map(|_| ClientProcess::start_so(&home, &job, &manner)).collect();
    crowd.iter_mut().for_each(ClientProcess::connected);
    crowd.iter_mut().for_each(ClientProcess::go);
    let held: Vec<_> = crowd.iter_mut().map(ClientProcess::held).collect();
    assert!(held.iter().all(|held| held.error.is_none()), "{held:?}");
    assert_eq!(held.iter().map(|held| held.checksum).collect::<BTreeSet<_>>().len(), 1);

    for side in [Side::Api, Side::Resolve, Side::Cdn] {
        assert!(gets(&hub, side).values().all(|count| *count == 1), "{:?}", gets(&hub, side));
    }
    let shards = fixture.written.weight_files_of("transformer").len();
    assert_eq!((gets(&hub, Side::Api).len(), gets(&hub, Side::Cdn).len()), (2, shards));
    assert_eq!(client.status().await.unwrap().leases as usize, PROCESSES);
    assert_sound(&home, REPO);
}

/// A hub that sends more than half of its one weight file, and the rest when the rule is removed.
fn halting_hub() -> (Hub, Rule, Vec<u8>) {
    let hub = Hub::start().unwrap();
    let file = publish_weights(&hub, REPO, LENGTH);
    let rule = hub.fault(On::cdn(""), Fault::Stall { after: HALF });
    (hub, rule, file)
}

/// A daemon that waits for that rest as long as it takes.
fn patient_daemon(home: &Home, hub: &Hub) -> Daemon {
    home.daemon_on(hub, &["--hub-stall", "1h"])
}

#[tokio::test(flavor = "multi_thread")]
async fn one_who_hangs_up_disturbs_nobody() {
    let home = Home::new();
    let (hub, halt, file) = halting_hub();
    let daemon = patient_daemon(&home, &hub);
    let client = daemon.client().await;
    let mut service = raw::service(daemon.socket()).await;
    let mut first = service.load_component(request(&home, REPO, "model").message().clone()).await.unwrap().into_inner();
    first.message().await.unwrap().unwrap();
    let second = tokio::spawn({
        let (client, request) = (client.clone(), request(&home, REPO, "model"));
        async move { client.load(request, |_| ()).await }
    });
    until("half of it came", async || hub.bytes_sent(Side::Cdn) == HALF).await;
    until("two wait", async || waiting(&client).await == [2]).await;
    drop(first);
    until("one waits", async || waiting(&client).await == [1]).await;
    halt.remove();
    assert!(is_file(&timeout(PATIENCE, second).await.unwrap().unwrap().unwrap(), &file));
    assert_eq!((hub.seen(&On::cdn("")).len(), hub.bytes_sent(Side::Cdn)), (1, file.len() as u64));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_one_who_hangs_up_stops_it_and_the_next_one_goes_on() {
    let home = Home::new();
    let (hub, halt, file) = halting_hub();
    let daemon = patient_daemon(&home, &hub);
    let client = daemon.client().await;
    let mut service = raw::service(daemon.socket()).await;
    let mut streams = Vec::new();
    for _ in 0..2 {
        let message = request(&home, REPO, "model").message().clone();
        streams.push(service.load_component(message).await.unwrap().into_inner());
    }
    let written = || partials(&home, REPO).first().map_or(0, |partial| partial.metadata().unwrap().len());
    until("half of it came", async || written() == HALF).await;
    drop(streams);
    until("the download ends", async || hub.seen(&On::cdn("")).iter().all(|seen| seen.over)).await;
    until("nobody waits", async || waiting(&client).await.is_empty()).await;
    assert!(written() == HALF && visible(&home, REPO).is_empty());
    assert_eq!(client.status().await.unwrap().components, 0);

    halt.remove();
    assert!(is_file(&load(&client, &home, "model").await.unwrap(), &file));
    let last = hub.seen(&On::cdn("")).pop().unwrap();
    assert_eq!((last.headers["range"].as_str(), last.sent), (&*format!("bytes={HALF}-"), file.len() as u64 - HALF));
    assert_sound(&home, REPO);
}

/// How many wait for each download.
async fn waiting(client: &weightsd_client::Client) -> Vec<u32> {
    let downloads = client.status().await.unwrap().downloads;
    downloads.into_iter().map(|download| download.progress.unwrap().sharers).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_went_silent_does_not_hold_up_the_end_of_a_download_nobody_waits_for() {
    let home = Home::new();
    let hub = Hub::start().unwrap();
    let file = publish_weights(&hub, REPO, 100_000);
    let silence = hub.fault(On::cdn(""), Fault::Stall { after: 50_000 });
    // Nobody waits for as long as this in vain.
    let daemon = home.daemon_on(&hub, &["--hub-stall", "1h", "--hub-deadline", "1h"]);
    let client = daemon.client().await;
    let mut service = raw::service(daemon.socket()).await;
    let message = || request(&home, REPO, "model").message().clone();
    let stream = service.load_component(message()).await.unwrap();
    until("half of it came", async || hub.bytes_sent(Side::Cdn) >= 50_000).await;
    drop(stream);
    until("the connection ends", async || hub.seen(&On::cdn("")).iter().all(|seen| seen.over)).await;
    silence.remove();
    // Nor when no answer begins.
    let silence = hub.fault(On::cdn(""), Fault::Silence);
    let stream = service.load_component(message()).await.unwrap();
    until("it is asked again", async || hub.seen(&On::cdn("")).len() == 2).await;
    drop(stream);
    until("the connection ends", async || hub.seen(&On::cdn("")).iter().all(|seen| seen.over)).await;
    silence.remove();
    assert!(is_file(&load(&client, &home, "model").await.unwrap(), &file));
}
