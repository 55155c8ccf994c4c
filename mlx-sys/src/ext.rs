//! What mlx-c lacks, and what mlx-rs lacks of mlx-c: memory that is not MLX's as arrays, arrays that somebody else fills,
//! and all modes of quantisation. Declarations of `shim/ext.cpp`, which says what each expects.

use std::ffi::{CStr, c_char, c_int, c_long, c_void};

use crate::{functions::functions, mlx_array, mlx_dtype};

/// It is done.
pub const DONE: c_int = 0;
/// The backend cannot do it.
pub const CANNOT: c_int = 1;

/// What went wrong, in words.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Error {
    text: [c_char; 512],
}

impl Default for Error {
    fn default() -> Self {
        Self { text: [0; 512] }
    }
}

impl Error {
    /// The words.
    #[must_use]
    pub fn message(&self) -> String {
        let bytes: Vec<u8> = self.text.iter().map(|&byte| byte.cast_unsigned()).collect();
        CStr::from_bytes_until_nul(&bytes).map(|text| text.to_string_lossy().into_owned()).unwrap_or_default()
    }
}

functions! { "C-unwind" extensions: Extensions {
    /// Most bytes of one adopted memory; 0 where a mapping is adopted whole.
    pub fn mlx_ext_longest() -> usize;
    /// Adopts memory.
    pub fn mlx_ext_adopt(
        base: *mut mlx_array,
        data: *mut c_void,
        length: usize,
        payload: *mut c_void,
        release: unsafe extern "C" fn(*mut c_void),
        error: *mut Error,
    ) -> c_int;
    /// How many arrays share a memory.
    pub fn mlx_ext_sharers(array: mlx_array) -> c_long;
    /// A part of adopted memory, from an element on.
    pub fn mlx_ext_part(
        part: *mut mlx_array,
        base: mlx_array,
        first: i64,
        shape: *const c_int,
        ndim: usize,
        dtype: mlx_dtype,
        error: *mut Error,
    ) -> c_int;
    /// An array that is not filled.
    pub fn mlx_ext_empty(
        empty: *mut mlx_array,
        shape: *const c_int,
        ndim: usize,
        dtype: mlx_dtype,
        data: *mut *mut c_void,
        error: *mut Error,
    ) -> c_int;
    /// Where the elements of an evaluated array begin; null where there is no such place.
    pub fn mlx_ext_data(array: mlx_array) -> *const c_void;
    /// Packed weight, scales and perhaps biases.
    pub fn mlx_ext_quantize(
        parts: *mut mlx_array,
        weight: mlx_array,
        group_size: c_int,
        bits: c_int,
        mode: *const c_char,
        error: *mut Error,
    ) -> c_int;
    /// The weight that packed ones stand for.
    pub fn mlx_ext_dequantize(
        weight: *mut mlx_array,
        packed: mlx_array,
        scales: mlx_array,
        biases: mlx_array,
        global_scale: mlx_array,
        group_size: c_int,
        bits: c_int,
        mode: *const c_char,
        error: *mut Error,
    ) -> c_int;
} }
