//! The room that Finder shows. `statvfs` leaves out what local snapshots hold, which can be most of a disk.

use std::{ffi::c_void, path::Path, ptr};

use core_foundation::{
    base::{Boolean, CFType, CFTypeRef, TCFType as _},
    error::CFErrorRef,
    number::CFNumber,
    string::CFStringRef,
    url::{CFURL, CFURLRef},
};

// `CFURL.h`, since macOS 10.13.
#[link(name = "CoreFoundation", kind = "framework")]
unsafe extern "C" {
    static kCFURLVolumeAvailableCapacityForImportantUsageKey: CFStringRef;
    fn CFURLCopyResourcePropertyForKey(
        url: CFURLRef,
        key: CFStringRef,
        value: *mut c_void,
        error: *mut CFErrorRef,
    ) -> Boolean;
}

/// Bytes on the volume of `path` for what a user has asked for. `None` where the system does not tell; volumes that hold
/// nothing purgeable may say 0.
pub(super) fn with_purgeable(path: &Path) -> Option<u64> {
    let url = CFURL::from_path(path, path.is_dir())?;
    let mut value: CFTypeRef = ptr::null();
    // SAFETY: the URL lives until the call returns, the key is the system's own constant, `value` is room for one
    // reference, and a null pointer means that no error is wanted.
    let is_found = unsafe {
        let key = kCFURLVolumeAvailableCapacityForImportantUsageKey;
        CFURLCopyResourcePropertyForKey(url.as_concrete_TypeRef(), key, (&raw mut value).cast(), ptr::null_mut())
    };
    if is_found == 0 || value.is_null() {
        return None;
    }
    // SAFETY: a function with "Copy" in its name gives the caller a reference of its own.
    let number = unsafe { CFType::wrap_under_create_rule(value) }.downcast::<CFNumber>()?;
    u64::try_from(number.to_i64()?).ok()
}
