//! A file of known length as memory that several threads write to.

use std::{
    fs::File,
    io,
    ops::Range,
    sync::{Mutex, PoisonError},
};

use memmap2::{MmapOptions, MmapRaw};

/// A file, mapped for writing. Where a file system is memory, storing into its pages scales with the processors, and
/// writing through the file does not: the kernel lets one writer at a time into a file.
///
/// The file must keep its length while this lives: it is the writer's own, under a name that nobody else uses.
#[derive(Debug)]
pub struct Store {
    map: MmapRaw,
    /// What threads write at this moment.
    busy: Mutex<Vec<Range<usize>>>,
}

impl Store {
    /// Maps a file, which must be open for reading and writing.
    ///
    /// # Errors
    /// When the file is empty or cannot be mapped, or the system does not bring in pages for writing (Linux before 5.14).
    pub fn of(file: &File) -> io::Result<Self> {
        let map = MmapOptions::new().map_raw(file)?;
        let store = Self { map, busy: Mutex::new(Vec::new()) };
        store.bring_in(&(0..1))?;
        Ok(store)
    }

    /// Stores bytes from byte `start` of the file on.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`] where there is no memory for the pages; [`io::ErrorKind::InvalidInput`] where the bytes
    /// leave the file, or another thread writes to the same place.
    pub fn write_all_at(&self, bytes: &[u8], start: u64) -> io::Result<()> {
        let length = self.map.len();
        let range = usize::try_from(start).ok().and_then(|start| Some(start..start.checked_add(bytes.len())?));
        let range = range.filter(|range| range.end <= length).ok_or(io::ErrorKind::InvalidInput)?;
        if range.is_empty() {
            return Ok(());
        }
        let _claim = self.claim(range.clone())?;
        self.bring_in(&range)?;
        // SAFETY: the range lies in the mapping, which is of a file that keeps its length, and its pages were just brought in.
        // Nobody has a reference into the mapping, and no other thread writes to this range while it is claimed.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.map.as_mut_ptr().add(range.start), range.len()) };
        Ok(())
    }

    /// Brings pages in for writing. Where there is no room for them this is an error, and touching them would be a signal.
    fn bring_in(&self, range: &Range<usize>) -> io::Result<()> {
        let page = rustix::param::page_size();
        let start = range.start / page * page;
        platform::bring_in(&self.map, start, range.end - start)
    }

    fn claim(&self, range: Range<usize>) -> io::Result<Claim<'_>> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if busy.iter().any(|other| other.start < range.end && range.start < other.end) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        busy.push(range.clone());
        Ok(Claim { store: self, range })
    }
}

/// A range that one thread writes to.
struct Claim<'a> {
    store: &'a Store,
    range: Range<usize>,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut busy = self.store.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = busy.iter().position(|range| *range == self.range) {
            busy.swap_remove(place);
        }
    }
}

#[cfg(target_os = "linux")]
mod platform {
    use std::io;

    use memmap2::{Advice, MmapRaw};
    use rustix::io::Errno;

    pub(super) fn bring_in(map: &MmapRaw, start: usize, length: usize) -> io::Result<()> {
        map.advise_range(Advice::PopulateWrite, start, length).map_err(|error| match Errno::from_io_error(&error) {
            // The page has no room: without this call the process would be ended by SIGBUS.
            Some(Errno::FAULT | Errno::NOMEM) => io::ErrorKind::StorageFull.into(),
            _ => error,
        })
    }
}

#[cfg(not(target_os = "linux"))]
mod platform {
    use std::io;

    use memmap2::MmapRaw;

    /// Refuses: no other system says in time that there is no room.
    pub(super) fn bring_in(_: &MmapRaw, _: usize, _: usize) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::thread;

    use super::*;

    fn file(length: u64) -> File {
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        file.set_len(length).unwrap();
        file
    }

    fn content(file: &File) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
        std::os::unix::fs::FileExt::read_exact_at(file, &mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn threads_fill_a_file_whose_parts_begin_anywhere() {
        let file = file(100_003);
        let store = Store::of(&file).unwrap();
        let expected: Vec<u8> = (0..100_003_u32).map(|at| u8::try_from(at % 251).unwrap()).collect();
        thread::scope(|scope| {
            for part in 0..7_usize {
                let (store, expected) = (&store, &expected);
                scope.spawn(move || {
                    for at in (part * 1_000..expected.len()).step_by(7_000) {
                        let end = (at + 1_000).min(expected.len());
                        store.write_all_at(&expected[at..end], at as u64).unwrap();
                    }
                });
            }
        });
        assert_eq!(content(&file), expected);
    }

    #[test]
    fn what_leaves_the_file_or_is_being_written_is_refused() {
        let file = file(4096);
        let store = Store::of(&file).unwrap();
        for start in [4096, 4090, u64::MAX] {
            assert_eq!(store.write_all_at(&[1; 8], start).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{start}");
        }
        let claim = store.claim(10..20).unwrap();
        assert_eq!(store.write_all_at(&[1; 8], 19).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        store.write_all_at(&[1; 8], 20).unwrap();
        drop(claim);
        store.write_all_at(&[2; 8], 19).unwrap();
        store.write_all_at(&[], 4096).unwrap();
        assert_eq!(content(&file)[18..29], [0, 2, 2, 2, 2, 2, 2, 2, 2, 1, 0]);
    }

    #[test]
    fn a_full_file_system_is_an_error_and_not_a_signal() {
        // A memory file whose length is sealed has no limit; one that was cut short behaves as a full file system does.
        let file = file(1 << 20);
        let store = Store::of(&file).unwrap();
        file.set_len(4096).unwrap();
        assert_eq!(store.write_all_at(&[1; 8], 8192).unwrap_err().kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn an_empty_file_cannot_be_mapped() {
        assert!(Store::of(&file(0)).is_err());
    }
}
