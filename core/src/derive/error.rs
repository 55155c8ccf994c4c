//! Why a conversion has no meaning for a component.

use super::image::ROOM;
use crate::{
    explain::{Explain, Explanation, Reason},
    ggml::BlockType,
    header::Dtype,
};

/// Why a conversion is refused. Nothing was computed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CannotConvert {
    /// Not a glob.
    #[error("the pattern {pattern:?} cannot be used: {problem}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A pattern that matches no layer.
    #[error("the pattern {pattern:?} matches none of the {layers} layers, such as {}", sample.join(", "))]
    NothingMatches {
        /// The pattern.
        pattern: String,
        /// Number of layers.
        layers: usize,
        /// Some of their names.
        sample: Vec<String>,
    },
    /// No layer would be quantised.
    #[error("no layer of the component can be quantised ({scheme}): {found} matrices, and the rule names none of them")]
    NothingToQuantise {
        /// The scheme that was asked for.
        scheme: String,
        /// Number of matrices.
        found: usize,
    },
    /// A pattern names a layer that cannot be packed.
    #[error("layer `{layer}` of shape {shape:?} cannot be quantised: its rows are no whole groups ({scheme})")]
    Ragged {
        /// The layer.
        layer: String,
        /// Its shape.
        shape: Vec<u64>,
        /// The scheme that was asked for.
        scheme: String,
    },
    /// A packed layer lacks a slot.
    #[error("the packed layer `{layer}` has no {missing}, so that nothing can be computed from it")]
    Torn {
        /// The layer.
        layer: String,
        /// The slot.
        missing: &'static str,
    },
    /// The numbers of a layer are not known, and the request asks to compute with them.
    #[error("{count} layers, such as `{layer}`, {}: {why}", wish.refused())]
    Opaque {
        /// What was to be done.
        wish: Wish,
        /// Number of such layers.
        count: usize,
        /// One of them.
        layer: String,
        /// Why nothing can be computed from it.
        why: String,
    },
    /// A layer with a global scale would be quantised again as it was, and its scale belongs to the old weight.
    #[error("layer `{layer}` has a global scale ({scheme}), and layers like it are not quantised again")]
    GlobalScale {
        /// The layer.
        layer: String,
        /// How it is quantised.
        scheme: String,
    },
    /// A tensor that would be computed has a name that images keep for themselves.
    #[error(
        "tensor `{name}` would have to be computed, and names that begin with `{ROOM}` are those of room in images"
    )]
    ReservedName {
        /// The name.
        name: String,
    },
    /// A tensor of the checkpoint and a computed one would have the same name.
    #[error("two tensors would be called `{name}`")]
    NameCollision {
        /// The name.
        name: String,
    },
    /// An adapter changes a layer that is not there.
    #[error("an adapter changes `{layer}`, which the component does not hold")]
    NoLayer {
        /// The layer.
        layer: String,
    },
    /// An adapter changes a layer whose weights are not floats.
    #[error("an adapter changes layer `{layer}`, which is {dtype}, expected F32, F16 or BF16")]
    NoFloats {
        /// The layer.
        layer: String,
        /// Its dtype.
        dtype: Dtype,
    },
    /// A tensor of a GGUF file whose blocks only ggml's own code books explain.
    #[error("tensor `{name}` is of ggml's type {kind}, which is recognised and not converted")]
    Blocks {
        /// Its name in the file.
        name: String,
        /// Its type.
        kind: BlockType,
    },
}

/// Something that a request asks to be done to a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// A dtype.
    Cast,
    /// To be quantised.
    Quantise,
    /// To be made plain.
    Dequantise,
    /// An adapter's change.
    Adapt,
    /// Another memory order.
    Reorder,
    /// Nothing but to be lent: blocks of a GGUF file are always decoded.
    Decode,
}

impl Wish {
    fn refused(self) -> &'static str {
        match self {
            Self::Cast => "cannot be cast",
            Self::Quantise => "cannot be quantised",
            Self::Dequantise => "cannot be dequantised",
            Self::Adapt => "cannot be changed by adapters",
            Self::Reorder => "cannot be put into MLX's memory order",
            Self::Decode => "cannot be decoded",
        }
    }

    fn hint(self) -> &'static str {
        match self {
            Self::Cast => "ask for floats as they are stored: `--dtype as-stored`",
            Self::Quantise => "leave these layers out (`--except`), or take a checkpoint of plain floats",
            Self::Dequantise | Self::Adapt => "take a checkpoint of plain floats, or one that MLX quantised",
            Self::Reorder => "ask for layout SOURCE",
            Self::Decode => "take a file in which the tensors say all of their numbers, such as one in Q8_0 or BF16",
        }
    }
}

impl Explain for CannotConvert {
    fn explain(&self) -> Explanation {
        let reason = match self {
            Self::Torn { .. } => Reason::TornLayer,
            _ => Reason::CannotConvert,
        };
        let hint = match self {
            Self::Pattern { .. } | Self::NothingMatches { .. } => {
                "patterns match names of layers without `.weight`; `weightsd inspect` lists them"
            }
            Self::NothingToQuantise { .. } => "name the layers: `quantise.only`, or `--only`",
            Self::Ragged { .. } => {
                "choose a smaller group size, or except the layer (`--except`, `quantise.excluding`)"
            }
            Self::Opaque { wish, .. } => wish.hint(),
            Self::GlobalScale { .. } => {
                "let changed layers stay plain (`--merged-plain`), dequantise the component, or quantise it anew"
            }
            Self::ReservedName { .. } | Self::NameCollision { .. } => {
                "ask for the weights as they are stored, or rename the tensor"
            }
            Self::Blocks { .. } => {
                "take a file in another quantisation, such as Q4_K_M or Q8_0; types of 1 to 3 bits that begin with IQ are \
                 not converted"
            }
            Self::Torn { .. } | Self::NoLayer { .. } | Self::NoFloats { .. } => {
                "the checkpoint lacks it: `weightsd audit` says what it has"
            }
        };
        Explanation::new(reason, "", hint)
    }
}
