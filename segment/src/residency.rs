//! Which pages of a file are in memory. The mappings made here have no access rights at all and are never
//! dereferenced; they exist because `mincore` speaks of addresses.

use std::{ffi::c_void, io, os::fd::BorrowedFd, ptr};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// How much is mapped at a time. Bounds the vector of `mincore`, which has one byte a page; a multiple of every page
/// size, so that every chunk begins at a page.
const CHUNK: usize = 1 << 30;

/// Resident bytes among the first `length` of a file.
pub(crate) fn resident_bytes(file: BorrowedFd<'_>, length: u64) -> io::Result<u64> {
    let page = rustix::param::page_size();
    let mut states = Vec::new();
    let mut resident = 0;
    let mut offset = 0;
    while offset < length {
        let rest = length - offset;
        let bytes = usize::try_from(rest).map_or(CHUNK, |rest| rest.min(CHUNK));
        let reserved = Reserved::map(file, offset, bytes)?;
        states.resize(bytes.div_ceil(page), 0_u8);
        reserved.states(&mut states)?;
        for (index, state) in states.iter().enumerate() {
            // Some systems leave the other bits undefined.
            if state & 1 == 1 {
                resident += page.min(bytes - index * page) as u64;
            }
        }
        offset += bytes as u64;
    }
    Ok(resident)
}

/// Reads the pages of `mapped` that are not in memory, in the order of the file, and returns their length in bytes.
/// `mapped` begins at a page boundary. Waits for the disk.
///
/// # Errors
/// The system cannot tell which pages are in memory.
pub(crate) fn page_in(mapped: &[u8]) -> io::Result<u64> {
    let page = rustix::param::page_size();
    let mut states = Vec::new();
    let mut read = 0;
    for chunk in mapped.chunks(CHUNK) {
        states.resize(chunk.len().div_ceil(page), 0_u8);
        // SAFETY: the range is that of a living slice at a page boundary, and the vector has one byte for each page.
        let result =
            unsafe { libc::mincore(chunk.as_ptr().cast_mut().cast(), chunk.len(), states.as_mut_ptr().cast()) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        for (index, _) in states.iter().enumerate().filter(|(_, state)| **state & 1 == 0) {
            std::hint::black_box(chunk[index * page]);
            read += page.min(chunk.len() - index * page) as u64;
        }
    }
    Ok(read)
}

/// A mapping that nobody may touch.
struct Reserved {
    start: *mut c_void,
    bytes: usize,
}

impl Reserved {
    fn map(file: BorrowedFd<'_>, offset: u64, bytes: usize) -> io::Result<Reserved> {
        // SAFETY: the kernel chooses the address, so no existing mapping is replaced.
        let start = unsafe { mmap(ptr::null_mut(), bytes, ProtFlags::empty(), MapFlags::SHARED, file, offset)? };
        Ok(Reserved { start, bytes })
    }

    /// One state a page; `states` must have as many elements as the mapping has pages.
    fn states(&self, states: &mut [u8]) -> io::Result<()> {
        assert_eq!(states.len(), self.bytes.div_ceil(rustix::param::page_size()));
        // SAFETY: the range is the mapping that `self` owns, and the vector has one byte for each of its pages.
        let result = unsafe { libc::mincore(self.start, self.bytes, states.as_mut_ptr().cast()) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        // SAFETY: `self` owns exactly this mapping, and no reference into it was ever made. Failure would leave the
        // reservation behind, which harms nobody.
        let _ = unsafe { munmap(self.start, self.bytes) };
    }
}
