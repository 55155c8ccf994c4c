//! Elements and shapes of safetensors files in MLX's terms.

use weightsd_core::header::{self, Dtype};

use crate::ArrayError;

/// The dtype by which MLX loads elements of a safetensors file; the bytes of two of the 8-bit floats as they are, as MLX
/// does. `None` for what it does not load.
#[must_use]
pub fn dtype(dtype: Dtype) -> Option<mlx_rs::Dtype> {
    Some(match dtype {
        Dtype::BOOL => mlx_rs::Dtype::Bool,
        Dtype::U8 | Dtype::F8_E4M3 | Dtype::F8_E8M0 => mlx_rs::Dtype::Uint8,
        Dtype::U16 => mlx_rs::Dtype::Uint16,
        Dtype::U32 => mlx_rs::Dtype::Uint32,
        Dtype::U64 => mlx_rs::Dtype::Uint64,
        Dtype::I8 => mlx_rs::Dtype::Int8,
        Dtype::I16 => mlx_rs::Dtype::Int16,
        Dtype::I32 => mlx_rs::Dtype::Int32,
        Dtype::I64 => mlx_rs::Dtype::Int64,
        Dtype::F16 => mlx_rs::Dtype::Float16,
        Dtype::BF16 => mlx_rs::Dtype::Bfloat16,
        Dtype::F32 => mlx_rs::Dtype::Float32,
        Dtype::F64 => mlx_rs::Dtype::Float64,
        Dtype::C64 => mlx_rs::Dtype::Complex64,
        _ => return None,
    })
}

/// What an array is, checked, in MLX's terms.
pub(crate) struct Form {
    pub(crate) dtype: mlx_sys::mlx_dtype,
    pub(crate) shape: Vec<i32>,
    /// Length in bytes.
    pub(crate) bytes: usize,
}

impl Form {
    pub(crate) fn of(dtype: Dtype, shape: &[u64]) -> Result<Form, ArrayError> {
        let found = self::dtype(dtype).ok_or(ArrayError::Dtype(dtype))?;
        let too_large = || ArrayError::Shape(shape.to_vec());
        let bytes = header::byte_length(dtype, shape).and_then(|bytes| usize::try_from(bytes).ok());
        let dimensions = shape.iter().map(|&dimension| i32::try_from(dimension).ok()).collect::<Option<_>>();
        Ok(Form { dtype: found.into(), shape: dimensions.ok_or_else(too_large)?, bytes: bytes.ok_or_else(too_large)? })
    }
}
