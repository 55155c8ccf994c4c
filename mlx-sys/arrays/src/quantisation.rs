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

/// Packs a matrix: weight, scales and, in mode affine, biases. All of MLX's modes, of which mlx-rs has the first.
///
/// # Errors
/// MLX's.
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

/// The matrix that a packed one stands for. MLX says of which dtype it is: that of affine scales, otherwise BF16.
///
/// # Errors
/// MLX's.
pub fn dequantise(
    packed: &Array,
    scales: &Array,
    biases: Option<&Array>,
    scheme: &Scheme,
) -> Result<Array, ArrayError> {
    let (mode, group_size, bits) = terms(scheme);
    // SAFETY: creates an empty handle.
    let mut weight = unsafe { mlx_sys::mlx_array_new() };
    let none = mlx_sys::mlx_array { ctx: std::ptr::null_mut() };
    let biases = biases.map_or(none, Array::as_ptr);
    let mut error = ext::Error::default();
    // SAFETY: the handles are valid, that of the biases is so or empty, and the mode ends with a zero.
    let status = unsafe {
        let (packed, scales, mode) = (packed.as_ptr(), scales.as_ptr(), mode.as_ptr());
        ext::mlx_ext_dequantize(&mut weight, packed, scales, biases, group_size, bits, mode, &mut error)
    };
    if status != ext::DONE {
        return Err(error.into());
    }
    // SAFETY: the handle was filled, and nobody else has it.
    Ok(unsafe { Array::from_ptr(weight) })
}
