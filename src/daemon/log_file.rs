//! The log's own file. A new one begins when it is large, since launchd keeps the file that it opened for ever, and
//! macOS's newsyslog needs root and cannot make a running program change files. The processes that compute write to
//! standard error, which is this file, too.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

/// Bytes after which a new file begins. The one before is kept, so the log takes twice that at most, and what a process
/// that computes writes into its old file meanwhile.
const FULL: u64 = 8 << 20;
/// Bytes between two looks at the length, which others add to as well.
const LOOK: u64 = 64 << 10;

/// The file that standard error goes to.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    full: u64,
    /// Sends standard error to a file.
    redirect: fn(&File) -> io::Result<()>,
    /// Bytes written since the length was looked at.
    unseen: u64,
}

impl LogFile {
    /// Sends standard error of this process to the end of the file at `path`.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        Self::open(path, FULL, |file| Ok(rustix::stdio::dup2_stderr(file)?))
    }

    fn open(path: &Path, full: u64, redirect: fn(&File) -> io::Result<()>) -> io::Result<Self> {
        let mut log = Self { path: path.to_owned(), file: append(path)?, full, redirect, unseen: 0 };
        log.look();
        redirect(&log.file)?;
        Ok(log)
    }

    /// Begins a new file where this one is full.
    fn look(&mut self) {
        self.unseen = 0;
        if self.file.metadata().is_ok_and(|metadata| metadata.len() < self.full) {
            return;
        }
        let mut before = self.path.clone().into_os_string();
        before.push(".1");
        // Where no file can be made, the old one goes on.
        if let Ok(file) = fs::rename(&self.path, before).and_then(|()| append(&self.path)) {
            self.file = file;
            // Where standard error stays with the old file, what is written here is still in the new one.
            let _ = (self.redirect)(&self.file);
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A line is whole in one file.
        if self.unseen >= LOOK.min(self.full) {
            self.look();
        }
        let written = self.file.write(bytes)?;
        self.unseen += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_gives_way_and_one_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut log = LogFile::open(&path, 100, |_| Ok(())).unwrap();
        let lines = [b'a', b'b', b'c'].map(|letter| vec![letter; 60]);
        for line in lines.iter().chain([&vec![b'd'; 120], &b"e".to_vec()]) {
            log.write_all(line).unwrap();
        }
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!((read("log"), read("log.1")), ("e".to_owned(), "c".repeat(60) + &"d".repeat(120)));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        drop(log);
        // Also one that another process has filled.
        fs::write(&path, "f".repeat(100)).unwrap();
        LogFile::open(&path, 100, |_| Ok(())).unwrap();
        assert_eq!((read("log"), read("log.1")), (String::new(), "f".repeat(100)));
    }
}
