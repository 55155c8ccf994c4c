//! `/_test/` on the hub: the same switches for tests that are not written in Rust.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use super::{
    door::Door,
    fault::Fault,
    log::Entry,
    on::{On, Side},
    refusal::Refusal,
    reply::Reply,
    request::Request,
    state::State,
};

/// Body of `POST /_test/fault`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    #[serde(default)]
    on: On,
    fault: Fault,
    #[serde(default)]
    skip: u64,
    times: Option<u64>,
}

/// Body of `POST /_test/point`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Point {
    repo: String,
    revision: String,
    commit: String,
}

/// The answer to a request that is not a client's, with an entry that is in no log.
pub(super) fn answer(state: &State, door: Door, request: &Request) -> Option<(Reply, Entry)> {
    let path = request.path.as_str();
    let reply = match (request.method.as_str(), path.strip_prefix("/_test/")) {
        _ if door != Door::Hub => return None,
        // Python asks for it once in every process, and nobody counts on an answer.
        (_, None) if path == "/api/agent-harnesses" => Refusal::status(404).reply(),
        (_, None) => return None,
        ("GET", Some("requests")) => match serde_json::to_value(state.log.seen()) {
            Ok(seen) => Reply::json(&seen),
            Err(error) => Refusal::status(500).message(&error.to_string()).reply(),
        },
        ("POST", Some("fault")) => with(request, |order: Order| {
            state.rules.add(order.on, order.fault, order.skip, order.times);
        }),
        ("DELETE", Some("faults")) => {
            state.rules.clear();
            done()
        }
        ("POST", Some("clear-log")) => {
            state.log.clear();
            done()
        }
        ("POST", Some("point")) => with(request, |point: Point| {
            state.shelf_mut().repository_mut(&point.repo).branches.insert(point.revision, point.commit);
        }),
        _ => Refusal::status(404).message("no such switch").reply(),
    };
    Some((reply, Entry::new(0, Duration::ZERO, Side::Api, request)))
}

fn with<'a, T: Deserialize<'a>>(request: &'a Request, act: impl FnOnce(T)) -> Reply {
    match serde_json::from_slice(&request.body) {
        Ok(order) => {
            act(order);
            done()
        }
        Err(error) => Refusal::status(400).message(&error.to_string()).reply(),
    }
}

fn done() -> Reply {
    Reply::json(&json!({ "ok": true }))
}
