//! Why bytes cannot be an array.

use mlx_sys::LoadError;
use thiserror::Error;
use weightsd_core::header::Dtype;

use crate::NotAdopted;

/// Bytes cannot be an array.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ArrayError {
    /// MLX has no such elements.
    #[error("MLX has no arrays of {0}")]
    Dtype(Dtype),
    /// MLX counts dimensions in 31 bits.
    #[error("MLX has no arrays of shape {0:?}")]
    Shape(Vec<u64>),
    /// The first element is not where one may begin.
    #[error("an array of {dtype} cannot begin at byte {offset}")]
    Misaligned {
        /// Its elements.
        dtype: Dtype,
        /// Where it would begin, in bytes.
        offset: u64,
    },
    /// The bytes are not those of such an array.
    #[error("{found} bytes are no array of {dtype} with shape {shape:?}")]
    Length {
        /// Its elements.
        dtype: Dtype,
        /// Its dimensions.
        shape: Vec<u64>,
        /// The bytes there are.
        found: u64,
    },
    /// The pages are not memory of MLX.
    #[error("the shared pages cannot hold an array: {0}")]
    NotAdopted(NotAdopted),
    /// MLX cannot be used in this process.
    #[error(transparent)]
    Unavailable(#[from] LoadError),
    /// MLX's words.
    #[error("MLX: {0}")]
    Mlx(String),
}

impl From<mlx_rs::error::Exception> for ArrayError {
    fn from(exception: mlx_rs::error::Exception) -> ArrayError {
        ArrayError::Mlx(exception.what().to_owned())
    }
}

impl From<mlx_sys::ext::Error> for ArrayError {
    fn from(error: mlx_sys::ext::Error) -> ArrayError {
        ArrayError::Mlx(error.message())
    }
}
