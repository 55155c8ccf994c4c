//! A repository's folder in a Hugging Face cache: where things are in it, and how they come into it, so that neither a
//! reader nor another program that writes there ever sees half of something.
//!
//! `refs/<revision>` holds a commit, `snapshots/<commit>/<path>` links to `blobs/<hash>`, `trees/<commit>.json` the
//! commit's listing, `.no_exist/<commit>/<path>` marks what the commit has not; locks lie in `.locks/` of the cache.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, symlink},
    path::{Path, PathBuf},
};

use weightsd_core::{
    listing::{BlobName, LISTING_BYTES_MAX, Listing},
    spec::{Commit, RepoId, Revision},
};
use weightsd_segment::PinnedFile;

/// Folders of a repository that hold snapshots which an ordinary model has; more are not looked at for links.
const LINKS_LOOKED_AT_MAX: usize = 100_000;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RepoStore {
    cache: PathBuf,
    folder: PathBuf,
    repo: String,
}

impl RepoStore {
    /// The folder of `repo` in `cache`; it need not exist.
    #[must_use]
    pub fn new(cache: &Path, repo: &RepoId) -> Self {
        let repo = repo.cache_folder();
        Self { cache: cache.to_owned(), folder: cache.join(&repo), repo }
    }

    /// The cache.
    #[must_use]
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// Where a blob lies, or would.
    #[must_use]
    pub fn blob(&self, name: &BlobName) -> PathBuf {
        self.folder.join("blobs").join(name.as_str())
    }

    /// Where the beginning of a blob lies, or would.
    #[must_use]
    pub fn partial(&self, name: &BlobName) -> PathBuf {
        self.folder.join("blobs").join(format!("{name}.incomplete"))
    }

    /// The folder of a commit's files.
    #[must_use]
    pub fn snapshot(&self, commit: &Commit) -> PathBuf {
        self.folder.join("snapshots").join(commit.as_str())
    }

    fn tree(&self, commit: &Commit) -> PathBuf {
        self.folder.join("trees").join(format!("{commit}.json"))
    }

    /// The listing of a commit that this program or `huggingface_hub` left. One that cannot be used is none.
    #[must_use]
    pub fn listing(&self, commit: &Commit) -> Option<Listing> {
        let file = PinnedFile::open(&self.tree(commit)).ok()?;
        let length = file.identity().length;
        if length > LISTING_BYTES_MAX {
            return None;
        }
        let mut bytes = vec![0; usize::try_from(length).ok()?];
        file.read_exact_at(&mut bytes, 0).ok()?;
        Listing::from_cached(&bytes).inspect_err(|error| tracing::warn!(%commit, %error, "a cached listing")).ok()
    }

    /// Keeps the listing of a commit.
    ///
    /// # Errors
    /// What the system says.
    pub fn keep_listing(&self, commit: &Commit, listing: &Listing) -> io::Result<()> {
        let path = self.tree(commit);
        if path.exists() {
            return Ok(());
        }
        replace(&path, listing.to_cached().as_bytes())
    }

    /// Drops a listing that contradicts the hub.
    pub fn drop_listing(&self, commit: &Commit) {
        let _ = fs::remove_file(self.tree(commit));
    }

    /// Points `revision` at `commit`. A commit needs no ref to itself.
    ///
    /// # Errors
    /// What the system says.
    pub fn point(&self, revision: &Revision, commit: &Commit) -> io::Result<()> {
        if revision.as_commit().is_some() {
            return Ok(());
        }
        let path = self.folder.join("refs").join(revision.as_str());
        if fs::read(&path).is_ok_and(|found| found == commit.as_str().as_bytes()) {
            return Ok(());
        }
        // Without a line break: Python would take it for a part of the commit.
        replace(&path, commit.as_str().as_bytes())
    }

    /// Links `path` of the snapshot to a blob. What is there already stays: it is the same content, in a form of its
    /// owner's choice.
    ///
    /// # Errors
    /// What the system says.
    pub fn link(&self, commit: &Commit, path: &str, blob: &BlobName) -> io::Result<()> {
        let link = self.snapshot(commit).join(path);
        if link.exists() {
            return Ok(());
        }
        create_parent(&link)?;
        let up = "../".repeat(2 + path.matches('/').count());
        let temporary = temporary_name(&link);
        symlink(format!("{up}blobs/{blob}"), &temporary)?;
        fs::rename(&temporary, &link).inspect_err(|_| drop(fs::remove_file(&temporary)))
    }

    /// Marks that a commit has no such file, as `huggingface_hub` does.
    ///
    /// # Errors
    /// What the system says.
    pub fn mark_absent(&self, commit: &Commit, path: &str) -> io::Result<()> {
        let marker = self.folder.join(".no_exist").join(commit.as_str()).join(path);
        create_parent(&marker)?;
        File::create(marker).map(drop)
    }

    /// Tries to become the only one, among all programs, who writes this blob. `None` when somebody else is.
    ///
    /// # Errors
    /// What the system says.
    pub fn try_lock(&self, blob: &BlobName) -> io::Result<Option<BlobLock>> {
        let path = self.cache.join(".locks").join(&self.repo).join(format!("{blob}.lock"));
        create_parent(&path)?;
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // Somebody may have removed the file in between: then this lock is one that nobody else sees.
        let same = |now: fs::Metadata, then: fs::Metadata| (now.dev(), now.ino()) == (then.dev(), then.ino());
        let is_it = fs::metadata(&path).and_then(|now| Ok(same(now, file.metadata()?))).unwrap_or(false);
        Ok(is_it.then_some(BlobLock { _file: file }))
    }

    /// Moves a blob aside that is not what its name says, and removes the links to it, so that nobody reads it and
    /// everybody sees that it is missing. Returns where it went.
    ///
    /// # Errors
    /// What the system says.
    pub fn quarantine(&self, blob: &BlobName) -> io::Result<PathBuf> {
        let aside = self.folder.join("blobs").join(format!("{blob}.quarantined"));
        for link in self.links_to(blob) {
            let _ = fs::remove_file(link);
        }
        fs::rename(self.blob(blob), &aside)?;
        Ok(aside)
    }

    fn links_to(&self, blob: &BlobName) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.folder.join("snapshots")];
        let mut seen = 0;
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                seen += 1;
                if seen > LINKS_LOOKED_AT_MAX {
                    return found;
                }
                let path = entry.path();
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => folders.push(path),
                    Ok(kind) if kind.is_symlink() && blob_name(&path).as_deref() == Some(blob.as_str()) => {
                        found.push(path);
                    }
                    _ => {}
                }
            }
        }
        found
    }
}

/// The right to write a blob. Ends with the process, however that ends.
#[derive(Debug)]
#[must_use = "the lock is let go when it is dropped"]
pub struct BlobLock {
    _file: File,
}

/// Makes the folder of `path`.
pub(crate) fn create_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)
}

/// A name beside `path` that nobody else uses.
fn temporary_name(path: &Path) -> PathBuf {
    static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}-{count}.tmp", std::process::id()))
}

/// Puts a small file in the place of `path`, whole or not at all.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    create_parent(path)?;
    let temporary = temporary_name(path);
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_data()?;
        fs::rename(&temporary, path)
    };
    write().inspect_err(|_| drop(fs::remove_file(&temporary)))
}

/// The name of the blob that a snapshot's link points to: `../../blobs/<sha-256 or git-sha1>` in a `models--*` folder.
/// The first link counts, because in the shared blob store the last one is named by another hash.
#[must_use]
pub fn blob_name(path: &Path) -> Option<String> {
    let target = fs::read_link(path).ok()?;
    let name = target.file_name()?.to_str()?;
    let is_hash = matches!(name.len(), 40 | 64) && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    let in_blobs = target.parent()?.file_name()? == "blobs";
    let in_cache = path.ancestors().any(|folder| {
        folder.file_name().is_some_and(|name| name == "snapshots")
            && folder
                .parent()
                .and_then(Path::file_name)
                .is_some_and(|name| name.to_string_lossy().starts_with("models--"))
    });
    (is_hash && in_blobs && in_cache).then(|| name.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(cache: &Path) -> (RepoStore, Commit, BlobName) {
        let store = RepoStore::new(cache, &RepoId::parse("a/b").unwrap());
        (store, Commit::parse(&"c".repeat(40)).unwrap(), BlobName::parse(&"d".repeat(64)).unwrap())
    }

    #[test]
    fn refs_links_and_markers_are_where_python_has_them() {
        let cache = tempfile::tempdir().unwrap();
        let (store, commit, blob) = store(cache.path());
        let folder = cache.path().join("models--a--b");
        store.point(&Revision::parse("refs/pr/1").unwrap(), &commit).unwrap();
        assert_eq!(fs::read_to_string(folder.join("refs/refs/pr/1")).unwrap(), commit.as_str());
        store.point(&Revision::from(&commit), &commit).unwrap();
        assert!(!folder.join("refs").join(commit.as_str()).exists());
        create_parent(&store.blob(&blob)).unwrap();
        fs::write(store.blob(&blob), "x").unwrap();
        store.link(&commit, "vae/deep/x.safetensors", &blob).unwrap();
        let link = store.snapshot(&commit).join("vae/deep/x.safetensors");
        assert_eq!(fs::read_to_string(&link).unwrap(), "x");
        assert_eq!(fs::read_link(&link).unwrap(), Path::new(&format!("../../../../blobs/{blob}")));
        store.mark_absent(&commit, "vae/none.json").unwrap();
        assert!(folder.join(".no_exist").join(commit.as_str()).join("vae/none.json").exists());
    }

    #[test]
    fn a_quarantined_blob_is_out_of_reach() {
        let cache = tempfile::tempdir().unwrap();
        let (store, commit, blob) = store(cache.path());
        create_parent(&store.blob(&blob)).unwrap();
        fs::write(store.blob(&blob), "bad").unwrap();
        store.link(&commit, "t/x.safetensors", &blob).unwrap();
        let aside = store.quarantine(&blob).unwrap();
        assert_eq!(fs::read_to_string(aside).unwrap(), "bad");
        assert!(!store.blob(&blob).exists());
        assert!(store.snapshot(&commit).join("t/x.safetensors").symlink_metadata().is_err());
    }

    #[test]
    fn one_writer_a_blob() {
        let cache = tempfile::tempdir().unwrap();
        let (store, _, blob) = store(cache.path());
        let lock = store.try_lock(&blob).unwrap().unwrap();
        assert!(store.try_lock(&blob).unwrap().is_none());
        drop(lock);
        assert!(store.try_lock(&blob).unwrap().is_some());
    }
}
