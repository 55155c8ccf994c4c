//! Open files that anybody may drop.

use std::{
    io,
    ops::Deref,
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
};

use weightsd_segment::PinnedFile;

use super::{MayBlock, dispose};

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

/// A file held open. Closing a file asks its disk on some file systems, so whoever drops it leaves that to another thread.
#[derive(Debug)]
pub struct HeldFile(Option<PinnedFile>);

impl HeldFile {
    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// As [`PinnedFile::open`], and when too many files are held open, with a [`TooManyOpen`] inside.
    pub fn open(path: impl Into<PathBuf>, _: &MayBlock<'_>) -> io::Result<Self> {
        let open = OPEN.fetch_add(1, Ordering::Relaxed);
        // Counted from here on, and taken back by the drop.
        let mut held = Self(None);
        if open >= OPEN_MAX.load(Ordering::Relaxed) {
            return Err(io::Error::other(TooManyOpen(open)));
        }
        held.0 = Some(PinnedFile::open(path)?);
        Ok(held)
    }
}

impl Deref for HeldFile {
    type Target = PinnedFile;

    fn deref(&self) -> &PinnedFile {
        self.0.as_ref().expect("it is taken out when it is dropped, and not before")
    }
}

impl Drop for HeldFile {
    fn drop(&mut self) {
        match self.0.take() {
            Some(file) => dispose(file.identity().device, move |_| {
                drop(file);
                OPEN.fetch_sub(1, Ordering::Relaxed);
            }),
            None => drop(OPEN.fetch_sub(1, Ordering::Relaxed)),
        }
    }
}
