//! A file as read-only memory. Maps it only when its identity is the expected one.

use std::{
    fs::File,
    io,
    ops::Range,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;
use thiserror::Error;

use crate::{FileIdentity, mapping::Mapping, residency};

/// Why a file could not be mapped.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MapError {
    /// The path cannot be opened.
    #[error("cannot open {}", path.display())]
    Open {
        /// The path.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file's metadata cannot be read.
    #[error("cannot read the identity of the file")]
    Identity(#[source] io::Error),
    /// It is another file, or the same file in another state.
    #[error("the file is not the one that was lent: expected {expected:?}, found {found:?}")]
    Changed {
        /// The expected identity.
        expected: FileIdentity,
        /// The identity found.
        found: FileIdentity,
    },
    /// The file is too long for this machine's addresses.
    #[error("a file of {0} bytes does not fit the address space")]
    TooLong(u64),
    /// The system refuses to map it.
    #[error("cannot map the file")]
    Map(#[source] io::Error),
}

/// A whole file, mapped shared and read-only: the same physical pages in every process that maps it.
///
/// # Hazard
///
/// The bytes of a file belong to everyone who may write to it. If somebody truncates this file while it is mapped,
/// touching a page beyond the new end kills this process with SIGBUS; if somebody writes to it in place, the bytes
/// change under a `&[u8]`, which Rust's rules do not allow. No system offers a mapping of an ordinary file that is
/// free of this. `&[u8]` is offered all the same, because every consumer of weights wants one and the alternatives
/// (copies, or volatile reads of single bytes) defeat the purpose; what makes it sound in practice is that blobs of
/// the Hugging Face cache are never written again once they have their names, that the identity of every file is
/// compared before it is mapped, and that the daemon tells its clients when a file changes.
#[derive(Debug)]
pub struct View {
    map: Mapping,
    identity: FileIdentity,
}

impl View {
    /// Maps an open file, if it is the expected one in the expected state. The file may be closed afterwards.
    ///
    /// # Errors
    /// When the file is not the one of `identity`, is empty, or cannot be mapped.
    pub fn map(file: &File, expected: &FileIdentity) -> Result<View, MapError> {
        let found = FileIdentity::of_file(file).map_err(MapError::Identity)?;
        if found != *expected {
            return Err(MapError::Changed { expected: *expected, found });
        }
        View::of(file, found)
    }

    /// Maps a file that [`sealed`](crate::sealed()) made. Nobody can have changed it.
    ///
    /// # Errors
    /// When it cannot be mapped.
    pub fn map_sealed(file: &File) -> Result<View, MapError> {
        View::of(file, FileIdentity::of_file(file).map_err(MapError::Identity)?)
    }

    fn of(file: &File, identity: FileIdentity) -> Result<View, MapError> {
        let length = usize::try_from(identity.length).map_err(|_| MapError::TooLong(identity.length))?;
        let map = Mapping::of(file, length).map_err(MapError::Map)?;
        Ok(View { map, identity })
    }

    /// Opens and maps the file at a path, if it is the expected one in the expected state. Never blocks on a FIFO. The file
    /// may be closed afterwards.
    ///
    /// # Errors
    /// When the path cannot be opened or is not the file of `identity`, or the file cannot be mapped.
    pub fn open_and_map(path: &Path, expected: &FileIdentity) -> Result<(File, View), MapError> {
        let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = File::options()
            .read(true)
            .custom_flags(flags.bits().cast_signed())
            .open(path)
            .map_err(|source| MapError::Open { path: path.to_owned(), source })?;
        let view = View::map(&file, expected)?;
        Ok((file, view))
    }

    /// The bytes in a range, or `None` when the range leaves the file.
    #[must_use]
    pub fn bytes(&self, offset: u64, length: u64) -> Option<&[u8]> {
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(usize::try_from(length).ok()?)?;
        self.map.bytes().get(start..end)
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.map.bytes().len()
    }

    /// Whether the file has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Address of the first byte, which is at a page boundary unless the file is empty. On Linux the eight bytes in
    /// front of it are mapped too and hold the length, which is how the allocator of MLX's CPU backend knows a buffer.
    #[must_use]
    pub fn as_ptr(&self) -> *const u8 {
        self.map.bytes().as_ptr()
    }

    /// Brings the bytes of a range, as far as the file has them, into memory and waits for the disk. A GPU that has to wait
    /// for a slow disk gives up, and the process ends. Returns how many bytes were not in memory before.
    ///
    /// # Errors
    /// The system cannot tell which pages are in memory.
    pub fn page_in(&self, bytes: Range<u64>) -> io::Result<u64> {
        let page = rustix::param::page_size();
        let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(self.len());
        let (start, end) = (place(bytes.start) / page * page, place(bytes.end));
        self.map.bytes().get(start..end).map_or(Ok(0), residency::page_in)
    }

    /// The file that is mapped, in the state in which it was mapped.
    #[must_use]
    pub fn identity(&self) -> &FileIdentity {
        &self.identity
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, thread::sleep, time::Duration};

    use super::*;

    #[test]
    fn a_view_shows_the_file_even_when_its_name_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, b"0123456789").unwrap();
        let identity = FileIdentity::of(&fs::metadata(&path).unwrap());
        let (_, view) = View::open_and_map(&path, &identity).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!((view.len(), view.is_empty()), (10, false));
        assert_eq!(view.as_ptr().align_offset(4096), 0);
        let table: &[(u64, u64, Option<&[u8]>)] = &[
            (0, 10, Some(b"0123456789")),
            (3, 2, Some(b"34")),
            (10, 0, Some(b"")),
            (0, 11, None),
            (11, 0, None),
            (u64::MAX, 1, None),
            (1, u64::MAX, None),
        ];
        for (offset, length, expected) in table {
            assert_eq!(view.bytes(*offset, *length), *expected, "{offset}+{length}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn cold_pages_are_brought_in() {
        // A file system without a disk keeps its pages, despite the hint.
        let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        file.set_len(1 << 20).unwrap();
        file.sync_all().unwrap();
        let view = View::map(&file, &FileIdentity::of_file(&file).unwrap()).unwrap();
        crate::advice::forget(&file, 0..1 << 20);
        assert_eq!(view.page_in(5000..5001).unwrap(), 905, "the rest of the page before the range's end");
        assert_eq!(view.page_in(5000..5001).unwrap(), 0);
        assert!(view.page_in(0..u64::MAX).unwrap() < 1 << 20, "what is there is not read again");
        assert_eq!(view.page_in(0..u64::MAX).unwrap(), 0);
    }

    #[test]
    fn an_empty_file_is_an_empty_view() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let identity = FileIdentity::of_file(file.as_file()).unwrap();
        let view = View::map(file.as_file(), &identity).unwrap();
        assert!(view.is_empty());
        assert_eq!(view.bytes(0, 0), Some(&[][..]));
    }

    #[test]
    fn a_changed_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, b"0123456789").unwrap();
        let expected = FileIdentity::of(&fs::metadata(&path).unwrap());
        sleep(Duration::from_millis(15));
        fs::write(&path, b"9876543210").unwrap();
        let error = View::open_and_map(&path, &expected).unwrap_err();
        assert!(matches!(error, MapError::Changed { .. }), "{error}");
        let error = View::open_and_map(&folder.path().join("b"), &expected).unwrap_err();
        assert!(matches!(error, MapError::Open { .. }), "{error}");
    }
}
