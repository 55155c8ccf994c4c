//! Whatever goes wrong on a hub: the client is told why, nothing wrong is ever lent or visible, and when the hub is well
//! again, so is everything.

use std::{collections::BTreeSet, time::Duration};

use futures_util::future::join_all;
use weightsd_client::{Client, ErrorReason};
use weightsd_fixtures::hub::{Fault, Hub, Refusal};

use crate::{
    harness::Home,
    hub_fault_cases::{self, At, Case, LENGTH, PATIENCE_OF_THE_DAEMON},
    hubs::{WEIGHTS, assert_sound, is_file, names, publish_weights, request, visible},
};

/// Cases that run at the same time.
const AT_ONCE: usize = 16;

fn first_word(text: &str) -> String {
    text.split(|character: char| !character.is_alphanumeric()).next().unwrap().to_owned()
}

#[test]
fn every_fault_has_a_case() {
    let source = include_str!("../support/src/hub/fault.rs");
    let body = source.split_once("pub enum Fault {").unwrap().1.split_once("\n}\n").unwrap().0;
    let lines = body.lines().filter_map(|line| line.strip_prefix("    "));
    let variants = lines.filter(|line| line.starts_with(char::is_uppercase));
    let known: BTreeSet<String> = variants.map(first_word).collect();
    assert!(known.len() > 30, "{known:?}");
    let cases: BTreeSet<String> =
        hub_fault_cases::all().iter().map(|case| first_word(&format!("{:?}", case.fault))).collect();
    assert_eq!(cases, known);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_gets_the_answer_it_must_and_leaves_nothing_behind() {
    let home = Home::new();
    let hub = Hub::start().unwrap();
    let patience = PATIENCE_OF_THE_DAEMON;
    let arguments = [
        "--hub-deadline",
        patience,
        "--hub-stall",
        patience,
        "--hub-tries",
        "2",
        "--downloads",
        "32",
        "--verify",
        "false",
    ];
    let daemon = home.daemon_on(&hub, &arguments);
    let client = daemon.client().await;
    let cases = hub_fault_cases::all();
    let numbered: Vec<_> = cases.iter().enumerate().collect();
    let mut failures: Vec<String> = Vec::new();
    for some in numbered.chunks(AT_ONCE) {
        let some = some.iter().map(|(number, case)| run(&home, &hub, &client, *number, case));
        failures.extend(join_all(some).await.into_iter().flatten());
    }
    assert!(failures.is_empty(), "{failures:#?}");
    // Nothing was written outside of the cache, whatever the hub called its files.
    let own = [".cache", "hub", "log", "weightsd.sock", "weightsd.sock.lock"];
    assert!(names(home.path()).iter().all(|name| own.contains(&name.as_str())), "{:?}", names(home.path()));
    let folders = names(&home.hub_cache());
    assert!(folders.iter().all(|name| name == ".locks" || name.starts_with("models--org--case-")), "{folders:?}");
}

/// What went otherwise than it must.
async fn run(home: &Home, hub: &Hub, client: &Client, number: usize, case: &Case) -> Option<String> {
    let repo = format!("org/case-{number}");
    let file = publish_weights(hub, &repo, LENGTH);
    if case.broken_before {
        hub.fault(At::Content.on(&repo), Fault::Cut { after: 100_000 }).times(1);
    }
    let mut rule = hub.fault(case.at.on(&repo), case.fault.clone());
    // The small file comes first.
    let skip = u64::from(case.broken_before) + u64::from(matches!(case.at, At::Weights));
    rule = rule.skip(skip);
    if let Some(times) = case.times {
        rule = rule.times(times);
    }
    let first = client.load(request(home, &repo, "model"), |_| ()).await;
    let hits = rule.hits();
    let found = match (&first, case.refusal) {
        (Ok(component), None) => is_file(component, &file).then_some(()).ok_or("other bytes were lent".to_owned()),
        (Err(error), Some((code, reason))) => {
            let told = error.daemon().map(|daemon| (daemon.code(), daemon.reason()));
            let hint = error.hint().is_some();
            let after = match &case.fault {
                Fault::Status(refusal) if format!("{refusal:?}").contains("3600") => {
                    error.retry_after().is_some_and(|after| after > Duration::from_secs(3590))
                }
                _ => true,
            };
            let is_right = told == Some((code, Some(reason))) && hint && after;
            is_right.then_some(()).ok_or(format!("{told:?}, {after}: {error}"))
        }
        (Ok(_), Some(expected)) => Err(format!("it was lent, not {expected:?}")),
        (Err(error), None) => Err(format!("{:?}: {error}", error.reason())),
    };
    if first.is_err() && visible(home, &repo).iter().any(|path| path.ends_with(WEIGHTS)) {
        return Some(format!("{case:?}: something is visible"));
    }
    assert_sound(home, &repo);
    if let Err(problem) = found {
        return Some(format!("{case:?}: {problem}"));
    }
    if hits == 0 {
        return Some(format!("{case:?}: it never happened"));
    }
    rule.remove();
    let second = client.load(request(home, &repo, "model"), |_| ()).await;
    assert_sound(home, &repo);
    match second {
        Ok(component) if is_file(&component, &file) => None,
        Ok(_) => Some(format!("{case:?}: other bytes were lent afterwards")),
        Err(error) => Some(format!("{case:?}: afterwards {:?}: {error}", error.reason())),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tries_are_bounded_and_a_pause_that_is_asked_for_is_made() {
    let home = Home::new();
    let hub = Hub::start().unwrap();
    let daemon = home.daemon_on(&hub, &["--hub-tries", "2"]);
    let client = daemon.client().await;
    for (number, at) in [At::Revision, At::Tree, At::Config, At::Content].into_iter().enumerate() {
        let repo = format!("org/bounded-{number}");
        let file = publish_weights(&hub, &repo, 1000);
        let load = async || client.load(request(&home, &repo, "model"), |_| ()).await;
        let failing = hub.fault(at.on(&repo), Fault::status(503));
        assert_eq!(load().await.unwrap_err().reason(), Some(ErrorReason::HubFailing), "{at:?}");
        assert_eq!(hub.seen(&at.on(&repo)).len(), 3, "{at:?}");
        failing.remove();
        hub.clear_log();
        hub.fault(at.on(&repo), Refusal::status(429).retry_after(1)).times(1);
        assert!(is_file(&load().await.unwrap(), &file), "{at:?}");
        let seen = hub.seen(&at.on(&repo));
        assert!(seen.len() >= 2 && seen[1].at - seen[0].at >= Duration::from_secs(1), "{at:?}: {seen:?}");
    }
}
