//! One tensor, or the tensors of one packed layer, to be computed.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::{Delta, Slice};
use crate::{axes::Axes, header::Dtype, quantisation::Scheme};

/// What is computed from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// A tensor.
    Plain(Slice),
    /// A packed layer.
    Packed {
        /// Its codes.
        weight: Slice,
        /// Its scales.
        scales: Slice,
        /// Its biases, in mode affine.
        biases: Option<Slice>,
        /// How it is packed.
        scheme: Scheme,
    },
}

impl Input {
    /// All that is read.
    pub fn slices(&self) -> impl Iterator<Item = &Slice> {
        let (first, scales, biases) = match self {
            Self::Plain(slice) => (slice, None, None),
            Self::Packed { weight, scales, biases, .. } => (weight, Some(scales), biases.as_ref()),
        };
        std::iter::once(first).chain(scales).chain(biases)
    }

    /// How many numbers it stands for.
    #[must_use]
    pub fn elements(&self) -> u64 {
        match self {
            Self::Plain(slice) => slice.shape.iter().product(),
            Self::Packed { weight, scheme, .. } => weight.bytes() * 8 / scheme.bits(),
        }
    }
}

/// A tensor of the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// Its name in the image, which is that under which it is lent.
    pub name: String,
    /// Type of an element.
    pub dtype: Dtype,
    /// Dimensions.
    pub shape: Vec<u64>,
    /// Its bytes, counted from the start of the image.
    pub range: Range<u64>,
}

/// What is done, in this order: the input is dequantised, if it is packed; the deltas are added, in F32; the result is
/// cast, where there are deltas to the dtype that was there before if to no other; a kernel is reordered; the result is
/// quantised.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// What is computed from.
    pub input: Input,
    /// What adapters add.
    pub deltas: Vec<Delta>,
    /// The dtype to which it is cast, where it is to be another.
    pub cast: Option<Dtype>,
    /// How the dimensions of a kernel are reordered: entry `d` is the dimension of the input that becomes dimension `d`.
    pub reorder: Option<Axes>,
    /// How it is quantised.
    pub quantise: Option<Scheme>,
    /// What comes out: one tensor, or those of a packed layer in the order of [`Scheme::roles`].
    pub outputs: Vec<Output>,
}

impl Job {
    /// Whether rows of the input are rows of the outputs, so that they can be computed apart from each other.
    #[must_use]
    pub fn keeps_rows(&self) -> bool {
        self.reorder.is_none_or(|axes| axes.places().first() == Some(&0))
    }

    /// Bytes that are read.
    #[must_use]
    pub fn input_bytes(&self) -> u64 {
        self.input.slices().map(Slice::bytes).sum()
    }
}
