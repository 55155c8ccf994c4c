//! The answers below `/api/models/`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{
    access::{self, Asker},
    fault::NextPage,
    faults::Faults,
    refusal::{OrRefusal, Refusal},
    reply::Reply,
    request::{Request, form_values},
    route::Route,
    shelf::{Commit, Published, Repository},
    state::State,
};

/// A page of a listing when nobody says otherwise.
const PAGE: usize = 1000;
/// Git's hash of an empty tree; nobody looks at the hashes of folders.
const FOLDER: &str = "4b825dc642cb6eb9a060e54bf8d69288fbee4904";
const TIME: &str = "2026-01-01T00:00:00.000Z";

pub(super) fn answer(
    state: &State,
    asker: Asker<'_>,
    request: &Request,
    route: &Route,
    faults: &Faults,
) -> OrRefusal<Reply> {
    let Some(repo) = route.repo() else { return Err(Refusal::status(404).message("no such page").into()) };
    let shelf = state.shelf();
    let repository = access::list(&shelf, repo, asker)?;
    let at = |revision: &str| access::commit(repository, revision);
    match route {
        Route::Info { revision, .. } => Ok(info(repo, repository, &*at(revision)?, request, faults)),
        Route::Tree { revision, folder, .. } => tree(state, request, &*at(revision)?, folder, faults),
        Route::PathsInfo { revision, .. } => Ok(paths_info(request, &*at(revision)?, faults)),
        Route::Refs { .. } => Ok(refs(repository)),
        _ => Ok(xet_token()),
    }
}

fn info(repo: &str, repository: &Repository, commit: &Commit, request: &Request, faults: &Faults) -> Reply {
    let with_blobs = request.parameter("blobs").is_some_and(|value| is_true(&value));
    let mut siblings: Vec<Value> = commit
        .files
        .values()
        .map(|file| {
            if !with_blobs {
                return json!({ "rfilename": file.path });
            }
            let size = faults.listed_size(&file.path, file.size);
            let mut sibling = json!({ "rfilename": file.path, "size": size, "blobId": file.oid });
            if let Some(large) = &file.large {
                sibling["lfs"] = json!({ "sha256": large.sha256, "size": size, "pointerSize": large.pointer_size });
            }
            sibling
        })
        .collect();
    siblings.extend(faults.hostile_paths().map(|path| json!({ "rfilename": path })));
    Reply::json(&json!({
        "_id": &commit.id[..24],
        "id": repo,
        "modelId": repo,
        "author": repo.split('/').next(),
        "sha": commit.id,
        "createdAt": TIME,
        "lastModified": TIME,
        "private": repository.private,
        "gated": if repository.gated { json!("manual") } else { json!(false) },
        "disabled": false,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "siblings": siblings,
    }))
}

fn tree(state: &State, request: &Request, commit: &Commit, folder: &str, faults: &Faults) -> OrRefusal<Reply> {
    let recursive = request.parameter("recursive").is_some_and(|value| is_true(&value));
    let mut entries = entries(commit, folder, recursive, faults);
    if entries.is_empty() && !folder.is_empty() {
        let refusal = Refusal::status(404).code("EntryNotFound").message("no such folder");
        return Err(refusal.commit(&commit.id).into());
    }
    let number = |name| request.parameter(name).and_then(|value| value.parse::<usize>().ok());
    let (size, next) = faults.pages().unwrap_or((number("limit").unwrap_or(PAGE), NextPage::Absolute));
    let cursor = number("cursor").unwrap_or(0).min(entries.len());
    let size = size.max(1);
    let rest = entries.split_off(cursor);
    let last = rest.len() <= size;
    let page: Vec<Value> = rest.into_iter().take(size).collect();
    let mut reply = Reply::json(&Value::Array(page));
    if !last || next == NextPage::Itself {
        let path = request.target.split('?').next().unwrap_or_default();
        let begin = if next == NextPage::Itself { cursor } else { cursor + size };
        let target = format!("{path}?recursive={recursive}&limit={size}&cursor={begin}");
        let host = match next {
            NextPage::Absolute | NextPage::Itself => state.ports.hub_url(),
            NextPage::Stranger => state.ports.stranger_url(),
            NextPage::Relative => String::new(),
        };
        reply.set("Link", format!("<{host}{target}>; rel=\"next\""));
    }
    Ok(reply)
}

/// The entries of a listing: folders, then files, by name.
fn entries(commit: &Commit, folder: &str, recursive: bool, faults: &Faults) -> Vec<Value> {
    let mut folders = BTreeSet::new();
    let mut files = BTreeMap::new();
    for file in commit.files.values() {
        let Some(below) = file.path.strip_prefix(folder) else { continue };
        for (at, _) in below.match_indices('/').take(if recursive { usize::MAX } else { 1 }) {
            folders.insert(&file.path[..folder.len() + at]);
        }
        if recursive || !below.contains('/') {
            files.insert(file.path.as_str(), entry(file, faults));
        }
    }
    let folders =
        folders.into_iter().map(|path| json!({ "type": "directory", "oid": FOLDER, "size": 0, "path": path }));
    let mut entries: Vec<Value> = folders.chain(files.into_values()).collect();
    entries.extend(faults.hostile_paths().map(
        |path| json!({ "type": "file", "oid": "ce013625030ba8dba906f756967f9e9ca394464a", "size": 6, "path": path }),
    ));
    entries
}

fn entry(file: &Published, faults: &Faults) -> Value {
    let size = faults.listed_size(&file.path, file.size);
    let mut entry = json!({ "type": "file", "oid": file.oid, "size": size, "path": file.path });
    if let Some(large) = &file.large {
        entry["lfs"] = json!({ "oid": large.sha256, "size": size, "pointerSize": large.pointer_size });
        if let Some(hash) = faults.xet_hash() {
            entry["xetHash"] = json!(hash);
        }
    }
    entry
}

/// `hf-hub` asks in JSON, `huggingface_hub` with a form.
fn paths_info(request: &Request, commit: &Commit, faults: &Faults) -> Reply {
    let paths: Vec<String> = match serde_json::from_slice::<Value>(&request.body) {
        Ok(asked) => serde_json::from_value(asked["paths"].clone()).unwrap_or_default(),
        Err(_) => form_values(&String::from_utf8_lossy(&request.body), "paths").collect(),
    };
    let about = |path: &String| {
        let path = path.trim_end_matches('/');
        let folder = || commit.files.keys().any(|file| file.starts_with(&format!("{path}/")));
        match commit.files.get(path) {
            Some(file) => Some(entry(file, faults)),
            None => folder().then(|| json!({ "type": "directory", "oid": FOLDER, "size": 0, "path": path })),
        }
    };
    Reply::json(&paths.iter().filter_map(about).collect())
}

fn refs(repository: &Repository) -> Reply {
    let branches: Vec<Value> = repository
        .branches
        .iter()
        .map(|(name, commit)| json!({ "name": name, "ref": format!("refs/heads/{name}"), "targetCommit": commit }))
        .collect();
    Reply::json(&json!({ "branches": branches, "tags": [], "converts": [] }))
}

/// To a store where nobody answers.
fn xet_token() -> Reply {
    const DEAD: &str = "http://127.0.0.1:1";
    const EXPIRES: u64 = 4_102_444_800;
    let mut reply = Reply::json(&json!({ "accessToken": "xet", "exp": EXPIRES, "casUrl": DEAD }));
    reply.set("X-Xet-Cas-Url", DEAD);
    reply.set("X-Xet-Access-Token", "xet");
    reply.set("X-Xet-Token-Expiration", EXPIRES.to_string());
    reply
}

/// Python writes `True`.
fn is_true(value: &str) -> bool {
    value.eq_ignore_ascii_case("true") || value == "1"
}
