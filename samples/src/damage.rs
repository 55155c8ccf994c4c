//! What happens to files behind a program's back. Paths may be snapshot links.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    path::Path,
};

use crate::FixtureError;

/// Removes the file or link at this path; what a link leads to stays.
///
/// # Errors
/// When the system refuses, as for a file that is not there.
pub fn remove(path: &Path) -> Result<(), FixtureError> {
    fs::remove_file(path).map_err(FixtureError::io("remove", path))
}

/// Removes the file that all links of this path lead to, and leaves the links: a blob that is gone.
///
/// # Errors
/// When the path leads to no file, or the system refuses.
pub fn remove_target(path: &Path) -> Result<(), FixtureError> {
    let target = fs::canonicalize(path).map_err(FixtureError::io("follow", path))?;
    remove(&target)
}

/// Cuts or extends the file in place to this length, as a crashed or careless writer does.
///
/// # Errors
/// When the file cannot be written.
pub fn set_length(path: &Path, length: u64) -> Result<(), FixtureError> {
    let file = open(path)?;
    file.set_len(length).map_err(FixtureError::io("resize", path))
}

/// Inverts one byte in place: same length, other content.
///
/// # Errors
/// [`FixtureError::Io`], also when the file has no such byte.
pub fn flip_byte(path: &Path, offset: u64) -> Result<(), FixtureError> {
    let mut file = open(path)?;
    let mut byte = [0];
    file.seek(SeekFrom::Start(offset))
        .and_then(|_| file.read_exact(&mut byte))
        .and_then(|()| file.seek(SeekFrom::Start(offset)))
        .and_then(|_| file.write_all(&[!byte[0]]))
        .map_err(FixtureError::io("change", path))
}

fn open(path: &Path) -> Result<File, FixtureError> {
    OpenOptions::new().read(true).write(true).open(path).map_err(FixtureError::io("open", path))
}
