//! Files that are being written, under a lock.

use std::{
    fs::{self, File},
    io, mem,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use crate::lanes::{MayBlock, dispose};

/// A locked file, which other daemons do not sweep. Dropping it has it deleted soon, unless it was renamed.
#[derive(Debug)]
pub(super) struct Locked {
    path: PathBuf,
    /// Taken out when it is dropped.
    file: Option<File>,
    /// The disk that it lies on.
    device: u64,
}

impl Locked {
    /// Makes the file, which must not exist.
    pub(super) fn new(path: PathBuf, _: &MayBlock<'_>) -> io::Result<Self> {
        let file = File::options().create_new(true).write(true).mode(0o600).open(&path)?;
        let device = file.metadata().map_or(0, |metadata| metadata.dev());
        let locked = Self { path, file: Some(file), device };
        locked.file().lock()?;
        Ok(locked)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn file(&self) -> &File {
        self.file.as_ref().expect("it is taken out when it is dropped, and not before")
    }

    pub(super) fn device(&self) -> u64 {
        self.device
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // A computation may be given up by the thread that serves.
        let (path, file) = (mem::take(&mut self.path), self.file.take());
        dispose(self.device, move |_| {
            // After publishing there is no file of that name.
            let _ = fs::remove_file(path);
            drop(file);
        });
    }
}
