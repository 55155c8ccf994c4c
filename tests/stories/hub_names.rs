//! Repositories under other names, revisions in each other's way, files with odd names, mirrors that repeat what the real
//! hub says, and hubs that refuse: what can be had is had, and the rest is named.

use std::fs;

use weightsd_client::{
    ErrorReason,
    proto::{PullRequest, ResolvedModel},
};
use weightsd_fixtures::hub::{Fault, Hub, NextPage, On, Refusal};

use crate::{
    harness::Home,
    hubs::{
        REPO, WEIGHTS, assert_sound, folder, is_file, load, names, publish_weights, pull, reason, request, selector,
    },
};

const OLD: &str = "org/old";
const NEW: &str = "someone/new";

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_repository_is_followed_and_its_new_name_told() {
    for (status, on) in [
        (307, NextPage::Relative),
        (301, NextPage::Absolute),
        (308, NextPage::Relative),
        // A mirror that repeats what the real hub says.
        (307, NextPage::Stranger),
    ] {
        let home = Home::new();
        let hub = Hub::start().unwrap();
        let file = publish_weights(&hub, NEW, 20_000);
        hub.fault(On::hub(OLD), Fault::Renamed { to: NEW.into(), status, on });
        let daemon = home.daemon_so(&hub, &["--hub-freshness", "0s"], &[("HF_TOKEN", "hf_secret")]);
        hub.add_token("hf_secret");
        let client = daemon.client().await;
        let component = client.load(request(&home, OLD, "model"), |_| ()).await.unwrap();
        assert!(is_file(&component, &file), "{status} {on:?}");
        let warning = &component.model().unwrap().warning;
        assert!(warning.contains(OLD) && warning.contains(NEW), "{warning}");
        assert!(hub.seen(&On::stranger("")).is_empty(), "the endpoint has it all");
        drop(component);
        // The new name is remembered.
        hub.clear_log();
        drop(client.load(request(&home, OLD, "model"), |_| ()).await.unwrap());
        assert_eq!(hub.seen(&On::hub(OLD)).len(), 0, "{status} {on:?}: {:?}", hub.requests());
        assert_eq!(hub.seen(&On::hub(NEW)).len(), 1, "{status} {on:?}: {:?}", hub.requests());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_of_a_renamed_repository_is_found() {
    let home = Home::new();
    let hub = Hub::start().unwrap();
    let file = publish_weights(&hub, NEW, 20_000);
    let commit = hub.publish_bytes(NEW, "v1", vec![("config.json", b"{}".to_vec()), (WEIGHTS, file.clone())]);
    hub.fault(On::hub(OLD), Fault::Renamed { to: NEW.into(), status: 307, on: NextPage::Relative });
    let client = home.daemon_on(&hub, &[]);
    let client = client.client().await;
    let component = client.load(request(&home, OLD, "model").revision(commit), |_| ()).await.unwrap();
    assert!(is_file(&component, &file));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_that_leads_nowhere_says_where_it_points() {
    let home = Home::new();
    let hub = Hub::start().unwrap();
    publish_weights(&hub, REPO, 1000);
    let daemon = home.daemon_on(&hub, &[]);
    let client = daemon.client().await;
    hub.fault(On::api("/revision/"), Fault::RedirectTo { status: 308, location: "http://127.0.0.1:1/x".into() });
    let error = load(&client, &home, "model").await.unwrap_err();
    assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
    hub.clear_faults();
    hub.fault(On::api("/revision/"), Fault::RedirectTo { status: 308, location: "/welcome".into() });
    let error = load(&client, &home, "model").await.unwrap_err();
    assert!(error.to_string().contains("/welcome"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_whole_stays_when_the_hub_refuses() {
    for refusal in [
        Refusal::status(401).code("RepoNotFound"),
        Refusal::status(401),
        Refusal::status(403),
        Refusal::status(403).code("GatedRepo"),
        Refusal::status(404).code("RepoNotFound"),
        Refusal::status(404).code("RevisionNotFound"),
        Refusal::status(404),
        Refusal::status(410),
    ] {
        let home = Home::new();
        let hub = Hub::start().unwrap();
        let file = publish_weights(&hub, REPO, 20_000);
        let daemon = home.daemon_on(&hub, &["--hub-freshness", "0s"]);
        let client = daemon.client().await;
        drop(load(&client, &home, "model").await.unwrap());
        let shown = format!("{refusal:?}");
        hub.fault(On::hub(""), refusal);
        hub.clear_log();
        for _ in 0..3 {
            let component = load(&client, &home, "model").await.unwrap_or_else(|error| panic!("{shown}: {error}"));
            assert!(is_file(&component, &file));
            let warning = &component.model().unwrap().warning;
            assert!(warning.contains("no newer commit") && warning.contains("main"), "{shown}: {warning}");
        }
        assert_eq!(hub.requests().len(), 1, "{shown}: it is not asked again at once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn branches_in_each_others_way_are_no_obstacle() {
    let home = Home::new();
    let hub = Hub::start().unwrap();
    let file = publish_weights(&hub, REPO, 20_000);
    for revision in ["dev", "a/b", "dev/x", "a"] {
        let files = vec![("config.json", b"{}".to_vec()), (WEIGHTS, file.clone()), (revision, b"".to_vec())];
        hub.publish_bytes(REPO, revision, files);
    }
    let daemon = home.daemon_on(&hub, &[]);
    let client = daemon.client().await;
    for revision in ["dev", "a/b", "dev/x", "a"] {
        pull(&client, selector(&home, &format!("{REPO}@{revision}")), &[]).await.unwrap();
        let component = client.load(request(&home, REPO, "model").revision(revision), |_| ()).await.unwrap();
        assert!(is_file(&component, &file), "{revision}");
    }
    assert_sound(&home, REPO);
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_names_and_many_files_are_no_obstacle() {
    let home = Home::new();
    let hub = Hub::start().unwrap();
    let long = format!("{}.txt", "n".repeat(246));
    let file = crate::hubs::weights(3, 20_000);
    let mut files: Vec<(String, Vec<u8>)> = (0..20_500).map(|n| (format!("images/{n}.txt"), Vec::new())).collect();
    files.extend([
        ("config.json".into(), b"{}".to_vec()),
        (WEIGHTS.into(), file.clone()),
        (long.clone(), b"x".to_vec()),
    ]);
    hub.publish_bytes(REPO, "main", files);
    hub.fault(On::api("/tree/"), Fault::HostilePath { path: "../../x".into() });
    hub.fault(On::api("/tree/"), Fault::HostilePath { path: "y".repeat(300) });
    let daemon = home.daemon_on(&hub, &[]);
    let client = daemon.client().await;
    let mut model = selector(&home, REPO);
    model.patterns = vec![long.clone(), "*.json".into(), "*.safetensors".into()];
    let whole = PullRequest { model: Some(model), components: Vec::new(), whole_repository: true };
    let report = client.pull(whole, |_| ()).await.unwrap();
    let ResolvedModel { path, warning, .. } = report.model.unwrap();
    assert!(fs::exists(std::path::Path::new(&path).join(&long)).unwrap());
    assert!(warning.contains("../../x") && warning.contains("yyy"), "{warning}");
    assert!(is_file(&load(&client, &home, "model").await.unwrap(), &file));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_hubs_own_word_marks_a_file_as_absent() {
    for (refusal, is_marked) in [
        (Refusal::status(404), false),
        (Refusal::status(404).code("EntryNotFound"), false),
        (Refusal::status(404), true),
    ] {
        let home = Home::new();
        let hub = Hub::start().unwrap();
        publish_weights(&hub, REPO, 20_000);
        let commit = hub.publish_bytes(REPO, "main", vec![("config.json", b"{}".to_vec()), (WEIGHTS, vec![7; 99])]);
        let refusal = if is_marked { refusal.code("EntryNotFound").commit(&commit) } else { refusal };
        hub.fault(On::resolve(WEIGHTS), refusal);
        let daemon = home.daemon_on(&hub, &[]);
        let client = daemon.client().await;
        let refused = reason(load(&client, &home, "model").await);
        assert!(matches!(refused, ErrorReason::FileNotFound | ErrorReason::HubMalformed), "{refused:?}");
        assert_eq!(!names(&folder(&home, REPO).join(".no_exist")).is_empty(), is_marked);
    }
}
