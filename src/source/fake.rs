//! A source that serves a directory, for tests without a network: `<folder>/<path>` is a file of its one commit. Its store
//! has a layout of its own, in which snapshots hold regular files.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
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
    listing::{BlobName, Listed, Listing},
    spec::{Commit, RepoId, RepoSpec, Revision, SpecError},
};

use super::{
    Backoff, Blob, Body, ByteRange, Caches, Content, FoundFile, Limits, Linked, Patience, RefError, Source,
    SourceError, SourceProblem, Specs, Store, Words, create_parent,
};

/// How messages speak of it.
pub(crate) const WORDS: Words = Words {
    name: "the directory",
    kind: "a directory",
    endpoint: "its path",
    cache: "the folder of tests",
    cache_setting: "its test",
    log_in: "log in nowhere",
    credentials: "there are none",
};

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
    fn words(&self) -> &'static Words {
        &WORDS
    }

    fn specs(&self) -> Specs {
        Specs::Scheme("fake")
    }

    fn parse(&self, spec: &str) -> Result<RepoSpec, SpecError> {
        Ok(RepoSpec { repo: RepoId::parse_address(spec)?, revision: None })
    }

    fn store(&self, caches: Caches<'_>, repo: &RepoId) -> Option<Arc<dyn Store>> {
        Some(Arc::new(FlatStore { folder: caches.own?.join(repo.cache_folder()) }))
    }

    fn address(&self) -> String {
        self.folder.display().to_string()
    }

    fn has_credentials(&self) -> bool {
        false
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
        Err(WORDS.error(SourceProblem::NoRevision { repo: repo.to_string(), revision: revision.clone() }))
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

    async fn file(
        &self,
        repo: &RepoId,
        commit: &Commit,
        path: &str,
        range: Option<&ByteRange>,
    ) -> Result<Content, SourceError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let no_file =
            || WORDS.error(SourceProblem::NoFile { repo: repo.to_string(), path: path.to_owned(), commit: None });
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
            words: &WORDS,
            body: Box::new(Pieces { bytes: part, breaks }),
        })
    }
}

/// `revisions/<name>`, `listings/<commit>`, `contents/<hash>`, and hard links to those in `files/<commit>/<path>`.
#[derive(Debug)]
pub(crate) struct FlatStore {
    folder: PathBuf,
}

impl FlatStore {
    fn listing_path(&self, commit: &Commit) -> PathBuf {
        self.folder.join("listings").join(commit.as_str())
    }
}

impl Store for FlatStore {
    fn cache(&self) -> &Path {
        self.folder.parent().unwrap()
    }

    fn setting(&self) -> &'static str {
        WORDS.cache_setting
    }

    fn folder(&self) -> &Path {
        &self.folder
    }

    fn ref_path(&self, revision: &Revision) -> PathBuf {
        self.folder.join("revisions").join(revision.as_str().replace('/', "-"))
    }

    fn last_known(&self, revision: &Revision) -> Result<Option<Commit>, RefError> {
        Ok(fs::read_to_string(self.ref_path(revision)).ok().and_then(|text| Commit::parse(&text)))
    }

    fn known(&self, _: usize) -> Vec<String> {
        Vec::new()
    }

    fn commits(&self) -> Vec<Commit> {
        let entries = fs::read_dir(self.folder.join("files")).into_iter().flatten().flatten();
        entries.filter_map(|entry| Commit::parse(entry.file_name().to_str()?)).collect()
    }

    fn point(&self, revision: &Revision, commit: &Commit) -> io::Result<()> {
        let path = self.ref_path(revision);
        create_parent(&path)?;
        fs::write(path, commit.as_str())
    }

    fn snapshot(&self, commit: &Commit) -> PathBuf {
        self.folder.join("files").join(commit.as_str())
    }

    fn listing(&self, commit: &Commit) -> Option<Listing> {
        Listing::from_cached(&fs::read(self.listing_path(commit)).ok()?).ok()
    }

    fn keep_listing(&self, commit: &Commit, listing: &Listing) -> io::Result<()> {
        let path = self.listing_path(commit);
        create_parent(&path)?;
        fs::write(path, listing.to_cached())
    }

    fn drop_listing(&self, commit: &Commit) {
        let _ = fs::remove_file(self.listing_path(commit));
    }

    fn locate(&self, commit: &Commit, path: &str, listed: &Listed) -> Option<FoundFile> {
        let is_here = |path: &Path| fs::metadata(path).is_ok_and(|found| found.len() == listed.bytes);
        [self.snapshot(commit).join(path), self.blob(&listed.blob)]
            .into_iter()
            .find(|it| is_here(it))
            .map(FoundFile::Blob)
    }

    fn mark_absent(&self, _: &Commit, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn blob(&self, name: &BlobName) -> PathBuf {
        self.folder.join("contents").join(name.as_str())
    }

    fn partial(&self, name: &BlobName) -> PathBuf {
        self.folder.join("contents").join(format!("{name}.part"))
    }

    fn lock_path(&self, blob: &BlobName) -> PathBuf {
        self.folder.join("locks").join(blob.as_str())
    }

    fn is_linked(&self, blob: &BlobName) -> bool {
        fs::metadata(self.blob(blob)).is_ok_and(|found| found.nlink() > 1)
    }

    fn link(&self, commit: &Commit, path: &str, blob: &BlobName) -> io::Result<Linked> {
        let entry = self.snapshot(commit).join(path);
        if !entry.exists() {
            create_parent(&entry)?;
            fs::hard_link(self.blob(blob), entry)?;
        }
        Ok(Linked::Done)
    }

    fn place(&self, _: &Commit, _: &str, _: &BlobName, _: Blob) -> io::Result<PathBuf> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn set_aside(&self, path: &Path, blob: &BlobName, _: &str) -> io::Result<Option<PathBuf>> {
        if self.is_blob(path, blob) { self.quarantine(blob).map(Some) } else { Ok(None) }
    }

    fn quarantine(&self, blob: &BlobName) -> io::Result<PathBuf> {
        let aside = self.folder.join(format!("{blob}.bad"));
        fs::rename(self.blob(blob), &aside)?;
        Ok(aside)
    }
}
