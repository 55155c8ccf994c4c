//! A source that serves a directory, for tests without a network: `<folder>/<path>` is a file of its one commit.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use sha1::{Digest as _, Sha1};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore},
};
use weightsd_core::{
    listing::Listing,
    spec::{Commit, RepoId, Revision},
};

use super::{Backoff, Body, ByteRange, Content, Limits, Patience, RepoStore, Source, SourceError};

/// Bytes of a piece.
const PIECE: usize = 1000;

#[derive(Debug)]
pub(crate) struct Directory {
    folder: PathBuf,
    /// Contents that still break after their first piece.
    pub(crate) breaks: AtomicUsize,
    /// Files that were asked for.
    pub(crate) asked: AtomicUsize,
}

impl Directory {
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), breaks: AtomicUsize::new(0), asked: AtomicUsize::new(0) }
    }

    pub(crate) fn the_commit() -> Commit {
        Commit::parse(&"c".repeat(40)).unwrap()
    }

    fn files(&self) -> Vec<(String, Vec<u8>)> {
        let file = |entry: fs::DirEntry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap());
        fs::read_dir(&self.folder).unwrap().map(|entry| file(entry.unwrap())).collect()
    }
}

struct Pieces {
    bytes: Bytes,
    breaks: bool,
}

#[async_trait::async_trait]
impl Body for Pieces {
    async fn piece(&mut self) -> Result<Option<Bytes>, String> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let piece = self.bytes.split_to(PIECE.min(self.bytes.len()));
        if std::mem::take(&mut self.breaks) {
            self.bytes.clear();
        }
        Ok(Some(piece))
    }
}

#[async_trait::async_trait]
impl Source for Directory {
    fn store(&self, cache: &Path, repo: &RepoId) -> RepoStore {
        RepoStore::new(cache, repo)
    }

    fn limits(&self) -> Limits {
        let pause = Duration::from_millis(1);
        Limits { stall: Duration::from_secs(5), backoff: Backoff { tries: 3, pause, pause_max: pause } }
    }

    fn runtime(&self) -> Result<Handle, SourceError> {
        Ok(Handle::current())
    }

    async fn download_place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::new(Semaphore::new(1)).acquire_owned().await.ok()
    }

    async fn commit(&self, repo: &RepoId, revision: &Revision, _: Patience) -> Result<Commit, SourceError> {
        if revision.as_str() == Revision::DEFAULT {
            return Ok(Self::the_commit());
        }
        Err(SourceError::NoRevision { repo: repo.to_string(), revision: revision.clone() })
    }

    async fn new_name(&self, _: &RepoId) -> Option<RepoId> {
        None
    }

    async fn listing(&self, _: &RepoId, _: &Commit) -> Result<Arc<Listing>, SourceError> {
        let oid = |bytes: &[u8]| {
            let prefix = format!("blob {}\0", bytes.len());
            hex::encode(Sha1::new().chain_update(prefix).chain_update(bytes).finalize())
        };
        let entry = |(path, bytes): (String, Vec<u8>)| serde_json::json!({"type": "file", "path": path, "size": bytes.len(), "oid": oid(&bytes)});
        let page: serde_json::Value = self.files().into_iter().map(entry).collect();
        let mut listing = Listing::default();
        listing.add_page(page.to_string().as_bytes()).unwrap();
        Ok(Arc::new(listing))
    }

    async fn forget_listing(&self, _: &RepoId, _: &Commit) {}

    async fn file(
        &self,
        repo: &RepoId,
        commit: &Commit,
        path: &str,
        range: Option<&ByteRange>,
    ) -> Result<Content, SourceError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let no_file = || SourceError::NoFile { repo: repo.to_string(), path: path.to_owned(), commit: None };
        let bytes = Bytes::from(fs::read(self.folder.join(path)).map_err(|_| no_file())?);
        let (from, total) = (range.map_or(0, |range| range.from), bytes.len() as u64);
        let to = range.and_then(|range| range.to).unwrap_or(total).min(total);
        let part = bytes.slice(usize::try_from(from).unwrap()..usize::try_from(to).unwrap());
        let breaks = self.breaks.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
        Ok(Content {
            blob: None,
            commit: Some(commit.to_string()),
            offset: from,
            total: Some(total),
            validator: None,
            host: "a directory".to_owned(),
            body: Box::new(Pieces { bytes: part, breaks }),
        })
    }
}
