//! Files that stay in memory: their pages are locked for as long as a value lives.

use std::{fs::File, io};

use memmap2::{Mmap, MmapOptions};
use rustix::process::{Resource, getrlimit};

/// A range of a file whose pages the system keeps in memory. Nobody looks at the bytes through it, so a file that is cut
/// meanwhile ends nothing.
#[derive(Debug)]
pub struct LockedRange(Mmap);

impl LockedRange {
    /// Reads `length` bytes from `offset` into memory and locks them there. Takes as long as reading them does.
    ///
    /// # Errors
    /// When the file cannot be mapped, or the system locks no more for this process (`RLIMIT_MEMLOCK`).
    pub fn new(file: &File, offset: u64, length: usize) -> io::Result<Self> {
        // SAFETY: nobody reads the mapping: no reference to its bytes is ever made, here or through the type.
        let mapping = unsafe { MmapOptions::new().offset(offset).len(length).map(file)? };
        mapping.lock()?;
        Ok(Self(mapping))
    }

    /// Bytes that are locked.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.0.len() as u64
    }
}

/// Bytes that this process may lock in all; `None`: as many as it likes.
#[must_use]
pub fn limit() -> Option<u64> {
    // A process with CAP_IPC_LOCK may lock more, which only trying tells.
    getrlimit(Resource::Memlock).current
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_locked_range_survives_a_cut_of_its_file() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&vec![7; 256 << 10]).unwrap();
        // Where a process may lock next to nothing there is nothing to be seen.
        let Ok(locked) = LockedRange::new(file.as_file(), 64 << 10, 64 << 10) else { return };
        assert_eq!(locked.length(), 64 << 10);
        file.as_file().set_len(0).unwrap();
        drop(locked);
        let error = LockedRange::new(file.as_file(), 0, 64 << 10);
        assert!(error.is_err(), "there is nothing to lock");
    }
}
