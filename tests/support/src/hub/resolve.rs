//! The answers of `/{repo}/resolve/{revision}/{path}`.

use std::sync::Arc;

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::{
    access::{self, Asker},
    content,
    fault::Fault,
    faults::Faults,
    refusal::{OrRefusal, Refusal},
    reply::Reply,
    request::Request,
    route::Route,
    shelf::{Published, Shelf},
    state::State,
};

/// What a path in a `Location` may not hold as it is.
const UNSAFE: &AsciiSet = &CONTROLS.add(b' ').add(b'#').add(b'?').add(b'%').add(b'"').add(b'<').add(b'>').add(b'\\');

struct Found {
    file: Arc<Published>,
    commit: String,
    lfs_direct: bool,
    resolve_cache: bool,
}

pub(super) fn answer(
    state: &State,
    asker: Asker<'_>,
    request: &Request,
    route: &Route,
    faults: &Faults,
) -> OrRefusal<Reply> {
    let (Route::File { repo, revision, path } | Route::CachedFile { repo, revision, path }) = route else {
        return Err(Refusal::status(404).into());
    };
    let found = find(&state.shelf(), repo, revision, path, asker)?;
    let mut reply = answer_found(state, request, route, repo, &found, faults);
    reply.set("X-Repo-Commit", &found.commit);
    reply.set("Accept-Ranges", "bytes");
    if let (Some(hash), Some(_)) = (faults.xet_hash(), &found.file.large) {
        reply.set("X-Xet-Hash", hash);
    }
    Ok(reply)
}

fn find(shelf: &Shelf, repo: &str, revision: &str, path: &str, asker: Asker<'_>) -> OrRefusal<Found> {
    let repository = access::list(shelf, repo, asker)?;
    let commit = access::commit(repository, revision)?;
    access::read(repository, &commit.id, asker)?;
    let missing = || Refusal::status(404).code("EntryNotFound").message("Entry not found").commit(&commit.id);
    let file = commit.files.get(path).cloned().ok_or_else(missing)?;
    let (lfs_direct, resolve_cache) = (repository.lfs_direct, repository.resolve_cache);
    Ok(match asker {
        Asker::Anyone => Found { file, commit: commit.id.clone(), lfs_direct: true, resolve_cache: false },
        _ => Found { file, commit: commit.id.clone(), lfs_direct, resolve_cache },
    })
}

fn answer_found(state: &State, request: &Request, route: &Route, repo: &str, found: &Found, faults: &Faults) -> Reply {
    let file = &found.file;
    if let Some(reply) = not_modified(request, file, faults) {
        return reply;
    }
    let path = utf8_percent_encode(&file.path, UNSAFE);
    let cached = matches!(route, Route::CachedFile { .. });
    match &file.large {
        Some(large) if !found.lfs_direct => {
            let host =
                if faults.has(&Fault::SameHostCdn) { state.ports.cdn_on_hub_host() } else { state.ports.cdn_url() };
            let mut reply =
                Reply::redirect(302, &format!("{host}/repos/{}/{repo}/{path}?signature=none", large.sha256));
            linked(&mut reply, file, faults);
            reply
        }
        Some(_) => {
            let mut reply = content::answer(request, file, faults);
            linked(&mut reply, file, faults);
            reply
        }
        // Repositories without an owner and empty files do not go through the cache on the real Hub either.
        None if found.resolve_cache && !cached && repo.contains('/') && file.size > 0 => {
            let etag = utf8_percent_encode(&file.oid, UNSAFE);
            let place = format!("/api/resolve-cache/models/{repo}/{}/{path}?etag=%22{etag}%22", found.commit);
            let mut reply = Reply::redirect(307, &place);
            if let Some(etag) = faults.etag_header(file.etag()) {
                reply.set("X-Linked-ETag", etag);
            }
            reply.set("X-Linked-Size", file.size.to_string());
            reply
        }
        None => content::answer(request, file, faults),
    }
}

fn linked(reply: &mut Reply, file: &Published, faults: &Faults) {
    if let Some(etag) = faults.etag_header(file.etag()) {
        reply.set("X-Linked-ETag", etag);
    }
    reply.set("X-Linked-Size", file.size.to_string());
}

fn not_modified(request: &Request, file: &Published, faults: &Faults) -> Option<Reply> {
    let condition = request.header("if-none-match")?;
    let etag = faults.etag_header(file.etag())?;
    let bare = |etag: &str| etag.trim().trim_start_matches("W/").to_owned();
    let same = condition == "*" || condition.split(',').any(|one| bare(one) == bare(&etag));
    if faults.has(&Fault::IgnoreConditions) || !same {
        return None;
    }
    let mut reply = Reply::new(304);
    reply.set("ETag", &etag);
    if file.large.is_some() {
        linked(&mut reply, file, faults);
    }
    Some(reply)
}
