//! A mapping of the file and nothing else.

use std::{fs::File, io};

use memmap2::{Mmap, MmapOptions};

/// A mapping of a whole file. Metal wraps it as it is.
#[derive(Debug)]
pub(crate) struct Mapping(Mmap);

impl Mapping {
    pub(crate) fn of(file: &File, length: usize) -> io::Result<Mapping> {
        // SAFETY: the mapping is read-only and owned by `Mapping`, which hands out slices that borrow it. That nobody
        // writes to the file while it is mapped is the convention that `View` describes; it cannot be proved here.
        unsafe { MmapOptions::new().len(length).map(file) }.map(Mapping)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}
