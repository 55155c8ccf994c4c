//! The hub cannot be asked, or may not be: what is here is the answer, and says so where it may be old.

use std::fs;

use weightsd_client::{ErrorReason, proto::EvictRequest};
use weightsd_fixtures::hub::{Hub, On};

use crate::{
    changes::is,
    harness::{Home, Setting},
    hubs::{REPO, folder, load, publish_tiny, publish_weights, pull, reason, request, selector, tiny_hub},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_may_not_ask_does_not() {
    let home = Home::new();
    let (hub, fixture) = tiny_hub(&home);
    drop(load(&home.daemon_on(&hub, &[]).client().await, &home, "vae").await.unwrap());
    hub.clear_log();
    let ways: [Setting<'_>; 3] =
        [(&["--offline"], &[]), (&[], &[("HF_HUB_OFFLINE", "1")]), (&[], &[("TRANSFORMERS_OFFLINE", "yes")])];
    for (arguments, variables) in ways {
        let daemon = home.daemon_so(&hub, arguments, variables);
        let client = daemon.client().await;
        assert!(client.status().await.unwrap().offline);
        let vae = load(&client, &home, "vae").await.unwrap();
        assert!(is(&vae, &fixture.written) && vae.model().unwrap().warning.is_empty());
        let other = |spec: &str| client.load(request(&home, spec, "vae"), |_| ());
        assert_eq!(reason(load(&client, &home, "transformer").await), ErrorReason::SnapshotIncomplete);
        assert_eq!(reason(other("org/absent").await), ErrorReason::RepoNotCached);
        assert_eq!(reason(other("org/repo@v2").await), ErrorReason::RevisionNotCached);
        for spec in [REPO, "org/absent", &format!("{REPO}@{}", fixture.commit)] {
            let pulled = pull(&client, selector(&home, spec), &["transformer"]).await;
            assert_eq!(reason(pulled), ErrorReason::Offline, "{spec}");
        }
        assert_eq!(client.resolve(selector(&home, REPO)).await.unwrap().components.len(), 3);
    }
    assert_eq!(hub.requests().len(), 0, "{:?}", hub.requests());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_forbids_it_asks_nobody() {
    let home = Home::new();
    let (hub, old) = tiny_hub(&home);
    let daemon = home.daemon_on(&hub, &["--hub-freshness", "0s"]);
    let client = daemon.client().await;
    drop(load(&client, &home, "vae").await.unwrap());
    publish_tiny(&home, &hub, 2);
    hub.clear_log();
    let offline = |component: &str| request(&home, REPO, component).offline(true);
    let vae = client.load(offline("vae"), |_| ()).await.unwrap();
    assert_eq!(vae.model().unwrap().commit, old.commit);
    assert_eq!(reason(client.load(offline("transformer"), |_| ()).await), ErrorReason::SnapshotIncomplete);
    let pinned = offline("transformer").revision(&old.commit);
    assert_eq!(reason(client.load(pinned.clone(), |_| ()).await), ErrorReason::SnapshotIncomplete);
    let model = pinned.message().model.clone().unwrap();
    assert_eq!(reason(pull(&client, model, &["transformer"]).await), ErrorReason::Offline);
    assert_eq!(hub.requests().len(), 0, "{:?}", hub.requests());
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_hub_is_away_a_branch_means_what_it_meant() {
    let home = Home::new();
    let (hub, old) = tiny_hub(&home);
    let daemon = home.daemon_on(&hub, &["--hub-freshness", "0s", "--hub-tries", "0"]);
    let client = daemon.client().await;
    assert_eq!(load(&client, &home, "vae").await.unwrap().model().unwrap().warning, "");
    let new = publish_tiny(&home, &hub, 2);
    hub.stop();
    for _ in 0..3 {
        let vae = load(&client, &home, "vae").await.unwrap();
        let model = vae.model().unwrap();
        assert_eq!(model.commit, old.commit);
        assert!(model.warning.contains("main") && model.warning.contains("reached"), "{model:?}");
    }
    // A commit is that commit, with nothing to be said about it.
    let pinned = client.load(request(&home, REPO, "vae").revision(&old.commit), |_| ()).await.unwrap();
    assert_eq!(pinned.model().unwrap().warning, "");
    let missing = load(&client, &home, "transformer").await.unwrap_err();
    assert_eq!(missing.reason(), Some(ErrorReason::HubUnreachable), "{missing}");
    assert!(missing.retryable());
    let report = pull(&client, selector(&home, REPO), &["vae"]).await.unwrap();
    assert!(report.model.unwrap().warning.contains("main"));

    hub.resume().unwrap();
    // Who pulls wants to know, whatever was found out a moment ago.
    let report = pull(&client, selector(&home, REPO), &["vae"]).await.unwrap().model.unwrap();
    assert_eq!((&report.commit, report.warning.as_str()), (&new.commit, ""));
    let vae = load(&client, &home, "vae").await.unwrap();
    assert_eq!((vae.model().unwrap().warning.as_str(), is(&vae, &new.written)), ("", true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_is_away_is_not_waited_for_again_and_again() {
    let home = Home::new();
    let (hub, fixture) = tiny_hub(&home);
    let daemon = home.daemon_on(&hub, &["--hub-freshness", "0s", "--hub-deadline", "2s"]);
    let client = daemon.client().await;
    drop(load(&client, &home, "vae").await.unwrap());
    hub.clear_log();
    // Silent, which is what takes longest.
    hub.fault(On::api(""), weightsd_fixtures::hub::Fault::Silence);
    for component in ["vae", "vae", "vae"] {
        let found = load(&client, &home, component).await.unwrap();
        assert_eq!(found.model().unwrap().commit, fixture.commit);
        assert!(!found.model().unwrap().warning.is_empty());
        drop(found);
        client.evict(EvictRequest::default()).await.unwrap();
    }
    assert_eq!(hub.requests().len(), 1, "{:?}", hub.requests());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_nothing_to_fall_back_on_its_absence_is_the_answer() {
    let home = Home::new();
    let hub = Hub::start().unwrap();
    publish_weights(&hub, REPO, 1000);
    hub.stop();
    let daemon = home.daemon_on(&hub, &[]);
    let client = daemon.client().await;
    for error in [
        load(&client, &home, "model").await.err(),
        client.load(request(&home, REPO, "model").revision("0".repeat(40)), |_| ()).await.err(),
        pull(&client, selector(&home, REPO), &[]).await.err(),
        client.resolve(selector(&home, REPO)).await.err(),
        client.audit(selector(&home, REPO), Vec::new()).await.err(),
    ] {
        let error = error.unwrap();
        assert_eq!(error.reason(), Some(ErrorReason::HubUnreachable), "{error}");
        assert!(error.retryable() && error.to_string().contains("127.0.0.1"), "{error}");
    }
    assert!(!folder(&home, REPO).exists());
    hub.resume().unwrap();
    drop(load(&client, &home, "model").await.unwrap());
    assert!(fs::exists(folder(&home, REPO).join("refs/main")).unwrap());
}
