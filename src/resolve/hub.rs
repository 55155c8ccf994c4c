//! Hugging Face ids, in a cache as `huggingface_hub` lays it out:
//! `models--org--repo/refs/<revision>` holds a commit, `models--org--repo/snapshots/<commit>/` the files.
//!
//! A revision means that revision: what is not cached is not found, and no other snapshot takes its place.

use std::{fs, io, path::Path, thread, time::Duration};

use weightsd_core::spec::{Commit, RepoId, Revision};

use super::{ModelKind, ResolveError, ResolvedModel};

/// hf-hub rewrites ref files in place even when nothing changed; a reader that comes in between sees an empty file.
const EMPTY_REF_RETRIES: u32 = 5;
const EMPTY_REF_PAUSE: Duration = Duration::from_millis(2);
/// Most revisions that an error lists.
const LISTED_MAX: usize = 8;

pub(super) fn resolve(repo: RepoId, revision: Revision, cache: &Path) -> Result<ResolvedModel, ResolveError> {
    let folder = cache.join(repo.cache_folder());
    if !folder.is_dir() {
        return Err(ResolveError::RepoNotCached { repo, cache: cache.to_owned() });
    }
    let mut witnesses = Vec::new();
    let commit = match revision.as_commit() {
        Some(commit) => Some(commit),
        None => {
            let path = folder.join("refs").join(revision.as_str());
            let commit = read_ref(&path)?;
            witnesses.push(path);
            commit
        }
    };
    let snapshot = commit.map(|commit| (folder.join("snapshots").join(commit.as_str()), commit));
    match snapshot {
        Some((path, commit)) if path.is_dir() => {
            witnesses.push(path.clone());
            let kind = ModelKind::Hub { repo, revision, commit, cache: cache.to_owned() };
            Ok(ResolvedModel { kind, path, witnesses })
        }
        _ => Err(ResolveError::RevisionNotCached { repo, revision, cache: cache.to_owned(), cached: cached(&folder) }),
    }
}

/// The commit in a ref file; `None` when there is no such ref.
fn read_ref(path: &Path) -> Result<Option<Commit>, ResolveError> {
    for attempt in 0.. {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            // A revision such as `refs` names the folder of other refs.
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => return Ok(None),
            Err(source) => return Err(ResolveError::Io { path: path.to_owned(), source }),
        };
        let text = text.trim();
        match Commit::parse(text) {
            Some(commit) => return Ok(Some(commit)),
            None if text.is_empty() && attempt < EMPTY_REF_RETRIES => thread::sleep(EMPTY_REF_PAUSE),
            None => {
                let found = text.chars().take(48).collect();
                return Err(ResolveError::BadRef { path: path.to_owned(), found });
            }
        }
    }
    Ok(None)
}

fn cached(folder: &Path) -> Vec<String> {
    let names = |below: &str| -> Vec<String> {
        let entries = fs::read_dir(folder.join(below)).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    };
    names("refs").into_iter().chain(names("snapshots")).take(LISTED_MAX).collect()
}
