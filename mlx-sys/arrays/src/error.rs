//! Why bytes cannot be an array.

use mlx_sys::LoadError;
use thiserror::Error;
use weightsd_core::header::Dtype;

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

/// Why no array can lie in the shared pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Error)]
pub enum NotAdopted {
    /// The backend has no arrays over foreign memory.
    #[error("MLX's backend keeps arrays in memory of its own")]
    Backend,
    /// The array's pages are longer than the longest buffer of the GPU.
    #[error("its pages are longer than the longest buffer of the GPU")]
    TooLong,
    /// The GPU's driver does not take the array's pages.
    #[error("the GPU's driver does not take its pages")]
    Refused,
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
