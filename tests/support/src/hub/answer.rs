//! From a request to what is sent.

use std::sync::Arc;

use super::{
    access::Asker,
    api, content,
    door::Door,
    fault::Fault,
    faults::Faults,
    log::Entry,
    on::Side,
    refusal::{OrRefusal, Refusal},
    reply::Reply,
    request::Request,
    resolve,
    route::Route,
    state::State,
    tamper,
    wire::{Conduct, Delivery},
};

/// What a request gets.
pub(super) struct Answer {
    pub(super) entry: Arc<Entry>,
    pub(super) reply: Reply,
    pub(super) conduct: Conduct,
}

pub(super) fn answer(state: &State, door: Door, request: &Request) -> Answer {
    let route = Route::of(request);
    let side = match door {
        Door::Hub => route.side(),
        Door::Cdn => Side::Cdn,
        Door::Stranger => Side::Stranger,
    };
    let entry = state.log.note(side, request);
    let faults = Faults::new(state.rules.take(side, request));
    let instead = faults.iter().find_map(|fault| tamper::instead(state, request, fault));
    let mut reply = match instead {
        Some(reply) => reply,
        None => honest(state, door, request, &route, &faults).unwrap_or_else(|refusal| refusal.reply()),
    };
    reply.set("X-Request-Id", format!("Root=1-{:08x}", entry.number()));
    let mut conduct = Conduct::Answer(Delivery::default());
    for (fault, rule) in faults.with_rules() {
        if let Err(error) = tamper::change(&mut reply, fault) {
            reply = Refusal::status(500).message(&error.to_string()).reply();
        }
        conduct = tamper::conduct(conduct, fault, rule);
        if let (Fault::MoveBranch { revision, commit }, Some(repo)) = (fault, route.repo()) {
            state.shelf_mut().repository_mut(repo).branches.insert(revision.clone(), commit.clone());
        }
    }
    Answer { entry, reply, conduct }
}

fn honest(state: &State, door: Door, request: &Request, route: &Route, faults: &Faults) -> OrRefusal<Reply> {
    let asker = Asker::of(door, request);
    let allowed = match request.method.as_str() {
        "GET" | "HEAD" => true,
        "POST" => matches!(route, Route::PathsInfo { .. }),
        _ => false,
    };
    if !allowed {
        return Err(Refusal::status(405).message("not that way").into());
    }
    match (door, route) {
        (Door::Cdn | Door::Stranger, Route::Large { sha256 }) => {
            let file = state.shelf().large_file(sha256);
            let file = file.ok_or_else(|| Refusal::status(404).body("application/xml", "<Error>NoSuchKey</Error>"))?;
            Ok(content::answer(request, &file, faults))
        }
        (Door::Cdn, _) | (_, Route::Large { .. } | Route::Nothing) => {
            Err(Refusal::status(404).message("no such page").into())
        }
        (_, Route::File { .. } | Route::CachedFile { .. }) => resolve::answer(state, asker, request, route, faults),
        (_, _) => api::answer(state, asker, request, route, faults),
    }
}
