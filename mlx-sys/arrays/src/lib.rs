//! Bytes as arrays of [`mlx_rs`], and the few things of MLX that mlx-rs does not have: shared pages without a copy
//! ([`Adopted`]), arrays that are filled in place ([`filled`]) and seen as bytes ([`bytes`]), and quantisation in all
//! modes ([`quantise`], [`dequantise`]).
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

pub use self::{
    adopted::{Adopted, NotAdopted, release_unused},
    dtype::dtype,
    error::ArrayError,
    memory::{bytes, copied, filled},
    quantisation::{dequantise, quantise},
};
