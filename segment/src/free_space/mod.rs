//! How much room there is on a disk.

use std::{io, path::Path};

#[cfg(target_os = "macos")]
mod macos;

/// Bytes that this user may write to the file system of `path`, which exists. On macOS this counts what the system gives
/// up when somebody needs room (local snapshots of Time Machine, caches), as Finder does.
///
/// # Errors
/// When the system does not answer for the file system.
pub fn free_space(path: &Path) -> io::Result<u64> {
    let space = rustix::fs::statvfs(path)?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    #[cfg(target_os = "macos")]
    let free = free.max(macos::with_purgeable(path).unwrap_or(0));
    Ok(free)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_has_the_room_that_its_file_system_tells() {
        let folder = tempfile::tempdir().unwrap();
        assert!(free_space(folder.path()).unwrap() > 0);
        assert!(free_space(&folder.path().join("absent")).is_err());
    }
}
