//! How long components stay: leases, keep-alive, evictions, deadlines.

use std::{fs, time::Duration};

use serde_json::{Map, json};
use tonic::Code;
use weightsd_client::{
    Client, ClientError, ErrorReason, Hold, Layout, LoadRequest,
    proto::{EventKind, EvictRequest, ListComponentsRequest, LoadedComponent},
};

use crate::{
    harness::{Home, events, leases, until},
    raw,
};

const REPO: &str = "test/z-image";
const HOUR: Duration = Duration::from_secs(3600);

async fn listed(client: &Client) -> Vec<LoadedComponent> {
    client.list(ListComponentsRequest::default()).await.unwrap().components
}

fn evict(id: impl Into<String>) -> EvictRequest {
    EvictRequest { id: id.into(), ..EvictRequest::default() }
}

/// Reason and code of a refusal that says what to do.
fn refusal(error: &ClientError) -> (ErrorReason, Code) {
    let daemon = error.daemon().unwrap_or_else(|| panic!("{error:?}"));
    assert!(daemon.hint().is_some(), "{error}");
    (daemon.reason().unwrap(), daemon.code())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_stays_warm_for_as_long_as_was_asked() {
    let home = Home::new();
    home.tiny(REPO);
    let daemon = home.daemon();
    let client = daemon.client().await;
    let request = |component, layout| home.request(REPO, component).layout(layout);
    let long = client.load(request("transformer", Layout::Mlx).keep_alive(HOUR), |_| ()).await.unwrap();
    let none = client.load(request("vae", Layout::Source).keep_alive(Duration::ZERO), |_| ()).await.unwrap();
    let (long_id, none_id) = (long.id().to_owned(), none.id().to_owned());
    assert!(!long.info().warm && !none.info().warm);
    for component in listed(&client).await {
        assert_eq!((component.holders.len(), component.expires), (1, None));
    }
    drop((long, none));
    until("the one that is not kept alive is dropped", async || listed(&client).await.len() == 1).await;
    let kept = listed(&client).await.remove(0);
    assert_eq!((kept.id.as_str(), kept.holders.len()), (long_id.as_str(), 0));
    let left = kept.expires.unwrap().seconds - kept.loaded.unwrap().seconds;
    assert!((3590..3700).contains(&left), "{kept:?}");
    let evicted = events(&client, EventKind::Evicted).await;
    assert_eq!(evicted.iter().map(|event| event.component_id.as_str()).collect::<Vec<_>>(), [none_id.as_str()]);
    assert!(evicted[0].message.contains("idle beyond its keep-alive"), "{evicted:?}");

    let again = client.load(request("transformer", Layout::Mlx), |_| ()).await.unwrap();
    assert!(again.info().warm && again.id() == long_id);
    // The longest of the keep-alives counts, not the last.
    drop(again);
    let short = client.load(request("transformer", Layout::Mlx).keep_alive(Duration::ZERO), |_| ()).await.unwrap();
    assert!(short.info().warm);
    drop(short);
    until("nobody holds it", async || leases(&client).await == 0).await;
    let kept = listed(&client).await.remove(0);
    assert!(kept.expires.unwrap().seconds - kept.loaded.unwrap().seconds >= 3590, "{kept:?}");
    assert_eq!(kept.requests, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_granted_is_echoed() {
    let home = Home::new();
    home.tiny(REPO);
    let daemon = home.daemon_with(&["--keep-alive", "5min", "--keep-alive-max", "2h"]);
    let client = daemon.client().await;
    let limits = client.status().await.unwrap().limits.unwrap();
    assert_eq!(limits.keep_alive_default.unwrap().seconds, 300);
    assert_eq!(limits.keep_alive_max.unwrap().seconds, 7200);
    let request = || home.request(REPO, "transformer");
    let table = [
        (request(), 300),
        (request().keep_alive(Duration::ZERO), 0),
        (request().keep_alive(HOUR), 3600),
        (request().keep_alive(10 * HOUR), 7200),
        (request().keep_alive(Duration::MAX), 7200),
    ];
    for (request, granted) in table {
        let component = client.load(request, |_| ()).await.unwrap();
        let lease = component.info().lease.clone().unwrap();
        assert_eq!(lease.keep_alive.unwrap(), prost_types::Duration { seconds: granted, nanos: 0 });
        assert_ne!(lease.id, 0);
    }
    let mut wrong = request().message().clone();
    wrong.keep_alive = Some(prost_types::Duration { seconds: -1, nanos: 0 });
    let status = raw::load(&mut raw::service(daemon.socket()).await, wrong).await.err().unwrap();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("keep_alive"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn evict_drops_what_nobody_holds_and_says_why_not() {
    let home = Home::new();
    home.tiny(REPO);
    let daemon = home.daemon();
    let client = daemon.client().await;
    let held = client.load(home.request(REPO, "transformer"), |_| ()).await.unwrap();
    drop(client.load(home.request(REPO, "text_encoder"), |_| ()).await.unwrap());
    until("the text encoder is free", async || leases(&client).await == 1).await;
    let free = listed(&client).await.into_iter().find(|component| component.name == "text_encoder").unwrap();

    for dry_run in [true, false] {
        let error = client.evict(EvictRequest { dry_run, ..evict(held.id()) }).await.unwrap_err();
        assert_eq!(refusal(&error), (ErrorReason::InUse, Code::FailedPrecondition));
        assert!(error.to_string().contains("held by 1 lease"), "{error}");
    }
    for (id, reason) in [("12345", ErrorReason::InvalidRequest), ("../../..", ErrorReason::InvalidRequest)] {
        assert_eq!(refusal(&client.evict(evict(id)).await.unwrap_err()), (reason, Code::InvalidArgument));
    }
    let unknown = if free.id.starts_with("00000000") { "11111111" } else { "00000000" };
    assert_eq!(refusal(&client.evict(evict(unknown)).await.unwrap_err()), (ErrorReason::NotLoaded, Code::NotFound));
    assert_eq!(refusal(&client.get(unknown).await.unwrap_err()), (ErrorReason::NotLoaded, Code::NotFound));

    // A dry run says the same and changes nothing.
    let prefix = free.id[..8].to_ascii_uppercase();
    let told = client.evict(EvictRequest { dry_run: true, ..evict(prefix.clone()) }).await.unwrap().outcomes;
    let all = client.evict(EvictRequest { dry_run: true, ..evict("") }).await.unwrap().outcomes;
    assert_eq!(listed(&client).await.len(), 2);
    assert_eq!(client.get(prefix.clone()).await.unwrap().component.unwrap().id, free.id);
    assert!(events(&client, EventKind::Evicted).await.is_empty());
    let mut verdicts: Vec<_> = all.iter().map(|outcome| (outcome.name.as_str(), outcome.evicted)).collect();
    verdicts.sort_unstable();
    assert_eq!(verdicts, [("text_encoder", true), ("transformer", false)]);

    let done = client.evict(evict(prefix)).await.unwrap().outcomes;
    assert_eq!(done, told);
    assert_eq!((done.len(), done[0].evicted, done[0].tensor_bytes), (1, true, free.tensor_bytes));
    assert_eq!(listed(&client).await.iter().map(|component| component.id.as_str()).collect::<Vec<_>>(), [held.id()]);
    assert_eq!(events(&client, EventKind::Evicted).await.len(), 1);
    assert_eq!(refusal(&client.evict(evict(free.id)).await.unwrap_err()), (ErrorReason::NotLoaded, Code::NotFound));

    // Everything that nobody holds: the held one is kept, and is no error.
    let kept = client.evict(evict("")).await.unwrap().outcomes;
    assert!(kept.len() == 1 && !kept[0].evicted && kept[0].reason.contains("held"), "{kept:?}");
    drop(held);
    until("nobody holds it", async || leases(&client).await == 0).await;
    assert!(client.evict(evict("")).await.unwrap().outcomes[0].evicted);
    assert!(listed(&client).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_hold_the_stream_ends_and_no_lease_is_left() {
    let home = Home::new();
    home.tiny(REPO);
    let daemon = home.daemon();
    let client = daemon.client().await;
    let mut service = raw::service(daemon.socket()).await;
    for warm in [false, true] {
        let request = home.request(REPO, "transformer").hold(Hold::None);
        let mut loaded = raw::load(&mut service, request.message().clone()).await.unwrap();
        assert_eq!(loaded.tensors.len() as u32, loaded.component.tensor_count);
        assert_eq!(loaded.stream.message().await.unwrap(), None);
        assert_eq!(leases(&client).await, 0);
        let lease = loaded.component.lease.unwrap();
        assert_eq!((lease.id, lease.ticket.len(), loaded.component.warm), (0, 0, warm));
    }
    // The client crate maps the same files by their paths.
    let component = client.load(home.request(REPO, "transformer").hold(Hold::None), |_| ()).await.unwrap();
    let held = client.load(home.request(REPO, "transformer"), |_| ()).await.unwrap();
    assert!(component.tensors().zip(held.tensors()).all(|(one, other)| one.bytes() == other.bytes()));
    assert_eq!(leases(&client).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_takes_too_long_ends_with_an_error() {
    let home = Home::new();
    let model = home.path().join("heavy");
    fs::create_dir(&model).unwrap();
    fs::write(model.join("model.safetensors"), heavy(100_000)).unwrap();
    // With a config its weights are not looked at before they are loaded.
    fs::write(model.join("config.json"), "{}").unwrap();
    let daemon = home.daemon_with(&["--load-deadline", "1ms"]);
    let client = daemon.client().await;
    let error = client.load(LoadRequest::new(model.display().to_string(), "model"), |_| ()).await.unwrap_err();
    assert_eq!(refusal(&error), (ErrorReason::Deadline, Code::DeadlineExceeded));
    assert!(error.retryable());
    // The deadline is one; what it found under way depends on how busy the machine is.
    assert!(error.to_string().contains("took longer than 1ms"), "{error}");
    until("the work is over", async || client.status().await.unwrap().loads.is_empty()).await;
    assert_eq!(leases(&client).await, 0);
}

/// A safetensors file of empty tensors, whose header takes long to read.
pub fn heavy(tensors: usize) -> Vec<u8> {
    let entry = json!({"dtype": "F32", "shape": [0], "data_offsets": [0, 0]});
    let header: Map<_, _> = (0..tensors).map(|number| (format!("tensor.{number}"), entry.clone())).collect();
    let header = serde_json::to_vec(&header).unwrap();
    [(header.len() as u64).to_le_bytes().as_slice(), &header].concat()
}
