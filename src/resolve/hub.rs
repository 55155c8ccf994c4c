//! Hugging Face ids, in a cache as `huggingface_hub` lays it out:
//! `models--org--repo/refs/<revision>` holds a commit, `models--org--repo/snapshots/<commit>/` the files.
//!
//! A revision means that revision: what is not cached is not found, and no other snapshot takes its place.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use weightsd_core::spec::Commit;
use weightsd_segment::PinnedFile;

use super::{HubAddress, ModelKind, Pin, ResolveError, ResolvedModel};

/// hf-hub rewrites ref files in place even when nothing changed; a reader that comes in between sees an empty file.
const EMPTY_REF_RETRIES: u32 = 5;
const EMPTY_REF_PAUSE: Duration = Duration::from_millis(2);
/// Longest ref file that is read, in bytes; a commit has 40.
const REF_BYTES_MAX: u64 = 1024;
/// Most revisions that an error lists.
const LISTED_MAX: usize = 8;

pub(super) fn on_disk(address: &HubAddress, pin: Option<&Pin>) -> Result<ResolvedModel, ResolveError> {
    let HubAddress { repo, revision, cache } = address;
    let folder = cache.join(repo.cache_folder());
    if !folder.is_dir() {
        return Err(ResolveError::RepoNotCached { repo: repo.clone(), cache: cache.clone() });
    }
    let mut known = pin.cloned().or_else(|| address.commit());
    if known.is_none() {
        known = read_ref(&ref_path(address))?.map(|commit| Pin { commit, warning: None });
    }
    let model = known.map(|pin| at(address, &pin)).filter(|model| model.path.is_dir());
    model.ok_or_else(|| ResolveError::RevisionNotCached {
        repo: repo.clone(),
        revision: revision.clone(),
        cache: cache.clone(),
        cached: cached(&folder),
    })
}

pub(super) fn at(address: &HubAddress, pin: &Pin) -> ResolvedModel {
    let HubAddress { repo, revision, cache } = address.clone();
    let mut dependencies = Vec::new();
    if revision.as_commit().is_none() {
        dependencies.push(ref_path(address));
    }
    let path = cache.join(repo.cache_folder()).join("snapshots").join(pin.commit.as_str());
    let kind = ModelKind::Hub { repo, revision, commit: pin.commit.clone(), cache };
    dependencies.push(path.clone());
    ResolvedModel { kind, dependencies, path, warning: pin.warning.clone() }
}

/// The commits that have a folder, sorted.
pub(super) fn commits(address: &HubAddress) -> Vec<Commit> {
    let folder = address.cache.join(address.repo.cache_folder()).join("snapshots");
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut commits: Vec<_> = entries.filter_map(|entry| Commit::parse(entry.file_name().to_str()?)).collect();
    commits.sort_by(|one, other| one.as_str().cmp(other.as_str()));
    commits
}

pub(super) fn ref_path(address: &HubAddress) -> PathBuf {
    address.cache.join(address.repo.cache_folder()).join("refs").join(address.revision.as_str())
}

/// The commit in a ref file; `None` when there is no such ref.
pub(super) fn read_ref(path: &Path) -> Result<Option<Commit>, ResolveError> {
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
