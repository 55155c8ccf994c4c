//! The seam under downloads: what fetches, remote audits and pins ask of the place that models come from. The hub
//! (`crate::hub`) is the one source that ships; tests serve a directory.
//!
//! A source names repositories `org/repo`, pins revisions to commits of 40 digits, and names each file of a commit by its
//! hash ([`Listing`]). What it says is never believed: lengths and hashes are compared as the bytes come.

mod content;
mod error;
#[cfg(test)]
pub(crate) mod fake;
mod retry;
mod store;

use std::{fmt, path::Path, sync::Arc, time::Duration};

use tokio::{runtime::Handle, sync::OwnedSemaphorePermit};
use weightsd_core::{
    listing::Listing,
    spec::{Commit, RepoId, Revision},
};

pub(crate) use self::store::{create_parent, has_no_locks, is_absent};
pub use self::{
    content::{Body, Content},
    error::SourceError,
    retry::Backoff,
    store::{Blob, BlobLock, FoundFile, Linked, Links, RepoStore, blob_name},
};

/// Whether the caller has something to fall back on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// It has: one try, and not for long.
    Brief,
    /// It has not: tries as the settings say.
    Full,
}

/// Which bytes of a file are wanted.
#[derive(Debug, Clone, Default)]
pub struct ByteRange {
    /// First byte.
    pub from: u64,
    /// Last byte and one; to the end when there is none.
    pub to: Option<u64>,
    /// The whole file is sent instead when the content is not the one of this validator.
    pub validator: Option<String>,
}

/// How transfers from a source are dealt with.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long a content may pause.
    pub stall: Duration,
    /// What is done about failures that may pass.
    pub backoff: Backoff,
}

/// Where models come from.
#[async_trait::async_trait]
pub trait Source: fmt::Debug + Send + Sync {
    /// The folder of a repository in a cache: where the files of its commits lie.
    fn store(&self, cache: &Path, repo: &RepoId) -> RepoStore;

    /// How transfers are dealt with.
    fn limits(&self) -> Limits;

    /// The runtime for downloads. They stay away from the threads that answer clients.
    ///
    /// # Errors
    /// When the source cannot be used at all.
    fn runtime(&self) -> Result<Handle, SourceError>;

    /// The right to download one file; waits for a turn. `None` when the source is closed.
    async fn download_place(&self) -> Option<OwnedSemaphorePermit>;

    /// The commit that `revision` means now.
    ///
    /// # Errors
    /// When the source does not know it, refuses to say, or is away.
    async fn commit(&self, repo: &RepoId, revision: &Revision, patience: Patience) -> Result<Commit, SourceError>;

    /// The present name of a repository that the source knows under another one.
    async fn new_name(&self, repo: &RepoId) -> Option<RepoId>;

    /// The files of a commit.
    ///
    /// # Errors
    /// As [`Self::commit`].
    async fn listing(&self, repo: &RepoId, commit: &Commit) -> Result<Arc<Listing>, SourceError>;

    /// Forgets a listing that what came contradicts.
    async fn forget_listing(&self, repo: &RepoId, commit: &Commit);

    /// Asks for a file of a commit, or a range of it. One try: the reader of the body must be ready to begin anew.
    ///
    /// # Errors
    /// As [`Self::commit`], and when there is no such file or range.
    async fn file(
        &self,
        repo: &RepoId,
        commit: &Commit,
        path: &str,
        range: Option<&ByteRange>,
    ) -> Result<Content, SourceError>;

    /// The content of a file, or of a range of it, of exactly `length` bytes; tried again when that may help.
    ///
    /// # Errors
    /// As [`Self::file`], and when the content is shorter.
    async fn bytes(
        &self,
        repo: &RepoId,
        commit: &Commit,
        path: &str,
        range: Option<ByteRange>,
        length: u64,
    ) -> Result<Vec<u8>, SourceError> {
        read_bytes(self, repo, commit, path, range, length).await
    }
}

/// What [`Source::bytes`] does.
///
/// # Errors
/// As there.
pub async fn read_bytes(
    source: &(impl Source + ?Sized),
    repo: &RepoId,
    commit: &Commit,
    path: &str,
    range: Option<ByteRange>,
    length: u64,
) -> Result<Vec<u8>, SourceError> {
    let Limits { stall, backoff } = source.limits();
    let from = range.as_ref().map_or(0, |range| range.from);
    let get = async || {
        let mut content = source.file(repo, commit, path, range.as_ref()).await?;
        if content.offset != from {
            let problem = format!("bytes from {} on, and {from} was asked for", content.offset);
            return Err(SourceError::Malformed { host: content.host, problem });
        }
        content.bytes(length, stall).await
    };
    backoff.retry(get).await
}
