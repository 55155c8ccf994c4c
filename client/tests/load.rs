//! The client against a daemon of a few lines.

mod daemon;

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use daemon::{Leases, SILENT, Step};
use weightsd_client::{
    Client, ClientError, ConnectError, ConnectOptions, ErrorReason, Handoff, Hold, LoadRequest, Phase, Tree,
    half::bf16, proto::*,
};
use weightsd_proto::PROTOCOL;

const TENSORS: usize = 521;
const SEGMENTS: usize = 3;

fn tensor(index: usize) -> Tensor {
    Tensor {
        name: format!("layers.{index:03}.weight"),
        dtype: "BF16".into(),
        shape: vec![2, 4],
        segment: (index % SEGMENTS) as u32,
        offset: 16 * index as u64,
        length: 16,
        ..Tensor::default()
    }
}

fn serve(folder: &Path) -> (ConnectOptions, Leases) {
    let files = (0..SEGMENTS).map(|index| {
        let path = folder.join(format!("{index}.safetensors"));
        fs::write(&path, vec![0x3f; 1 << 20]).unwrap();
        path
    });
    daemon::serve(folder, files.collect(), (0..TENSORS).map(tensor).collect())
}

#[tokio::test]
async fn a_component_is_mapped_held_noticed_and_let_go() {
    let folder = tempfile::tempdir().unwrap();
    let (options, mut leases) = serve(folder.path());
    let client = Client::connect(options).await.unwrap();
    let mut files = Vec::new();
    let mut vae = client.load(LoadRequest::new("a/b", "vae"), |step| files.push(step.file.clone())).await.unwrap();
    assert_eq!(files, ["a.safetensors"]);
    assert_eq!(vae.tensors().len(), TENSORS);
    assert!(!format!("{:?}", vae.info()).contains("115, 105, 120"), "the ticket must not be printed");

    let tensor = vae.tensor("layers.007.weight").unwrap();
    assert_eq!(tensor.shape(), [2, 4]);
    assert_eq!(tensor.as_slice::<bf16>().unwrap(), [bf16::from_bits(0x3f3f); 8]);
    let tree = vae.unflatten().unwrap();
    let Some(Tree::List(layers)) = tree.get("layers") else { panic!("layers are a list") };
    assert_eq!(layers.len(), TENSORS);

    // The stream is the lease: it carries notices, does not need the client, and ends with the component.
    drop(client);
    let lease = leases.recv().await.unwrap();
    let notice = Notice { kind: NoticeKind::FileChanged.into(), message: "x".into() };
    lease.send(Ok(Step::Notice(notice.clone()).into())).await.unwrap();
    assert_eq!(vae.next_notice().await, Some(notice));
    let tensors = vae.release();
    tokio::time::timeout(Duration::from_secs(5), lease.closed()).await.unwrap();
    assert_eq!(tensors.get("layers.007.weight").unwrap().bytes(), [0x3f; 16]);
}

#[tokio::test]
async fn paths_do_as_well_and_a_changed_file_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let (options, mut leases) = serve(folder.path());
    let client = Client::connect(options).await.unwrap();
    let request = LoadRequest::new("a/b", "vae");
    for request in [request.clone().handoff(Handoff::Path), request.clone().hold(Hold::None)] {
        let mut vae = client.load(request.clone(), |_| {}).await.unwrap();
        assert_eq!(vae.tensors().len(), TENSORS);
        if request.message().hold() == Hold::None {
            assert_eq!(vae.next_notice().await, None);
        }
    }
    leases.recv().await.unwrap();

    // Replaced by rename: the descriptors still are what was lent but for the ctime of the lost name, the paths are not.
    let other = folder.path().join("other");
    fs::write(&other, vec![0; 1 << 20]).unwrap();
    fs::rename(&other, folder.path().join("1.safetensors")).unwrap();
    let error = client.load(request.clone().handoff(Handoff::Path), |_| {}).await.unwrap_err();
    assert!(matches!(&error, ClientError::Map { path, .. } if path.ends_with("1.safetensors")), "{error:?}");
    let _vae = client.load(request, |_| {}).await.unwrap();
}

#[tokio::test]
async fn a_refusal_arrives_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let (options, _leases) = serve(folder.path());
    let client = Client::connect(options).await.unwrap();
    let error = client.load(LoadRequest::new("a/b", "unet"), |_| {}).await.unwrap_err();
    assert_eq!(error.to_string(), "no such component; hint: it has: vae");
    assert_eq!(error.reason(), Some(ErrorReason::ComponentNotFound));
    assert_eq!(client.status().await.unwrap().pid, 7);
    let mut events = client.watch_events(WatchEventsRequest::default()).await.unwrap();
    assert!(events.next().await.unwrap().is_some());
    assert!(events.next().await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: run with --release --ignored --nocapture"]
async fn warm_loads_are_fast() {
    let folder = tempfile::tempdir().unwrap();
    let (options, _leases) = serve(folder.path());
    let client = Client::connect(options).await.unwrap();
    let mut times = Vec::new();
    for _ in 0..2000 {
        let start = Instant::now();
        let vae = client.load(LoadRequest::new("a/b", "vae"), |_| {}).await.unwrap();
        times.push(start.elapsed());
        drop(vae);
    }
    times.sort();
    println!("p50 {:?}, p99 {:?}", times[1000], times[1980]);
    assert!(times[1000] < Duration::from_millis(5));
}

#[tokio::test]
async fn long_work_ends_with_a_report_or_with_the_news_that_none_came() {
    let folder = tempfile::tempdir().unwrap();
    let (options, _leases) = serve(folder.path());
    let client = Client::connect(options).await.unwrap();
    let mut phases = Vec::new();
    let report = client.pull(PullRequest::default(), |step| phases.push(step.phase())).await.unwrap();
    assert_eq!((report.bytes, phases), (5, vec![Phase::Download]));
    let error = client.verify(VerifyRequest::default(), |_| {}).await.unwrap_err();
    assert!(matches!(error, ClientError::Protocol(_)), "{error}");
}

#[tokio::test]
async fn a_daemon_of_another_protocol_is_named_and_refused() {
    for (theirs, step) in [(0, "start it again"), (PROTOCOL + 1, "update this program")] {
        let folder = tempfile::tempdir().unwrap();
        let (options, _leases) = daemon::serve_as(theirs, folder.path(), Vec::new(), Vec::new());
        let error = Client::connect(options).await.unwrap_err();
        let ClientError::OtherProtocol { theirs: found, ours, .. } = &error else { panic!("{error:?}") };
        assert_eq!((*found, *ours), (theirs, PROTOCOL));
        assert!(error.to_string().contains("weightsd 9.9.9"), "{error}");
        assert!(error.hint().unwrap().contains(step), "{error:?}");
    }
}

#[tokio::test]
async fn a_silent_daemon_is_given_up_and_a_lost_one_is_recognised() {
    let folder = tempfile::tempdir().unwrap();
    let theirs = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (options, _leases) = {
        let _within = theirs.enter();
        serve(folder.path())
    };
    let client = Client::connect(options).await.unwrap();
    let deadline = Duration::from_millis(50);
    let error = client.load(LoadRequest::new("a/b", SILENT).deadline(deadline), |_| {}).await.unwrap_err();
    assert_eq!(error.to_string(), "loading silent took longer than 50ms");

    #[expect(clippy::disallowed_methods, reason = "a thread of a test")]
    tokio::task::spawn_blocking(move || theirs.shutdown_timeout(Duration::from_secs(5))).await.unwrap();
    let first = client.status().await.unwrap_err();
    assert!(first.retryable() || matches!(first, ClientError::Connect(_)), "{first:?}");
    let error = client.status().await.unwrap_err();
    assert!(matches!(error, ClientError::Connect(ConnectError::Stale(_))), "{error:?}");
}
