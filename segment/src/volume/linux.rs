//! The UUID that a file system tells, or the number that it makes of its UUID.

use std::{fs::File, os::fd::AsRawFd as _};

use weightsd_core::identity::Volume;

/// `f_type` of the file systems whose `f_fsid` comes from their UUID, in `linux/magic.h`: btrfs, where it tells
/// subvolumes apart too, and ext2 to ext4. Others make it of the device's number.
const BTRFS: u32 = 0x9123_683e;
const EXT: u32 = 0xef53;

/// `FS_IOC_GETFSUUID` of `linux/fs.h`, since Linux 6.9.
const GETFSUUID: libc::Ioctl = 0x8011_1500_u32 as libc::Ioctl;

/// `struct fsuuid2` of `linux/fs.h`.
#[repr(C)]
struct FsUuid {
    length: u8,
    uuid: [u8; 16],
}

pub(super) fn lasting(file: &File) -> Option<Volume> {
    let found = rustix::fs::fstatfs(file).ok()?;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the kernel's numbers have 32 bits, and some architectures have a wider field"
    )]
    let kind = found.f_type as u32;
    let serial = || Some(serial(file)?).filter(|number| *number != 0).map(Volume::Serial);
    match kind {
        BTRFS => serial(),
        EXT => uuid(file).or_else(serial),
        _ => uuid(file),
    }
}

fn uuid(file: &File) -> Option<Volume> {
    let mut found = FsUuid { length: 0, uuid: [0; 16] };
    // SAFETY: the descriptor is open, and this command fills a structure of this form.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), GETFSUUID, &raw mut found) };
    (result == 0 && found.length == 16 && found.uuid != [0; 16]).then_some(Volume::Uuid(found.uuid))
}

fn serial(file: &File) -> Option<u64> {
    Some(rustix::fs::fstatvfs(file).ok()?.f_fsid)
}
