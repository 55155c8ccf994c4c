//! What a download brings: what was asked for and no more, where every other program of the cache looks for it.

use std::{collections::BTreeSet, fs};

use weightsd_client::{ErrorReason, proto::PullRequest};
use weightsd_fixtures::hub::{Fault, Hub, NextPage, On, Side};

use crate::{
    changes::is,
    harness::Home,
    hubs::{
        REPO, assert_sound, files_below, folder, gets, is_file, load, names, publish_tiny, publish_weights, pull,
        reason, request, selector, tiny_hub, visible, weights,
    },
};

#[tokio::test(flavor = "multi_thread")]
async fn a_load_brings_its_component_and_the_small_files_and_no_more() {
    let home = Home::new();
    let (hub, fixture) = tiny_hub(&home);
    let daemon = home.daemon_on(&hub, &[]);
    let client = daemon.client().await;
    let component = load(&client, &home, "transformer").await.unwrap();
    assert!(is(&component, &fixture.written));
    let model = component.model().unwrap();
    assert_eq!((&model.commit, model.warning.as_str()), (&fixture.commit, ""));

    let small = |path: &str| {
        ["config.json", "model_index.json", "scheduler_config.json"].iter().any(|name| path.ends_with(name))
    };
    let wanted: BTreeSet<String> = fixture.files.iter().map(|file| file.path.clone()).collect();
    let wanted: BTreeSet<String> =
        wanted.into_iter().filter(|path| path.starts_with("transformer/") || small(path)).collect();
    let asked = gets(&hub, Side::Resolve);
    let expected = wanted.iter().map(|path| (format!("/{REPO}/resolve/{}/{path}", fixture.commit), 1)).collect();
    assert_eq!(asked, expected);
    assert!(gets(&hub, Side::Cdn).into_iter().all(|(path, count)| path.contains("/transformer/") && count == 1));
    assert_eq!(hub.seen(&On::any("").method("HEAD")).len(), 0);

    // As huggingface_hub has it.
    let folder = folder(&home, REPO);
    assert_eq!(fs::read_to_string(folder.join("refs/main")).unwrap(), fixture.commit);
    assert_eq!(visible(&home, REPO), wanted.iter().cloned().collect::<Vec<_>>());
    for path in &wanted {
        let link = fs::read_link(folder.join("snapshots").join(&fixture.commit).join(path)).unwrap();
        let up = "../".repeat(2 + path.matches('/').count());
        assert_eq!(link.to_str().unwrap(), format!("{up}blobs/{}", fixture.file(path).unwrap().etag));
    }
    let tree = fs::read_to_string(folder.join(format!("trees/{}.json", fixture.commit))).unwrap();
    let tree: serde_json::Value = serde_json::from_str(&tree).unwrap();
    assert_eq!(tree["format_version"], 1);
    assert_eq!(
        tree["files"].as_object().unwrap().len(),
        fixture.files.len(),
        "the listing has what was not fetched too"
    );
    assert_eq!(files_below(&folder.join("blobs")).len(), wanted.len());
    assert_sound(&home, REPO);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cached_commit_costs_no_request() {
    let home = Home::new();
    let (hub, fixture) = tiny_hub(&home);
    let mut daemon = home.daemon_on(&hub, &[]);
    let pinned = || request(&home, REPO, "vae").revision(&fixture.commit);
    let vae = daemon.client().await.load(pinned(), |_| ()).await.unwrap();
    assert!(is(&vae, &fixture.written));
    assert!(!folder(&home, REPO).join("refs").exists(), "a commit needs no ref");
    hub.clear_log();
    for _ in 0..2 {
        let again = daemon.client().await.load(pinned(), |_| ()).await.unwrap();
        assert_eq!(again.id(), vae.id());
        daemon = {
            drop(daemon);
            home.daemon_on(&hub, &[])
        };
    }
    assert_eq!(hub.requests().len(), 0, "{:?}", hub.requests());
    // What another program has brought is as good.
    let other = home.path().join("published");
    let here = daemon.client().await.load(pinned().hub_cache(&other), |_| ()).await.unwrap();
    assert_eq!((here.id(), hub.requests().len()), (vae.id(), 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn overlapping_wants_share_their_files() {
    let home = Home::new();
    let (hub, fixture) = tiny_hub(&home);
    hub.fault(On::resolve("config.json"), Fault::Late { by: std::time::Duration::from_millis(200) });
    let daemon = home.daemon_on(&hub, &[]);
    let client = daemon.client().await;
    let (one, two, all) = tokio::join!(
        load(&client, &home, "transformer"),
        load(&client, &home, "vae"),
        pull(&client, selector(&home, REPO), &["vae", "text_encoder"]),
    );
    assert!(is(&one.unwrap(), &fixture.written) && is(&two.unwrap(), &fixture.written));
    assert!(all.unwrap().files.len() > 4);
    assert!(gets(&hub, Side::Resolve).values().all(|count| *count == 1), "{:?}", gets(&hub, Side::Resolve));
    assert!(gets(&hub, Side::Cdn).values().all(|count| *count == 1));
    hub.clear_log();
    let report = pull(&client, selector(&home, REPO), &[]).await.unwrap();
    assert_eq!((report.bytes_fetched, gets(&hub, Side::Resolve).len()), (0, 0), "everything was here");
    assert_sound(&home, REPO);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_content_under_two_names_comes_once() {
    let home = Home::new();
    let hub = Hub::start().unwrap();
    let file = weights(1, 50_000);
    hub.publish_bytes(REPO, "main", vec![("a/model.safetensors", file.clone()), ("b/model.safetensors", file.clone())]);
    let daemon = home.daemon_on(&hub, &[]);
    let client = daemon.client().await;
    let report = pull(&client, selector(&home, REPO), &["a", "b"]).await.unwrap();
    assert_eq!((report.files.len(), report.bytes_fetched), (2, file.len() as u64));
    assert_eq!(gets(&hub, Side::Cdn).len(), 1);
    let (a, b) = (load(&client, &home, "a").await.unwrap(), load(&client, &home, "b").await.unwrap());
    assert!(is_file(&a, &file) && is_file(&b, &file));
    // Another commit that has it too fetches its listing only.
    hub.publish_bytes(REPO, "v2", vec![("c/model.safetensors", file.clone())]);
    hub.clear_log();
    let moved = client.load(request(&home, REPO, "c").revision("v2"), |_| ()).await.unwrap();
    assert!(is_file(&moved, &file) && gets(&hub, Side::Resolve).is_empty());
    assert_eq!(names(&folder(&home, REPO).join("refs")), ["main", "v2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_moved_is_seen_by_a_pull_and_after_a_while() {
    let home = Home::new();
    let (hub, old) = tiny_hub(&home);
    let daemon = home.daemon_on(&hub, &["--hub-freshness", "1h"]);
    let client = daemon.client().await;
    let commit = async || load(&client, &home, "vae").await.unwrap().model().unwrap().commit.clone();
    assert_eq!(commit().await, old.commit);
    let new = publish_tiny(&home, &hub, 2);
    hub.clear_log();
    for _ in 0..3 {
        assert_eq!(commit().await, old.commit);
    }
    assert_eq!(hub.requests().len(), 0, "it was asked a moment ago");
    assert_eq!(pull(&client, selector(&home, REPO), &["vae"]).await.unwrap().model.unwrap().commit, new.commit);
    assert_eq!(commit().await, new.commit);
    assert_eq!(fs::read_to_string(folder(&home, REPO).join("refs/main")).unwrap(), new.commit);
    drop(daemon);
    // One that believes nothing for long.
    let daemon = home.daemon_on(&hub, &["--hub-freshness", "0s"]);
    let client = daemon.client().await;
    hub.point(REPO, "main", &old.commit);
    let back = load(&client, &home, "vae").await.unwrap();
    assert_eq!(back.model().unwrap().commit, old.commit);
    assert!(is(&back, &old.written));
}

#[tokio::test(flavor = "multi_thread")]
async fn patterns_and_variants_narrow_a_download() {
    let home = Home::new();
    let hub = Hub::start().unwrap();
    let index = |shard: &str| {
        let text = serde_json::json!({"metadata": {"total_size": 1000}, "weight_map": {"t": shard}});
        text.to_string().into_bytes()
    };
    // Both spellings of an index with a variant, and a folder where a pattern must choose.
    hub.publish_bytes(
        REPO,
        "main",
        vec![
            ("a/model.safetensors", weights(1, 1000)),
            ("a/model.fp16-00001-of-00001.safetensors", weights(2, 1000)),
            ("a/model.fp16.safetensors.index.json", index("model.fp16-00001-of-00001.safetensors")),
            ("b/model.safetensors", weights(3, 1000)),
            ("b/model.bf16-00001-of-00001.safetensors", weights(4, 1000)),
            ("b/model.safetensors.index.bf16.json", index("model.bf16-00001-of-00001.safetensors")),
            ("c/one.safetensors", weights(5, 1000)),
            ("c/two.safetensors", weights(6, 1000)),
            ("README.md", b"# Read me".to_vec()),
        ],
    );
    let daemon = home.daemon_on(&hub, &[]);
    let client = daemon.client().await;
    let table = [
        (request(&home, REPO, "a").variant("fp16"), 2, "a/model.fp16-00001-of-00001.safetensors"),
        (request(&home, REPO, "b").variant("bf16"), 4, "b/model.bf16-00001-of-00001.safetensors"),
        (request(&home, REPO, "c").patterns(["c/two*"]), 6, "c/two.safetensors"),
        (request(&home, REPO, "a"), 1, "a/model.safetensors"),
    ];
    for (request, seed, file) in table {
        hub.clear_log();
        let component = client.load(request, |_| ()).await.unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(is_file(&component, &weights(seed, 1000)), "{file}");
        let came: Vec<String> = gets(&hub, Side::Cdn).into_keys().collect();
        assert!(came.len() == 1 && came[0].ends_with(file), "{came:?}");
    }
    let refused = async |request| reason(client.load(request, |_| ()).await);
    assert_eq!(refused(request(&home, REPO, "c")).await, ErrorReason::AmbiguousWeights);
    assert_eq!(refused(request(&home, REPO, "b").variant("fp8")).await, ErrorReason::SnapshotIncomplete);
    assert_eq!(refused(request(&home, REPO, "a").patterns(["["])).await, ErrorReason::InvalidRequest);
    assert_eq!(refused(request(&home, REPO, "d")).await, ErrorReason::ComponentNotFound);
    assert!(visible(&home, REPO).iter().all(|path| path != "README.md" && path != "b/model.safetensors"));

    let mut model = selector(&home, REPO);
    model.patterns = vec!["*.md".into()];
    let whole = PullRequest { model: Some(model.clone()), whole_repository: true, ..PullRequest::default() };
    let report = client.pull(whole.clone(), |_| ()).await.unwrap();
    assert_eq!(report.files.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(), ["README.md"]);
    model.patterns = vec!["*.gguf".into()];
    let nothing = PullRequest { model: Some(model), ..whole };
    assert_eq!(reason(client.pull(nothing, |_| ()).await), ErrorReason::FileNotFound);
    assert_sound(&home, REPO);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_in_pages_is_read_to_its_end() {
    for next in [NextPage::Absolute, NextPage::Relative] {
        let home = Home::new();
        let (hub, fixture) = tiny_hub(&home);
        hub.fault(On::api("/tree/"), Fault::Pages { size: 3, next });
        let daemon = home.daemon_on(&hub, &[]);
        let report = pull(&daemon.client().await, selector(&home, REPO), &[]).await.unwrap();
        assert!(hub.seen(&On::api("/tree/")).len() > 3);
        assert_eq!(report.files.len(), visible(&home, REPO).len());
        assert!(report.files.len() > 8 && report.files.len() <= fixture.files.len(), "{next:?}");
        assert_sound(&home, REPO);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_and_caches_in_between_change_nothing() {
    for (direct, through_cache) in [(true, false), (false, true), (true, true)] {
        let home = Home::new();
        let hub = Hub::start().unwrap();
        let file = publish_weights(&hub, REPO, 20_000);
        hub.set_lfs_direct(REPO, direct);
        hub.set_resolve_cache(REPO, through_cache);
        let daemon = home.daemon_on(&hub, &[]);
        let component = load(&daemon.client().await, &home, "model").await.unwrap();
        assert!(is_file(&component, &file));
        assert_eq!(hub.bytes_sent(Side::Cdn) == 0, direct);
        assert_sound(&home, REPO);
    }
}
