//! Weights that are quantised on disk, as MLX stores them: for each layer a packed `weight`, its `scales`, and for
//! affine quantisation its `biases` (not to be confused with the layer's own `bias`).
//!
//! A [`Declaration`] says how a checkpoint is meant to be quantised, in one of three conventions. Which layers of a
//! checkpoint are quantised is told by [`crate::layers`].

mod declaration;
mod scheme;

pub use self::{
    declaration::{CONTROLNET_MANIFEST, Declaration, DeclarationError, MANIFEST},
    scheme::{Mode, Scheme, SchemeError},
};

/// Which of a layer's tensors it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PackedRole {
    /// The packed codes, U32.
    Weight,
    /// One number for each group.
    Scales,
    /// One more, for affine quantisation.
    Biases,
}

impl PackedRole {
    /// The tensor's name after that of its layer and a dot.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Weight => "weight",
            Self::Scales => "scales",
            Self::Biases => "biases",
        }
    }
}

/// What a tensor of a quantised layer is a part of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Packed {
    /// How it is quantised.
    pub scheme: Scheme,
    /// Which tensor of the layer it is.
    pub role: PackedRole,
    /// Shape of the weight that the layer stands for.
    pub logical_shape: Vec<u64>,
}
