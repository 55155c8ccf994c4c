//! Waiting until a file is on the disk, on file systems that cannot promise it fully.

use std::{fs::File, io};

use rustix::io::Errno;

/// Waits until the content and metadata of `file`, or of a folder opened as a file, have left this machine's memory.
///
/// On macOS the standard library asks the disk itself to empty its cache (`F_FULLFSYNC`), which SMB and exFAT volumes do
/// not know. There this waits as far as such a volume can.
///
/// # Errors
/// The file system fails to write.
pub fn sync(file: &File) -> io::Result<()> {
    fully_or_plainly(|| file.sync_all(), || Ok(rustix::fs::fsync(file)?))
}

fn fully_or_plainly(
    fully: impl FnOnce() -> io::Result<()>,
    plainly: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    match fully().map_err(|error| (Errno::from_io_error(&error), error)) {
        Err((Some(Errno::NOTSUP | Errno::NOTTY | Errno::INVAL), _)) => plainly(),
        Err((_, error)) => Err(error),
        Ok(()) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_without_a_full_sync_gets_a_plain_one_and_a_failed_write_is_an_error() {
        let outcome = |errno: Errno| fully_or_plainly(|| Err(errno.into()), || Ok(()));
        for unknown in [Errno::NOTSUP, Errno::NOTTY, Errno::INVAL] {
            outcome(unknown).unwrap();
        }
        assert_eq!(outcome(Errno::IO).unwrap_err().raw_os_error(), Some(Errno::IO.raw_os_error()));
        let failed = fully_or_plainly(|| Err(Errno::NOTTY.into()), || Err(Errno::NOSPC.into()));
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn files_and_folders_are_synced() {
        let folder = tempfile::tempdir().unwrap();
        sync(&File::create(folder.path().join("a")).unwrap()).unwrap();
        sync(&File::open(folder.path()).unwrap()).unwrap();
    }
}
