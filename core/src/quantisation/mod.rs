//! Weights that are quantised on disk: the formats, the tensors that a layer has in each, and what a checkpoint declares of
//! itself.
//!
//! [`FORMATS`] is the table of formats; [`recognise()`] tells by it which layers are quantised. weightsd computes
//! with MLX's own formats: a [`Scheme`] is one of them with its numbers. MLX stores for each layer a packed `weight`, its
//! `scales`, and for affine quantisation its `biases` (not to be confused with the layer's own `bias`).
//!
//! Of the formats that MLX does not have, some are made plain by weightsd itself: [`Coding`] says how. ComfyUI's files say
//! layer by layer what they are: [`Mark`].
//!
//! A [`Declaration`] says how a checkpoint is meant to be quantised. [`crate::layers`] compares it
//! with catalogue and shapes, and decides what each layer is.

mod codes;
mod coding;
mod declaration;
mod exact;
mod foreign;
mod format;
mod formats;
mod mark;
mod recognise;
mod scheme;

pub use self::{
    codes::{Codes, Decoding, Grid, TILE_COLUMNS, TILE_ROWS, TileScale},
    coding::{Coded, Coding, Provenance},
    declaration::{CONTROLNET_MANIFEST, Declaration, DeclarationError, Declared, MANIFEST},
    exact::exact_scheme,
    foreign::Foreign,
    format::{
        Arithmetic, CodeRule, Format, Formula, GridRule, Mode, Presence, RotationRule, Sharing, SlotDtype, SlotRole,
        SlotShape, SlotSpec, Spelling,
    },
    formats::{FORMATS, is_file_mark, is_harmless, marked_float},
    mark::{LAYERS_LIST, MARK_BYTES_MAX, MARK_SUFFIX, Mark, MarkError, Rotation},
    recognise::{Recognised, recognise, recognise_called, side_layer},
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
