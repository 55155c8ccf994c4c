//! Which disk a path lies on, by its text alone: the table of mounts is the kernel's, so no call reaches a disk that may
//! not answer.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;

#[cfg(target_os = "linux")]
use linux as platform;
#[cfg(target_os = "macos")]
use macos as platform;

use std::{
    io,
    path::{Path, PathBuf},
};

/// A file system that is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The directory at which it is mounted.
    pub at: PathBuf,
    /// Its device number, as [`FileIdentity::device`](crate::FileIdentity::device) has it. Some file systems (btrfs) give
    /// the files of subvolumes other numbers.
    pub device: u64,
}

/// The file systems that were mounted when it was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mounts(Vec<Mount>);

impl Mounts {
    /// Reads the kernel's table. Reaches no disk.
    ///
    /// # Errors
    /// When the system does not show the table.
    pub fn read() -> io::Result<Self> {
        platform::read().map(Self)
    }

    /// The mount on which `path` lies if none of its directories is a link; `None` only where the table is empty or the
    /// path is relative.
    #[must_use]
    pub fn of(&self, path: &Path) -> Option<&Mount> {
        // Of two mounts at one place the later one is seen.
        self.0.iter().filter(|mount| path.starts_with(&mount.at)).max_by_key(|mount| mount.at.as_os_str().len())
    }

    /// Where a device is mounted: the shortest of the places.
    #[must_use]
    pub fn place(&self, device: u64) -> Option<&Path> {
        let places = self.0.iter().filter(|mount| mount.device == device).map(|mount| mount.at.as_path());
        places.min_by_key(|at| at.as_os_str().len())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt as _};

    use super::*;

    fn mount(at: &str, device: u64) -> Mount {
        Mount { at: at.into(), device }
    }

    #[test]
    fn a_path_lies_on_the_innermost_and_latest_mount() {
        let mounts = Mounts(vec![mount("/", 1), mount("/data", 2), mount("/data/models", 3), mount("/data", 4)]);
        let of = |path: &str| mounts.of(Path::new(path)).map(|mount| mount.device);
        assert_eq!((of("/"), of("/database"), of("/data"), of("/data/x")), (Some(1), Some(1), Some(4), Some(4)));
        assert_eq!((of("/data/models/a"), of("relative")), (Some(3), None));
        assert_eq!(mounts.place(3), Some(Path::new("/data/models")));
    }

    #[test]
    fn the_table_agrees_with_the_files() {
        let mounts = Mounts::read().unwrap();
        for path in ["/proc/self", "/dev"] {
            let device = fs::metadata(path).unwrap().dev();
            assert_eq!(mounts.of(Path::new(path)).map(|mount| mount.device), Some(device), "{path}");
        }
    }
}
