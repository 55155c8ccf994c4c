//! Files that are held open for reading.

use std::{
    fs::{File, FileType, Metadata, OpenOptions},
    io,
    ops::Range,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;
use thiserror::Error;
use weightsd_core::identity::{FileKey, Volume};

use crate::{FileIdentity, advice, reflink, residency, volume::volume};

/// A path that should be a regular file is something else. Travels inside an [`io::Error`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{} is a {kind}, not a regular file", path.display())]
pub struct NotRegular {
    /// The path.
    pub path: PathBuf,
    /// What it is instead.
    pub kind: &'static str,
}

/// Bytes that are asked for at once: Linux reads no more on one request than its default readahead, on some disks.
const STEP: u64 = 128 << 10;
/// Bytes that are on their way from the disk while one waits for the first of them.
const AHEAD: u64 = 16 << 20;

/// The kind of a file whose content is still in a cloud.
const PLACEHOLDER: &str = "placeholder of a file in a cloud (download it in Finder first)";

/// A file held open for reading, with the identity it had when it was opened.
///
/// The daemon holds files in this form. It can read at a position and ask which pages are in memory. It has no mapping
/// to dereference, so a file that somebody truncates causes an error and does not kill the process.
#[derive(Debug)]
pub struct PinnedFile {
    file: File,
    path: PathBuf,
    identity: FileIdentity,
    volume: Volume,
}

impl PinnedFile {
    /// Opens a regular file for reading. Refuses anything else, with a [`NotRegular`] inside the error. Does not block,
    /// also on a FIFO without a writer.
    ///
    /// # Errors
    /// When `path` cannot be opened, or is no regular file.
    pub fn open(path: impl Into<PathBuf>) -> io::Result<PinnedFile> {
        PinnedFile::open_with(path.into(), OFlags::empty())
    }

    /// Like [`open`](Self::open), for a file that this process's user made: refuses a link, and a file of another user.
    ///
    /// # Errors
    /// When `path` cannot be opened, is no regular file, or is not this user's.
    pub fn open_own(path: impl Into<PathBuf>) -> io::Result<PinnedFile> {
        let opened = PinnedFile::open_with(path.into(), OFlags::NOFOLLOW)?;
        let (owner, user) = (opened.file.metadata()?.uid(), rustix::process::geteuid().as_raw());
        if owner != user {
            let message = format!("{} belongs to uid {owner}, not to {user}", opened.path.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
        }
        Ok(opened)
    }

    fn open_with(path: PathBuf, more: OFlags) -> io::Result<PinnedFile> {
        let flags = OFlags::NONBLOCK | OFlags::NOCTTY | more;
        let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(&path)?;
        let metadata = file.metadata()?;
        let kind = match describe(metadata.file_type()) {
            None if is_placeholder(&metadata) => Some(PLACEHOLDER),
            kind => kind,
        };
        if let Some(kind) = kind {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, NotRegular { path, kind }));
        }
        // The flag was for opening only. Borrowers of the descriptor get an ordinary one.
        rustix::fs::fcntl_setfl(&file, OFlags::empty())?;
        Ok(PinnedFile { identity: FileIdentity::of(&metadata), volume: volume(&file)?, file, path })
    }

    /// A clone of the file in the state in which it was opened, which nobody can write to, with the same path. `None` where the
    /// file system cannot clone, or the folder of the file cannot be written to. May wait for what was written to the file to
    /// reach the disk.
    ///
    /// # Errors
    /// When the file is no longer in the state in which it was opened.
    pub fn cloned(&self) -> io::Result<Option<PinnedFile>> {
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        let Ok(file) = reflink::clone_of(&self.file, folder) else { return Ok(None) };
        // Looked at afterwards: what is the same now was the same when it was cloned.
        if !self.is_unchanged() {
            let message = format!("{} changed while it was cloned", self.path.display());
            return Err(io::Error::other(message));
        }
        let identity = FileIdentity::of_file(&file)?;
        Ok(Some(PinnedFile { identity, volume: self.volume, path: self.path.clone(), file }))
    }

    /// The path that was opened. By now it may name another file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The identity it had when it was opened.
    #[must_use]
    pub fn identity(&self) -> &FileIdentity {
        &self.identity
    }

    /// The state it had when it was opened, as it is known after a restart of the system.
    #[must_use]
    pub const fn key(&self) -> FileKey {
        self.identity.on(self.volume)
    }

    /// The identity it has now. If it differs from [`identity`](Self::identity), the content may have changed.
    ///
    /// # Errors
    /// When the system does not answer for the file.
    pub fn current_identity(&self) -> io::Result<FileIdentity> {
        FileIdentity::of_file(&self.file)
    }

    /// Whether the file has the identity that it had when it was opened.
    #[must_use]
    pub fn is_unchanged(&self) -> bool {
        self.current_identity().is_ok_and(|now| now == self.identity)
    }

    /// Whether the file has the bytes that it had when it was opened. Deleting a file, or replacing it by another one
    /// under its name, sets `changed_ns` and nothing else, so holders still read the same bytes.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        let then = self.identity;
        self.file.metadata().is_ok_and(|metadata| {
            let now = FileIdentity::of(&metadata);
            now == then || (metadata.nlink() == 0 && FileIdentity { changed_ns: then.changed_ns, ..now } == then)
        })
    }

    /// The open file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Fills `buffer` from the bytes at `offset`; `UnexpectedEof` when the file ends before.
    ///
    /// # Errors
    /// When the file ends before, or the system cannot read it.
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    /// Brings these bytes into memory, as fast as the disk gives them, and calls `alive` now and then. What is in memory
    /// costs little.
    ///
    /// # Errors
    /// When the file ends before, or the system cannot read it.
    pub fn read_ahead(&self, range: Range<u64>, alive: impl Fn()) -> io::Result<()> {
        let steps = |from: u64| (from..range.end).step_by(STEP as usize);
        let ask = |at: u64| advice::will_need(&self.file, at..(at + STEP).min(range.end));
        steps(range.start).take_while(|at| *at < range.start + AHEAD).for_each(ask);
        for at in steps(range.start) {
            if at + AHEAD < range.end {
                ask(at + AHEAD);
            }
            // Two bytes of a step wait for the step, and copy nothing worth mentioning.
            self.read_exact_at(&mut [0], at)?;
            self.read_exact_at(&mut [0], (at + STEP).min(range.end) - 1)?;
            alive();
        }
        Ok(())
    }

    /// Whether so much of the file was never written that reading it would bring zeros into memory, for the most part.
    #[must_use]
    pub fn is_sparse(&self) -> bool {
        const BLOCK: u64 = 512;
        // A file system that compresses may have a fraction of the bytes.
        self.file.metadata().is_ok_and(|metadata| metadata.blocks() * BLOCK < metadata.len() / 16)
    }

    /// How many bytes of the file are in memory now. Costs a walk over its page tables.
    ///
    /// Linux answers only the file's owner and users who may write to it. For others every page counts as resident.
    ///
    /// # Errors
    /// When the file cannot be mapped, or the system does not tell.
    pub fn resident_bytes(&self) -> io::Result<u64> {
        residency::resident_bytes(self.file.as_fd(), self.identity.length)
    }
}

impl AsFd for PinnedFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The kind of a file that is not regular; `None` for a regular file.
fn describe(kind: FileType) -> Option<&'static str> {
    match kind {
        kind if kind.is_file() => None,
        kind if kind.is_dir() => Some("directory"),
        kind if kind.is_fifo() => Some("FIFO"),
        kind if kind.is_socket() => Some("socket"),
        kind if kind.is_block_device() => Some("block device"),
        kind if kind.is_char_device() => Some("character device"),
        _ => Some("special file"),
    }
}

/// Whether the content of a file is still in a cloud (iCloud's "Optimise Mac Storage", Dropbox, OneDrive). Its first
/// read waits for a download that nothing can interrupt.
#[cfg(target_os = "macos")]
fn is_placeholder(metadata: &Metadata) -> bool {
    use std::os::macos::fs::MetadataExt as _;

    /// `SF_DATALESS` of `sys/stat.h`.
    const DATALESS: u32 = 0x4000_0000;
    metadata.st_flags() & DATALESS != 0
}

/// No file system of this platform says so.
#[cfg(not(target_os = "macos"))]
fn is_placeholder(_: &Metadata) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write as _, os::unix::fs::PermissionsExt as _, process::Command};

    use super::*;

    fn refusal(path: &Path) -> NotRegular {
        let error = PinnedFile::open(path).unwrap_err();
        error.get_ref().and_then(|inner| inner.downcast_ref::<NotRegular>()).cloned().unwrap()
    }

    #[test]
    fn an_own_file_is_no_link_and_nobody_else_s() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, "x").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        PinnedFile::open_own(&file).unwrap();
        PinnedFile::open(&link).unwrap();
        PinnedFile::open_own(&link).unwrap_err();
        if std::os::unix::fs::chown(&file, Some(4321), None).is_ok() {
            let error = PinnedFile::open_own(&file).unwrap_err();
            assert!(error.to_string().contains("belongs to uid 4321"), "{error}");
        }
    }

    #[test]
    fn only_regular_files_are_opened_and_nothing_blocks() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        assert_eq!(refusal(&fifo).kind, "FIFO");
        assert_eq!(refusal(folder.path()).kind, "directory");
        assert_eq!(refusal(Path::new("/dev/null")).kind, "character device");
        assert!(refusal(&fifo).to_string().ends_with("fifo is a FIFO, not a regular file"));
        let absent = PinnedFile::open(folder.path().join("absent")).unwrap_err();
        assert_eq!(absent.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn reading_is_positioned_and_survives_truncation() {
        let mut temporary = tempfile::NamedTempFile::new().unwrap();
        temporary.write_all(b"0123456789").unwrap();
        let pinned = PinnedFile::open(temporary.path()).unwrap();
        assert_eq!(pinned.identity().length, 10);
        let mut buffer = [0; 4];
        pinned.read_exact_at(&mut buffer, 6).unwrap();
        assert_eq!(&buffer, b"6789");
        assert!(pinned.is_unchanged() && pinned.is_intact());

        temporary.as_file().set_len(7).unwrap();
        assert!(!pinned.is_unchanged() && !pinned.is_intact());
        let error = pinned.read_exact_at(&mut buffer, 6).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        pinned.resident_bytes().unwrap();
    }

    #[test]
    fn what_is_read_ahead_is_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let length = 3 * AHEAD / 2 + 12_345;
        fs::write(&path, vec![7; usize::try_from(length).unwrap()]).unwrap();
        let pinned = PinnedFile::open(&path).unwrap();
        pinned.file().sync_all().unwrap();
        advice::forget(pinned.file(), 0..length);
        let alive = std::cell::Cell::new(0);
        pinned.read_ahead(0..length, || alive.set(alive.get() + 1)).unwrap();
        assert_eq!((pinned.resident_bytes().unwrap(), alive.get()), (length, length.div_ceil(STEP)));
        assert!(!pinned.is_sparse());
        pinned.read_ahead(length..length, || panic!("there is nothing to read")).unwrap();
        pinned.read_ahead(0..length + 1, || ()).unwrap_err();
        let sparse = folder.path().join("sparse");
        File::create(&sparse).unwrap().set_len(1 << 30).unwrap();
        assert!(PinnedFile::open(&sparse).unwrap().is_sparse());
    }

    #[test]
    fn a_deleted_file_is_intact_for_its_holders() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, b"0123456789").unwrap();
        let pinned = PinnedFile::open(&path).unwrap();
        // The clock that stamps `changed_ns` ticks every few milliseconds.
        while pinned.is_unchanged() {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        assert!(!pinned.is_intact(), "permissions of a file that is still there say that somebody works on it");
        let pinned = PinnedFile::open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(pinned.is_intact());
    }

    #[test]
    fn residency_follows_use() {
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().join("empty");
        fs::write(&empty, b"").unwrap();
        assert_eq!(PinnedFile::open(&empty).unwrap().resident_bytes().unwrap(), 0);

        let read = folder.path().join("read");
        fs::write(&read, vec![7; 1_000_001]).unwrap();
        fs::read(&read).unwrap();
        assert_eq!(PinnedFile::open(&read).unwrap().resident_bytes().unwrap(), 1_000_001);

        // Larger than one chunk of the measurement, and never read.
        let sparse = folder.path().join("sparse");
        File::create(&sparse).unwrap().set_len(2_500_000_000).unwrap();
        assert!(PinnedFile::open(&sparse).unwrap().resident_bytes().unwrap() < 1_000_000);
    }
}
