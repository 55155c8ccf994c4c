//! A mapping with a page of this process's own in front, for the allocator of MLX's CPU backend.

use std::{ffi::c_void, fs::File, io};

use memmap2::{MmapMut, MmapOptions};
use rustix::mm::{MapFlags, ProtFlags, mmap};

/// A mapping of a whole file, with a page of this process's own in front of it whose last eight bytes hold the length.
///
/// The allocator of MLX's CPU backend reads a buffer's length in front of its data. With the length there, MLX uses the
/// file's pages without a copy. Nothing else needs it, and it costs one page.
#[derive(Debug)]
pub(crate) struct Mapping {
    /// The front page, and then the file.
    region: MmapMut,
    front: usize,
    length: usize,
}

impl Mapping {
    pub(crate) fn of(file: &File, length: usize) -> io::Result<Mapping> {
        let front = rustix::param::page_size();
        let whole = length.checked_add(front).ok_or(io::ErrorKind::OutOfMemory)?;
        // NORESERVE, because the file replaces most of this region.
        let mut region = MmapOptions::new().len(whole).no_reserve_swap().map_anon()?;
        region[front - size_of::<usize>()..front].copy_from_slice(&length.to_ne_bytes());
        if length > 0 {
            let place = region[front..].as_mut_ptr().cast::<c_void>();
            // SAFETY: the range is a part of `region`, begins at a page, and no reference into it is alive; so what is
            // replaced is nobody else's. `region` unmaps all of it, whatever it is by then. The pages are readable only,
            // and `bytes` is the only way to them. That nobody writes to the file while it is mapped is the convention
            // that `View` describes; it cannot be proved here.
            unsafe { mmap(place, length, ProtFlags::READ, MapFlags::SHARED | MapFlags::FIXED, file, 0)? };
        }
        Ok(Mapping { region, front, length })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.region[self.front..self.front + self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_stands_in_front_of_the_bytes() {
        for length in [0, 1, 4095, 4096, 100_000_usize] {
            let file = tempfile::tempfile().unwrap();
            file.set_len(length as u64).unwrap();
            let mapping = Mapping::of(&file, length).unwrap();
            assert_eq!(mapping.bytes(), vec![0; length]);
            let front = &mapping.region[mapping.front - 8..mapping.front];
            assert_eq!(front, length.to_ne_bytes());
            assert!(mapping.bytes().as_ptr().addr().is_multiple_of(mapping.front));
        }
    }
}
