//! The bytes of a file, whole or in part.

use super::{
    body::Body, fault::Fault, faults::Faults, range::Asked, refusal::Refusal, reply::Reply, request::Request,
    shelf::Published,
};

pub(super) fn answer(request: &Request, file: &Published, faults: &Faults) -> Reply {
    let etag = faults.etag_header(file.etag());
    // A client that resumes asks for the rest only of what it has begun with (RFC 9110 13.1.5).
    let same = request.header("if-range").is_none_or(|wanted| Some(wanted) == etag.as_deref());
    let range = request.header("range").filter(|_| same && !faults.has(&Fault::IgnoreRange));
    let asked = if range.is_some() && faults.has(&Fault::Unsatisfiable) {
        Asked::Beyond
    } else {
        Asked::parse(range, file.size)
    };
    let source = match file.source() {
        Ok(source) => source,
        Err(error) => return Refusal::status(500).message(&error.to_string()).reply(),
    };
    let mut reply = match asked {
        Asked::Whole => {
            let mut reply = Reply::new(200);
            reply.body = Body::piece(source, 0..file.size);
            reply
        }
        Asked::Part(mut part) => {
            if let Some(start) = faults.other_range() {
                part.start = start.min(part.end.saturating_sub(1));
            }
            let mut reply = Reply::new(206);
            reply.set("Content-Range", format!("bytes {}-{}/{}", part.start, part.end - 1, file.size));
            reply.offset = part.start;
            reply.body = Body::piece(source, part);
            reply
        }
        Asked::Beyond => {
            let mut reply = Reply::new(416);
            reply.set("Content-Range", format!("bytes */{}", file.size));
            reply
        }
    };
    if let Some(etag) = etag {
        reply.set("ETag", etag);
    }
    reply.set("Accept-Ranges", "bytes");
    reply.set(
        "Content-Type",
        if file.large.is_some() { "application/octet-stream" } else { "text/plain; charset=utf-8" },
    );
    reply
}
