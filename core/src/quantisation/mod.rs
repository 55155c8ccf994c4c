//! Weights that are quantised on disk: the formats, the tensors that a layer has in each, and what a checkpoint declares of
//! itself.
//!
//! [`FORMATS`] is the table of formats; [`recognise()`] tells by it which layers are quantised. weightsd computes
//! with MLX's own formats: a [`Scheme`] is one of them with its numbers. MLX stores for each layer a packed `weight`, its
//! `scales`, and for affine quantisation its `biases` (not to be confused with the layer's own `bias`).
//!
//! A [`Declaration`] says how a checkpoint is meant to be quantised. [`crate::layers`] compares it
//! with catalogue and shapes, and decides what each layer is.

mod declaration;
mod format;
mod formats;
mod recognise;
mod scheme;

pub use self::{
    declaration::{CONTROLNET_MANIFEST, Declaration, DeclarationError, Declared, Foreign, MANIFEST},
    format::{Format, Mode, Presence, Sharing, SlotDtype, SlotRole, SlotShape, SlotSpec, Spelling},
    formats::{FORMATS, is_file_mark},
    recognise::{Recognised, recognise, side_layer},
    scheme::{Scheme, SchemeError},
};

/// The quantised layer that a tensor is a part of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Packed {
    /// How the layer is quantised.
    pub scheme: Scheme,
    /// Which tensor of the layer it is.
    pub role: SlotRole,
    /// Shape of the weight that the layer stands for.
    pub logical_shape: Vec<u64>,
}
