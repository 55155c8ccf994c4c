//! What is not in the checkpoint as it is wanted is computed: once, for everyone who asks, and rightly.

use std::{fs, io::Write as _, process::Stdio};

use rustix::process::Signal;
use weightsd_client::{
    Component, FloatType, Layout, Phase,
    proto::{EventKind, EvictRequest, SegmentKind, Tensor, TensorOperation},
};
use weightsd_fixtures::{Contents, Dtype, Placed, Written};

use crate::{
    derivations::{Running, assert_tidy, bf16, folder, images, large, of_layers, sum, written},
    harness::{Home, WITHOUT_VERIFYING, events, leases, tiny, until},
    processes::descriptors_of,
    raw,
};

const REPO: &str = "test/z-image";
const CROWD: usize = 30;
const PAGE: u64 = 16 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn thirty_who_ask_at_once_are_lent_one_image_that_was_computed_once() {
    let home = Home::new();
    let checkpoint = of_layers(2, Contents::Random { seed: 1 });
    let model = written(&home, &checkpoint);
    let daemon = home.daemon();
    let mut asking = Vec::new();
    for _ in 0..CROWD {
        let (client, request) = (daemon.client().await, home.usual_request(&model, "transformer"));
        asking.push(tokio::spawn(async move { client.load(request, |_| ()).await.unwrap() }));
    }
    let mut lent = Vec::new();
    for load in asking {
        lent.push(load.await.unwrap());
    }
    let client = daemon.client().await;
    let derived = events(&client, EventKind::Derived).await;
    assert_eq!(derived.iter().map(|event| event.component_id.as_str()).collect::<Vec<_>>(), [lent[0].id()]);
    assert!(derived[0].message.contains(&model) && derived[0].message.contains("BF16"), "{derived:?}");
    let segments = &lent[0].info().segments;
    assert_eq!(segments.iter().map(|segment| segment.kind()).collect::<Vec<_>>(), [SegmentKind::Derived]);
    for tensor in lent[0].tensors() {
        assert_eq!(tensor.dtype(), Dtype::BF16);
        assert!(tensor.bytes() == bf16(&checkpoint.expected_bytes("transformer", tensor.source_name())));
    }
    let expected = sum(&lent[0]);
    for (number, other) in lent.iter().enumerate() {
        // One inode under one path is one set of pages.
        assert_eq!((&other.info().segments, other.id()), (segments, lent[0].id()));
        assert!(number % 10 != 0 || sum(other) == expected);
    }
    assert_eq!(images(&folder(&home)).len(), 1);
    assert_tidy(&folder(&home));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_joins_late_is_told_how_far_the_computation_is() {
    let home = Home::new();
    let model = written(&home, &large(2));
    let daemon = home.daemon();
    let client = daemon.client().await;
    let request = || home.usual_request(&model, "transformer");
    let mut first = Running::start(&client, request());
    let (worker, far) = first.stopped_at(&daemon, 10).await;
    let loads = client.status().await.unwrap().loads;
    assert_eq!((loads.len(), loads[0].component.as_str()), (1, "transformer"));
    assert_eq!(loads[0].progress.as_ref().unwrap().phase(), Phase::Derive);
    let mut second = Running::start(&client, request());
    let step = second.told().await;
    assert_eq!((step.phase(), step.bytes_total, step.sharers), (Phase::Derive, far.bytes_total, 2));
    assert!(step.bytes_done >= far.bytes_done && step.bytes_done < step.bytes_total, "{step:?}");
    assert!(step.file.ends_with(".weight") || step.file.ends_with(".bias"), "{step:?}");
    worker.signal(Signal::CONT);
    let (first, second) = (first.ended().await.unwrap(), second.ended().await.unwrap());
    assert_eq!((first.id(), &first.info().segments), (second.id(), &second.info().segments));
    assert!(!first.info().warm && !second.info().warm);
    assert!(took(&first) > 0);
    assert_eq!(events(&client, EventKind::Derived).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_waits_for_a_turn_is_told_so_again_and_again() {
    let home = Home::new();
    let model = written(&home, &large(3));
    home.tiny(REPO);
    let daemon = home.daemon();
    let client = daemon.client().await;
    let was = client.load(home.usual_request(REPO, "transformer"), |_| ()).await.unwrap().id().to_owned();
    until("nobody holds it", async || leases(&client).await == 0).await;
    client.evict(EvictRequest::default()).await.unwrap();
    let mut first = Running::start(&client, home.usual_request(&model, "transformer"));
    let (worker, _) = first.stopped_at(&daemon, 0).await;
    // Its client gives up when it hears nothing for two minutes; the work before it may take longer.
    let mut second = Running::start(&client, home.usual_request(REPO, "vae"));
    let mut told = 0;
    while told < 2 {
        let step = second.told().await;
        if step.phase() == Phase::Derive {
            assert_eq!(step.bytes_done, 0, "{step:?}");
            told += 1;
        }
    }
    // What needs no computing has no turn to wait for, nor has what was computed.
    let _stored = client.load(home.request(REPO, "transformer"), |_| ()).await.unwrap();
    let found = client.load(home.usual_request(REPO, "transformer"), |_| ()).await.unwrap();
    assert_eq!((found.id(), found.info().warm), (was.as_str(), false));
    worker.signal(Signal::CONT);
    let (first, second) = (first.ended().await.unwrap(), second.ended().await.unwrap());
    assert_eq!((first.name(), second.name()), ("transformer", "vae"));
}

/// Nanoseconds that the component was computed for.
fn took(component: &Component) -> i64 {
    let derive = component.info().timings.unwrap().derive.unwrap_or_default();
    derive.seconds * 1_000_000_000 + i64::from(derive.nanos)
}

/// A kernel in the order of MLX: output, height, width, input.
fn ohwi(bytes: &[u8], shape: &[u64]) -> Vec<u8> {
    let [outputs, inputs, height, width] = shape.iter().map(|&size| size as usize).collect::<Vec<_>>()[..] else {
        panic!("{shape:?} is no kernel")
    };
    let size = bytes.len() / (outputs * inputs * height * width);
    let mut ordered = Vec::with_capacity(bytes.len());
    for output in 0..outputs {
        for at in 0..height * width {
            for input in 0..inputs {
                let from = ((output * inputs + input) * height * width + at) * size;
                ordered.extend_from_slice(&bytes[from..from + size]);
            }
        }
    }
    ordered
}

/// What a tensor must be in layout MLX, in BF16.
fn expected(tensor: weightsd_client::Tensor<'_>, placed: &Placed, written: &Written) -> Vec<u8> {
    let mut bytes = written.read(placed).unwrap();
    if placed.dtype == Dtype::F32 {
        bytes = bf16(&bytes);
    }
    if tensor.shape().len() == 4 { ohwi(&bytes, &placed.shape) } else { bytes }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_computed_is_right_and_what_needs_nothing_is_lent_from_the_checkpoint() {
    let home = Home::new();
    let hub = home.tiny(REPO);
    let mut singles = tiny(3);
    singles.component_mut("vae").set_dtype(Dtype::F32);
    let singles = singles.write_directory(home.path().join("singles")).unwrap();
    let daemon = home.daemon();
    let client = daemon.client().await;
    let both = [SegmentKind::Checkpoint, SegmentKind::Derived];
    let spec = singles.root.to_str().unwrap();
    let cases = [
        (REPO, &hub.written, "transformer", &both[1..]),
        (REPO, &hub.written, "text_encoder", &both[..1]),
        (REPO, &hub.written, "vae", &both[..]),
        (spec, &singles, "vae", &both[1..]),
    ];
    for (spec, written, name, kinds) in cases {
        let component = client.load(home.usual_request(spec, name), |_| ()).await.unwrap();
        let segments = &component.info().segments;
        let mut found: Vec<_> = segments.iter().map(|segment| segment.kind()).collect();
        found.dedup();
        assert_eq!(found, kinds, "{spec} {name}");
        let message = home.usual_request(spec, name).message().clone();
        let told = raw::load(&mut raw::service(daemon.socket()).await, message).await.unwrap();
        let operation =
            |name: &str| told.tensors.iter().find(|tensor| tensor.name == name).map(Tensor::operation).unwrap();
        let (mut computed, mut kernels) = (0, 0);
        for tensor in component.tensors() {
            let placed = written.tensor(name, tensor.source_name()).unwrap();
            assert!(tensor.bytes() == expected(tensor, placed, written), "{spec} {name} {}", tensor.name());
            let (segment, offset) = tensor.place();
            let is_computed = segments[segment].kind() == SegmentKind::Derived;
            assert_eq!(is_computed, operation(tensor.name()) == TensorOperation::Computed);
            if is_computed {
                assert_eq!(offset % PAGE, 0, "{} does not begin at a page", tensor.name());
                computed += tensor.bytes().len() as u64;
                kernels += usize::from(tensor.shape().len() == 4 && tensor.shape()[1] > 1);
            } else {
                let file = fs::canonicalize(written.path_of(placed)).unwrap();
                assert_eq!(fs::canonicalize(&segments[segment].path).unwrap(), file);
            }
        }
        assert_eq!(component.info().computed_bytes, computed, "{spec} {name}");
        assert_eq!((kernels > 0, component.info().image.is_some()), (name == "vae", kinds.contains(&both[1])));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_layout_of_the_checkpoint_is_lent_as_stored_unless_another_dtype_is_asked_for() {
    let home = Home::new();
    let hub = home.tiny(REPO);
    let daemon = home.daemon();
    let client = daemon.client().await;
    let request = |name| home.usual_request(REPO, name).layout(Layout::Source);
    let stored = client.load(request("transformer"), |_| ()).await.unwrap();
    assert!(stored.info().computed_bytes == 0 && stored.tensors().all(|tensor| tensor.dtype() == Dtype::F32));
    // Wider is exact.
    let wide = client.load(request("vae").dtype(FloatType::F32), |_| ()).await.unwrap();
    for tensor in wide.tensors() {
        let placed = hub.written.tensor("vae", tensor.source_name()).unwrap();
        let bytes = hub.written.read(placed).unwrap();
        let widened: Vec<u8> = bytes
            .as_chunks::<2>()
            .0
            .iter()
            .flat_map(|half| half::bf16::from_le_bytes(*half).to_f32().to_le_bytes())
            .collect();
        assert_eq!((tensor.dtype(), tensor.shape()), (Dtype::F32, placed.shape.as_slice()));
        assert!(tensor.bytes() == widened, "{}", tensor.name());
    }
    let half = client.load(request("transformer").dtype(FloatType::F16), |_| ()).await.unwrap();
    for tensor in half.tensors() {
        let stored = stored.tensor(tensor.name()).unwrap().bytes();
        let rounded: Vec<u8> = stored
            .as_chunks::<4>()
            .0
            .iter()
            .flat_map(|single| half::f16::from_f32(f32::from_le_bytes(*single)).to_le_bytes())
            .collect();
        assert!(tensor.bytes() == rounded, "{}", tensor.name());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_computed_is_found_again_however_the_daemon_ended() {
    let home = Home::new();
    home.tiny(REPO);
    let request = || home.usual_request(REPO, "vae");
    let daemon = home.daemon();
    let first = daemon.client().await.load(request(), |_| ()).await.unwrap();
    let (id, expected) = (first.id().to_owned(), sum(&first));
    let image = first.info().image.clone().unwrap();
    let segments = first.info().segments.clone();
    assert!(took(&first) > 0);
    assert_eq!(daemon.terminate().code(), Some(0), "{}", home.log());
    let daemon = home.daemon();
    daemon.kill();
    let daemon = home.daemon();
    let client = daemon.client().await;
    let again = client.load(request(), |_| ()).await.unwrap();
    assert_eq!((again.id(), again.info().warm, took(&again)), (id.as_str(), false, 0));
    assert_eq!((&again.info().segments, sum(&again)), (&segments, expected));
    let found = again.info().image.clone().unwrap();
    assert_eq!((found.path, found.made, found.made_from), (image.path, image.made, image.made_from));
    assert!(events(&client, EventKind::Derived).await.is_empty());
    // The one who held it all the time still reads the same.
    assert_eq!(sum(&first), expected);
    assert_tidy(&folder(&home));
}

#[tokio::test(flavor = "multi_thread")]
async fn layouts_and_dtypes_of_one_component_lie_over_the_same_open_files() {
    let home = Home::new();
    let hub = home.tiny(REPO);
    let daemon = home.daemon_with(&WITHOUT_VERIFYING);
    let client = daemon.client().await;
    let mut held = Vec::new();
    for layout in [Layout::Mlx, Layout::Source] {
        for dtype in [FloatType::AsStored, FloatType::Bf16, FloatType::F16] {
            let request = home.request(REPO, "vae").layout(layout).dtype(dtype);
            held.push(client.load(request, |_| ()).await.unwrap());
        }
    }
    let mut ids: Vec<_> = held.iter().map(Component::id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), held.len(), "each is another component");
    let blobs: Vec<_> = hub.written.weight_files_of("vae").iter().map(|file| fs::canonicalize(file).unwrap()).collect();
    let opened = descriptors_of(daemon.pid());
    for blob in blobs {
        assert_eq!(opened.iter().filter(|path| **path == blob).count(), 1, "{opened:?}");
    }
    // What needs no kernel in another order and no other dtype has no image: BF16 is BF16.
    assert_eq!(images(&folder(&home)).len(), 4);
    assert_eq!(events(&client, EventKind::Derived).await.len(), 4);
}

#[cfg(target_os = "linux")] // Where a folder is in which not even root makes another one.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_had_says_why_and_nothing_is_begun() {
    let home = Home::new();
    home.tiny(REPO);
    // Nowhere to put it.
    let mut command = home.command();
    command.arg("serve").args(["--image-folder", "/proc/none"]);
    let daemon = home.start(command);
    crate::harness::eventually("the daemon listens", || std::os::unix::net::UnixStream::connect(home.socket()).is_ok());
    let client = daemon.client().await;
    let error = client.load(home.usual_request(REPO, "vae"), |_| ()).await.unwrap_err();
    assert_eq!(error.reason(), Some(weightsd_client::ErrorReason::Io), "{error}");
    assert!(error.to_string().contains("/proc/none") && error.hint().is_some(), "{error}");
    let _stored = client.load(home.request(REPO, "transformer"), |_| ()).await.unwrap();
}

#[test]
fn a_worker_of_another_version_refuses_by_words() {
    let home = Home::new();
    let mut command = home.command();
    let mut worker = command.arg("derive-worker").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let order = br#"{"version": "9.9.9", "task": {"of": "another form"}}"#;
    worker.stdin.take().unwrap().write_all(&[order, &b"\n"[..]].concat()).unwrap();
    let said = String::from_utf8(worker.wait_with_output().unwrap().stdout).unwrap();
    assert!(said.contains("OtherVersion") && said.contains("the daemon is weightsd 9.9.9"), "{said}");
}
