//! Open files that anybody may drop.

use std::{ops::Deref, path::PathBuf};

use weightsd_segment::PinnedFile;

use super::{MayBlock, dispose};

/// A file held open. Closing a file asks its disk on some file systems, so dropping it leaves that to another thread.
#[derive(Debug)]
pub struct HeldFile(Option<PinnedFile>);

impl HeldFile {
    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// As [`PinnedFile::open`].
    pub fn open(path: impl Into<PathBuf>, _: &MayBlock<'_>) -> std::io::Result<Self> {
        Ok(Self(Some(PinnedFile::open(path)?)))
    }

    /// Opens a regular file of this user's for reading, without following a link.
    ///
    /// # Errors
    /// As [`PinnedFile::open_own`].
    pub fn open_own(path: impl Into<PathBuf>, _: &MayBlock<'_>) -> std::io::Result<Self> {
        Ok(Self(Some(PinnedFile::open_own(path)?)))
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
        if let Some(file) = self.0.take() {
            dispose(file.identity().device, move |_| drop(file));
        }
    }
}
