//! Weights that are quantised on disk: which formats there are, what the tensors of a layer in each of them are, and what a
//! checkpoint declares of itself.
//!
//! [`FORMATS`] is the table of formats; [`recognise()`] tells by it which layers are quantised. With some formats, MLX's own,
//! weightsd computes: a [`Scheme`] is one of them with its numbers. MLX stores for each layer a packed `weight`, its
//! `scales`, and for affine quantisation its `biases` (not to be confused with the layer's own `bias`).
//!
//! A [`Declaration`] says how a checkpoint is meant to be quantised. What a checkpoint's tensors are, after declaration,
//! catalogue and shapes were compared, is told by [`crate::layers`].

mod declaration;
mod format;
mod formats;
mod recognise;
mod scheme;

pub use self::{
    declaration::{CONTROLNET_MANIFEST, Declaration, DeclarationError, Declared, Foreign, MANIFEST},
    format::{Format, Mode, PartDtype, PartRole, PartShape, PartSpec, Presence, Sharing, Spelling},
    formats::{FORMATS, is_file_mark},
    recognise::{Recognised, recognise, side_layer},
    scheme::{Scheme, SchemeError},
};

/// What a tensor of a quantised layer is a part of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Packed {
    /// How the layer is quantised.
    pub scheme: Scheme,
    /// Which tensor of the layer it is.
    pub role: PartRole,
    /// Shape of the weight that the layer stands for.
    pub logical_shape: Vec<u64>,
}
