//! Files of a snapshot that are not the commit's: edited ones, damaged ones, and caches that have no links at all. A
//! verdict about one file never touches another, every repair comes to an end, and what a user wrote is kept.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use weightsd_client::{
    Client, ErrorReason, Verification,
    proto::{FileFinding, VerifyReport, VerifyRequest},
};
use weightsd_fixtures::{
    damage,
    hub::{Hub, Side},
};

use crate::{
    harness::Home,
    hubs::{
        REPO, WEIGHTS, assert_sound, files_below, folder, is_file, load, names, publish_weights, pull, reason, request,
        selector, sent, weights,
    },
};

const LENGTH: usize = 300_000;

/// A hub with a model of one weight file, and the snapshot that the daemon pulled from it.
struct Scene {
    home: Home,
    hub: Hub,
    file: Vec<u8>,
}

impl Scene {
    fn new() -> Self {
        let (home, hub) = (Home::new(), Hub::start().unwrap());
        let file = publish_weights(&hub, REPO, LENGTH);
        Self { home, hub, file }
    }

    async fn pull(&self, client: &Client) -> u64 {
        pull(client, selector(&self.home, REPO), &[]).await.unwrap().bytes_fetched
    }

    fn snapshot(&self) -> PathBuf {
        let snapshots = folder(&self.home, REPO).join("snapshots");
        snapshots.join(names(&snapshots).remove(0))
    }

    fn entry(&self, name: &str) -> PathBuf {
        self.snapshot().join(name)
    }

    /// Puts a regular file in the place of a link.
    fn put(&self, name: &str, content: &[u8]) -> PathBuf {
        let entry = self.entry(name);
        fs::remove_file(&entry).unwrap();
        fs::write(&entry, content).unwrap();
        entry
    }

    /// Makes every link the file that it leads to, and empties `blobs`.
    fn without_links(&self) {
        for name in files_below(&self.snapshot()) {
            let content = fs::read(self.entry(&name)).unwrap();
            self.put(&name, &content);
        }
        fs::remove_dir_all(folder(&self.home, REPO).join("blobs")).unwrap();
    }

    /// The contents of files that were set aside.
    fn set_aside(&self) -> Vec<Vec<u8>> {
        let folder = folder(&self.home, REPO);
        let aside = files_below(&folder).into_iter().filter(|name| name.ends_with(".quarantined"));
        aside.map(|name| fs::read(folder.join(name)).unwrap()).collect()
    }

    async fn verify(&self, client: &Client, spec: &str) -> VerifyReport {
        let model = Some(selector(&self.home, spec));
        client.verify(VerifyRequest { model, components: Vec::new() }, |_| ()).await.unwrap()
    }
}

fn found(report: &VerifyReport, path: &str) -> FileFinding {
    let is_it = |file: &&weightsd_client::proto::FileVerdict| file.file.as_ref().unwrap().path == path;
    report.verdicts.iter().find(is_it).unwrap().finding()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_over_edited_files_ends_and_keeps_what_was_written() {
    let scene = Scene::new();
    let daemon = scene.home.daemon_on(&scene.hub, &[]);
    let client = daemon.client().await;
    scene.pull(&client).await;
    let own_shard = weights(99, 5000);
    let edits: [(&str, &[u8]); 4] = [
        ("config.json", b"{\"edited\": 1}"),
        ("config.json", b"{}\r\n"),
        (WEIGHTS, &own_shard),
        (WEIGHTS, &[0; LENGTH]),
    ];
    for (name, content) in edits {
        let blob = fs::canonicalize(scene.entry(name)).unwrap();
        scene.put(name, content);
        scene.hub.clear_log();
        scene.pull(&client).await;
        assert!(scene.hub.requests().len() < 8, "{name}: {:?}", scene.hub.requests());
        assert_eq!(scene.hub.bytes_sent(Side::Cdn), 0, "{name}: the blob was here all the time");
        assert_eq!(fs::canonicalize(scene.entry(name)).unwrap(), blob, "{name}");
        assert!(scene.set_aside().iter().any(|kept| kept == content), "{name}");
        assert_sound(&scene.home, REPO);
    }
    assert!(is_file(&load(&client, &scene.home, "model").await.unwrap(), &scene.file));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_over_small_files_that_cannot_be_used_fetches_them_anew() {
    const INDEX: &str = "model.safetensors.index.json";
    for content in [&b"<html>Log in</html>"[..], b"", br#"{"weight_map": {}}"#, br#"{"weight_map": 7}"#] {
        for name in ["config.json", INDEX] {
            let scene = Scene::new();
            let index = format!(r#"{{"metadata": {{}}, "weight_map": {{"t": "{WEIGHTS}"}}}}"#);
            let files = vec![("config.json", b"{}".to_vec()), (INDEX, index.into()), (WEIGHTS, scene.file.clone())];
            scene.hub.publish_bytes(REPO, "main", files);
            let daemon = scene.home.daemon_on(&scene.hub, &[]);
            let client = daemon.client().await;
            scene.pull(&client).await;
            let said = format!("{name}: {}", String::from_utf8_lossy(content));
            scene.put(name, content);
            scene.hub.clear_log();
            scene.pull(&client).await;
            assert!(scene.hub.requests().len() < 8, "{said}: {:?}", scene.hub.requests());
            assert_eq!(scene.set_aside(), [content], "{said}");
            assert!(is_file(&load(&client, &scene.home, "model").await.unwrap(), &scene.file), "{said}");
            assert_sound(&scene.home, REPO);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_uses_an_edited_file_and_verification_refuses_to() {
    let scene = Scene::new();
    let daemon = scene.home.daemon_on(&scene.hub, &[]);
    let client = daemon.client().await;
    scene.pull(&client).await;
    let own = weights(99, 5000);
    scene.put(WEIGHTS, &own);
    assert!(is_file(&load(&client, &scene.home, "model").await.unwrap(), &own));
    let report = scene.verify(&client, REPO).await;
    assert_eq!((report.clean, found(&report, WEIGHTS)), (false, FileFinding::Corrupt));
    assert_eq!(fs::read(scene.entry(WEIGHTS)).unwrap(), own, "who only asks changes nothing");
    // Without the hub nothing could take its place, so it stays.
    let before = || request(&scene.home, REPO, "model").verification(Verification::Before);
    assert_eq!(reason(client.load(before().offline(true), |_| ()).await), ErrorReason::Corrupt);
    assert_eq!(fs::read(scene.entry(WEIGHTS)).unwrap(), own);
    let verified = client.load(before(), |_| ()).await.unwrap();
    assert!(is_file(&verified, &scene.file));
    assert_eq!(scene.set_aside(), [own]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_config_may_hold_what_only_python_reads() {
    let scene = Scene::new();
    let daemon = scene.home.daemon_on(&scene.hub, &[]);
    let client = daemon.client().await;
    scene.pull(&client).await;
    let edited = br#"{"time_step_limit": [0.0, Infinity], "scale": NaN}"#;
    let entry = scene.put("config.json", edited);
    // A header that does not parse has the small files looked at too.
    for damage in [false, true] {
        if damage {
            damage::flip_byte(&scene.entry(WEIGHTS), 9).unwrap();
        }
        assert!(is_file(&load(&client, &scene.home, "model").await.unwrap(), &scene.file));
        assert_eq!(fs::read(&entry).unwrap(), edited, "damage {damage}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_without_links_is_whole_and_is_repaired_where_it_is_not() {
    let scene = Scene::new();
    let daemon = scene.home.daemon_on(&scene.hub, &[]);
    let client = daemon.client().await;
    scene.pull(&client).await;
    scene.without_links();
    scene.hub.clear_log();
    assert!(is_file(&load(&client, &scene.home, "model").await.unwrap(), &scene.file));
    assert_eq!(scene.pull(&client).await, 0);
    assert_eq!(scene.hub.bytes_sent(Side::Cdn) + scene.hub.bytes_sent(Side::Resolve), 0);
    let report = scene.verify(&client, REPO).await;
    assert!(report.clean && found(&report, WEIGHTS) == FileFinding::Good, "{report:?}");

    damage::flip_byte(&scene.entry(WEIGHTS), 200_000).unwrap();
    assert_eq!(found(&scene.verify(&client, REPO).await, WEIGHTS), FileFinding::Corrupt);
    assert_eq!(scene.pull(&client).await, scene.file.len() as u64, "one file, once");
    assert!(is_file(&load(&client, &scene.home, "model").await.unwrap(), &scene.file));
    assert_sound(&scene.home, REPO);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_link_can_be_made_files_lie_in_the_snapshot() {
    let scene = Scene::new();
    let daemon = scene.home.daemon_so(&scene.hub, &[], &[("HF_HUB_DISABLE_SYMLINKS", "1")]);
    let client = daemon.client().await;
    assert!(scene.pull(&client).await > scene.file.len() as u64);
    let component = load(&client, &scene.home, "model").await.unwrap();
    assert!(is_file(&component, &scene.file));
    for name in ["config.json", WEIGHTS] {
        assert!(scene.entry(name).symlink_metadata().unwrap().is_file(), "{name}");
    }
    scene.hub.clear_log();
    assert_eq!(scene.pull(&client).await, 0);
    assert!(scene.verify(&client, REPO).await.clean);
    assert_eq!(sent(&scene.hub) - scene.hub.bytes_sent(Side::Api), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_to_a_bad_file_elsewhere_costs_no_other_file() {
    let scene = Scene::new();
    let daemon = scene.home.daemon_on(&scene.hub, &[]);
    let client = daemon.client().await;
    scene.pull(&client).await;
    let blob = fs::canonicalize(scene.entry(WEIGHTS)).unwrap();
    let elsewhere = scene.home.path().join("other/blobs").join(blob.file_name().unwrap());
    fs::create_dir_all(elsewhere.parent().unwrap()).unwrap();
    fs::write(&elsewhere, weights(5, LENGTH)).unwrap();
    let entry = scene.entry(WEIGHTS);
    fs::remove_file(&entry).unwrap();
    symlink(&elsewhere, &entry).unwrap();
    scene.hub.clear_log();
    scene.pull(&client).await;
    assert!(scene.hub.requests().len() < 8, "{:?}", scene.hub.requests());
    assert_eq!(fs::canonicalize(&entry).unwrap(), blob);
    assert_eq!(fs::read(&elsewhere).unwrap(), weights(5, LENGTH));
    assert_eq!(fs::read(&blob).unwrap(), scene.file);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_that_is_named_by_its_path_is_left() {
    let scene = Scene::new();
    let daemon = scene.home.daemon_on(&scene.hub, &[]);
    let client = daemon.client().await;
    scene.pull(&client).await;
    let (entry, snapshot) = (scene.entry(WEIGHTS), scene.snapshot());
    damage::flip_byte(&fs::canonicalize(&entry).unwrap(), 200_000).unwrap();
    let report = scene.verify(&client, snapshot.to_str().unwrap()).await;
    let bad = report.verdicts.iter().find(|verdict| verdict.finding() == FileFinding::Corrupt).unwrap();
    assert_eq!((bad.moved_to.as_str(), entry.exists()), ("", true));
    let request = request(&scene.home, snapshot.to_str().unwrap(), "model").verification(Verification::Before);
    let error = client.load(request, |_| ()).await.unwrap_err();
    assert!(error.reason() == Some(ErrorReason::Corrupt) && error.to_string().contains("left"), "{error}");
}

/// Damages the file that an entry leads to.
type Damage = fn(&Path);

#[tokio::test(flavor = "multi_thread")]
async fn a_load_mends_damaged_small_files_and_headers() {
    let damages: [(&str, Damage); 5] = [
        ("config.json", |path| fs::write(path, "[]").unwrap()),
        ("config.json", |path| fs::write(path, "no json").unwrap()),
        (WEIGHTS, |path| damage::flip_byte(path, 9).unwrap()),
        (WEIGHTS, |path| damage::flip_byte(path, 0).unwrap()),
        (WEIGHTS, |path| fs::File::options().write(true).open(path).unwrap().set_len(1000).unwrap()),
    ];
    for (number, (name, damage)) in damages.into_iter().enumerate() {
        for linked in [true, false] {
            let scene = Scene::new();
            let daemon = scene.home.daemon_on(&scene.hub, &[]);
            let client = daemon.client().await;
            scene.pull(&client).await;
            if !linked {
                scene.without_links();
            }
            damage(&scene.entry(name));
            let damaged = fs::read(scene.entry(name)).unwrap();
            let offline = request(&scene.home, REPO, "model").offline(true);
            // A file of the snapshot's own may be an edited one, if only it is JSON.
            let is_edit = !linked && number == 0;
            if !is_edit {
                let refused = client.load(offline, |_| ()).await;
                let Err(refused) = refused else { panic!("{name} {linked} {number}: it was lent") };
                assert!(refused.to_string().contains(name), "{name} {linked}: {refused}");
                scene.hub.clear_log();
                let component = load(&client, &scene.home, "model").await.unwrap();
                assert!(is_file(&component, &scene.file), "{name} {linked}");
                assert!(scene.set_aside().contains(&damaged), "{name} {linked}");
                // A large file takes two requests: to the hub, and to where it sends.
                assert_eq!(scene.hub.gets_of(name), 1 + usize::from(name == WEIGHTS), "{name} {linked}");
            }
            assert_sound(&scene.home, REPO);
        }
    }
}
