//! macOS: the level that the kernel notifies programs of, as `sysctl` shows it.

use std::{ffi::CStr, mem};

use super::Pressure;

/// `kVMPressureNormal`; above it are warnings.
const NORMAL: i32 = 1;

pub(super) fn pressure() -> Pressure {
    match number::<i32>(c"kern.memorystatus_vm_pressure_level") {
        Some(level) if level > NORMAL => Pressure::High,
        Some(_) => Pressure::None,
        None => Pressure::Unknown,
    }
}

/// What is free, and what files have that could be read again.
pub(super) fn available_bytes() -> Option<u64> {
    let pages = |name| number::<u32>(name).map(u64::from);
    let free = pages(c"vm.page_free_count")? + pages(c"vm.page_pageable_external_count").unwrap_or(0);
    Some(free * u64::try_from(rustix::param::page_size()).ok()?)
}

/// A number that the system has under this name.
fn number<T: Copy + Default>(name: &CStr) -> Option<T> {
    let (mut value, mut length) = (T::default(), mem::size_of::<T>());
    // SAFETY: the name ends with a zero, `value` has room for `length` bytes, and nothing is set.
    let result =
        unsafe { libc::sysctlbyname(name.as_ptr(), (&raw mut value).cast(), &raw mut length, std::ptr::null_mut(), 0) };
    (result == 0 && length == mem::size_of::<T>()).then_some(value)
}
