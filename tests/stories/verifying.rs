//! What was on the disk before is compared with its hashes, and what is not what its name says is lent to nobody.

use std::{fs, path::PathBuf};

use tokio::time::timeout;
use weightsd_client::{
    Client, Component, ErrorReason, Verification,
    proto::{EventKind, FileFinding, NoticeKind, VerificationState, VerifyReport, VerifyRequest},
};
use weightsd_fixtures::{HubFixture, damage};

use crate::{
    changes::is,
    harness::{Home, PATIENCE, WITHOUT_VERIFYING, events, until},
    hubs::{REPO, assert_sound, load, pull, reason, request, selector, tiny_hub},
};

/// A cache with a tiny checkpoint, and the blob of its autoencoder.
fn cached(home: &Home) -> (HubFixture, PathBuf) {
    let fixture = home.tiny(REPO);
    let vae = fixture.written.weight_files_of("vae").remove(0);
    (fixture, fs::canonicalize(vae).unwrap())
}

/// Changes a byte of a tensor, and nothing that a header says.
fn spoil(blob: &PathBuf) {
    let length = fs::metadata(blob).unwrap().len();
    damage::flip_byte(blob, length - 10).unwrap();
}

fn state(component: &Component) -> VerificationState {
    component.info().attestation.as_ref().unwrap().state()
}

async fn verify(client: &Client, home: &Home, components: &[&str]) -> VerifyReport {
    let components = components.iter().map(ToString::to_string).collect();
    client.verify(VerifyRequest { model: Some(selector(home, REPO)), components }, |_| ()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_blob_is_fetched_again_before_it_is_lent() {
    let home = Home::new();
    let (hub, published) = tiny_hub(&home);
    let (fixture, blob) = cached(&home);
    assert_eq!(fixture.commit, published.commit);
    spoil(&blob);
    let daemon = home.daemon_on(&hub, &[]);
    let client = daemon.client().await;
    let component = client.load(request(&home, REPO, "vae").verification(Verification::Before), |_| ()).await.unwrap();
    assert!(is(&component, &published.written));
    assert_eq!(state(&component), VerificationState::Verified);
    let aside = blob.with_file_name(format!("{}.quarantined", blob.file_name().unwrap().to_str().unwrap()));
    assert!(aside.exists());
    let quarantined = events(&client, EventKind::Quarantined).await;
    assert!(quarantined.len() == 1 && quarantined[0].message.contains("vae/"), "{quarantined:?}");
    assert_sound(&home, REPO);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_hub_a_damaged_blob_is_an_error_and_out_of_the_way() {
    let home = Home::new();
    let (_fixture, blob) = cached(&home);
    spoil(&blob);
    let daemon = home.daemon();
    let client = daemon.client().await;
    let before = || request(&home, REPO, "vae").verification(Verification::Before);
    let error = client.load(before(), |_| ()).await.unwrap_err();
    assert_eq!(error.reason(), Some(ErrorReason::Corrupt), "{error}");
    assert!(error.daemon().unwrap().detail().unwrap().resource.starts_with("vae/") && error.hint().is_some());
    assert!(!blob.exists());
    assert_eq!(reason(client.load(before(), |_| ()).await), ErrorReason::SnapshotIncomplete);
    let other = client.load(request(&home, REPO, "transformer").verification(Verification::Before), |_| ()).await;
    assert_eq!(state(&other.unwrap()), VerificationState::Verified);
    assert_sound(&home, REPO);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_verification_is_never_lent_what_somebody_else_was_lent_without() {
    let home = Home::new();
    let (_fixture, blob) = cached(&home);
    spoil(&blob);
    let daemon = home.daemon_with(&WITHOUT_VERIFYING);
    let client = daemon.client().await;
    let mut held = load(&client, &home, "vae").await.unwrap();
    assert_eq!(state(&held), VerificationState::Pending);
    // Also when one who asked for it did not wait for the answer.
    let before = || request(&home, REPO, "vae").verification(Verification::Before);
    let mut service = crate::raw::service(daemon.socket()).await;
    drop(service.load_component(before().message().clone()).await.unwrap());
    assert_eq!(client.load(before(), |_| ()).await.err().map(|error| error.retryable()), Some(false));
    let notice = timeout(PATIENCE, held.next_notice()).await.unwrap().unwrap();
    assert_eq!(notice.kind(), NoticeKind::Corrupt);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_verification_is_not_lent_the_damaged_files_of_another_repository() {
    let home = Home::new();
    let (_fixture, blob) = cached(&home);
    let other = home.tiny("org/other");
    spoil(&blob);
    let daemon = home.daemon_with(&WITHOUT_VERIFYING);
    let client = daemon.client().await;
    let mut held = load(&client, &home, "vae").await.unwrap();
    let before = request(&home, "org/other", "vae").verification(Verification::Before);
    let component = client.load(before, |_| ()).await.unwrap();
    assert_eq!(component.id(), held.id(), "they are named by the same hashes");
    assert!(is(&component, &other.written) && state(&component) == VerificationState::Verified);
    let notice = timeout(PATIENCE, held.next_notice()).await.unwrap().unwrap();
    assert_eq!(notice.kind(), NoticeKind::Corrupt);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_found_afterwards_is_told_to_its_holder_and_dropped() {
    let home = Home::new();
    let (hub, published) = tiny_hub(&home);
    let (_fixture, blob) = cached(&home);
    spoil(&blob);
    let daemon = home.daemon_on(&hub, &[]);
    let client = daemon.client().await;
    let mut held = load(&client, &home, "vae").await.unwrap();
    let good = load(&client, &home, "transformer").await.unwrap();
    assert_eq!((state(&held), state(&good)), (VerificationState::Pending, VerificationState::Pending));
    let notice = timeout(PATIENCE, held.next_notice()).await.unwrap().unwrap();
    assert!(notice.kind() == NoticeKind::Corrupt && notice.message.contains("vae/"), "{notice:?}");
    let quarantined = events(&client, EventKind::Quarantined).await;
    assert_eq!(quarantined.len(), 1, "{quarantined:?}");
    until("the good one is found good", async || !events(&client, EventKind::Verified).await.is_empty()).await;
    assert_eq!(events(&client, EventKind::Verified).await[0].component_id, good.id());
    let again = load(&client, &home, "vae").await.unwrap();
    assert!(is(&again, &published.written) && !again.info().warm);
    assert_eq!(state(&again), VerificationState::Verified);
    assert_eq!(state(&load(&client, &home, "transformer").await.unwrap()), VerificationState::Verified);
    assert_sound(&home, REPO);
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_gives_a_verdict_for_every_file_and_a_pull_mends_it() {
    let home = Home::new();
    let (hub, published) = tiny_hub(&home);
    let (fixture, blob) = cached(&home);
    spoil(&blob);
    let daemon = home.daemon_on(&hub, &WITHOUT_VERIFYING);
    let client = daemon.client().await;
    let mut held = load(&client, &home, "vae").await.unwrap();
    hub.clear_log();
    let report = verify(&client, &home, &[]).await;
    assert!(!report.clean);
    assert_eq!(report.verdicts.len(), fixture.files.len());
    let (bad, good) = report.verdicts.split_first().unwrap();
    let file = bad.file.as_ref().unwrap();
    assert_eq!((bad.finding(), file.path.as_str()), (FileFinding::Corrupt, "vae/diffusion_pytorch_model.safetensors"));
    assert!(bad.found.len() == 64 && bad.found != file.blob && PathBuf::from(&bad.moved_to).exists(), "{bad:?}");
    assert!(good.iter().all(|verdict| verdict.finding() == FileFinding::Good));
    let notice = timeout(PATIENCE, held.next_notice()).await.unwrap().unwrap();
    assert_eq!(notice.kind(), NoticeKind::Corrupt);
    assert_eq!(hub.requests().len(), 0, "it needs no network");
    // What is gone is not good.
    let error =
        client.verify(VerifyRequest { model: Some(selector(&home, REPO)), components: vec!["vae".into()] }, |_| ());
    assert_eq!(reason(error.await), ErrorReason::SnapshotIncomplete);

    let report = pull(&client, selector(&home, REPO), &["vae"]).await.unwrap();
    assert!(report.bytes_fetched > 0 && report.bytes_fetched < report.bytes + 1);
    let report = verify(&client, &home, &[]).await;
    assert!(report.clean && report.verdicts.len() == fixture.files.len(), "{report:?}");
    assert!(is(&load(&client, &home, "vae").await.unwrap(), &published.written));
    assert_sound(&home, REPO);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_verifies_what_was_here_before() {
    let home = Home::new();
    let (hub, _published) = tiny_hub(&home);
    let (_fixture, blob) = cached(&home);
    spoil(&blob);
    let daemon = home.daemon_on(&hub, &[]);
    let client = daemon.client().await;
    let report = pull(&client, selector(&home, REPO), &[]).await.unwrap();
    assert_eq!(report.bytes_fetched, fs::metadata(&blob).unwrap().len());
    assert_eq!(events(&client, EventKind::Quarantined).await.len(), 1);
    assert!(verify(&client, &home, &[]).await.clean);
    assert_eq!(pull(&client, selector(&home, REPO), &[]).await.unwrap().bytes_fetched, 0);
    assert_sound(&home, REPO);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_found_good_is_not_hashed_again_after_a_restart() {
    let home = Home::new();
    let (fixture, blob) = cached(&home);
    let before = || request(&home, REPO, "transformer").verification(Verification::Before);
    let daemon = home.daemon();
    assert_eq!(state(&daemon.client().await.load(before(), |_| ()).await.unwrap()), VerificationState::Verified);
    daemon.kill();

    let daemon = home.daemon();
    let client = daemon.client().await;
    #[cfg(target_os = "linux")]
    let read = read_bytes(daemon.pid());
    let component = client.load(before(), |_| ()).await.unwrap();
    assert_eq!(state(&component), VerificationState::Verified);
    #[cfg(target_os = "linux")]
    {
        let weights = fixture.written.weight_files_of("transformer");
        let weights: u64 = weights.iter().map(|file| fs::metadata(file).unwrap().len()).sum();
        let read = read_bytes(daemon.pid()) - read;
        assert!(read < weights / 2, "{read} of {weights} bytes were read");
    }
    assert_eq!(state(&load(&client, &home, "vae").await.unwrap()), VerificationState::Pending, "this one never was");
    drop(component);
    // One that was written to since has no attestation any more.
    let shard = fs::canonicalize(fixture.written.weight_files_of("transformer").remove(0)).unwrap();
    spoil(&shard);
    assert_eq!(reason(client.load(before(), |_| ()).await), ErrorReason::Corrupt);
    assert!(blob.exists());
}

/// All that a process has read, from wherever.
#[cfg(target_os = "linux")]
pub fn read_bytes(pid: u32) -> u64 {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
    io.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_daemon_downloads_is_verified_when_it_is_lent() {
    let home = Home::new();
    let (hub, _published) = tiny_hub(&home);
    let daemon = home.daemon_on(&hub, &[]);
    let client = daemon.client().await;
    let component = client.load(request(&home, REPO, "vae").verification(Verification::Before), |_| ()).await.unwrap();
    assert_eq!(state(&component), VerificationState::Verified);
    assert!(component.info().attestation.as_ref().unwrap().time.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_database_of_attestations_fails_no_load_and_is_named_once() {
    type Spoil = fn(&mut Vec<u8>);
    let home = Home::new();
    home.tiny(REPO);
    let hashed = async |damage: &str| {
        let before = home.log().len();
        let daemon = home.daemon();
        let client = daemon.client().await;
        let before_lending = || request(&home, REPO, "vae").verification(Verification::Before);
        for _ in 0..2 {
            let component = client.load(before_lending(), |_| ()).await.unwrap();
            assert_eq!(state(&component), VerificationState::Verified, "{damage}");
        }
        assert!(daemon.terminate().success(), "{damage}: {}", home.log());
        home.log()[before..].to_owned()
    };
    hashed("none").await;
    let database = home.path().join(".cache/weightsd/attestations.redb");
    let whole = fs::read(&database).unwrap();
    assert!(!hashed("none").await.contains("attestations.redb"));
    let damages: [(&str, Spoil); 5] = [
        ("cut", |bytes| bytes.truncate(4196)),
        ("another file", |bytes| *bytes = b"not a database".to_vec()),
        ("a flipped bit", |bytes| bytes[3] ^= 4),
        ("a zeroed header", |bytes| bytes[..4096].fill(0)),
        ("all zeroed but the header", |bytes| bytes[4096..].fill(0)),
    ];
    for (damage, spoil) in damages {
        let mut bytes = whole.clone();
        spoil(&mut bytes);
        fs::write(&database, bytes).unwrap();
        let said = hashed(damage).await;
        assert_eq!(said.matches("attestations.redb` is damaged").count(), 1, "{damage}: {said}");
        // What was begun anew is whole.
        assert!(!hashed(damage).await.contains("attestations.redb"), "{damage}");
    }
}
