//! Where the files of a repository lie on this machine: what fetches, verifications and listings ask of a cache. Every
//! source says which store its repositories have; [`RepoStore`](super::RepoStore) has the structure of a Hugging Face
//! cache.
//!
//! A store answers from local disks and never asks a network. Its functions block.

use std::{
    fmt,
    fs::{self, File, OpenOptions, Permissions, TryLockError},
    hash::{Hash, Hasher},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;
use weightsd_core::{
    listing::{BlobName, Listed, Listing},
    spec::{Commit, Revision},
};

#[cfg(doc)]
use weightsd_core::listing::HashKind;

/// Hex digits of a SHA-256.
const SHA256_DIGITS: u64 = 64;

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

/// What [`Store::link`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Linked {
    /// The snapshot has the file: the link was made, or a file was there already.
    Done,
    /// The file system has no symbolic links. [`Store::place`] puts the file itself there.
    NoLinks,
}

/// What becomes of a blob that [`Store::place`] puts into a snapshot of a file system without any links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blob {
    /// It stays: another snapshot may need it.
    Kept,
    /// It moves, which costs no space.
    Moved,
}

/// Why a store does not say what a revision means.
#[derive(Debug, thiserror::Error)]
pub enum RefError {
    /// A ref file that holds no commit.
    #[error("`{}` should hold a 40-digit commit, found {found:?}", path.display())]
    Bad {
        /// The file.
        path: PathBuf,
        /// Its content, cut.
        found: String,
    },
    /// The system refused.
    #[error("cannot look at `{}`", path.display())]
    Io {
        /// At what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The files of one repository on this machine: commits, their listings and files, and the contents (blobs) that the
/// files share. Nothing of it need exist.
///
/// A file appears under its final name by a rename, so that no reader sees half of it.
pub trait Store: fmt::Debug + Send + Sync {
    /// The folder that all repositories of the cache share. Its disk must have room for downloads.
    fn cache(&self) -> &Path;

    /// How a user names another cache, within a sentence: `` `--hub-cache` (`hub_cache`) ``.
    fn setting(&self) -> &'static str;

    /// The folder of this repository. Two stores are the same when their folders are.
    fn folder(&self) -> &Path;

    /// The file that decides what `revision` means here; a change of it is a change of the answer.
    fn ref_path(&self, revision: &Revision) -> PathBuf;

    /// The commit that `revision` meant when it was last asked for; `None` when it never was.
    ///
    /// # Errors
    /// When its ref exists and cannot be read.
    fn last_known(&self, revision: &Revision) -> Result<Option<Commit>, RefError>;

    /// Revisions and commits that are here, for messages; at most `max`.
    fn known(&self, max: usize) -> Vec<String>;

    /// The commits that have files here, sorted.
    fn commits(&self) -> Vec<Commit>;

    /// Keeps what `revision` means. A commit needs no ref to itself.
    ///
    /// # Errors
    /// When the system refuses.
    fn point(&self, revision: &Revision, commit: &Commit) -> io::Result<()>;

    /// The folder below which the files of a commit have their paths.
    fn snapshot(&self, commit: &Commit) -> PathBuf;

    /// The listing of a commit that was kept. `None` also when it cannot be used.
    fn listing(&self, commit: &Commit) -> Option<Listing>;

    /// Keeps the listing of a commit.
    ///
    /// # Errors
    /// When the system refuses.
    fn keep_listing(&self, commit: &Commit, listing: &Listing) -> io::Result<()>;

    /// Drops a listing that contradicts the source.
    fn drop_listing(&self, commit: &Commit);

    /// The file at `path` of a commit, if it is on this machine. A blob whose length contradicts `listed` is not that
    /// file, so it counts as absent.
    fn locate(&self, commit: &Commit, path: &str, listed: &Listed) -> Option<FoundFile>;

    /// Marks that a commit has no such file, if the store has such marks.
    ///
    /// # Errors
    /// When the system refuses.
    fn mark_absent(&self, commit: &Commit, path: &str) -> io::Result<()>;

    /// Where a blob lies, or would.
    fn blob(&self, name: &BlobName) -> PathBuf;

    /// Where the beginning of a blob lies, or would lie.
    fn partial(&self, name: &BlobName) -> PathBuf;

    /// Where the lock of a blob lies, or would lie.
    fn lock_path(&self, blob: &BlobName) -> PathBuf;

    /// Tries to become the only one, among all programs, who writes this blob. `None` when somebody else is.
    ///
    /// # Errors
    /// What the system says of [`Self::lock_path`]. `has_no_locks` tells a file system without locks.
    fn try_lock(&self, blob: &BlobName) -> io::Result<Option<BlobLock>> {
        BlobLock::try_at(&self.lock_path(blob))
    }

    /// Where the SHA-256 lies that a blob without a hash in its name had when it came ([`HashKind::Unhashed`]).
    fn first_hash_path(&self, blob: &BlobName) -> PathBuf {
        self.blob(blob).with_file_name(format!("{blob}.sha256"))
    }

    /// The SHA-256 that the blob had when it came; `None` when nobody kept it.
    fn first_hash(&self, blob: &BlobName) -> Option<String> {
        let mut text = String::new();
        File::open(self.first_hash_path(blob)).ok()?.take(SHA256_DIGITS + 1).read_to_string(&mut text).ok()?;
        (text.len() as u64 == SHA256_DIGITS).then_some(text)
    }

    /// Keeps the SHA-256 with which the blob came.
    ///
    /// # Errors
    /// When the system refuses.
    fn keep_first_hash(&self, blob: &BlobName, hash: &str) -> io::Result<()> {
        replace(&self.first_hash_path(blob), hash.as_bytes())
    }

    /// Whether `path` leads to this repository's blob of that name, and not to a blob of the same name elsewhere.
    fn is_blob(&self, path: &Path, blob: &BlobName) -> bool {
        fs::metadata(path).and_then(|one| Ok(is_same(&one, &fs::metadata(self.blob(blob))?))).unwrap_or(false)
    }

    /// Whether a snapshot links to the blob.
    fn is_linked(&self, blob: &BlobName) -> bool;

    /// Links `path` of the snapshot to a blob. A file that is there already stays: it is the same content, or it is the
    /// user's own.
    ///
    /// # Errors
    /// When the snapshot cannot be written to.
    fn link(&self, commit: &Commit, path: &str, blob: &BlobName) -> io::Result<Linked>;

    /// Puts the content of a blob at `path` of the snapshot as a regular file, where links cannot be made. Returns the
    /// file's path.
    ///
    /// # Errors
    /// When the snapshot cannot be written to, or has no room for a copy.
    fn place(&self, commit: &Commit, path: &str, blob: &BlobName, then: Blob) -> io::Result<PathBuf>;

    /// Moves the file at `path` aside, which was found not to be the blob that it should be: the blob itself with all
    /// links to it, or the one entry of a snapshot. Returns its new place; `None` when `path` is no file of this
    /// repository, which is then left alone. No other file is touched.
    ///
    /// # Errors
    /// When the file cannot be renamed.
    fn set_aside(&self, path: &Path, blob: &BlobName, found: &str) -> io::Result<Option<PathBuf>>;

    /// Moves a blob aside that is not what its name says, and removes the links to it. Returns its new place.
    ///
    /// # Errors
    /// When the blob cannot be renamed.
    fn quarantine(&self, blob: &BlobName) -> io::Result<PathBuf>;
}

impl PartialEq for dyn Store {
    fn eq(&self, other: &Self) -> bool {
        self.folder() == other.folder()
    }
}

impl Eq for dyn Store {}

impl Hash for dyn Store {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.folder().hash(state);
    }
}

/// The right to write a blob. Ends with the process, however that ends.
#[derive(Debug)]
#[must_use = "the lock is let go when it is dropped"]
pub struct BlobLock {
    _file: File,
}

impl BlobLock {
    /// Tries to lock the file at `path`, which is made when it is not there. `None` when another program has the lock.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn try_at(path: &Path) -> io::Result<Option<Self>> {
        create_parent(path)?;
        let file = match OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path) {
            // Locking needs no right to write: a lock file that another user left is as good as one's own.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => File::open(path).map_err(|_| error)?,
            opened => opened?,
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // Somebody may have removed the file in between: then this lock is one that nobody else sees.
        let is_it = fs::metadata(path).and_then(|now| Ok(is_same(&now, &file.metadata()?))).unwrap_or(false);
        Ok(is_it.then_some(Self { _file: file }))
    }
}

fn is_same(one: &fs::Metadata, other: &fs::Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// Creates the folder of `path`, and returns it.
pub(crate) fn create_parent(path: &Path) -> io::Result<&Path> {
    let parent = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(parent)?;
    Ok(parent)
}

/// Names beside a file that are short whatever its own name is, and that nobody else uses.
pub(super) fn temporary_name<'a>() -> tempfile::Builder<'a, 'a> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".weightsd-").suffix(".tmp");
    builder
}

/// An empty file in `folder` with the permissions of any new file.
pub(super) fn temporary_file(folder: &Path) -> io::Result<NamedTempFile> {
    temporary_name().permissions(Permissions::from_mode(0o666)).tempfile_in(folder)
}

/// Puts a small file in the place of `path`, whole or not at all.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

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
