//! Hugging Face ids, in a cache as `huggingface_hub` lays it out:
//! `models--org--repo/refs/<revision>` holds a commit, `models--org--repo/snapshots/<commit>/` the files.
//!
//! A revision means that revision: what is not cached is not found, and no other snapshot takes its place.

use std::{fs, io, path::Path, thread, time::Duration};

use weightsd_core::spec::{Commit, RepoId, Revision};
use weightsd_segment::PinnedFile;

use super::{ModelKind, ResolveError, ResolvedModel};

/// hf-hub rewrites ref files in place even when nothing changed; a reader that comes in between sees an empty file.
const EMPTY_REF_RETRIES: u32 = 5;
const EMPTY_REF_PAUSE: Duration = Duration::from_millis(2);
/// Longest ref file that is read, in bytes; a commit has 40.
const REF_BYTES_MAX: u64 = 1024;
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
        let bytes = match read_start(path) {
            Ok(bytes) => bytes,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            // A revision such as `refs` names the folder of other refs.
            Err(_) if path.is_dir() => return Ok(None),
            // Rewritten while it was read.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Vec::new(),
            Err(source) => return Err(ResolveError::Io { path: path.to_owned(), source }),
        };
        let text = String::from_utf8_lossy(&bytes);
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

/// The first bytes of a regular file. What else lies in a ref's place could make a reader wait, or read, for ever.
fn read_start(path: &Path) -> io::Result<Vec<u8>> {
    let file = PinnedFile::open(path)?;
    let length = file.identity().length.min(REF_BYTES_MAX);
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

fn cached(folder: &Path) -> Vec<String> {
    let names = |below: &str| -> Vec<String> {
        let entries = fs::read_dir(folder.join(below)).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.retain(|name| !name.chars().any(char::is_control));
        names.sort();
        names
    };
    names("refs").into_iter().chain(names("snapshots")).take(LISTED_MAX).collect()
}
