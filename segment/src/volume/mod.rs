//! Which volume a file lies on, by what outlives a mount.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use rustix::fs::OFlags;
use weightsd_core::identity::{FileKey, Volume};

use crate::FileIdentity;

#[cfg(target_os = "linux")]
#[path = "linux.rs"]
mod platform;
#[cfg(target_os = "macos")]
#[path = "macos.rs"]
mod platform;

/// The volume of an open file, or of a folder opened as one. File systems that have no name of their own (network mounts,
/// FAT) are known by the number of their device.
///
/// # Errors
/// When the system does not answer for the file.
pub(crate) fn volume(file: &File) -> io::Result<Volume> {
    Ok(match platform::lasting(file) {
        Some(volume) => volume,
        None => Volume::Device(FileIdentity::of_file(file)?.device),
    })
}

/// Opens the file at `path` for a look at its attributes. Does not block, also on a FIFO.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)
}

/// The state of the file at `path`, as it is known after a restart of the system.
///
/// # Errors
/// When the file cannot be opened for reading.
pub fn file_key(path: &Path) -> io::Result<FileKey> {
    file_key_of(&open(path)?)
}

/// The state of an open file, as it is known after a restart of the system.
///
/// # Errors
/// When the system does not answer for the file.
pub fn file_key_of(file: &File) -> io::Result<FileKey> {
    Ok(FileIdentity::of_file(file)?.on(volume(file)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_one_folder_lie_on_one_volume() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, "a").unwrap();
        let key = file_key(&path).unwrap();
        assert_eq!(key.volume, volume(&File::open(folder.path()).unwrap()).unwrap());
        assert_eq!(key, FileIdentity::of(&std::fs::metadata(&path).unwrap()).on(key.volume));
        assert!(file_key(&folder.path().join("absent")).is_err());
    }
}
