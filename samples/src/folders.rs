//! Folders and links that may be there already.

use std::{fs, os::unix::fs::symlink, path::Path};

use crate::FixtureError;

pub(crate) fn link_unless_there(to: &str, link: &Path) -> Result<(), FixtureError> {
    if link.symlink_metadata().is_ok() {
        return Ok(());
    }
    symlink(to, link).map_err(FixtureError::io("link", link))
}

pub(crate) fn create_parent(path: &Path) -> Result<(), FixtureError> {
    path.parent().map_or(Ok(()), create_dir)
}

pub(crate) fn create_dir(path: &Path) -> Result<(), FixtureError> {
    fs::create_dir_all(path).map_err(FixtureError::io("create", path))
}
