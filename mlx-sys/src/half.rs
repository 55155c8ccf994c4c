//! Elements of 16 bits, as their bits. mlx-c's headers declare them on Arm only; elsewhere `shim/half.cpp` defines them.

use std::ffi::c_int;

use crate::{functions::functions, mlx_array};

/// The bits of an IEEE half.
#[allow(non_camel_case_types)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct float16_t(pub u16);

/// The bits of a bfloat16.
#[allow(non_camel_case_types)]
pub type bfloat16_t = u16;

functions! { "C-unwind" halves: Halves {
    /// The elements of an evaluated array.
    pub fn mlx_array_data_float16(array: mlx_array) -> *const float16_t;
    /// The elements of an evaluated array.
    pub fn mlx_array_data_bfloat16(array: mlx_array) -> *const bfloat16_t;
    /// The one element of an array.
    pub fn mlx_array_item_float16(bits: *mut float16_t, array: mlx_array) -> c_int;
    /// The one element of an array.
    pub fn mlx_array_item_bfloat16(bits: *mut bfloat16_t, array: mlx_array) -> c_int;
} }
