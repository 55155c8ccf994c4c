//! Hints to the system about bytes that are read or written once. None of them changes what a file holds, and none is
//! worth an error.

use std::{fs::File, ops::Range};

/// The bytes will not be wanted again soon: they need not stay in memory. What somebody has mapped stays.
#[cfg(target_os = "linux")]
pub fn forget(file: &File, range: Range<u64>) {
    let length = std::num::NonZero::new(range.end.saturating_sub(range.start));
    let _ = rustix::fs::fadvise(file, range.start, length, rustix::fs::Advice::DontNeed);
}

/// The bytes were written and should go to the disk now, while others are being made. Nobody waits for it.
#[cfg(target_os = "linux")]
pub fn start_writing(file: &File, range: Range<u64>) {
    use std::os::fd::AsRawFd as _;
    let (Ok(start), Ok(length)) = (i64::try_from(range.start), i64::try_from(range.end.saturating_sub(range.start)))
    else {
        return;
    };
    // SAFETY: takes a descriptor that is open, and numbers; there is no memory in it.
    let _ = unsafe { libc::sync_file_range(file.as_raw_fd(), start, length, libc::SYNC_FILE_RANGE_WRITE) };
}

/// The bytes will not be wanted again soon. The system knows no ranges here: from now on nothing that is read through this
/// descriptor stays in memory for its sake.
#[cfg(target_os = "macos")]
pub fn forget(file: &File, _: Range<u64>) {
    let _ = rustix::fs::fcntl_nocache(file, true);
}

/// Nothing: the system does as it likes.
#[cfg(target_os = "macos")]
pub fn start_writing(_: &File, _: Range<u64>) {}
