//! Models in a bucket: they are found, audited and loaded as any others; each part comes once; what came is not fetched
//! again; a changed object is another revision; a wrong byte is lent to nobody; and no credential is shown.

use std::{collections::BTreeSet, fs, ops::Range, path::PathBuf};

use weightsd_bucket::{Asked, Bucket, Fault, KEY_ID, SECRET};
use weightsd_client::{Client, ClientError, Component, ErrorReason, LoadRequest, Verification, proto::VerifyRequest};
use weightsd_fixtures::{HubFixture, damage, hub::Hub};

use crate::{
    changes::is,
    client_process::{ClientProcess, Job, Manner},
    harness::{Daemon, Home, tiny, until},
    hubs::{REPO, is_file, names, pull, reason, request, selector, weights},
};

const MIB: usize = 1 << 20;
const MODEL: &str = "s3://models/language";
const WEIGHTS: &str = "language/model.safetensors";
const TRACE: (&str, &str) = ("WEIGHTSD_LOG", "trace");
const KEYS: [(&str, &str); 3] = [("AWS_ACCESS_KEY_ID", KEY_ID), ("AWS_SECRET_ACCESS_KEY", SECRET), TRACE];

/// A daemon that finds the bucket, and a hub that nobody may ask.
fn daemon_so(home: &Home, bucket: &Bucket, section: &str, variables: &[(&str, &str)]) -> (Daemon, Hub) {
    let hub = Hub::start().unwrap();
    let config = home.path().join("config.toml");
    let text = format!("hub_freshness = \"0s\"\n[source.s3]\nendpoint = {:?}\n{section}\n", bucket.endpoint());
    fs::write(&config, text).unwrap();
    let variables = [variables, &[("WEIGHTSD_CONFIG", config.to_str().unwrap())]].concat();
    (home.daemon_so(&hub, &[], &variables), hub)
}

fn daemon(home: &Home, bucket: &Bucket) -> (Daemon, Hub) {
    daemon_so(home, bucket, "", &KEYS)
}

/// Puts a model of one weight file into the bucket, in parts of 8 MiB, and returns the file.
fn put_weights(bucket: &Bucket, bytes: usize) -> Vec<u8> {
    let file = weights(7, bytes);
    bucket.put("language/config.json", b"{}".to_vec());
    bucket.put_in_parts(WEIGHTS, file.clone(), 8 * MIB);
    file
}

/// Puts a tiny Z-Image into the bucket, as it lies in a snapshot.
fn put_tiny(home: &Home, bucket: &Bucket, folder: &str) -> HubFixture {
    let fixture = tiny(1).write_hub_cache(home.path().join("published"), REPO, "main").unwrap();
    for file in &fixture.files {
        bucket.put(&format!("{folder}/{}", file.path), fs::read(&file.target).unwrap());
    }
    fixture
}

async fn load(client: &Client, home: &Home, model: &str, component: &str) -> Result<Component, ClientError> {
    client.load(request(home, model, component), |_| ()).await
}

/// The ranges of an object that were asked for, in order of their positions.
fn ranges(bucket: &Bucket, key: &str) -> Vec<Range<u64>> {
    let of = |asked| match asked {
        Asked::Get(of, Some(range)) if of == key => Some(range),
        _ => None,
    };
    let mut ranges: Vec<_> = bucket.asked().into_iter().filter_map(of).collect();
    ranges.sort_by_key(|range| range.start);
    ranges
}

/// The folder in which the files of the only model lie.
fn folder(home: &Home) -> PathBuf {
    let models = home.path().join(".cache/weightsd/models");
    let found = names(&models).into_iter().filter(|name| name.starts_with("models--s3--")).collect::<Vec<_>>();
    let [one] = &found[..] else { panic!("{found:?}") };
    models.join(one)
}

fn partial(home: &Home) -> u64 {
    let models = home.path().join(".cache/weightsd/models");
    let blobs = names(&models).into_iter().map(|name| models.join(name).join("blobs"));
    let partials = blobs.flat_map(|blobs| names(&blobs).into_iter().map(move |name| blobs.join(name)));
    let longest = partials.filter(|path| path.extension().is_some_and(|it| it == "incomplete"));
    longest.map(|path| fs::metadata(path).map_or(0, |found| found.len())).max().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_in_a_bucket_is_a_model_like_any_other() {
    let home = Home::new();
    let bucket = Bucket::start().unwrap();
    let fixture = put_tiny(&home, &bucket, "art/z-image");
    let (daemon, hub) = daemon(&home, &bucket);
    let client = daemon.client().await;
    const SPEC: &str = "s3://models/art/z-image/";
    let model = client.resolve(selector(&home, SPEC)).await.unwrap().model.unwrap();
    assert_eq!(model.commit.len(), 40);

    // The audit reads headers and no weights.
    let audit = client.audit(selector(&home, SPEC), Vec::new()).await.unwrap();
    assert!(audit.reports.len() > 2, "{audit:?}");
    let largest = fixture.files.iter().max_by_key(|file| file.bytes).unwrap();
    let read: u64 =
        ranges(&bucket, &format!("art/z-image/{}", largest.path)).iter().map(|range| range.end - range.start).sum();
    assert!(read <= 128 * 1024, "{read} bytes of {}", largest.bytes);

    for component in ["transformer", "text_encoder", "vae"] {
        let loaded = load(&client, &home, SPEC, component).await.unwrap();
        assert!(is(&loaded, &fixture.written), "{component}");
        assert_eq!(loaded.info().model.as_ref().unwrap().commit, model.commit);
    }
    bucket.clear_log();
    assert!(load(&client, &home, SPEC, "vae").await.unwrap().info().warm);
    assert!(bucket.asked().iter().all(|asked| matches!(asked, Asked::List(_))), "{:?}", bucket.asked());
    // The commit is enough, and asks nobody.
    bucket.clear_log();
    let pinned = format!("s3://models/art/z-image@{}", model.commit);
    drop(load(&client, &home, &pinned, "vae").await.unwrap());
    assert!(bucket.asked().is_empty() && hub.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_file_and_an_overlay_may_lie_in_a_bucket() {
    let home = Home::new();
    let bucket = Bucket::start().unwrap();
    let fixture = put_tiny(&home, &bucket, "z-image");
    let vae = &fixture.written.weight_files_of("vae")[0];
    bucket.put("loose/vae.safetensors", fs::read(vae).unwrap());
    let (daemon, _hub) = daemon(&home, &bucket);
    let client = daemon.client().await;
    let overlay = |spec: &str| -> LoadRequest { request(&home, "s3://models/z-image", "vae").overlay(spec) };
    let component = client.load(overlay("s3://models/loose/vae.safetensors"), |_| ()).await.unwrap();
    assert!(is(&component, &fixture.written));
    let one = request(&home, "s3://models/loose/vae.safetensors", "vae").base("s3://models/z-image");
    let one = client.load(one, |_| ()).await.unwrap();
    assert!(is(&one, &fixture.written) && one.tensors().len() == component.tensors().len());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_part_is_asked_for_once() {
    let home = Home::new();
    let bucket = Bucket::start().unwrap();
    let file = put_weights(&bucket, 40 * MIB);
    let (daemon, _hub) = daemon(&home, &bucket);
    let component = load(&daemon.client().await, &home, MODEL, "model").await.unwrap();
    assert!(is_file(&component, &file));
    let ranges = ranges(&bucket, WEIGHTS);
    assert_eq!(ranges.len(), file.len().div_ceil(8 * MIB), "{ranges:?}");
    let ends = ranges.iter().map(|range| range.start).skip(1).chain([file.len() as u64]);
    assert!(ranges.iter().map(|range| range.end).eq(ends) && ranges[0].start == 0, "{ranges:?}");
    let blobs = names(&folder(&home).join("blobs"));
    assert!(blobs.iter().any(|name| name.starts_with("md5-") && name.ends_with("-6")), "{blobs:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_daemon_goes_on_with_what_it_has() {
    let home = Home::new();
    let bucket = Bucket::start().unwrap();
    let file = put_weights(&bucket, 40 * MIB);
    bucket.wire().set(Fault::Slow { bytes_per_second: 4_000_000 });
    let (first, _hub) = daemon(&home, &bucket);
    let client = first.client().await;
    let loading = tokio::spawn({
        let request = request(&home, MODEL, "model");
        async move { client.load(request, |_| ()).await }
    });
    until("half of it came", async || partial(&home) > 20 * MIB as u64).await;
    first.kill();
    loading.await.unwrap().unwrap_err();
    let written = partial(&home);
    bucket.clear_log();
    bucket.wire().set(Fault::None);
    let (second, _hub) = daemon(&home, &bucket);
    let component = load(&second.client().await, &home, MODEL, "model").await.unwrap();
    assert!(is_file(&component, &file));
    let ranges = ranges(&bucket, WEIGHTS);
    assert_eq!(ranges.first().map(|range| range.start), Some(written), "{ranges:?}");
    assert_eq!(ranges.iter().map(|range| range.end - range.start).sum::<u64>(), file.len() as u64 - written);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_goes_away_in_between_is_asked_again() {
    let home = Home::new();
    let bucket = Bucket::start().unwrap();
    let file = put_weights(&bucket, 30 * MIB);
    let (daemon, _hub) = daemon(&home, &bucket);
    let client = daemon.client().await;
    // Each connection ends in the middle of a part.
    bucket.wire().set(Fault::Cut { after: 7_000_000 });
    let component = load(&client, &home, MODEL, "model").await.unwrap();
    assert!(is_file(&component, &file));
    bucket.put("other/model.safetensors", weights(8, 1000));
    bucket.wire().down();
    assert_eq!(reason(load(&client, &home, "s3://models/other", "model").await), ErrorReason::HubUnreachable);
    let again = client.load(request(&home, MODEL, "model").offline(true), |_| ()).await;
    assert!(again.is_ok(), "what is here needs no store");
    bucket.wire().up();
    bucket.wire().set(Fault::None);
    drop(load(&client, &home, "s3://models/other", "model").await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_processes_cause_one_download() {
    let home = Home::new();
    let bucket = Bucket::start().unwrap();
    let file = put_weights(&bucket, 20 * MIB);
    let (daemon, _hub) = daemon(&home, &bucket);
    let job = Job { model: MODEL.into(), component: "model".into(), source_layout: true };
    let manner = Manner { waits: true, ..Manner::default() };
    let mut crowd: Vec<_> = (0..100).map(|_| ClientProcess::start_so(&home, &job, &manner)).collect();
    crowd.iter_mut().for_each(ClientProcess::connected);
    crowd.iter_mut().for_each(ClientProcess::go);
    let held: Vec<_> = crowd.iter_mut().map(ClientProcess::held).collect();
    assert!(held.iter().all(|held| held.error.is_none()), "{held:?}");
    assert_eq!(held.iter().map(|held| held.checksum).collect::<BTreeSet<_>>().len(), 1);
    let asked = ranges(&bucket, WEIGHTS);
    assert_eq!(asked.iter().map(|range| range.end - range.start).sum::<u64>(), file.len() as u64, "{asked:?}");
    assert_eq!(daemon.client().await.status().await.unwrap().leases, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_object_is_another_revision_and_a_pinned_one_is_never_another() {
    let home = Home::new();
    let bucket = Bucket::start().unwrap();
    let old = put_weights(&bucket, 100_000);
    let (first, _hub) = daemon(&home, &bucket);
    let client = first.client().await;
    let commit = async |client: &Client| pull(client, selector(&home, MODEL), &[]).await.unwrap().model.unwrap().commit;
    let before = commit(&client).await;
    assert_eq!(commit(&client).await, before);
    let new = weights(9, 100_000);
    bucket.put(WEIGHTS, new.clone());
    let after = commit(&client).await;
    assert_ne!(after, before);
    let at = |commit: &str| request(&home, MODEL, "model").revision(commit);
    assert!(is_file(&client.load(at(&before), |_| ()).await.unwrap(), &old));
    assert!(is_file(&client.load(at(&after), |_| ()).await.unwrap(), &new));
    assert!(is_file(&load(&client, &home, MODEL, "model").await.unwrap(), &new));
    drop(first);
    // A machine that never had it cannot get it, and gets nothing else.
    let elsewhere = Home::new();
    let (second, _hub) = daemon(&elsewhere, &bucket);
    let client = second.client().await;
    let pinned = |commit: &str| request(&elsewhere, MODEL, "model").revision(commit);
    assert_eq!(reason(client.load(pinned(&before), |_| ()).await), ErrorReason::RevisionNotFound);
    assert!(is_file(&client.load(pinned(&after), |_| ()).await.unwrap(), &new));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_changes_while_it_comes_is_not_mixed() {
    let home = Home::new();
    let bucket = Bucket::start().unwrap();
    put_weights(&bucket, 30 * MIB);
    let (daemon, _hub) = daemon(&home, &bucket);
    let client = daemon.client().await;
    bucket.wire().set(Fault::Slow { bytes_per_second: 1_000_000 });
    let loading = tokio::spawn({
        let (client, request) = (client.clone(), request(&home, MODEL, "model"));
        async move { client.load(request, |_| ()).await }
    });
    until("some of it came", async || partial(&home) > 0).await;
    let new = weights(11, 30 * MIB);
    bucket.put_in_parts(WEIGHTS, new.clone(), 8 * MIB);
    // Its first parts are of the old content, and no others come.
    bucket.wire().down();
    bucket.wire().up();
    bucket.wire().set(Fault::None);
    assert_eq!(reason(loading.await.unwrap()), ErrorReason::RevisionNotFound);
    assert!(is_file(&load(&client, &home, MODEL, "model").await.unwrap(), &new));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_byte_is_lent_to_nobody() {
    let home = Home::new();
    let bucket = Bucket::start().unwrap();
    let file = weights(3, 3 * MIB);
    bucket.put("whole/model.safetensors", file.clone());
    bucket.put_in_parts("parts/model.safetensors", file.clone(), MIB);
    let (daemon, _hub) = daemon(&home, &bucket);
    let client = daemon.client().await;
    bucket.wire().set(Fault::WrongByte { at: 2_000_000 });
    for model in ["s3://models/whole", "s3://models/parts"] {
        // Connections are kept, so that the byte is not in each answer.
        let mut reasons = BTreeSet::new();
        bucket.wire().down();
        bucket.wire().up();
        match load(&client, &home, model, "model").await {
            Ok(component) => assert!(is_file(&component, &file), "{model}: it came whole at the second time"),
            Err(error) => drop(reasons.insert(format!("{:?}", error.reason()))),
        }
        assert!(reasons.iter().all(|reason| reason.contains("Corrupt")), "{model}: {reasons:?}");
    }
    drop(daemon);
    assert!(home.log().contains("it is fetched again"), "it was noticed");
}

#[tokio::test(flavor = "multi_thread")]
async fn content_without_a_hash_is_attested_as_it_came() {
    let home = Home::new();
    let bucket = Bucket::start().unwrap();
    let file = weights(4, 100_000);
    bucket.put_unhashed(WEIGHTS, file.clone(), "0x8DCOPAQUE");
    let (daemon, _hub) = daemon(&home, &bucket);
    let client = daemon.client().await;
    drop(load(&client, &home, MODEL, "model").await.unwrap());
    let blobs = folder(&home).join("blobs");
    let blob = names(&blobs).into_iter().find(|name| name.starts_with("etag-") && !name.contains('.')).unwrap();
    let verify = async || {
        let request = VerifyRequest { model: Some(selector(&home, MODEL)), components: Vec::new() };
        client.verify(request, |_| ()).await.unwrap()
    };
    assert!(verify().await.clean);
    damage::flip_byte(&blobs.join(&blob), 50_000).unwrap();
    let report = verify().await;
    assert!(!report.clean && report.verdicts.iter().any(|verdict| !verdict.moved_to.is_empty()), "{report:?}");
    let again = request(&home, MODEL, "model").verification(Verification::Before);
    assert!(is_file(&client.load(again, |_| ()).await.unwrap(), &file));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_of_a_hub_cache_has_the_hub_s_commits_and_hashes() {
    let home = Home::new();
    let bucket = Bucket::start().unwrap();
    let fixture = tiny(1).write_hub_cache(home.path().join("published"), REPO, "main").unwrap();
    bucket.put("hf/models--org--repo/refs/main", fixture.commit.clone().into_bytes());
    for file in &fixture.files {
        let bytes = fs::read(&file.target).unwrap();
        let folder = "hf/models--org--repo";
        bucket.put_in_parts(&format!("{folder}/blobs/{}", file.etag), bytes.clone(), 8 * MIB);
        bucket.put_in_parts(&format!("{folder}/snapshots/{}/{}", fixture.commit, file.path), bytes, 8 * MIB);
    }
    let (daemon, _hub) = daemon(&home, &bucket);
    let client = daemon.client().await;
    let component = load(&client, &home, "s3://models/hf/models--org--repo", "vae").await.unwrap();
    assert!(is(&component, &fixture.written));
    assert_eq!(component.info().model.as_ref().unwrap().commit, fixture.commit);
    let vae = fixture.file("vae/diffusion_pytorch_model.safetensors").unwrap();
    assert!(folder(&home).join("blobs").join(&vae.etag).exists(), "it is named as on the hub");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_credential_is_shown() {
    let home = Home::new();
    let bucket = Bucket::start().unwrap();
    put_weights(&bucket, 9 * MIB);
    let mut said = String::new();
    {
        let (daemon, _hub) = daemon(&home, &bucket);
        let client = daemon.client().await;
        drop(load(&client, &home, MODEL, "model").await.unwrap());
        said += &format!("{:?}", client.status().await.unwrap());
        let missing = load(&client, &home, "s3://models/absent", "model").await.unwrap_err();
        assert_eq!(missing.reason(), Some(ErrorReason::RepoNotFound));
        let other = load(&client, &home, "s3://strangers/language", "model").await.unwrap_err();
        assert_eq!(other.reason(), Some(ErrorReason::RepoNotFound));
        said += &format!("{missing:?} {other:?}");
        assert!(daemon.terminate().success());
    }
    // Keys that the store does not take, a profile, and none at all.
    let wrong = [("AWS_ACCESS_KEY_ID", KEY_ID), ("AWS_SECRET_ACCESS_KEY", "AnotherSecretThatNobodyMaySee"), TRACE];
    let profile = home.path().join(".aws/credentials");
    fs::create_dir_all(profile.parent().unwrap()).unwrap();
    fs::write(&profile, format!("[mine]\naws_access_key_id = {KEY_ID}\naws_secret_access_key = {SECRET}\n")).unwrap();
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], Option<ErrorReason>);
    let table: [Case<'_>; 3] = [
        ("", &wrong, Some(ErrorReason::TokenRefused)),
        ("", &[("AWS_PROFILE", "mine"), TRACE], None),
        ("anonymous = true", &[TRACE], Some(ErrorReason::TokenMissing)),
    ];
    for (section, variables, expected) in table {
        let (daemon, _hub) = daemon_so(&home, &bucket, section, variables);
        let result = load(&daemon.client().await, &home, MODEL, "model").await;
        // What is here is lent without the store; why that does not say anything new is in the answer.
        let model = result.unwrap().info().model.clone().unwrap();
        said += &model.warning;
        let other = load(&daemon.client().await, &home, "s3://models/absent", "model").await.unwrap_err();
        assert_eq!(other.reason(), expected.or(Some(ErrorReason::RepoNotFound)), "{variables:?}: {other:?}");
        said += &format!("{other:?}");
        assert!(daemon.terminate().success());
    }
    let log = home.log();
    assert!(log.contains("TRACE"), "the log says everything but this");
    for secret in [SECRET, "AnotherSecretThatNobodyMaySee", KEY_ID, "Signature=", "AWS4-HMAC"] {
        assert!(!log.contains(secret) && !said.contains(secret), "{secret}");
    }
}
