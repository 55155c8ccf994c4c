//! Hints to the system about bytes that are read or written once. None of them changes what a file holds, and none is
//! worth an error.

use std::{fs::File, ops::Range};

/// Has the system start reading these bytes into memory. Waits for the disk only when its queue is full.
#[cfg(target_os = "linux")]
pub fn will_need(file: &File, range: Range<u64>) {
    let length = std::num::NonZero::new(range.end.saturating_sub(range.start));
    let _ = rustix::fs::fadvise(file, range.start, length, rustix::fs::Advice::WillNeed);
}

/// Has the system start reading these bytes into memory.
#[cfg(target_os = "macos")]
pub fn will_need(file: &File, range: Range<u64>) {
    let _ = rustix::fs::fcntl_rdadvise(file, range.start, range.end.saturating_sub(range.start));
}

/// Lets the system drop these bytes from memory, because nobody will read them soon. Mapped pages stay.
#[cfg(target_os = "linux")]
pub fn forget(file: &File, range: Range<u64>) {
    let length = std::num::NonZero::new(range.end.saturating_sub(range.start));
    let _ = rustix::fs::fadvise(file, range.start, length, rustix::fs::Advice::DontNeed);
}

/// Starts writing these bytes to the disk, while the caller makes others. Does not wait.
#[cfg(target_os = "linux")]
pub fn start_writing(file: &File, range: Range<u64>) {
    use std::os::fd::AsRawFd as _;
    let (Ok(start), Ok(length)) = (i64::try_from(range.start), i64::try_from(range.end.saturating_sub(range.start)))
    else {
        return;
    };
    // SAFETY: the descriptor is open, and the call takes only numbers beside it, no memory.
    let _ = unsafe { libc::sync_file_range(file.as_raw_fd(), start, length, libc::SYNC_FILE_RANGE_WRITE) };
}

/// Lets the system drop these bytes from memory, because nobody will read them soon. macOS has no ranges for this: from
/// now on no read through this descriptor keeps its bytes in memory.
#[cfg(target_os = "macos")]
pub fn forget(file: &File, _: Range<u64>) {
    let _ = rustix::fs::fcntl_nocache(file, true);
}

/// Does nothing: macOS decides when to write.
#[cfg(target_os = "macos")]
pub fn start_writing(_: &File, _: Range<u64>) {}
