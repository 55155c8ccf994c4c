//! The C API of MLX, as the crate of this name on crates.io declares it, built by another road: see `build/main.rs`.
//! [`ext`] is what this crate adds.
//!
//! The library is opened at run time: see [`load`].

mod functions;

#[allow(
    non_upper_case_globals,
    non_camel_case_types,
    non_snake_case,
    missing_docs,
    unreachable_pub,
    clippy::all,
    reason = "generated, with C's names"
)]
mod bindings;
mod half;
mod library;

pub mod ext;

pub use bindings::*;
pub use half::*;
pub use library::{LoadError, MLX_VERSION, REMEDY, find, load};

/// The seed that mlx-rs takes from Apple's systems.
#[cfg(not(target_vendor = "apple"))]
#[unsafe(no_mangle)]
extern "C" fn mach_approximate_time() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
