//! The UUID of a volume, which the system tells of the folder that it is mounted on.

use std::{ffi::c_void, fs::File};

use weightsd_core::identity::Volume;

/// What `getattrlist` fills: the length of it all, and the one attribute.
#[repr(C)]
struct Answer {
    length: u32,
    uuid: [u8; 16],
}

pub(super) fn lasting(file: &File) -> Option<Volume> {
    let mounted = rustix::fs::fstatfs(file).ok()?;
    let mut wanted = libc::attrlist {
        bitmapcount: libc::ATTR_BIT_MAP_COUNT,
        reserved: 0,
        commonattr: 0,
        volattr: libc::ATTR_VOL_INFO | libc::ATTR_VOL_UUID,
        dirattr: 0,
        fileattr: 0,
        forkattr: 0,
    };
    let mut answer = Answer { length: 0, uuid: [0; 16] };
    // SAFETY: the system has ended the path with a zero, the list is as its documentation asks, and the system writes no
    // more than the length that it is given.
    let result = unsafe {
        libc::getattrlist(
            mounted.f_mntonname.as_ptr(),
            (&raw mut wanted).cast::<c_void>(),
            (&raw mut answer).cast::<c_void>(),
            size_of::<Answer>(),
            0,
        )
    };
    let is_whole = result == 0 && answer.length as usize == size_of::<Answer>() && answer.uuid != [0; 16];
    is_whole.then_some(Volume::Uuid(answer.uuid))
}
