//! The answers: JSON of the hub's forms, and the head of a file.

use std::{collections::BTreeSet, sync::Arc};

use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG},
};
use serde_json::{Value, json};
use weightsd_core::{
    listing::{Listed, Listing},
    shown::shown_up_to,
};

use super::{
    Mirror,
    content::Content,
    found::{Found, find},
    refused::{Body, Refused, empty, json_of},
    route::{self, Asked, Route, Wanted},
};
use crate::source::Probe;

/// Answers a request.
pub(super) async fn answer(mirror: &Arc<Mirror>, request: &Request<Incoming>) -> Response<Body> {
    let metrics = mirror.cache.daemon().metrics();
    let answered = try_answer(mirror, request).await;
    let kind = match &answered {
        Ok((kind, _)) => *kind,
        Err(_) => "refused",
    };
    metrics.mirrored(kind);
    match answered {
        Ok((_, response)) => response,
        Err(refused) => {
            let (path, status) = (shown_up_to(request.uri().path(), 200), refused.status.as_u16());
            tracing::info!(path, status, "the mirror refused: {}", refused.message);
            refused.response()
        }
    }
}

async fn try_answer(
    mirror: &Arc<Mirror>,
    request: &Request<Incoming>,
) -> Result<(&'static str, Response<Body>), Refused> {
    let is_head = request.method() == Method::HEAD;
    if !is_head && request.method() != Method::GET {
        return Err(Refused::new(StatusCode::METHOD_NOT_ALLOWED, None, "the mirror is read with GET and HEAD"));
    }
    let Some(route) = Route::parse(request.uri().path(), request.uri().query()) else {
        return Err(Refused::new(StatusCode::NOT_FOUND, None, "the mirror has models of the hub, and nothing here"));
    };
    let token = route::token(request.headers());
    let found = find(mirror, &route).await?;
    let (probe, path) = match &route.asked {
        Asked::Info | Asked::Tree { .. } => (Probe::Info, ""),
        Asked::File(path) => (Probe::Content, path.as_str()),
    };
    mirror.access.check(&found.address, &found.pin.commit, (probe, path), token).await?;
    match route.asked {
        Asked::Info => Ok(("info", json_of(&info(&found)))),
        Asked::Tree { folder, recursive } => {
            let entries = tree(&found.listing, &folder, recursive);
            if entries.is_empty() && !folder.is_empty() {
                return Err(no_entry(&found, &folder));
            }
            Ok(("tree", json_of(&Value::Array(entries))))
        }
        Asked::File(path) => {
            let listed = found.listing.get(&path).cloned().ok_or_else(|| no_entry(&found, &path))?;
            let wanted = route::wanted(request.headers(), listed.bytes);
            let head = head(&found, &listed, &wanted);
            if is_head || wanted == Wanted::Nothing {
                return Ok(("head", head.map(|()| empty())));
            }
            let range = match wanted {
                Wanted::Some(range) => range,
                Wanted::All | Wanted::Nothing => 0..listed.bytes,
            };
            let content = Content::new(Arc::clone(mirror), found, path, listed).await?;
            Ok(("content", head.map(|()| content.send(range))))
        }
    }
}

fn no_entry(found: &Found, path: &str) -> Refused {
    let message = format!("`{}` has no `{}` at {}", found.address.repo, shown_up_to(path, 200), found.pin.commit);
    Refused::new(StatusCode::NOT_FOUND, Some("EntryNotFound"), &message)
}

fn info(found: &Found) -> Value {
    let (repo, commit) = (found.address.repo.to_string(), found.pin.commit.to_string());
    let siblings: Vec<Value> =
        found.listing.iter().map(|(path, listed)| json!({"rfilename": path, "size": listed.bytes})).collect();
    json!({
        "_id": commit[..24], "id": repo, "modelId": repo, "sha": commit, "private": false, "gated": false,
        "disabled": false, "tags": [], "downloads": 0, "likes": 0, "siblings": siblings,
    })
}

/// The entries below a folder, in the hub's form.
fn tree(listing: &Listing, folder: &str, recursive: bool) -> Vec<Value> {
    let mut folders = BTreeSet::new();
    let mut entries = Vec::new();
    for (path, listed) in listing.iter() {
        let below = match folder {
            "" => Some(path),
            folder => path.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/')),
        };
        let Some(below) = below else { continue };
        let start = path.len() - below.len();
        for (at, _) in below.match_indices('/').take(if recursive { usize::MAX } else { 1 }) {
            folders.insert(path[..start + at].to_owned());
        }
        if recursive || !below.contains('/') {
            entries.push(entry(path, listed));
        }
    }
    let folder = |path: String| json!({"type": "directory", "oid": "0".repeat(40), "size": 0, "path": path});
    folders.into_iter().map(folder).chain(entries).collect()
}

fn entry(path: &str, listed: &Listed) -> Value {
    let (size, blob) = (listed.bytes, listed.blob.to_string());
    match listed.pointer() {
        Some(pointer) => json!({
            "type": "file", "oid": pointer.to_string(), "size": size, "path": path,
            "lfs": {"oid": blob, "size": size, "pointerSize": 134},
        }),
        None => json!({"type": "file", "oid": blob, "size": size, "path": path}),
    }
}

/// The head of an answer about a file.
fn head(found: &Found, listed: &Listed, wanted: &Wanted) -> Response<()> {
    let (length, status) = match wanted {
        Wanted::All => (listed.bytes, StatusCode::OK),
        Wanted::Some(range) => (range.end - range.start, StatusCode::PARTIAL_CONTENT),
        Wanted::Nothing => (0, StatusCode::RANGE_NOT_SATISFIABLE),
    };
    let etag = format!("\"{}\"", listed.blob);
    let mut response = Response::builder()
        .status(status)
        .header("x-repo-commit", found.pin.commit.as_str())
        .header(ETAG, &etag)
        .header(CONTENT_LENGTH, length)
        .header(CONTENT_TYPE, "application/octet-stream")
        .header(ACCEPT_RANGES, "bytes");
    if listed.pointer().is_some() {
        response = response.header("x-linked-etag", &etag).header("x-linked-size", listed.bytes);
    }
    let range = match wanted {
        Wanted::All => None,
        Wanted::Some(range) => Some(format!("bytes {}-{}/{}", range.start, range.end - 1, listed.bytes)),
        Wanted::Nothing => Some(format!("bytes */{}", listed.bytes)),
    };
    if let Some(range) = range {
        response = response.header(CONTENT_RANGE, range);
    }
    response.body(()).expect("hashes and numbers can be headers")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_has_folders_and_what_lies_in_them() {
        let mut listing = Listing::default();
        let page = json!([
            {"type": "file", "oid": "a".repeat(40), "size": 1, "path": "a.json"},
            {"type": "file", "oid": "b".repeat(40), "size": 134, "path": "vae/x/y.safetensors",
             "lfs": {"oid": "c".repeat(64), "size": 7}},
        ]);
        listing.add_page(page.to_string().as_bytes()).unwrap();
        let paths = |folder: &str, recursive| -> Vec<String> {
            let entries = tree(&listing, folder, recursive);
            entries
                .iter()
                .map(|entry| format!("{} {}", entry["type"].as_str().unwrap(), entry["path"].as_str().unwrap()))
                .collect()
        };
        assert_eq!(paths("", true), ["directory vae", "directory vae/x", "file a.json", "file vae/x/y.safetensors"]);
        assert_eq!(paths("", false), ["directory vae", "file a.json"]);
        assert_eq!(paths("vae", false), ["directory vae/x"]);
        assert_eq!(paths("vae/x", false), ["file vae/x/y.safetensors"]);
        assert!(paths("va", true).is_empty());
        // The hub's form is read as it is written.
        let mut again = Listing::default();
        again.add_page(Value::Array(tree(&listing, "", true)).to_string().as_bytes()).unwrap();
        assert_eq!(again.get("vae/x/y.safetensors"), listing.get("vae/x/y.safetensors"));
        assert_eq!(again.len(), 2);
    }
}
