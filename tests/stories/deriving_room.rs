//! Room on the disk for what is computed: what goes for it, what stays, and what is said when there is none.

use std::fs;

use rustix::process::Signal;
use tonic::Code;
use weightsd_client::{
    Client, ClientError, Component, ErrorReason, FloatType, LoadRequest,
    proto::{DerivedImage, Event, EventKind, EvictRequest, ListComponentsRequest},
};

use crate::{
    derivations::{Running, assert_tidy, files, folder, images, large, sum, written},
    harness::{Home, events, eventually, leases, tiny, until},
    small_disk::SmallDisk,
};

const REPO: &str = "test/z-image";

/// The message of a refusal for want of room, which says what to do.
#[track_caller]
fn no_space(result: Result<Component, ClientError>) -> String {
    let error = result.map(|component| component.id().to_owned()).unwrap_err();
    let daemon = error.daemon().unwrap_or_else(|| panic!("{error:?}"));
    assert_eq!((daemon.reason(), daemon.code()), (Some(ErrorReason::NoSpace), Code::ResourceExhausted), "{error}");
    let hint = daemon.hint().unwrap();
    assert!(hint.contains("weightsd evict --images") && hint.contains("image_budget"), "{hint}");
    assert_eq!(daemon.detail().unwrap().resource, "transformer");
    daemon.message().to_owned()
}

/// Those that are on the disk, the last used first.
async fn listed(client: &Client) -> Vec<DerivedImage> {
    client.list(ListComponentsRequest { images: true, ..ListComponentsRequest::default() }).await.unwrap().images
}

async fn deleted(client: &Client) -> Vec<Event> {
    events(client, EventKind::ImageDeleted).await
}

async fn nobody_holds(client: &Client, number: u32) {
    until("leases are let go", async || leases(client).await == number).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_too_small_is_an_error_that_hurts_nobody_else() {
    let home = Home::new();
    let folder = home.path().join("images");
    let Some(disk) = SmallDisk::mount(&folder, 8) else { return };
    home.tiny(REPO);
    let model = written(&home, &large(1));
    let daemon = home.daemon_with(&["--image-folder", folder.to_str().unwrap(), "--free-space", "0B"]);
    let client = daemon.client().await;
    let held = client.load(home.usual_request(REPO, "transformer"), |_| ()).await.unwrap();
    let before = sum(&held);
    for _ in 0..2 {
        let message = no_space(client.load(home.usual_request(&model, "transformer"), |_| ()).await);
        assert!(message.contains("bytes are needed") && message.contains("are free on the disk"), "{message}");
        assert_tidy(&folder);
        assert_eq!((sum(&held), images(&folder).len()), (before, 1));
    }
    // What needs no computing has all the room it needs, and so has what is small.
    let stored = client.load(home.request(&model, "transformer"), |_| ()).await.unwrap();
    assert_eq!(stored.info().computed_bytes, 0);
    let vae = client.load(home.usual_request(REPO, "vae"), |_| ()).await.unwrap();
    assert!(vae.info().computed_bytes > 0);
    assert!(deleted(&client).await.is_empty());
    assert_eq!(leases(&client).await, 3);
    drop((held, vae, disk));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_in_the_middle_does_not_spoil_what_has_its_room_already() {
    let home = Home::new();
    let folder = home.path().join("images");
    let Some(disk) = SmallDisk::mount(&folder, 200) else { return };
    let model = written(&home, &large(2));
    let daemon = home.daemon_with(&["--image-folder", folder.to_str().unwrap(), "--free-space", "0B"]);
    let client = daemon.client().await;
    let request = || home.usual_request(&model, "transformer");
    let mut running = Running::start(&client, request());
    let (worker, _) = running.stopped_at(&daemon, 0).await;
    let ballast = disk.fill();
    worker.signal(Signal::CONT);
    let component = running.ended().await.unwrap();
    assert_eq!(component.info().image.as_ref().unwrap().made_from, model);
    fs::remove_file(ballast).unwrap();
    assert_tidy(&folder);
    drop((component, daemon, disk));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_floor_of_free_space_is_kept() {
    let home = Home::new();
    home.tiny(REPO);
    // No disk has as much free as this.
    let daemon = home.daemon_with(&["--free-space", "1000000TB"]);
    let client = daemon.client().await;
    let message = no_space(client.load(home.usual_request(REPO, "transformer"), |_| ()).await);
    assert!(message.contains("1000000000000000000 of them must stay free"), "{message}");
    assert!(images(&folder(&home)).is_empty());
    assert_tidy(&folder(&home));
    let _stored = client.load(home.request(REPO, "transformer"), |_| ()).await.unwrap();
    drop(daemon);
    let daemon = home.daemon_with(&["--free-space", "0B"]);
    let _computed = daemon.client().await.load(home.usual_request(REPO, "transformer"), |_| ()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_least_recently_used_goes_for_another_one_and_what_is_held_stays() {
    let home = Home::new();
    home.tiny(REPO);
    tiny(2).write_hub_cache(home.hub_cache(), "test/other", "main").unwrap();
    // Four of one size.
    let request = |number: usize| -> LoadRequest {
        let dtype = if number < 2 { FloatType::Bf16 } else { FloatType::F16 };
        home.request([REPO, "test/other"][number % 2], "transformer").dtype(dtype)
    };
    let bytes = {
        let daemon = home.daemon();
        let component = daemon.client().await.load(request(0), |_| ()).await.unwrap();
        component.info().image.as_ref().unwrap().bytes
    };
    fs::remove_dir_all(folder(&home)).unwrap();
    let budget = format!("{}B", 2 * bytes + bytes / 2);
    let daemon = home.daemon_with(&["--image-budget", &budget]);
    let client = daemon.client().await;
    let load = async |number| client.load(request(number), |_| ()).await;
    let ids = async || -> Vec<String> { listed(&client).await.into_iter().map(|image| image.component_id).collect() };

    let zero = load(0).await.unwrap().id().to_owned();
    let one = load(1).await.unwrap().id().to_owned();
    assert_eq!(ids().await, [one.clone(), zero.clone()], "the last used first");
    nobody_holds(&client, 0).await;
    // Asked for again, by a daemon that does not have it loaded.
    client.evict(EvictRequest::default()).await.unwrap();
    let held = load(0).await.unwrap();
    assert_eq!(ids().await, [zero.clone(), one.clone()]);
    let two = load(2).await.unwrap();
    assert_eq!(ids().await, [two.id().to_owned(), zero.clone()]);
    let told = deleted(&client).await;
    assert!(told.len() == 1 && told[0].component_id == one, "{told:?}");
    assert!(told[0].message.starts_with("transformer of test/other@"), "{told:?}");
    assert!(
        told[0].message.ends_with("the least recently used, and the budget for derived images is spent"),
        "{told:?}"
    );

    // Both are held now.
    let message = no_space(load(3).await);
    let numbers = [bytes, 2 * bytes + bytes / 2, 2 * bytes].map(|number| number.to_string());
    assert!(numbers.iter().all(|number| message.contains(number)) && message.contains("are held"), "{message}");
    assert_eq!(deleted(&client).await.len(), 1, "nothing goes where it does not help");
    assert_tidy(&folder(&home));
    let status = client.status().await.unwrap().limits.unwrap();
    assert_eq!((status.image_bytes, status.image_budget), (2 * bytes, 2 * bytes + bytes / 2));

    // The held one stays, though it was used before the other.
    let expected = sum(&held);
    let gone = two.id().to_owned();
    drop(two);
    nobody_holds(&client, 1).await;
    let three = load(3).await.unwrap();
    assert_eq!(ids().await, [three.id().to_owned(), zero.clone()]);
    assert_eq!(deleted(&client).await[1].component_id, gone);
    assert_eq!(sum(&held), expected);
    // One that went is computed again.
    drop(three);
    nobody_holds(&client, 1).await;
    assert!(!load(1).await.unwrap().info().warm);
    assert_eq!(events(&client, EventKind::Derived).await.len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_room_of_others_who_write_counts() {
    let home = Home::new();
    home.tiny(REPO);
    let model = written(&home, &large(3));
    let folder = home.path().join("images");
    let arguments = ["--image-folder", folder.to_str().unwrap(), "--free-space", "0B", "--image-budget", "90MB"];
    let daemon = home.daemon_with(&arguments);
    let client = daemon.client().await;
    let mut running = Running::start(&client, home.usual_request(&model, "transformer"));
    let (worker, _) = running.stopped_at(&daemon, 0).await;
    let partial = fs::metadata(&files(&folder, "partial")[0]).unwrap().len();
    assert!(partial > 80_000_000 && partial < 90_000_000, "{partial}");

    // Another daemon on the same folder: it leaves alone what somebody writes, and counts it.
    let other = Home::new();
    let second = written(&other, &large(4));
    let daemon = other.daemon_with(&arguments);
    let neighbour = daemon.client().await;
    assert_eq!(files(&folder, "partial").len(), 1);
    let message = no_space(neighbour.load(other.usual_request(&second, "transformer"), |_| ()).await);
    assert!(message.contains("the budget for derived images"), "{message}");
    worker.signal(Signal::CONT);
    let component = running.ended().await.unwrap();
    // Nobody that the other one knows holds it, so it may go: who holds it keeps its bytes.
    let expected = sum(&component);
    let _computed = neighbour.load(other.usual_request(&second, "transformer"), |_| ()).await.unwrap();
    assert_eq!((images(&folder).len(), sum(&component)), (1, expected));
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "one story from the first list to the last image")]
async fn commands_say_what_is_there_what_it_was_made_from_and_delete_it() {
    let home = Home::new();
    let hub = home.tiny(REPO);
    let daemon = home.daemon();
    let client = daemon.client().await;
    let say = |arguments: &[&str]| {
        let output = home.command().args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    // The words of a line, as a reader takes them in.
    let words = |text: &str| -> Vec<String> {
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    };
    assert_eq!(say(&["ls", "--images"]), "nothing is loaded\nnothing that was computed is on the disk\n");
    let vae = client.load(home.usual_request(REPO, "vae"), |_| ()).await.unwrap();
    let transformer = client.load(home.usual_request(REPO, "transformer"), |_| ()).await.unwrap();
    let [vae_id, id] = [&vae, &transformer].map(|component| component.id()[..12].to_owned());
    let commit = &hub.commit[..12];
    drop(transformer);
    nobody_holds(&client, 1).await;

    let listed = words(&say(&["ls", "--images"]));
    let made = format!("from {REPO}@{commit} (layout mlx, BF16)");
    for expected in [
        format!("{id}: computed, {made}"),
        "ID COMPONENT SIZE USED MADE FROM".to_owned(),
        format!("{vae_id} vae 966.66 kB loaded {made}"),
        format!("{id} transformer 2.51 MB loaded {made}"),
    ] {
        assert!(listed.contains(&expected), "{expected:?} is not in {listed:#?}");
    }
    assert!(say(&["status"]).contains("computed: 3.47 MB of 100 GB"), "{}", say(&["status"]));

    let told = words(&say(&["evict", "--images", "--dry-run"]));
    assert!(told.contains(&"images that would be deleted:".to_owned()), "{told:#?}");
    assert!(told.iter().any(|line| line.starts_with(&format!("{id} transformer 2.51 MB"))), "{told:#?}");
    assert!(told.iter().any(|line| line.starts_with(&vae_id) && line.contains("kept held by")), "{told:#?}");
    assert_eq!((images(&folder(&home)).len(), client.status().await.unwrap().components), (2, 2));

    let told = words(&say(&["evict", "--images"]));
    assert!(told.contains(&"images deleted:".to_owned()), "{told:#?}");
    let image = vae.info().image.clone().unwrap();
    assert_eq!(images(&folder(&home)), [std::path::PathBuf::from(&image.path)]);
    let gone = deleted(&client).await;
    assert!(gone.len() == 1 && gone[0].message.contains("asked for"), "{gone:?}");
    let gone = format!("transformer of {REPO}@{commit} (layout mlx, BF16): asked for, and nobody holds it");
    assert!(say(&["events"]).contains(&gone), "{}", say(&["events"]));

    // One of a component that is not loaded is there all the same, with what it was made from.
    drop(vae);
    nobody_holds(&client, 0).await;
    say(&["evict"]);
    let listed = words(&say(&["ls", "--images"]));
    assert_eq!(listed[0], "nothing is loaded");
    assert!(listed[2].starts_with(&format!("{vae_id} vae 966.66 kB")) && listed[2].ends_with(&made), "{listed:#?}");
    // Also when nothing says what.
    fs::remove_file(std::path::Path::new(&image.path).with_extension("json")).unwrap();
    assert!(say(&["ls", "--images"]).contains("from what is not known"));
    // An image without a note is not lent.
    let again = client.load(home.usual_request(REPO, "vae"), |_| ()).await.unwrap();
    assert_eq!(again.info().image.as_ref().unwrap().made_from, format!("{REPO}@{commit}"));
    assert_eq!(events(&client, EventKind::Derived).await.len(), 3);
    drop(again);
    nobody_holds(&client, 0).await;
    assert!(words(&say(&["evict", "--images"])).contains(&"images deleted:".to_owned()));
    eventually("nothing is left", || fs::read_dir(folder(&home)).unwrap().next().is_none());
    let (success, err) = {
        let output = home.command().args(["evict", "--images", &vae_id]).output().unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    assert!(!success && err.contains("--images"), "{err}");
}
