use std::{fs::File, io};

/// Gives a file a length and, where the file system can, the room for it, so that a disk that is too full says so now.
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

/// Gives a file a length.
#[cfg(not(target_os = "linux"))]
pub fn reserve(file: &File, length: u64) -> io::Result<()> {
    file.set_len(length)
}
