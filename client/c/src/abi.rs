//! Which library this is.

use std::ffi::c_char;

/// Number of the binary interface. It changes when a program that was compiled with an older header would break; new
/// functions, and new fields at the end of a struct, leave it.
pub const WEIGHTSD_ABI: u32 = 1;

/// Number of the library's binary interface. A program that opens the library at run time compares it with `WEIGHTSD_ABI`.
#[unsafe(no_mangle)]
pub extern "C" fn weightsd_abi() -> u32 {
    WEIGHTSD_ABI
}

/// Version of the library, such as "0.1.0". Valid for ever.
#[unsafe(no_mangle)]
pub extern "C" fn weightsd_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}
