//! What the system tells of open files, without being asked: that somebody wrote to one, or gave it other attributes or
//! names. It is told of the file itself, whatever name leads to it.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

#[cfg(not(target_os = "macos"))]
mod linux;
#[cfg(target_os = "macos")]
mod macos;

#[cfg(not(target_os = "macos"))]
use linux as platform;
#[cfg(target_os = "macos")]
use macos as platform;

/// The number under which a file is watched. The same file, opened twice, may have one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Watched(i32);

/// What happened to a file since it was asked last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct News {
    /// Its content was written to, or cut; or its time of writing was set alone, which Linux tells in the same way.
    pub written: bool,
    /// Its attributes changed: times, permissions, or the number of its names.
    pub attributes: bool,
    /// It was renamed. A name that is taken away, or given to another file, counts among the attributes.
    pub renamed: bool,
}

impl News {
    /// These and those.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            written: self.written || other.written,
            attributes: self.attributes || other.attributes,
            renamed: self.renamed || other.renamed,
        }
    }
}

/// News of one file, or the word that some were lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// Of this file.
    Of(Watched, News),
    /// So much happened that news of any file may be missing.
    Lost,
}

/// Watches open files. Its descriptor is readable while there is news.
#[derive(Debug)]
pub struct Lookout(platform::Queue);

impl Lookout {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// When the system has no room for another one.
    pub fn new() -> io::Result<Self> {
        platform::Queue::new().map(Self)
    }

    /// Watches an open file from now on. May block on file systems that are asked for permission.
    ///
    /// # Errors
    /// When the system watches no further file.
    pub fn add(&self, file: BorrowedFd<'_>) -> io::Result<Watched> {
        self.0.add(file).map(Watched)
    }

    /// Stops watching a file, by all of its descriptors.
    pub fn remove(&self, Watched(number): Watched) {
        self.0.remove(number);
    }

    /// What is new, `None` when that was all. Never blocks.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn next(&self) -> io::Result<Option<Vec<Told>>> {
        self.0.next()
    }
}

impl AsFd for Lookout {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        os::unix::fs::PermissionsExt as _,
        time::SystemTime,
    };

    use super::*;

    fn news(lookout: &Lookout, of: Watched) -> News {
        let mut all = News::default();
        while let Some(told) = lookout.next().unwrap() {
            for told in told {
                let Told::Of(watched, news) = told else { panic!("lost") };
                assert_eq!(watched, of);
                all = all.and(news);
            }
        }
        all
    }

    #[test]
    fn writing_and_cutting_are_told_from_other_changes_under_any_name() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("a"), folder.path().join("b"));
        fs::write(&path, "12345678").unwrap();
        let file = File::open(&path).unwrap();
        let lookout = Lookout::new().unwrap();
        let watched = lookout.add(file.as_fd()).unwrap();
        assert_eq!(news(&lookout, watched), News::default());

        fs::read(&path).unwrap();
        assert_eq!(news(&lookout, watched), News::default());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::hard_link(&path, &other).unwrap();
        let times = fs::FileTimes::new().set_accessed(SystemTime::UNIX_EPOCH).set_modified(SystemTime::UNIX_EPOCH);
        File::open(&path).unwrap().set_times(times).unwrap();
        let told = news(&lookout, watched);
        assert!(told.attributes && !told.written && !told.renamed, "{told:?}");

        fs::remove_file(&path).unwrap();
        assert!(news(&lookout, watched).attributes);
        fs::rename(&other, folder.path().join("c")).unwrap();
        assert!(news(&lookout, watched).renamed);
        let writer = fs::OpenOptions::new().write(true).open(folder.path().join("c")).unwrap();
        writer.set_len(4).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 4);
        assert!(news(&lookout, watched).written);

        lookout.remove(watched);
        writer.set_len(2).unwrap();
        assert_eq!(news(&lookout, watched), News::default());
    }
}
