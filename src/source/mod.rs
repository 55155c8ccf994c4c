//! The seam under downloads: what fetches, remote audits and pins ask of a place that models come from ([`Source`]), and
//! of the folder on this machine where its files are kept ([`Store`]). `crate::sources` has the implementations and the
//! list of them; tests serve a directory.
//!
//! A source names repositories by a text of its own ([`RepoId`]), pins revisions to commits of 40 digits, and names each
//! file of a commit by its hash ([`Listing`]). What it says is never believed: lengths and hashes are compared as the
//! bytes come.

mod content;
mod error;
#[cfg(test)]
pub(crate) mod fake;
mod list;
mod repo_store;
mod retry;
mod store;

use std::{fmt, path::Path, sync::Arc, time::Duration};

use tokio::{runtime::Handle, sync::OwnedSemaphorePermit};
use weightsd_core::{
    listing::Listing,
    spec::{Commit, RepoId, RepoSpec, Revision, SpecError},
};

pub(crate) use self::store::{create_parent, has_no_locks, is_absent};
pub use self::{
    content::{Body, Content},
    error::{SourceError, SourceProblem, Words},
    list::SourceList,
    repo_store::{Links, RepoStore, blob_name},
    retry::Backoff,
    store::{Blob, BlobLock, FoundFile, Linked, RefError, Store},
};

/// Which specs mean a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Specs {
    /// Specs that are neither paths nor addresses: `org/repo`.
    Ids,
    /// Addresses of this scheme: `s3` for `s3://bucket/prefix`.
    Scheme(&'static str),
}

/// The caches of this machine. A source chooses the one that holds its files.
#[derive(Debug, Clone, Copy, Default)]
pub struct Caches<'a> {
    /// The Hugging Face cache that the request or the settings name.
    pub hub: Option<&'a Path>,
    /// The folder for what weightsd itself keeps.
    pub own: Option<&'a Path>,
}

/// Whether the caller has something to fall back on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// It has: one try, and not for long.
    Brief,
    /// It has not: the source is asked as often as the settings say.
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

/// What of a repository somebody else may have or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Probe {
    /// What its commits and files are.
    Info,
    /// What its files hold. Of gated repositories everybody may know the files, and only some may have them.
    Content,
}

/// How transfers from a source are dealt with.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long a content may pause.
    pub stall: Duration,
    /// How requests are repeated after failures that may pass.
    pub backoff: Backoff,
}

/// Where models come from.
#[async_trait::async_trait]
pub trait Source: fmt::Debug + Send + Sync {
    /// How messages speak of it.
    fn words(&self) -> &'static Words;

    /// The specs that mean it.
    fn specs(&self) -> Specs;

    /// Reads a spec that means this source. Specs have passed [`check_text`](weightsd_core::spec::check_text).
    ///
    /// # Errors
    /// When it names no repository.
    fn parse(&self, spec: &str) -> Result<RepoSpec, SpecError>;

    /// Where the files of a repository lie; `None` when the cache that would hold them is not known.
    fn store(&self, caches: Caches<'_>, repo: &RepoId) -> Option<Arc<dyn Store>>;

    /// Where it is, as the settings say.
    fn address(&self) -> String;

    /// Whether there are credentials now. May read files.
    fn has_credentials(&self) -> bool;

    /// How transfers are carried out.
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

    /// The commit that `revision` means, if the source said it lately. A source that remembers nothing is asked each time.
    async fn known_commit(&self, _repo: &RepoId, _revision: &Revision) -> Option<Commit> {
        None
    }

    /// Why the source did not say a moment ago what `revision` means; `None` when it did, or was not asked.
    async fn last_refusal(&self, _repo: &RepoId, _revision: &Revision) -> Option<SourceError> {
        None
    }

    /// Whether the source could not be asked a moment ago.
    fn was_absent(&self) -> bool {
        false
    }

    /// Forgets what `revision` means, and whether the source was away, so that the next request asks again.
    async fn forget(&self, _repo: &RepoId, _revision: &Revision) {}

    /// The present name of a repository that the source knows under another one.
    async fn new_name(&self, _repo: &RepoId) -> Option<RepoId> {
        None
    }

    /// The files of a commit, and of no other: a source whose commits are hashes of its present listing refuses one that has
    /// become another, as a revision that is not there.
    ///
    /// # Errors
    /// As [`Self::commit`].
    async fn listing(&self, repo: &RepoId, commit: &Commit) -> Result<Arc<Listing>, SourceError>;

    /// Forgets a listing that contradicts the content that came.
    async fn forget_listing(&self, _repo: &RepoId, _commit: &Commit) {}

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

    /// Whether somebody with this token, or without one, may have `probe` of a commit; for contents, of the file at that
    /// path. A source that cannot tell lets nobody in.
    ///
    /// # Errors
    /// When the source refuses, or does not say.
    async fn admits(
        &self,
        repo: &RepoId,
        _commit: &Commit,
        _probe: (Probe, &str),
        _token: Option<&str>,
    ) -> Result<(), SourceError> {
        let message = "it does not say who may read it".to_owned();
        Err(self.words().error(SourceProblem::Forbidden { repo: repo.to_string(), message }))
    }

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

/// The default of [`Source::bytes`].
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
            return Err(source.words().error(SourceProblem::Malformed { host: content.host, problem }));
        }
        content.bytes(length, stall).await
    };
    backoff.retry(get).await
}
