//! The image while it is being made: how its bytes are stored is chosen by the file system.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    sync::{Mutex, PoisonError},
};

use weightsd_segment::{Store, advice};

/// A file of its final length that several threads write to.
#[derive(Debug)]
pub(super) struct ImageFile<'a> {
    file: &'a File,
    way: Way,
}

#[derive(Debug)]
enum Way {
    /// Into its mapped pages, by all threads at once. For file systems that are memory: on a disk's, faults of pages are
    /// slower than writes.
    Stored(Store),
    /// Through the file, in turn: the kernel lets one writer at a time into a file and makes the others spin; a lock lets them
    /// sleep and leaves the processors to those who compute. More writers at once were no faster on 16 processors.
    Written(Mutex<()>),
}

impl<'a> ImageFile<'a> {
    /// A file that is open for reading and writing.
    pub(super) fn of(file: &'a File) -> Self {
        let stored = weightsd_segment::is_memory_file(file).then(|| Store::of(file).ok()).flatten();
        Self { file, way: stored.map_or_else(|| Way::Written(Mutex::new(())), Way::Stored) }
    }

    /// Writes bytes from byte `start` on.
    ///
    /// # Errors
    /// There is no room, or the system does not let it write.
    pub(super) fn write(&self, bytes: &[u8], start: u64) -> io::Result<()> {
        match &self.way {
            Way::Stored(store) => store.write_all_at(bytes, start),
            Way::Written(turns) => {
                let turn = turns.lock().unwrap_or_else(PoisonError::into_inner);
                self.file.write_all_at(bytes, start)?;
                drop(turn);
                advice::start_writing(self.file, start..start + bytes.len() as u64);
                Ok(())
            }
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn memory_is_stored_to_and_a_disk_is_written_to() {
        for (folder, is_stored) in [("/dev/shm", true), (env!("CARGO_MANIFEST_DIR"), false)] {
            let file = tempfile::tempfile_in(folder).unwrap();
            file.set_len(10).unwrap();
            let image = ImageFile::of(&file);
            assert_eq!(matches!(image.way, Way::Stored(_)), is_stored, "{folder}");
            image.write(b"bytes", 3).unwrap();
            let mut found = [0; 10];
            file.read_exact_at(&mut found, 0).unwrap();
            assert_eq!(&found, b"\0\0\0bytes\0\0");
        }
    }
}
