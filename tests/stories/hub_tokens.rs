//! The token goes to the hub and to nobody else, is read again when it changes, and is shown nowhere; and a user who
//! may not have a repository is told why.

use std::fs;

use tonic::Code;
use weightsd_client::{Client, ClientError, ErrorReason, Phase};
use weightsd_fixtures::hub::{Fault, Hub, NextPage, On, Refusal, Seen};

use crate::{
    harness::{Home, Setting, until},
    hubs::{REPO, load, names, publish_weights, pull, reason, request, selector},
};

const TOKEN: &str = "hf_SecretOfThisStoryThatNobodyMaySee";
const TRACE: (&str, &str) = ("WEIGHTSD_LOG", "trace");

/// A hub where only the token opens the repository.
fn private_hub() -> Hub {
    let hub = Hub::start().unwrap();
    publish_weights(&hub, REPO, 20_000);
    hub.require_token(REPO, TOKEN);
    hub
}

fn on_the_hub(hub: &Hub) -> Vec<Seen> {
    hub.seen(&On::hub(""))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_is_found_where_everybody_keeps_it_and_goes_to_the_hub_alone() {
    let home = Home::new();
    let file = home.path().join("a-token");
    fs::write(&file, format!("{TOKEN}\n")).unwrap();
    let usual = home.path().join(".cache/huggingface/token");
    fs::create_dir_all(usual.parent().unwrap()).unwrap();
    let path = file.to_str().unwrap();
    let table: [Setting<'_>; 5] = [
        (&[], &[("HF_TOKEN", TOKEN)]),
        (&[], &[("HUGGING_FACE_HUB_TOKEN", TOKEN)]),
        (&[], &[("HF_TOKEN_PATH", path)]),
        (&["--hub-token-file", path], &[("HF_TOKEN", "hf_another")]),
        (&[], &[]),
    ];
    for (number, (arguments, variables)) in table.into_iter().enumerate() {
        if variables.is_empty() {
            fs::write(&usual, TOKEN).unwrap();
        }
        let hub = private_hub();
        let variables = [variables, &[TRACE]].concat();
        let daemon = home.daemon_so(&hub, arguments, &variables);
        let client = daemon.client().await;
        drop(load(&client, &home, "model").await.unwrap_or_else(|error| panic!("{number}: {error}")));
        assert!(on_the_hub(&hub).iter().all(|seen| seen.token() == Some(TOKEN)), "{number}");
        let cdn = hub.seen(&On::cdn(""));
        assert!(!cdn.is_empty() && cdn.iter().all(|seen| !seen.headers.contains_key("authorization")), "{cdn:?}");
        assert!(daemon.terminate().success());
        let log = home.log();
        assert!(log.contains("TRACE") && !log.contains(TOKEN), "{number}: the log says everything but this");
        fs::remove_dir_all(home.hub_cache()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_other_token_takes_the_place_of_one_that_is_not_there() {
    let home = Home::new();
    let hub = Hub::start().unwrap();
    publish_weights(&hub, REPO, 1000);
    let usual = home.path().join(".cache/huggingface/token");
    fs::create_dir_all(usual.parent().unwrap()).unwrap();
    fs::write(&usual, TOKEN).unwrap();
    fs::write(home.path().join("empty"), "").unwrap();
    let empty = home.path().join("empty").display().to_string();
    let table: [Setting<'_>; 3] = [
        (&["--hub-token-file", &empty], &[("HF_TOKEN", TOKEN)]),
        (&[], &[("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1"), ("HF_TOKEN", TOKEN)]),
        (&[], &[("HF_TOKEN_PATH", &empty)]),
    ];
    for (arguments, variables) in table {
        hub.clear_log();
        let daemon = home.daemon_so(&hub, arguments, variables);
        drop(load(&daemon.client().await, &home, "model").await.unwrap());
        assert!(hub.requests().len() > 2);
        assert!(hub.requests().iter().all(|seen| !seen.headers.contains_key("authorization")), "{variables:?}");
        drop(daemon);
        fs::remove_dir_all(home.hub_cache()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_and_a_logout_count_at_once() {
    let home = Home::new();
    let hub = private_hub();
    let file = home.path().join("token");
    let daemon = home.daemon_so(&hub, &[], &[("HF_TOKEN_PATH", file.to_str().unwrap())]);
    let client = daemon.client().await;
    assert_eq!(reason(load(&client, &home, "model").await), ErrorReason::TokenMissing);
    fs::write(&file, "hf_stale").unwrap();
    assert_eq!(reason(load(&client, &home, "model").await), ErrorReason::TokenRefused);
    fs::write(&file, TOKEN).unwrap();
    drop(load(&client, &home, "model").await.unwrap());
    fs::remove_file(&file).unwrap();
    fs::remove_dir_all(home.hub_cache()).unwrap();
    let error = client.resolve(selector(&home, REPO)).await.unwrap_err();
    assert_eq!(error.reason(), Some(ErrorReason::TokenMissing), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_to_a_stranger_arrives_there_without_the_token() {
    let home = Home::new();
    for on in [On::resolve(""), On::api("/tree/"), On::api("/revision/"), On::cdn("")] {
        let hub = private_hub();
        hub.fault(on.clone(), Fault::RedirectToStranger);
        let daemon = home.daemon_so(&hub, &[], &[("HF_TOKEN", TOKEN), TRACE]);
        let result = load(&daemon.client().await, &home, "model").await;
        let to = hub.seen(&On::stranger(""));
        assert!(to.iter().all(|seen| !seen.headers.values().any(|value| value.contains(TOKEN))), "{to:?}");
        assert!(!to.is_empty() || result.is_err(), "{on:?}");
        assert!(on_the_hub(&hub).iter().all(|seen| seen.token() == Some(TOKEN)));
        assert!(daemon.terminate().success());
        assert!(!home.log().contains(TOKEN), "{on:?}");
        let _ = fs::remove_dir_all(home.hub_cache());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_that_names_another_host_goes_on_at_the_endpoint() {
    let home = Home::new();
    let hub = private_hub();
    hub.fault(On::api("/tree/"), Fault::Pages { size: 1, next: NextPage::Stranger });
    let daemon = home.daemon_so(&hub, &[], &[("HF_TOKEN", TOKEN)]);
    drop(load(&daemon.client().await, &home, "model").await.unwrap());
    assert_eq!(hub.seen(&On::stranger("")).len(), 0);
    assert!(hub.seen(&On::api("/tree/")).len() > 1);
}

/// All that a client can be told.
async fn everything(client: &Client, error: Option<ClientError>) -> String {
    let status = client.status().await.unwrap();
    let list =
        client.list(weightsd_client::proto::ListComponentsRequest { residency: true, images: true }).await.unwrap();
    format!("{status:?} {list:?} {error:?} {}", error.as_ref().map(ToString::to_string).unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_the_log_nor_an_error_nor_the_status_shows_the_token() {
    let home = Home::new();
    let hub = private_hub();
    let daemon = home.daemon_so(&hub, &["--hub-tries", "0", "--hub-deadline", "2s"], &[("HF_TOKEN", TOKEN), TRACE]);
    let client = daemon.client().await;
    // What a hub can say about a token, if it is careless.
    let echo = |status| Refusal::status(status).message("no such token");
    let faults: Vec<Fault> = vec![
        echo(401).into(),
        echo(403).into(),
        echo(429).into(),
        echo(500).into(),
        Fault::HangUp,
        Fault::Silence,
        Fault::NotJson,
        Fault::RedirectLoop,
        Fault::RedirectToStranger,
    ];
    for fault in faults {
        for on in [On::api("/revision/"), On::api("/tree/"), On::resolve(".json"), On::cdn("")] {
            let rule = hub.fault(on, fault.clone());
            let error = load(&client, &home, "model").await.err();
            let told = everything(&client, error).await;
            assert!(!told.contains(TOKEN), "{told}");
            rule.remove();
            let _ = fs::remove_dir_all(home.hub_cache());
        }
    }
    hub.fault(On::cdn(""), Fault::Slow { bytes_per_second: 20_000 });
    let running = load(&client, &home, "model");
    let looking = async {
        until("the download runs", async || !client.status().await.unwrap().downloads.is_empty()).await;
        everything(&client, None).await
    };
    let (component, told) = tokio::join!(running, looking);
    assert!(component.is_ok() && !told.contains(TOKEN), "{told}");
    drop(component);
    assert!(daemon.terminate().success());
    let log = home.log();
    assert!(log.contains("TRACE") && !log.contains(TOKEN) && !log.contains(&TOKEN[4..]));
    let below = names(home.path());
    assert!(below.iter().all(|name| !name.contains(TOKEN)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gated_repository_names_the_page_to_ask_on() {
    let home = Home::new();
    let hub = Hub::start().unwrap();
    publish_weights(&hub, REPO, 1000);
    hub.gate(REPO);
    hub.add_token("hf_nobody");
    let file = home.path().join("token");
    let daemon = home.daemon_so(&hub, &[], &[("HF_TOKEN_PATH", file.to_str().unwrap())]);
    let client = daemon.client().await;
    for token in ["", "hf_nobody"] {
        fs::write(&file, token).unwrap();
        let error = load(&client, &home, "model").await.unwrap_err();
        let daemon = error.daemon().unwrap();
        assert_eq!((daemon.code(), daemon.reason()), (Code::PermissionDenied, Some(ErrorReason::Gated)), "{error}");
        let page = format!("{}/{REPO}", hub.endpoint());
        assert!(daemon.detail().unwrap().resource == page && daemon.hint().unwrap().contains(&page), "{error:?}");
        assert!(!error.retryable());
    }
    hub.grant(REPO, "hf_nobody");
    drop(load(&client, &home, "model").await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_hub_does_not_have_is_named() {
    let home = Home::new();
    let hub = private_hub();
    hub.add_token("hf_nobody");
    let file = home.path().join("token");
    let daemon = home.daemon_so(&hub, &[], &[("HF_TOKEN_PATH", file.to_str().unwrap())]);
    let client = daemon.client().await;
    // Without a token the hub does not tell private from absent; with one it does.
    for (token, reason, resource) in [
        ("", ErrorReason::TokenMissing, "org/absent"),
        (TOKEN, ErrorReason::RepoNotFound, "org/absent"),
        ("hf_nobody", ErrorReason::RepoNotFound, REPO),
    ] {
        fs::write(&file, token).unwrap();
        for error in [
            client.load(request(&home, resource, "model"), |_| ()).await.err(),
            pull(&client, selector(&home, resource), &[]).await.err(),
            client.resolve(selector(&home, resource)).await.err(),
        ] {
            let error = error.unwrap();
            assert_eq!(error.reason(), Some(reason), "{error}");
            assert_eq!(error.daemon().unwrap().detail().unwrap().resource, resource);
        }
    }
    fs::write(&file, TOKEN).unwrap();
    let revision = |revision: &str| request(&home, REPO, "model").revision(revision);
    for wrong in ["v9", "refs/pr/7", &"0".repeat(40)] {
        let error = client.load(revision(wrong), |_| ()).await.unwrap_err();
        assert_eq!(error.reason(), Some(ErrorReason::RevisionNotFound), "{wrong}: {error}");
    }
    let mut phases = Vec::new();
    drop(client.load(revision("main"), |step| phases.push(step.phase())).await.unwrap());
    assert!(phases.iter().all(|phase| *phase != Phase::Unspecified));
}
