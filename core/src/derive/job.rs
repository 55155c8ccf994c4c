//! One tensor, or the tensors of one packed layer, to be computed.

use std::{collections::BTreeMap, ops::Range};

use serde::{Deserialize, Serialize};

use super::{Delta, Slice};
use crate::{
    axes::Axes,
    ggml::Encoding,
    header::Dtype,
    quantisation::{Decoding, Scheme, SlotRole, exact_scheme},
};

/// What is computed from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// A tensor.
    Plain(Slice),
    /// A packed layer.
    Packed {
        /// Its tensors. All slots that the scheme asks for are there.
        slots: BTreeMap<SlotRole, Slice>,
        /// How it is packed.
        scheme: Scheme,
    },
    /// A layer in a format that MLX does not have.
    Coded {
        /// The tensors that its numbers depend on. The weight has a row for each row of the layer.
        slots: BTreeMap<SlotRole, Slice>,
        /// From their bytes to numbers.
        decoding: Decoding,
        /// Shape of the weight that the layer stands for. What is stored may have more columns.
        logical: Vec<u64>,
        /// The row of the scales that belongs to its first row. Scales that lie by columns, or that rows share, are not
        /// dealt out when a fused layer is taken apart.
        first_row: u64,
    },
    /// A tensor whose bytes are not its elements.
    Encoded {
        /// Its bytes: U8, in one dimension.
        slice: Slice,
        /// How they become elements.
        encoding: Encoding,
        /// Its dimensions.
        shape: Vec<u64>,
    },
    /// Bytes that are taken as they are, whatever they mean: U8, in one dimension. The output has the dtype and the shape
    /// of the tensor, and nothing else is done.
    Bytes(Slice),
}

impl Input {
    /// All slices that are read. The first has a row for each row of the weight.
    pub fn slices(&self) -> impl Iterator<Item = &Slice> {
        let (plain, slots) = match self {
            Self::Plain(slice) | Self::Encoded { slice, .. } | Self::Bytes(slice) => (Some(slice), None),
            // Weight is the first role.
            Self::Packed { slots, .. } | Self::Coded { slots, .. } => (None, Some(slots.values())),
        };
        plain.into_iter().chain(slots.into_iter().flatten())
    }

    /// Number of elements of the weight that it stands for.
    #[must_use]
    pub fn elements(&self) -> u64 {
        match self {
            Self::Plain(slice) | Self::Bytes(slice) => slice.shape.iter().product(),
            Self::Coded { logical, .. } => logical.iter().product(),
            Self::Encoded { shape, .. } => shape.iter().product(),
            Self::Packed { slots, scheme } => {
                slots.get(&SlotRole::Weight).map_or(0, |weight| weight.bytes() * 8 / scheme.bits())
            }
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

/// The computation of one tensor or packed layer. Its steps, in this order:
///
/// 1. A packed input is dequantised, an encoded one decoded to F32, whatever it is cast to. A coded one is made plain in F32;
///    without deltas it is rounded to `cast` at once. If MLX has its format under another order of bytes, and the layer is
///    to be `quantise`d so, its bytes are moved and nothing else is done.
/// 2. The deltas are added, in F32.
/// 3. The sum is cast to `cast`. Without `cast` it returns to the dtype that it had before the deltas.
/// 4. The dimensions of a kernel are reordered.
/// 5. The result is quantised. Where an encoded layer is [exactly](Job::is_exact) one of MLX, its bits are put in MLX's
///    order instead.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// The tensor or layer that the job starts from.
    pub input: Input,
    /// What adapters add.
    pub deltas: Vec<Delta>,
    /// The dtype to which the sum is cast; `None` when it keeps the input's.
    pub cast: Option<Dtype>,
    /// How the dimensions of a kernel are reordered: entry `d` is the dimension of the input that becomes dimension `d`.
    pub reorder: Option<Axes>,
    /// How the result is quantised; `None` when it stays plain.
    pub quantise: Option<Scheme>,
    /// One tensor, or those of a packed layer in the order of [`Scheme::slots`].
    pub outputs: Vec<Output>,
}

impl Job {
    /// Whether rows of the input are rows of the outputs, so that they can be computed apart from each other.
    #[must_use]
    pub fn keeps_rows(&self) -> bool {
        self.rows_together().is_some() && self.reorder.is_none_or(|axes| axes.places().first() == Some(&0))
    }

    /// Rows of the input.
    #[must_use]
    pub fn rows(&self) -> u64 {
        let shape = match &self.input {
            Input::Encoded { shape, .. } => Some(shape),
            input => input.slices().next().map(|slice| &slice.shape),
        };
        shape.and_then(|shape| shape.first().copied()).unwrap_or(1).max(1)
    }

    /// Rows of the input that have to be computed together; `None` when all of them have.
    #[must_use]
    pub fn rows_together(&self) -> Option<u64> {
        match &self.input {
            Input::Encoded { encoding, shape, .. } => encoding.rows_together(shape),
            Input::Plain(_) | Input::Packed { .. } | Input::Coded { .. } | Input::Bytes(_) => Some(1),
        }
    }

    /// Whether the outputs say exactly what the encoded input says, so that only bits are moved.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        let Input::Encoded { encoding, shape, .. } = &self.input else { return false };
        let is_whole = self.deltas.is_empty() && self.reorder.is_none();
        is_whole && self.quantise.is_some() && self.quantise == exact_scheme(encoding, shape)
    }

    /// Whether MLX computes something: copies and decoded tensors need none.
    #[must_use]
    pub fn needs_engine(&self) -> bool {
        let is_decoded = matches!(self.input, Input::Encoded { .. })
            && self.deltas.is_empty()
            && self.reorder.is_none()
            && self.quantise.is_none();
        !self.is_copy() && !is_decoded && !self.is_exact()
    }

    /// Whether the output has the bytes of the input, so that nothing is computed.
    #[must_use]
    pub fn is_copy(&self) -> bool {
        let is_changed = self.cast.is_some() || self.reorder.is_some() || self.quantise.is_some();
        matches!(self.input, Input::Plain(_)) && self.deltas.is_empty() && !is_changed
    }

    /// Bytes that are read.
    #[must_use]
    pub fn input_bytes(&self) -> u64 {
        self.input.slices().map(Slice::bytes).sum()
    }
}
