//! `getfsstat(2)` with `MNT_NOWAIT`, which answers from what the kernel keeps.

use std::{ffi::CStr, io, mem, os::unix::ffi::OsStrExt as _, path::PathBuf, ptr};

use super::Mount;

/// Mounts that may appear between the two calls.
const SPARE: usize = 16;

pub(super) fn read() -> io::Result<Vec<Mount>> {
    // SAFETY: without a buffer the call only counts.
    let count = unsafe { libc::getfsstat(ptr::null_mut(), 0, libc::MNT_NOWAIT) };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    let mut found: Vec<libc::statfs> = Vec::with_capacity(count + SPARE);
    let bytes = (count + SPARE) * mem::size_of::<libc::statfs>();
    let bytes = libc::c_int::try_from(bytes).map_err(io::Error::other)?;
    // SAFETY: the buffer has room for `bytes` bytes, and the kernel writes whole structures into it.
    let filled = unsafe { libc::getfsstat(found.as_mut_ptr(), bytes, libc::MNT_NOWAIT) };
    let filled = usize::try_from(filled).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: the kernel filled that many structures, which is at most the capacity.
    unsafe { found.set_len(filled.min(count + SPARE)) };
    Ok(found.iter().map(mount).collect())
}

fn mount(found: &libc::statfs) -> Mount {
    // SAFETY: the kernel ends the path with a zero within the array.
    let at = unsafe { CStr::from_ptr(found.f_mntonname.as_ptr()) };
    // SAFETY: `fsid_t` is two 32-bit numbers (`sys/_types/_fsid_t.h`), which `libc` keeps private.
    let [device, _] = unsafe { mem::transmute::<libc::fsid_t, [i32; 2]>(found.f_fsid) };
    let at = PathBuf::from(std::ffi::OsStr::from_bytes(at.to_bytes()));
    // As `MetadataExt::dev` widens `st_dev`.
    Mount { at, device: i64::from(device).cast_unsigned() }
}
