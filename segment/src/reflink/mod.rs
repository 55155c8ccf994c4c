//! Clones: files that share the blocks of another one until somebody writes to either. btrfs, XFS and APFS make them at once,
//! whatever the length.

use std::{fs::File, io, path::Path};

#[cfg(not(target_os = "macos"))]
mod linux;
#[cfg(target_os = "macos")]
mod macos;

#[cfg(not(target_os = "macos"))]
use linux as platform;
#[cfg(target_os = "macos")]
use macos as platform;

/// A clone of `file`, open for reading. It has no name, and its permissions let nobody write to it. It takes room on the disk
/// when the original changes, and is gone when the last descriptor of it is closed.
///
/// # Errors
/// When the file system cannot clone, or `folder`, which lies on the same one, cannot be written to.
pub(crate) fn clone_of(file: &File, folder: &Path) -> io::Result<File> {
    platform::clone_of(file, folder)
}
