//! Files change under a computation, and under what was computed: what is lent is never a mix, and what is damaged is
//! computed again.

use std::{
    fs,
    io::{Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use rustix::process::Signal;
use tokio::time::timeout;
use weightsd_client::{
    Client, Component, ErrorReason, LoadRequest, Verification,
    proto::{EventKind, NoticeKind},
};
use weightsd_fixtures::{HubFixture, Written, damage};

use crate::{
    derivations::{Running, Worker, assert_tidy, bf16, files, folder, images, large, sum},
    harness::{Home, PATIENCE, WITHOUT_VERIFYING, events, eventually, tiny, until},
    hubs::{REPO, assert_sound, tiny_hub},
};

const FILE: &str = "transformer/diffusion_pytorch_model.safetensors";
const TENSOR: &str = "layers.0.attention.to_q.weight";

/// Whether a component in F32 was cast, tensor by tensor, from what the files hold now.
fn is_cast_of(component: &Component, written: &Written) -> bool {
    component.tensors().all(|tensor| {
        let placed = written.tensor(component.name(), tensor.source_name()).unwrap();
        tensor.bytes() == bf16(&written.read(placed).unwrap())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_while_it_is_read_is_an_error_and_no_image() {
    let home = Home::new();
    let model = home.path().join("model");
    let spec = model.display().to_string();
    let checkpoint = large(1);
    let mut on_disk = checkpoint.write_directory(&model).unwrap();
    let daemon = home.daemon();
    let client = daemon.client().await;
    let request = || home.usual_request(&spec, "transformer");
    // Where in the work, and what somebody does to the file.
    type Change = fn(&Path, &Written);
    let flip: Change = |file, written| {
        damage::flip_byte(file, written.tensor("transformer", TENSOR).unwrap().range.start).unwrap();
    };
    let shorten: Change = |file, _| damage::set_length(file, fs::metadata(file).unwrap().len() / 2).unwrap();
    let replace: Change = |file, _| {
        let copy = file.with_extension("copy");
        fs::copy(file, &copy).unwrap();
        fs::rename(copy, file).unwrap();
    };
    let cases = [(None, flip), (Some(0), flip), (Some(60), flip), (Some(0), shorten), (Some(30), replace)];
    for (number, (parts, change)) in cases.into_iter().enumerate() {
        let mut running = Running::start(&client, request());
        let worker = match parts {
            // Before the process that computes has opened it.
            None => Worker::stopped_at_once(&daemon).await,
            Some(parts) => running.stopped_at(&daemon, parts).await.0,
        };
        change(&model.join(FILE), &on_disk);
        worker.signal(Signal::CONT);
        let error = running.ended().await.map(|component| component.id().to_owned()).unwrap_err();
        assert_eq!(error.reason(), Some(ErrorReason::FileChanged), "case {number}: {error}");
        assert!(error.retryable() && error.to_string().contains(FILE), "case {number}: {error}");
        eventually("nothing half-made is left", || files(&folder(&home), "partial").is_empty());
        assert_tidy(&folder(&home));
        assert!(images(&folder(&home)).is_empty(), "case {number}");
        on_disk = checkpoint.write_directory(&model).unwrap();
    }
    let component = client.load(request(), |_| ()).await.unwrap();
    assert!(is_cast_of(&component, &on_disk));
    assert_eq!(events(&client, EventKind::Derived).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_afterwards_is_another_component_and_the_image_stays_for_its_holders() {
    let home = Home::new();
    let model = home.path().join("model");
    let on_disk = tiny(1).write_directory(&model).unwrap();
    let daemon = home.daemon();
    let client = daemon.client().await;
    let request = || home.usual_request(model.to_str().unwrap(), "transformer");
    let old = client.load(request(), |_| ()).await.unwrap();
    let before = sum(&old);
    let placed = on_disk.tensor("transformer", TENSOR).unwrap();
    // The high byte of a number: a low one would be rounded away.
    damage::flip_byte(&on_disk.path_of(placed), placed.range.start + 3).unwrap();
    let new = client.load(request(), |_| ()).await.unwrap();
    assert_ne!(new.id(), old.id());
    assert!(is_cast_of(&new, &on_disk) && !is_cast_of(&old, &on_disk));
    assert_eq!(sum(&old), before);
    assert_eq!(images(&folder(&home)).len(), 2);
}

/// A daemon's client, and a component that was computed.
async fn computed(home: &Home, client: &Client) -> (Component, PathBuf) {
    let component = client.load(request(home), |_| ()).await.unwrap();
    let image = PathBuf::from(&component.info().image.as_ref().unwrap().path);
    (component, image)
}

fn request(home: &Home) -> LoadRequest {
    home.usual_request(REPO, "vae")
}

/// Writes over the beginning of the file, in place.
fn deface(image: &Path, at: u64) {
    let mut file = fs::OpenOptions::new().write(true).open(image).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(&[0xff; 64]).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_somebody_damages_is_computed_again() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 5] = [
        ("shortened", |image| damage::set_length(image, 20_000).unwrap()),
        ("emptied", |image| damage::set_length(image, 0).unwrap()),
        ("prolonged", |image| damage::set_length(image, fs::metadata(image).unwrap().len() + 1).unwrap()),
        ("defaced", |image| deface(image, 100)),
        ("written to", |image| deface(image, fs::metadata(image).unwrap().len() / 2)),
    ];
    let home = Home::new();
    home.tiny(REPO);
    let mut daemon = home.daemon();
    let mut client = daemon.client().await;
    let (first, image) = computed(&home, &client).await;
    let (id, expected) = (first.id().to_owned(), sum(&first));
    drop(first);
    for (how, damage) in damages {
        for restarts in [true, false] {
            damage(&image);
            if restarts {
                assert!(daemon.terminate().success());
                daemon = home.daemon();
                client = daemon.client().await;
            }
            let before = events(&client, EventKind::Derived).await.len();
            let (again, path) = computed(&home, &client).await;
            assert_eq!((again.id(), &path, again.info().warm), (id.as_str(), &image, false), "{how}");
            assert_eq!(sum(&again), expected, "{how}");
            assert_eq!(events(&client, EventKind::Derived).await.len(), before + 1, "{how}");
            assert_tidy(&folder(&home));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_holds_an_image_that_is_written_to_is_told() {
    let home = Home::new();
    home.tiny(REPO);
    let daemon = home.daemon();
    let client = daemon.client().await;
    let (mut held, image) = computed(&home, &client).await;
    let expected = sum(&held);
    // The last byte is of the room after the last tensor or of that: its holder must know either way.
    deface(&image, fs::metadata(&image).unwrap().len() - 64);
    let (again, _) = computed(&home, &client).await;
    assert_eq!((again.id(), again.info().warm, sum(&again)), (held.id(), false, expected));
    let notice = timeout(PATIENCE, held.next_notice()).await.unwrap().unwrap();
    assert_eq!(notice.kind(), NoticeKind::FileChanged, "{notice:?}");
    assert_ne!(again.info().segments.last(), held.info().segments.last());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_somebody_deletes_is_kept_by_its_holders_and_computed_again_for_others() {
    let home = Home::new();
    home.tiny(REPO);
    let daemon = home.daemon();
    let client = daemon.client().await;
    let (held, image) = computed(&home, &client).await;
    let expected = sum(&held);
    for everything in [false, true] {
        match everything {
            false => fs::remove_file(&image).unwrap(),
            true => fs::remove_dir_all(folder(&home)).unwrap(),
        }
        let (again, path) = computed(&home, &client).await;
        assert_eq!((again.id(), &path, again.info().warm), (held.id(), &image, false));
        assert_ne!(again.info().segments.last(), held.info().segments.last(), "another inode");
        assert_eq!((sum(&again), sum(&held)), (expected, expected));
        assert_tidy(&folder(&home));
    }
    assert_eq!(events(&client, EventKind::Derived).await.len(), 3);
    assert!(events(&client, EventKind::FileChanged).await.is_empty(), "no byte of anybody changed");
}

/// A hub with a tiny model, and a cache in which one byte of the transformer is not what it was.
fn spoiled(home: &Home) -> (weightsd_fixtures::hub::Hub, HubFixture) {
    let (hub, published) = tiny_hub(home);
    let fixture = home.tiny(REPO);
    let blob = fs::canonicalize(fixture.written.weight_files_of("transformer").pop().unwrap()).unwrap();
    let length = fs::metadata(&blob).unwrap().len();
    damage::flip_byte(&blob, length - 9).unwrap();
    (hub, published)
}

#[tokio::test(flavor = "multi_thread")]
async fn images_of_a_blob_that_is_found_damaged_are_deleted_and_their_holders_are_told() {
    let home = Home::new();
    let (hub, published) = spoiled(&home);
    let request = || home.usual_request(REPO, "transformer").offline(false);
    let half = request().dtype(weightsd_client::FloatType::F16);
    let half_id = {
        // Another one of the same blob, which nobody holds, by a daemon that does not look.
        let daemon = home.daemon_on(&hub, &WITHOUT_VERIFYING);
        let half = daemon.client().await.load(half, |_| ()).await.unwrap();
        half.id().to_owned()
    };
    let daemon = home.daemon_on(&hub, &[]);
    let client = daemon.client().await;
    let mut held = client.load(request(), |_| ()).await.unwrap();
    assert!(!is_cast_of(&held, &published.written));
    // One of other blobs.
    let vae = client.load(home.usual_request(REPO, "vae").offline(false), |_| ()).await.unwrap();
    let notice = timeout(PATIENCE, held.next_notice()).await.unwrap().unwrap();
    assert!(notice.kind() == NoticeKind::Corrupt && notice.message.contains("transformer/"), "{notice:?}");
    until("both images are deleted", async || events(&client, EventKind::ImageDeleted).await.len() == 2).await;
    let deleted = events(&client, EventKind::ImageDeleted).await;
    let mut ids: Vec<_> = deleted.iter().map(|event| event.component_id.as_str()).collect();
    let mut expected = [held.id(), &half_id];
    ids.sort_unstable();
    expected.sort_unstable();
    assert_eq!(ids, expected);
    assert!(deleted.iter().all(|event| event.message.contains("damaged")), "{deleted:?}");
    let left: Vec<_> = images(&folder(&home));
    assert_eq!(left, [PathBuf::from(&vae.info().image.as_ref().unwrap().path)]);
    let again = client.load(request(), |_| ()).await.unwrap();
    assert!(is_cast_of(&again, &published.written) && !again.info().warm);
    assert_eq!(again.id(), held.id(), "it is called after what it should be");
    assert_sound(&home, REPO);
    assert_tidy(&folder(&home));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_verification_is_not_lent_what_was_computed_from_a_damaged_blob() {
    let home = Home::new();
    let (hub, published) = spoiled(&home);
    let request = || home.usual_request(REPO, "transformer").offline(false);
    {
        // By a daemon that does not look.
        let daemon = home.daemon_on(&hub, &WITHOUT_VERIFYING);
        let component = daemon.client().await.load(request(), |_| ()).await.unwrap();
        assert!(!is_cast_of(&component, &published.written));
    }
    let daemon = home.daemon_on(&hub, &[]);
    let client = daemon.client().await;
    let component = client.load(request().verification(Verification::Before), |_| ()).await.unwrap();
    assert!(is_cast_of(&component, &published.written));
    assert_eq!(events(&client, EventKind::ImageDeleted).await.len(), 1);
    assert_sound(&home, REPO);
}
