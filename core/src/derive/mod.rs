//! Tensors that have to be computed: what is done to which bytes. Arithmetic on shapes and offsets; the arithmetic on
//! numbers is MLX's, in the daemon's `derive` stage.

mod delta;

pub use self::delta::{Alpha, Delta, Factor, Matrix, Product};

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::header::Dtype;

/// The bytes of a tensor in one of the files of a derivation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    /// Number of the file: those of the component, then those laid over it, then those of the adapters.
    pub file: u32,
    /// Its bytes, counted from the start of the file.
    pub range: Range<u64>,
    /// Type of an element.
    pub dtype: Dtype,
    /// Dimensions, row-major.
    pub shape: Vec<u64>,
}
