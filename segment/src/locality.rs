//! What kind of file system a file lies on: one of this machine's own disks, so that looking at it cannot hang on a network,
//! or memory.

use std::{fs::File, path::Path};

/// Whether `path` exists and lies on a local file system. File systems served by user programs count as remote: many of
/// them are a network in disguise.
#[must_use]
pub fn is_local(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|found| platform::is_local(&found))
}

/// The same of an open file.
#[must_use]
pub fn is_local_file(file: &File) -> bool {
    rustix::fs::fstatfs(file).is_ok_and(|found| platform::is_local(&found))
}

/// Whether an open file lies on a file system that keeps its files in memory and nowhere else.
#[must_use]
pub fn is_memory_file(file: &File) -> bool {
    rustix::fs::fstatfs(file).is_ok_and(|found| platform::is_memory(&found))
}

#[cfg(not(target_os = "macos"))]
mod platform {
    /// `f_type` of tmpfs and ramfs in Linux's `linux/magic.h`.
    const MEMORY: [u32; 2] = [0x0102_1994, 0x8584_58f6];
    /// `f_type` of the remote file systems in Linux's `linux/magic.h` and of those that live outside its tree: 9P, AFS,
    /// autofs, Ceph, CIFS, Coda, FUSE, GPFS, Lustre, NFS, SMB, SMB2.
    const REMOTE: [u32; 12] = [
        0x0102_1997,
        0x5346_414f,
        0x0187,
        0x00c3_6400,
        0xff53_4d42,
        0x7375_7245,
        0x6573_5546,
        0x4750_4653,
        0x0bd0_0bd0,
        0x6969,
        0x517b,
        0xfe53_4d42,
    ];

    pub(super) fn is_local(found: &rustix::fs::StatFs) -> bool {
        !REMOTE.contains(&kind(found))
    }

    pub(super) fn is_memory(found: &rustix::fs::StatFs) -> bool {
        MEMORY.contains(&kind(found))
    }

    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the kernel's numbers have 32 bits, and some architectures have a wider field"
    )]
    fn kind(found: &rustix::fs::StatFs) -> u32 {
        found.f_type as u32
    }
}

#[cfg(target_os = "macos")]
mod platform {
    pub(super) fn is_local(found: &rustix::fs::StatFs) -> bool {
        found.f_flags & libc::MNT_LOCAL.cast_unsigned() != 0
    }

    /// macOS has no such file system: its disks in memory hold ordinary ones.
    pub(super) fn is_memory(_: &rustix::fs::StatFs) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_folder_is_local_and_nothing_is_not() {
        let folder = tempfile::tempdir().unwrap();
        assert!(is_local(folder.path()));
        assert!(!is_local(&folder.path().join("absent")));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_tmpfs_is_memory_and_a_disk_is_not() {
        assert!(is_memory_file(&tempfile::tempfile_in("/dev/shm").unwrap()));
        assert!(!is_memory_file(&File::open(env!("CARGO_MANIFEST_DIR")).unwrap()));
    }
}
