//! `FICLONE` into a file without a name.

use std::{fs::File, io, os::fd::AsRawFd as _, path::Path};

use rustix::{
    fs::{CWD, Mode, OFlags, ioctl_ficlone, open, openat},
    io::Errno,
};

/// `f_type` of file systems that clone: btrfs, XFS, bcachefs, ZFS. The others are not asked to make a file for nothing.
const CLONING: [u32; 4] = [0x9123_683e, 0x5846_5342, 0xca45_1a4e, 0x2fc1_2fc1];

pub(super) fn clone_of(file: &File, folder: &Path) -> io::Result<File> {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the kernel's numbers have 32 bits, and some architectures have a wider field"
    )]
    let kind = rustix::fs::fstatfs(file)?.f_type as u32;
    if !CLONING.contains(&kind) {
        return Err(Errno::OPNOTSUPP.into());
    }
    let clone = open(folder, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, Mode::RUSR)?;
    ioctl_ficlone(&clone, file)?;
    // With this descriptor somebody could write to it, so it is lent by another one.
    let again = format!("/proc/self/fd/{}", clone.as_raw_fd());
    Ok(openat(CWD, again, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?.into())
}
