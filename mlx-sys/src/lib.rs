//! The C API of MLX, as the crate of this name on crates.io declares it, built by another road: see `build/main.rs`.
//! [`ext`] is what this crate adds.

#[allow(non_upper_case_globals, non_camel_case_types, non_snake_case, missing_docs, unreachable_pub, clippy::all)]
mod bindings;
mod half;

pub mod ext;

pub use bindings::*;
pub use half::*;
