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
        visible,
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
async fn a_name_that_leads_to_other_content_is_told_and_takes_nothing_from_its_holders() {
    let home = Home::new();
    let hub = Hub::start().unwrap();
    let (old, new) = (publish_weights(&hub, OLD, 20_000), publish_weights(&hub, NEW, 20_000));
    assert_ne!(old, new);
    let daemon = home.daemon_on(&hub, &["--hub-freshness", "0s"]);
    let client = daemon.client().await;
    let held = client.load(request(&home, OLD, "model"), |_| ()).await.unwrap();
    assert!(is_file(&held, &old) && held.model().unwrap().warning.is_empty());
    let commit = held.model().unwrap().commit.clone();
    hub.fault(On::hub(OLD), Fault::Renamed { to: NEW.into(), status: 307, on: NextPage::Relative });
    let other = client.load(request(&home, OLD, "model"), |_| ()).await.unwrap();
    let warning = &other.model().unwrap().warning;
    assert!(warning.contains(OLD) && warning.contains(NEW), "{warning}");
    assert!(is_file(&other, &new) && is_file(&held, &old) && other.id() != held.id());
    // A commit is that commit.
    let pinned = client.load(request(&home, OLD, "model").revision(commit), |_| ()).await.unwrap();
    assert!(is_file(&pinned, &old) && pinned.id() == held.id());
    assert_sound(&home, OLD);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_lead_to_each_other_end() {
    let home = Home::new();
    let hub = Hub::start().unwrap();
    publish_weights(&hub, OLD, 1000);
    publish_weights(&hub, NEW, 1000);
    for (from, to) in [(OLD, NEW), (NEW, OLD)] {
        hub.fault(On::hub(from), Fault::Renamed { to: to.into(), status: 307, on: NextPage::Absolute });
    }
    let daemon = home.daemon_on(&hub, &["--hub-tries", "5"]);
    let client = daemon.client().await;
    let error = client.load(request(&home, OLD, "model"), |_| ()).await.map(drop).unwrap_err();
    assert_eq!(error.reason(), Some(ErrorReason::HubMalformed), "{error}");
    assert!(error.to_string().contains("redirects"), "{error}");
    assert!(hub.requests().len() < 16, "{}", hub.requests().len());
    assert!(!folder(&home, OLD).exists() && !folder(&home, NEW).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_into_another_repository_lends_nothing_of_it() {
    let other = "org/another-one";
    let whole = |host: &str| format!("{host}/{other}/resolve/main/{WEIGHTS}");
    for number in 0..6 {
        let home = Home::new();
        let hub = Hub::start().unwrap();
        let file = publish_weights(&hub, REPO, 20_000);
        assert_ne!(publish_weights(&hub, other, 20_000), file);
        hub.add_token("hf_secret");
        let renamed = |on| Fault::Renamed { to: other.into(), status: 307, on };
        let to = |location: String| Fault::RedirectTo { status: 302, location };
        let rule = match number {
            0 => hub.fault(On::api("/tree/"), renamed(NextPage::Relative)),
            1 => hub.fault(On::api("/tree/"), renamed(NextPage::Stranger)),
            2 => hub.fault(On::resolve(WEIGHTS), renamed(NextPage::Absolute)),
            3 => hub.fault(On::resolve(REPO), to(whole(""))),
            4 => hub.fault(On::resolve(format!("{REPO}/resolve")), to(whole(&hub.stranger()))),
            _ => hub.fault(On::cdn(""), to(whole(&hub.endpoint()))),
        };
        let daemon = home.daemon_so(&hub, &[], &[("HF_TOKEN", "hf_secret")]);
        let client = daemon.client().await;
        let error = load(&client, &home, "model").await.map(drop).unwrap_err();
        let refused = error.reason().unwrap();
        use ErrorReason::{HubFailing, HubInconsistent, HubMalformed, RevisionNotFound};
        let expected = [RevisionNotFound, HubInconsistent, HubMalformed, HubFailing];
        assert!(rule.hits() > 0 && expected.contains(&refused), "{number}: {refused:?} {error}");
        assert!(!visible(&home, REPO).iter().any(|path| path.ends_with(WEIGHTS)), "{number}");
        let told = hub.seen(&On::stranger(""));
        assert!(told.iter().all(|seen| seen.token().is_none()), "{number}: {told:?}");
        rule.remove();
        assert!(is_file(&load(&client, &home, "model").await.unwrap(), &file), "{number}");
        assert_sound(&home, REPO);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_answers_for_a_name_must_be_the_repository_that_it_leads_to() {
    let home = Home::new();
    let hub = Hub::start().unwrap();
    publish_weights(&hub, REPO, 1000);
    let commit = hub.publish_bytes("org/other", "v1", vec![("config.json", b"{}".to_vec()), (WEIGHTS, vec![7; 99])]);
    // A file that says what the API would say, of another repository.
    let info = format!(r#"{{"id": "org/other", "sha": "{commit}"}}"#);
    hub.publish_bytes("org/other", "main", vec![("info.json", info.into_bytes())]);
    let daemon = home.daemon_on(&hub, &[]);
    let client = daemon.client().await;
    for host in [hub.endpoint(), hub.stranger()] {
        let location = format!("{host}/org/other/resolve/main/info.json");
        let rule = hub.fault(On::api("/revision/"), Fault::RedirectTo { status: 302, location });
        let error = load(&client, &home, "model").await.map(drop).unwrap_err();
        assert_eq!(error.reason(), Some(ErrorReason::HubMalformed), "{error}");
        assert!(error.to_string().contains("no repository"), "{error}");
        rule.remove();
    }
    let component = load(&client, &home, "model").await.unwrap();
    assert!(component.model().unwrap().warning.is_empty());
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
