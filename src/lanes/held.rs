//! Open files that anybody may drop.

use std::{
    fs::File,
    io,
    ops::Deref,
    os::fd::{AsFd, BorrowedFd},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use weightsd_segment::{FileIdentity, PinnedFile, sealed};

use super::{
    MayBlock, dispose,
    lookout::{self, FileFate, FileState},
};

/// Files that are held open by this process.
static OPEN: AtomicUsize = AtomicUsize::new(0);
/// How many there may be.
static OPEN_MAX: AtomicUsize = AtomicUsize::new(usize::MAX);

/// Too many files are held open. Travels inside an [`io::Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} files are held open, and the limit of open files leaves room for no more beside connections")]
pub struct TooManyOpen(usize);

/// Bounds the files that are held open, so that descriptors are left for connections.
pub fn hold_at_most(files: usize) {
    OPEN_MAX.store(files, Ordering::Relaxed);
}

/// A file held open. Closing a file asks its disk on some file systems, so dropping it leaves that to another thread.
#[derive(Debug)]
pub struct HeldFile(Option<(PinnedFile, Arc<FileState>)>);

impl HeldFile {
    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// As [`PinnedFile::open`], and when too many files are held open, with a [`TooManyOpen`] inside.
    pub fn open(path: impl Into<PathBuf>, may: &MayBlock<'_>) -> io::Result<Self> {
        Self::counted(|| PinnedFile::open(path), may)
    }

    /// Opens a regular file of this user's for reading, without following a link.
    ///
    /// # Errors
    /// As [`PinnedFile::open_own`], and when too many files are held open, with a [`TooManyOpen`] inside.
    pub fn open_own(path: impl Into<PathBuf>, may: &MayBlock<'_>) -> io::Result<Self> {
        Self::counted(|| PinnedFile::open_own(path), may)
    }

    /// A clone of the file, held open, which nobody can write to; see [`PinnedFile::cloned`].
    ///
    /// # Errors
    /// When the file is no longer what was opened, and when too many files are held open, with a [`TooManyOpen`] inside.
    pub fn cloned(&self, may: &MayBlock<'_>) -> io::Result<Option<Self>> {
        let Some(clone) = PinnedFile::cloned(self)? else { return Ok(None) };
        Self::counted(|| Ok(clone), may).map(Some)
    }

    fn counted(open: impl FnOnce() -> io::Result<PinnedFile>, may: &MayBlock<'_>) -> io::Result<Self> {
        let before = OPEN.fetch_add(1, Ordering::Relaxed);
        // Counted from here on, and taken back by the drop.
        let mut held = Self(None);
        if before >= OPEN_MAX.load(Ordering::Relaxed) {
            return Err(io::Error::other(TooManyOpen(before)));
        }
        let file = open()?;
        let state = lookout::watch(&file, may);
        held.0 = Some((file, state));
        Ok(held)
    }

    fn inner(&self) -> &(PinnedFile, Arc<FileState>) {
        self.0.as_ref().expect("it is taken out when it is dropped, and not before")
    }

    /// Whether the system tells of changes of this file.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.inner().1.is_watched()
    }

    /// The last identity that the file is known to have had with the content that was opened. Permissions and times may have
    /// been changed since it was.
    #[must_use]
    pub fn known_identity(&self) -> FileIdentity {
        self.inner().1.known()
    }

    /// Whether `state`, which has news, is this file's.
    #[must_use]
    pub fn has(&self, state: &Arc<FileState>) -> bool {
        Arc::ptr_eq(&self.inner().1, state)
    }

    /// What became of the file since it was opened.
    #[must_use]
    pub fn fate(&self, may: &MayBlock<'_>) -> FileFate {
        let (file, state) = self.inner();
        state.fate(file, may)
    }
}

/// A file of this process's own that nobody can change, open and counted like those of others. Closing it waits for nothing.
#[derive(Debug)]
pub struct SealedFile(Option<File>);

impl SealedFile {
    /// A file with these bytes; see [`sealed`].
    ///
    /// # Errors
    /// As [`sealed`], and when too many files are held open, with a [`TooManyOpen`] inside.
    pub fn of(bytes: &[u8], _: &MayBlock<'_>) -> io::Result<Self> {
        let before = OPEN.fetch_add(1, Ordering::Relaxed);
        // Counted from here on, and taken back by the drop.
        let mut held = Self(None);
        if before >= OPEN_MAX.load(Ordering::Relaxed) {
            return Err(io::Error::other(TooManyOpen(before)));
        }
        held.0 = Some(sealed(bytes)?);
        Ok(held)
    }
}

impl AsFd for SealedFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_ref().expect("one that was made has its file").as_fd()
    }
}

impl Drop for SealedFile {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Deref for HeldFile {
    type Target = PinnedFile;

    fn deref(&self) -> &PinnedFile {
        &self.inner().0
    }
}

impl Drop for HeldFile {
    fn drop(&mut self) {
        match self.0.take() {
            Some((file, state)) => dispose(file.identity().device, move |_| {
                lookout::forget(&state);
                drop(file);
                OPEN.fetch_sub(1, Ordering::Relaxed);
            }),
            None => {
                OPEN.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}
