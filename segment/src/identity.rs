//! Identity of files: device, inode, length and times.

use std::{
    fs::{File, Metadata},
    io,
    os::unix::fs::MetadataExt,
};

use serde::{Deserialize, Serialize};
use weightsd_core::identity::{FileKey, Volume};

/// The identity of a file in one state. Two equal identities mean the same file with the same content, as far as the
/// system tells, for as long as its volume stays mounted. Only deliberate deception changes content without changing one
/// of these fields. What outlives a mount is kept under a [`FileKey`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileIdentity {
    /// Device number.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Length in bytes.
    pub length: u64,
    /// Time of the last change of content, in nanoseconds since 1970.
    pub modified_ns: i64,
    /// Time of the last change of content or attributes, in nanoseconds since 1970.
    pub changed_ns: i64,
}

impl FileIdentity {
    /// The identity in a file's metadata.
    #[must_use]
    pub fn of(metadata: &Metadata) -> FileIdentity {
        FileIdentity {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.size(),
            modified_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// The identity of an open file, now (`fstat`).
    ///
    /// # Errors
    /// When the system does not answer for the file.
    pub fn of_file(file: &File) -> io::Result<FileIdentity> {
        Ok(FileIdentity::of(&file.metadata()?))
    }

    /// The same state, as it is known after the volume was mounted again.
    #[must_use]
    pub const fn on(&self, volume: Volume) -> FileKey {
        let FileIdentity { device: _, inode, length, modified_ns, changed_ns } = *self;
        FileKey { volume, inode, length, modified_ns, changed_ns }
    }
}

/// Saturates, because anybody may give a file a time in the year 5000, and such a file must still be comparable.
fn nanoseconds(seconds: i64, rest: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write as _, os::unix::fs::FileExt as _, thread::sleep, time::Duration};

    use super::*;

    // The kernel stamps files with a coarse clock. Without a pause two changes can have the same time.
    fn tick() {
        sleep(Duration::from_millis(15));
    }

    #[test]
    fn an_untouched_file_keeps_its_identity() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let first = FileIdentity::of_file(file.as_file()).unwrap();
        tick();
        fs::read(file.path()).unwrap();
        assert_eq!(FileIdentity::of(&fs::metadata(file.path()).unwrap()), first);
    }

    #[test]
    fn writing_truncating_and_replacing_change_the_identity() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, b"12345678").unwrap();
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        let original = FileIdentity::of_file(&file).unwrap();
        tick();

        file.write_all_at(b"x", 0).unwrap();
        let written = FileIdentity::of_file(&file).unwrap();
        assert_eq!((written.length, written.inode), (original.length, original.inode));
        assert_ne!(written, original);

        file.set_len(4).unwrap();
        let truncated = FileIdentity::of_file(&file).unwrap();
        assert_eq!(truncated.length, 4);

        let mut other = tempfile::NamedTempFile::new_in(folder.path()).unwrap();
        other.write_all(b"1234").unwrap();
        other.persist(&path).unwrap();
        let replaced = FileIdentity::of(&fs::metadata(&path).unwrap());
        assert_ne!(replaced.inode, truncated.inode);
        // The open descriptor is still the old file. Only its link count, and so its ctime, has changed.
        assert_eq!(FileIdentity::of_file(&file).unwrap().inode, original.inode);
    }

    #[test]
    fn restoring_the_modification_time_does_not_restore_the_identity() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let modified = file.as_file().metadata().unwrap().modified().unwrap();
        let original = FileIdentity::of_file(file.as_file()).unwrap();
        tick();
        file.as_file().set_modified(modified).unwrap();
        let touched = FileIdentity::of_file(file.as_file()).unwrap();
        assert_eq!(touched.modified_ns, original.modified_ns);
        assert_ne!(touched, original);
    }

    #[test]
    fn absurd_times_saturate() {
        assert_eq!(nanoseconds(i64::MAX, 1), i64::MAX);
        assert_eq!(nanoseconds(i64::MIN, 0), i64::MIN);
        assert_eq!(nanoseconds(-1, 5), -999_999_995);
    }
}
