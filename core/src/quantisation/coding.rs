//! How the codes of a layer in a format that MLX does not have stand for numbers. [`Decoding`] is what the process that
//! computes is told; [`Coding`] is what people are told as well.

use std::fmt;

use super::{
    Mode, Scheme, SlotRole,
    codes::{Codes, Decoding, Grid, TileScale},
    format::Format,
};

impl Decoding {
    /// Whether layers can be given to MLX in `scheme` without loss, by moving bytes: the codes and the scales mean the
    /// same there.
    #[must_use]
    pub fn is_repacked_as(&self, scheme: &Scheme) -> bool {
        let Grid::Tiled { columns, scale: TileScale::E8m0 } = self.grid else { return false };
        self.codes == Codes::E4m3
            && self.rotation.is_none()
            && scheme.mode() == Mode::Mxfp8
            && columns == scheme.group_size()
    }

    /// The roles of the tensors that the numbers depend on.
    #[must_use]
    pub fn reads(&self, role: SlotRole) -> bool {
        match role {
            SlotRole::Weight => true,
            SlotRole::Scales => self.grid != Grid::Unscaled,
            SlotRole::GlobalScale => matches!(self.grid, Grid::Tiled { scale: TileScale::E4m3, .. }),
            SlotRole::ZeroPoints => matches!(self.grid, Grid::Transposed { .. }),
            _ => false,
        }
    }
}

/// What says in which format a layer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Provenance {
    /// The names and dtypes of its tensors alone.
    Tensors,
    /// A tensor that stands for the whole file.
    FileMark,
    /// A list in the file's metadata.
    List,
    /// A mark beside the weight.
    Mark,
    /// The model's config.
    Config,
}

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tensors => "its tensors",
            Self::FileMark => "`scaled_fp8`",
            Self::List => "`_quantization_metadata`",
            Self::Mark => "`.comfy_quant`",
            Self::Config => "its config",
        })
    }
}

/// How a layer is stored that MLX has no format for, and that can be made plain all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coding {
    /// The format.
    pub format: &'static Format,
    /// Its arithmetic.
    pub decoding: Decoding,
    /// What says so.
    pub provenance: Provenance,
}

impl fmt::Display for Coding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { format, decoding, provenance } = self;
        write!(f, "{}, {}", format.name, decoding.codes)?;
        if let Some(columns) = decoding.rotation {
            write!(f, ", rotated by {columns}")?;
        }
        write!(f, " (by {provenance})")
    }
}

/// The coded layer that a tensor is a part of, or was computed from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coded {
    /// How the layer is stored.
    pub coding: Coding,
    /// Which tensor of the layer it is.
    pub role: SlotRole,
    /// Shape of the weight that the layer stands for.
    pub logical_shape: Vec<u64>,
}
