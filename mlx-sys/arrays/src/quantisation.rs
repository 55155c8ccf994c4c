//! Packed matrices: MLX's quantisation in all its modes.

use std::ffi::CString;

use mlx_rs::Array;
use mlx_sys::ext;
use weightsd_core::quantisation::Scheme;

use crate::ArrayError;

/// Mode, bits and group size in C's terms.
fn terms(scheme: &Scheme) -> (CString, i32, i32) {
    let number = |number: u64| i32::try_from(number).unwrap_or_default();
    let mode = CString::new(scheme.mode().name()).unwrap_or_default();
    (mode, number(scheme.group_size()), number(scheme.bits()))
}

/// Packs a matrix: weight, scales and, in mode affine, biases. Knows all of MLX's modes; mlx-rs has only affine.
///
/// # Errors
/// When MLX refuses the shape or dtype.
pub fn quantise(weight: &Array, scheme: &Scheme) -> Result<Vec<Array>, ArrayError> {
    let (mode, group_size, bits) = terms(scheme);
    // SAFETY: creates empty handles.
    let mut parts = [(); 3].map(|()| unsafe { mlx_sys::mlx_array_new() });
    let mut error = ext::Error::default();
    // SAFETY: there is room for three handles, the mode ends with a zero, the weight is a valid handle.
    let status = unsafe {
        let mode = mode.as_ptr();
        ext::mlx_ext_quantize(parts.as_mut_ptr(), weight.as_ptr(), group_size, bits, mode, &mut error)
    };
    // SAFETY: each handle is empty or was filled, and nobody else has it.
    let parts = parts.map(|part| (!part.ctx.is_null()).then(|| unsafe { Array::from_ptr(part) }));
    if status == ext::DONE { Ok(parts.into_iter().flatten().collect()) } else { Err(error.into()) }
}

/// The arrays of a packed matrix.
#[derive(Debug)]
pub struct PackedMatrix {
    /// The codes.
    pub weight: Array,
    /// One scale for each group.
    pub scales: Array,
    /// What is added to each product, in mode affine.
    pub biases: Option<Array>,
    /// One number by which all scales are multiplied, F32.
    pub global_scale: Option<Array>,
}

/// The matrix that a packed one stands for. Its dtype is that of affine scales, F32 where there is a global scale, and
/// otherwise BF16.
///
/// # Errors
/// When MLX refuses the shapes or dtypes.
pub fn dequantise(matrix: &PackedMatrix, scheme: &Scheme) -> Result<Array, ArrayError> {
    let (mode, group_size, bits) = terms(scheme);
    // SAFETY: creates an empty handle.
    let mut weight = unsafe { mlx_sys::mlx_array_new() };
    let none = mlx_sys::mlx_array { ctx: std::ptr::null_mut() };
    let biases = matrix.biases.as_ref().map_or(none, Array::as_ptr);
    let global_scale = matrix.global_scale.as_ref().map_or(none, Array::as_ptr);
    let mut error = ext::Error::default();
    // SAFETY: the handles are valid, those of biases and global scale are so or empty, and the mode ends with a zero.
    let status = unsafe {
        let (packed, scales, mode) = (matrix.weight.as_ptr(), matrix.scales.as_ptr(), mode.as_ptr());
        ext::mlx_ext_dequantize(&mut weight, packed, scales, biases, global_scale, group_size, bits, mode, &mut error)
    };
    if status != ext::DONE {
        return Err(error.into());
    }
    // SAFETY: the handle was filled, and nobody else has it.
    Ok(unsafe { Array::from_ptr(weight) })
}
