//! Arrays in memory of MLX: filled in place, copied, and read as bytes.

use std::ffi::c_void;

use mlx_rs::Array;
use mlx_sys::ext;
use weightsd_core::header::Dtype;

use crate::{ArrayError, dtype::Form};

/// An array whose memory `fill` writes. The memory is MLX's from the start, so bytes that are read from a file are not
/// copied.
///
/// # Errors
/// When MLX cannot be loaded or has no such array, or when `fill` fails.
pub fn filled<E: From<ArrayError>>(
    dtype: Dtype,
    shape: &[u64],
    fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
) -> Result<Array, E> {
    let form = Form::of(dtype, shape)?;
    crate::load()?;
    // SAFETY: creates an empty handle.
    let mut made = unsafe { mlx_sys::mlx_array_new() };
    let mut data: *mut c_void = std::ptr::null_mut();
    let mut error = ext::Error::default();
    // SAFETY: the shape is a slice of the length that is passed.
    let status = unsafe {
        let (shape, ndim) = (form.shape.as_ptr(), form.shape.len());
        ext::mlx_ext_empty(&mut made, shape, ndim, form.dtype, &mut data, &mut error)
    };
    if status != ext::DONE {
        return Err(ArrayError::from(error).into());
    }
    // SAFETY: the handle was filled, and nobody else has it.
    let made = unsafe { Array::from_ptr(made) };
    if form.bytes > 0 {
        // SAFETY: MLX has allocated that length for this array alone, which nobody else has seen yet. They come from
        // a foreign allocator, so that Rust assumes nothing of them, and every value of a byte is one.
        fill(unsafe { std::slice::from_raw_parts_mut(data.cast::<u8>(), form.bytes) })?;
    }
    Ok(made)
}

/// An array with a copy of `bytes`.
///
/// # Errors
/// When MLX cannot be loaded or has no such array, or when the length of `bytes` is another.
pub fn copied(dtype: Dtype, shape: &[u64], bytes: &[u8]) -> Result<Array, ArrayError> {
    let form = Form::of(dtype, shape)?;
    if form.bytes != bytes.len() {
        return Err(ArrayError::Length { dtype, shape: shape.to_vec(), found: bytes.len() as u64 });
    }
    filled(dtype, shape, |memory| {
        memory.copy_from_slice(bytes);
        Ok(())
    })
}

/// The elements of an array as bytes, in row-major order. Evaluates the array first.
///
/// # Errors
/// When it cannot be evaluated, or when it is not contiguous.
pub fn bytes(array: &Array) -> Result<&[u8], ArrayError> {
    array.eval()?;
    if array.nbytes() == 0 {
        return Ok(&[]);
    }
    // SAFETY: the handle is valid, and the array was evaluated in this thread.
    let data = unsafe { ext::mlx_ext_data(array.as_ptr()) };
    if data.is_null() {
        return Err(ArrayError::Mlx("the elements of the array are not in order".to_owned()));
    }
    // SAFETY: an evaluated array whose elements are in order has that length there. They live as long as the handle
    // that is borrowed, and nothing writes to the memory of an array that somebody holds.
    Ok(unsafe { std::slice::from_raw_parts(data.cast::<u8>(), array.nbytes()) })
}
