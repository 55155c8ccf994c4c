//! Tensors that have to be computed: what is done to which bytes, and where the results lie. Arithmetic on shapes and
//! offsets; the arithmetic on numbers is MLX's, in the daemon's `derive` stage.

mod choose;
mod conversion;
mod delta;
mod encoded;
mod error;
pub mod image;
mod job;
mod outputs;
mod plan;
mod unit;

pub use self::{
    conversion::{Conversion, Float, Form, LayerFilter, Merged, Packing},
    delta::{Delta, Effect, Factor, Lines, Magnitude, Matrix, Product},
    encoded::ExactLayers,
    error::{CannotConvert, Wish},
    job::{Input, Job, Output},
    plan::{Alignment, CodedLayers, Converted, Derivation, Held, Rule, Setting, plan},
};

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::{header::Dtype, source::SourceId};

/// The version of MLX whose results are right. Another one may round otherwise, so it is a part of every identity.
pub const MLX_VERSION: &str = "0.32.2";

/// The bytes of a tensor in one of the files of a derivation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    /// The file.
    pub source: SourceId,
    /// Its bytes, counted from the start of the file.
    pub range: Range<u64>,
    /// Type of an element.
    pub dtype: Dtype,
    /// Dimensions, row-major.
    pub shape: Vec<u64>,
}

impl Slice {
    /// Length in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }
}
