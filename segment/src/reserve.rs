//! Room for a file before its bytes are there.

use std::{fs::File, io};

/// Gives a file a length and, where the file system can, the room for it, so that a disk that is too full says so now.
///
/// # Errors
/// There is no room, or the file cannot have that length.
#[cfg(target_os = "linux")]
pub fn reserve(file: &File, length: u64) -> io::Result<()> {
    use rustix::{
        fs::{FallocateFlags, fallocate},
        io::Errno,
    };
    if length == 0 {
        return Ok(());
    }
    match fallocate(file, FallocateFlags::empty(), 0, length) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => file.set_len(length),
        result => Ok(result?),
    }
}

/// Gives a file a length and, where the file system can, the room for it, so that a disk that is too full says so now.
///
/// # Errors
/// There is no room, or the file cannot have that length.
#[cfg(target_os = "macos")]
pub fn reserve(file: &File, length: u64) -> io::Result<()> {
    use std::os::{fd::AsRawFd as _, unix::fs::MetadataExt as _};

    use rustix::io::Errno;

    /// Bytes of a block in which the system counts what a file has.
    const BLOCK: u64 = 512;
    let missing = length.saturating_sub(file.metadata()?.blocks() * BLOCK);
    if missing > 0 {
        let mut wanted = libc::fstore_t {
            fst_flags: libc::F_ALLOCATEALL,
            fst_posmode: libc::F_PEOFPOSMODE,
            fst_offset: 0,
            fst_length: libc::off_t::try_from(missing).map_err(|_| io::ErrorKind::FileTooLarge)?,
            fst_bytesalloc: 0,
        };
        // SAFETY: the descriptor is open, and `fcntl` reads and writes the structure that this command takes.
        let done = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_PREALLOCATE, &raw mut wanted) };
        let error = io::Error::last_os_error();
        let is_unknown = matches!(Errno::from_io_error(&error), Some(Errno::NOTSUP | Errno::NOTTY | Errno::INVAL));
        if done == -1 && !is_unknown {
            return Err(error);
        }
    }
    file.set_len(length)
}
