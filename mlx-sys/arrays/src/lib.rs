//! Bytes as arrays of [`mlx_rs`], and the few things of MLX that mlx-rs does not have: shared pages without a copy
//! ([`Adopted`]), arrays that are filled in place ([`filled`]) and seen as bytes ([`bytes`]), and quantisation in all
//! modes ([`quantise`], [`dequantise`]).
//!
//! MLX is loaded by the first call that needs it; [`load`] does nothing else.
//!
//! Every `unsafe` block about MLX is in this crate or in `mlx-sys`, on which it rests.

#![deny(unsafe_op_in_unsafe_fn)]

mod adopted;
mod dtype;
mod error;
mod memory;
mod quantisation;
pub mod windows;

pub use mlx_rs;
pub use mlx_sys::{Engine, LoadError, REMEDY, find};

pub use self::{
    adopted::{Adopted, release_unused},
    dtype::dtype,
    error::{ArrayError, NotAdopted},
    memory::{bytes, copied, filled},
    quantisation::{PackedMatrix, dequantise, quantise},
};

/// Loads MLX into this process, where it stays.
///
/// # Errors
/// [`ArrayError::Unavailable`] when MLX is not there, or is not the one that this program was built with.
pub fn load() -> Result<(), ArrayError> {
    mlx_sys::load().map(drop).map_err(|error| error.clone().into())
}

/// Loads MLX and says what it computes with.
///
/// # Errors
/// As [`load`].
pub fn engine() -> Result<Engine, ArrayError> {
    mlx_sys::engine().map_err(|error| error.clone().into())
}
