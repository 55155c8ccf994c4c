//! What faults do to an answer: take its place, change it, or change the way it is sent.

use std::io;

use super::{
    fault::{Fault, NextPage},
    reply::Reply,
    request::Request,
    route::Route,
    rules::Rule,
    state::State,
    wire::{Conduct, Delivery, Framing, Stop},
};

/// An answer in place of the honest one.
pub(super) fn instead(state: &State, request: &Request, fault: &Fault) -> Option<Reply> {
    match fault {
        Fault::Status(refusal) => Some(refusal.reply()),
        Fault::RedirectTo { status, location } => Some(Reply::redirect(*status, location)),
        Fault::Renamed { to, status, on } => {
            let route = Route::of(request);
            let host = match on {
                NextPage::Absolute => state.ports.hub_url(),
                NextPage::Stranger => state.ports.stranger_url(),
                NextPage::Relative | NextPage::Itself => String::new(),
            };
            let target = request.target.replacen(route.repo()?, to, 1);
            Some(Reply::redirect(*status, &format!("{host}{target}")))
        }
        Fault::RedirectLoop => Some(Reply::redirect(302, &request.target)),
        Fault::RedirectToStranger => {
            let stranger = state.ports.stranger_url();
            Some(Reply::redirect(302, &format!("{stranger}{}", request.target)))
        }
        Fault::NotJson => Some(Reply::text(200, "text/html", "<html>Welcome!</html>")),
        _ => None,
    }
}

/// Changes the answer.
pub(super) fn change(reply: &mut Reply, fault: &Fault) -> io::Result<()> {
    match fault {
        Fault::NoRepoCommit => reply.remove("X-Repo-Commit"),
        Fault::OtherRepoCommit { commit } => reply.replace("X-Repo-Commit", commit),
        Fault::NoLinkedSize => reply.remove("X-Linked-Size"),
        Fault::OtherLinkedSize { size } => reply.replace("X-Linked-Size", size),
        Fault::ContentRange { value } => reply.replace("Content-Range", value),
        Fault::TruncatedJson => reply.body.truncate(reply.body.length() / 2),
        Fault::HugeJson { bytes } => reply.body.prepend(b' ', *bytes),
        Fault::Short { length } => reply.body.truncate(*length),
        Fault::Long { extra } => reply.body.append(b'x', *extra),
        Fault::WrongByte { at } if *at >= reply.offset => reply.body.flip(*at - reply.offset)?,
        _ => (),
    }
    Ok(())
}

/// Changes how the answer is sent.
pub(super) fn conduct(conduct: Conduct, fault: &Fault, rule: &Rule) -> Conduct {
    let Conduct::Answer(mut delivery) = conduct else { return conduct };
    let Delivery { late, pace, framing, stop } = &mut delivery;
    match fault {
        Fault::Silence => return Conduct::Silence,
        Fault::HangUp => return Conduct::HangUp,
        Fault::Late { by } => *late += *by,
        Fault::Slow { bytes_per_second } => *pace = Some((*bytes_per_second).max(1)),
        Fault::Stall { after } => *stop = Some((*after, Stop::Stall(rule.clone()))),
        Fault::Cut { after } => *stop = Some((*after, Stop::Close)),
        Fault::Reset { after } => *stop = Some((*after, Stop::Reset)),
        Fault::CutChunked { after } => (*framing, *stop) = (Framing::Chunks, Some((*after, Stop::End))),
        Fault::CutUntilClose { after } => (*framing, *stop) = (Framing::UntilClose, Some((*after, Stop::Close))),
        _ => (),
    }
    Conduct::Answer(delivery)
}
