//! A repository's folder in a Hugging Face cache: where its files lie, and how they are put there. Every file appears
//! under its final name by a rename, so no reader and no other program that writes to the cache sees half a file.
//!
//! | path | content |
//! |---|---|
//! | `refs/<revision>` | the commit that the revision meant when it was last asked for |
//! | `snapshots/<commit>/<path>` | a link to `blobs/<hash>`; in a cache without links, and where a user put one, a regular file |
//! | `blobs/<hash>` | a content, named by its hash |
//! | `trees/<commit>.json` | the listing of the commit |
//! | `.no_exist/<commit>/<path>` | an empty marker: the commit has no such file |
//! | `../.locks/<folder>/<hash>.lock` | the lock of whoever downloads that blob |

use std::{
    fs::{self, File, OpenOptions, Permissions, TryLockError},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;

use weightsd_core::{
    listing::{BlobName, LISTING_BYTES_MAX, Listed, Listing},
    spec::{Commit, RepoId, Revision},
};
use weightsd_segment::PinnedFile;

/// Most entries of snapshots that are searched for links to a blob.
const LINKS_LOOKED_AT_MAX: usize = 100_000;

/// A file of a commit that is on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FoundFile {
    /// The blob, by its own path or by the snapshot's link to it. Its name says what it should hold.
    Blob(PathBuf),
    /// A file that only this snapshot has: a regular file, or a link that a user made. Caches without links have nothing
    /// else. It counts as present whatever it holds, as in `huggingface_hub`.
    Own(PathBuf),
}

impl FoundFile {
    /// Where it can be opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Blob(path) | Self::Own(path) => path,
        }
    }
}

/// What [`RepoStore::link`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Linked {
    /// The snapshot has the file: the link was made, or something was there already.
    Done,
    /// The file system has no symbolic links. [`RepoStore::place`] puts the file itself there.
    NoLinks,
}

/// What becomes of a blob that [`RepoStore::place`] puts into a snapshot of a file system without any links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blob {
    /// It stays: another snapshot may need it.
    Kept,
    /// It moves, which costs no space.
    Moved,
}

/// A repository's folder in a Hugging Face cache. The folder need not exist.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RepoStore {
    cache: PathBuf,
    folder: PathBuf,
    repo: String,
    links: Links,
}

impl RepoStore {
    /// The folder of `repo` in `cache`; it need not exist.
    #[must_use]
    pub fn new(cache: &Path, repo: &RepoId) -> Self {
        let repo = repo.cache_folder();
        Self { cache: cache.to_owned(), folder: cache.join(&repo), repo, links: Links::default() }
    }

    /// The same folder, with or without links in its snapshots.
    #[must_use]
    pub fn with_links(self, links: Links) -> Self {
        Self { links, ..self }
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
        let file = PinnedFile::open(self.tree(commit)).ok()?;
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

    /// The file at `path` of a commit, if it is on this machine. A blob whose length contradicts `listed` is not that
    /// file, so it counts as absent.
    #[must_use]
    pub fn locate(&self, commit: &Commit, path: &str, listed: &Listed) -> Option<FoundFile> {
        let entry = self.snapshot(commit).join(path);
        let is_whole = |found: &fs::Metadata| found.is_file() && found.len() == listed.bytes;
        match fs::metadata(&entry) {
            Ok(found) if self.is_blob(&entry, &listed.blob) && fs::read_link(&entry).is_ok() => {
                is_whole(&found).then_some(FoundFile::Blob(entry))
            }
            Ok(_) => Some(FoundFile::Own(entry)),
            // Whatever else the system says about it is said when it is read.
            Err(error) if !is_absent(&error) => Some(FoundFile::Own(entry)),
            Err(_) => {
                let blob = self.blob(&listed.blob);
                fs::metadata(&blob).is_ok_and(|found| is_whole(&found)).then_some(FoundFile::Blob(blob))
            }
        }
    }

    /// Whether `path` leads to this repository's blob of that name, and not to a blob of the same name elsewhere.
    #[must_use]
    pub fn is_blob(&self, path: &Path, blob: &BlobName) -> bool {
        let same = |one: fs::Metadata, other: fs::Metadata| (one.dev(), one.ino()) == (other.dev(), other.ino());
        fs::metadata(path).and_then(|one| Ok(same(one, fs::metadata(self.blob(blob))?))).unwrap_or(false)
    }

    /// Links `path` of the snapshot to a blob. A file that is there already stays: it is the same content, or it is the
    /// user's own.
    ///
    /// # Errors
    /// When the snapshot cannot be written to.
    pub fn link(&self, commit: &Commit, path: &str, blob: &BlobName) -> io::Result<Linked> {
        let link = self.snapshot(commit).join(path);
        if link.exists() {
            return Ok(Linked::Done);
        }
        let parent = create_parent(&link)?;
        // Python believes the marker more than the link.
        let _ = fs::remove_file(self.absence(commit, path));
        if self.links == Links::Avoided {
            return Ok(Linked::NoLinks);
        }
        let target = format!("{}blobs/{blob}", "../".repeat(2 + path.matches('/').count()));
        let made = temporary_name().make_in(parent, |temporary| symlink(&target, temporary));
        match made.and_then(|made| made.persist(&link).map_err(io::Error::from)) {
            Ok(()) => Ok(Linked::Done),
            Err(error) if has_no_links(&error) => Ok(Linked::NoLinks),
            Err(error) => Err(error),
        }
    }

    /// Puts the content of a blob at `path` of the snapshot as a regular file, as `huggingface_hub` does where symbolic
    /// links cannot be made. A hard link costs no space and leaves the blob for other commits; a file system without
    /// those gets a copy, or the blob itself. Returns the file's path.
    ///
    /// # Errors
    /// When the snapshot cannot be written to, or has no room for a copy.
    pub fn place(&self, commit: &Commit, path: &str, blob: &BlobName, then: Blob) -> io::Result<PathBuf> {
        let (entry, from) = (self.snapshot(commit).join(path), self.blob(blob));
        let parent = create_parent(&entry)?;
        if fs::hard_link(&from, &entry).is_ok() {
            return Ok(entry);
        }
        if then == Blob::Moved {
            return fs::rename(&from, &entry).map(|()| entry);
        }
        let mut copy = temporary_file(parent)?;
        io::copy(&mut File::open(from)?, copy.as_file_mut())?;
        weightsd_segment::sync(copy.as_file())?;
        copy.persist(&entry)?;
        Ok(entry)
    }

    fn absence(&self, commit: &Commit, path: &str) -> PathBuf {
        self.folder.join(".no_exist").join(commit.as_str()).join(path)
    }

    /// Marks that a commit has no such file, as `huggingface_hub` does.
    ///
    /// # Errors
    /// What the system says.
    pub fn mark_absent(&self, commit: &Commit, path: &str) -> io::Result<()> {
        let marker = self.absence(commit, path);
        create_parent(&marker)?;
        File::create(marker).map(drop)
    }

    /// Where the lock of a blob lies, or would.
    #[must_use]
    pub fn lock_path(&self, blob: &BlobName) -> PathBuf {
        self.cache.join(".locks").join(&self.repo).join(format!("{blob}.lock"))
    }

    /// Tries to become the only one, among all programs, who writes this blob. `None` when somebody else is.
    ///
    /// # Errors
    /// What the system says of [`Self::lock_path`]. [`has_no_locks`] tells a file system without locks.
    pub fn try_lock(&self, blob: &BlobName) -> io::Result<Option<BlobLock>> {
        let path = self.lock_path(blob);
        create_parent(&path)?;
        let file = match OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path) {
            // Locking needs no right to write: a lock file that another user left is as good as one's own.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => File::open(&path).map_err(|_| error)?,
            opened => opened?,
        };
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

    /// Moves the file at `path` aside, which was found not to be the blob that it should be: the blob itself with all
    /// links to it, or the one entry of a snapshot. Returns its new place; `None` when `path` is no file of this
    /// repository, which is then left alone. No other file is touched.
    ///
    /// # Errors
    /// When the file cannot be renamed.
    pub fn set_aside(&self, path: &Path, blob: &BlobName, found: &str) -> io::Result<Option<PathBuf>> {
        if self.is_blob(path, blob) {
            return self.quarantine(blob).map(Some);
        }
        if !path.starts_with(self.folder.join("snapshots")) {
            return Ok(None);
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // The name tells what it is; what is too long for the file system tells less.
        let short: String = name.chars().take(60).collect();
        let digits = found.get(..12).unwrap_or(found);
        let aside = path.with_file_name(format!("{short}.{digits}.quarantined"));
        fs::rename(path, &aside)?;
        Ok(Some(aside))
    }

    /// Moves a blob aside that is not what its name says, and removes the links to it. Returns its new place.
    ///
    /// # Errors
    /// When the blob cannot be renamed.
    pub fn quarantine(&self, blob: &BlobName) -> io::Result<PathBuf> {
        let aside = self.folder.join("blobs").join(format!("{blob}.quarantined"));
        for link in self.links_to(blob) {
            let _ = fs::remove_file(link);
        }
        fs::rename(self.blob(blob), &aside)?;
        Ok(aside)
    }

    /// Whether a snapshot links to the blob.
    #[must_use]
    pub fn is_linked(&self, blob: &BlobName) -> bool {
        !self.links_to(blob).is_empty()
    }

    /// The links to a blob, hard ones included.
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
                    Ok(_) if self.is_blob(&path, blob) => found.push(path),
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

/// Whether a snapshot gets symbolic links.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Links {
    /// Where the file system has them.
    #[default]
    Symbolic,
    /// Never (`HF_HUB_DISABLE_SYMLINKS`).
    Avoided,
}

/// Creates the folder of `path`, and returns it.
pub(crate) fn create_parent(path: &Path) -> io::Result<&Path> {
    let parent = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(parent)?;
    Ok(parent)
}

/// Names beside a file that are short whatever its own name is, and that nobody else uses.
fn temporary_name<'a>() -> tempfile::Builder<'a, 'a> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".weightsd-").suffix(".tmp");
    builder
}

/// An empty file in `folder` with the permissions of any new file.
fn temporary_file(folder: &Path) -> io::Result<NamedTempFile> {
    temporary_name().permissions(Permissions::from_mode(0o666)).tempfile_in(folder)
}

/// Puts a small file in the place of `path`, whole or not at all.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = temporary_file(create_parent(path)?)?;
    file.write_all(bytes)?;
    weightsd_segment::sync(file.as_file())?;
    file.persist(path)?;
    Ok(())
}

/// Whether there is no such file, whatever the system calls that: a name that is longer than the file system allows, or
/// below a file, is not there either.
pub(crate) fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidFilename | io::ErrorKind::NotADirectory)
}

/// Whether a file could not be locked because its file system has no locks.
pub(crate) fn has_no_locks(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let none = [Errno::NOLCK, Errno::OPNOTSUPP, Errno::NOTSUP, Errno::NOSYS].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|code| none.contains(&code))
}

/// Whether a link could not be made because the file system has none. FAT answers EPERM, network mounts EOPNOTSUPP.
fn has_no_links(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let none = [Errno::PERM, Errno::OPNOTSUPP, Errno::NOSYS, Errno::INVAL].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|code| none.contains(&code))
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
        store.mark_absent(&commit, "vae/late.safetensors").unwrap();
        store.link(&commit, "vae/late.safetensors", &blob).unwrap();
        assert!(!folder.join(".no_exist").join(commit.as_str()).join("vae/late.safetensors").exists());
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

    #[test]
    fn a_file_system_without_locks_is_told() {
        use rustix::io::Errno;
        for none in [Errno::NOLCK, Errno::OPNOTSUPP, Errno::NOSYS] {
            assert!(has_no_locks(&none.into()), "{none}");
        }
        for other in [Errno::ACCESS, Errno::AGAIN, Errno::IO] {
            assert!(!has_no_locks(&other.into()), "{other}");
        }
    }
}
