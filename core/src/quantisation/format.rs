//! The terms in which a format is described: its tensors, their dtypes and shapes. [`super::formats`] has a row for each
//! format.

use serde::{Deserialize, Serialize};

use super::codes::{Codes, TileScale};
use crate::header::{Dtype, FLOATS};

/// Bits of a word into which MLX packs codes.
const WORD_BITS: u64 = 32;

/// A format that MLX computes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Mode {
    /// Unsigned codes; `code * scale + bias`.
    Affine,
    /// E2M1 codes, E8M0 scales.
    Mxfp4,
    /// E4M3 codes, E8M0 scales.
    Mxfp8,
    /// E2M1 codes, E4M3 scales.
    Nvfp4,
}

/// What a tensor of a quantised layer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SlotRole {
    /// The codes.
    Weight,
    /// What codes are multiplied by: one number for each group, row, block or tensor.
    Scales,
    /// What is added to each product, one number for each group.
    Biases,
    /// What the scales themselves are multiplied by.
    GlobalScale,
    /// The codes that mean zero.
    ZeroPoints,
    /// Which group each column belongs to.
    GroupIndex,
    /// What the layer's input is multiplied by. The weight does not depend on it.
    InputScale,
    /// What the layer's input is divided by before the product. The weight depends on it.
    Smoothing,
    /// What codes stand for.
    Codebook,
    /// A product of two narrow matrices that is added to the weight.
    LowRank,
    /// Text that says how the layer is quantised.
    Description,
}

/// Which dtypes a slot may have on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotDtype {
    /// The dtype of the weight before it was quantised: F32, F16 or BF16.
    Float,
    /// One of these. The first is written.
    OneOf(&'static [Dtype]),
    /// Any dtype.
    Any,
}

impl SlotDtype {
    /// The dtypes that the slot may have; `None` for any.
    #[must_use]
    pub fn all(self) -> Option<&'static [Dtype]> {
        match self {
            Self::Float => Some(&FLOATS),
            Self::OneOf(dtypes) => Some(dtypes),
            Self::Any => None,
        }
    }

    /// Whether the slot may have this dtype.
    #[must_use]
    pub fn allows(self, dtype: Dtype) -> bool {
        self.all().is_none_or(|dtypes| dtypes.contains(&dtype))
    }

    /// The dtype that is written for a weight of dtype `float`.
    #[must_use]
    pub fn written(self, float: Dtype) -> Dtype {
        match self {
            Self::OneOf([first, ..]) => *first,
            Self::OneOf([]) | Self::Float | Self::Any => float,
        }
    }
}

/// How a slot's shape follows from the weight's, `[.., rows, columns]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotShape {
    /// `[.., rows, columns * bits / 32]`.
    Words,
    /// `[.., rows, columns / group size]`.
    Groups,
    /// One number for each matrix: `[]` or `[1]`, and `[count]` for a stack of matrices.
    EachMatrix,
    /// One number for each row, or one for all of them: `[]`, `[1]`, `[rows]` or `[rows, 1]`.
    RowsOrOne,
    /// The weight's shape after rows and columns were rounded up to a multiple, with several codes in one element.
    Padded {
        /// Rows and columns may have been rounded up to a multiple of it.
        multiple: u64,
        /// Codes in one element.
        codes: u64,
    },
    /// `[columns]`.
    Columns,
    /// `[columns, _]`.
    ColumnsByAny,
    /// `[rows, _]`.
    RowsByAny,
    /// `[columns / group, rows]`, for one of these groups.
    TransposedGroups(&'static [u64]),
    /// It does not follow from the weight's shape alone.
    Free,
}

/// Numbers that shapes depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packing {
    /// Bits of a code.
    pub bits: u64,
    /// Columns that share a scale.
    pub group_size: u64,
}

impl SlotShape {
    /// The shape for a weight of shape `logical`. `None` when the rule leaves a choice, when the weight is not a
    /// matrix, and when its rows are not whole groups.
    #[must_use]
    pub fn exact(self, logical: &[u64], packing: Packing) -> Option<Vec<u64>> {
        let (&columns, rows) = logical.split_last()?;
        if rows.is_empty() || columns == 0 || !columns.is_multiple_of(packing.group_size) {
            return None;
        }
        let with = |last: u64| Some(rows.iter().copied().chain([last]).collect());
        match self {
            // Rows fill whole words: groups have 32 elements or a multiple, or 16, and then a word holds 8 codes of 4 bits.
            Self::Words => with(columns.checked_mul(packing.bits)? / WORD_BITS),
            Self::Groups => with(columns / packing.group_size),
            Self::EachMatrix if rows.len() > 1 => Some(rows[..rows.len() - 1].to_vec()),
            Self::EachMatrix
            | Self::RowsOrOne
            | Self::Padded { .. }
            | Self::Columns
            | Self::ColumnsByAny
            | Self::RowsByAny
            | Self::TransposedGroups(_)
            | Self::Free => None,
        }
    }

    /// The weight's shape, from the shape of the codes: the reverse of [`Self::exact`] for [`Self::Words`].
    #[must_use]
    pub fn logical(self, found: &[u64], packing: Packing) -> Option<Vec<u64>> {
        let (&words, rows) = found.split_last()?;
        let bits = words.checked_mul(WORD_BITS)?;
        let logical: Vec<u64> = rows.iter().copied().chain([bits / packing.bits]).collect();
        (bits.is_multiple_of(packing.bits) && self.exact(&logical, packing)? == found).then_some(logical)
    }

    /// Whether a slot of shape `found` may belong to a weight of shape `logical`, with any bits and groups.
    #[must_use]
    pub fn may_be(self, found: &[u64], logical: &[u64]) -> bool {
        let Some((&columns, rows)) = logical.split_last().filter(|(_, rows)| !rows.is_empty()) else {
            return self == Self::Free;
        };
        let elements: u64 = found.iter().product();
        match self {
            Self::Words | Self::Groups => found.split_last().is_some_and(|(_, found)| found == rows),
            Self::EachMatrix => elements == rows[..rows.len() - 1].iter().product::<u64>(),
            Self::RowsOrOne => elements == 1 || elements == rows.iter().product::<u64>(),
            Self::Padded { multiple, codes } => {
                let fits = |rows: &[u64], columns: u64| {
                    let expected = rows.iter().copied().chain([columns.div_ceil(codes)]);
                    expected.eq(found.iter().copied())
                };
                let mut padded = rows.to_vec();
                if let Some(last) = padded.last_mut() {
                    *last = last.next_multiple_of(multiple);
                }
                fits(rows, columns) || fits(&padded, columns.next_multiple_of(multiple))
            }
            Self::Columns => found == [columns],
            Self::ColumnsByAny => matches!(*found, [first, _] if first == columns),
            Self::RowsByAny => matches!(*found, [first, _] if [first] == *rows),
            Self::TransposedGroups(groups) => {
                let is = |group: &u64| matches!(*found, [first, last] if first.checked_mul(*group) == Some(columns) && [last] == *rows);
                groups.iter().any(is)
            }
            Self::Free => true,
        }
    }
}

/// Whether a layer can do without a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Every layer of the format has it.
    Required,
    /// Some layers have it.
    Optional,
}

/// How a layer's rows are dealt out when a fused layer becomes several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// A slot with as many rows as the weight is dealt out by rows. Any other belongs to all layers.
    ByRows,
    /// As `ByRows`, but the rows lie in tiles of 128 that cannot be cut.
    ByTiles,
    /// The whole slot belongs to each of the layers.
    Whole,
}

/// Whether the name of a slot is also used outside of quantisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spelling {
    /// Only quantised layers have a tensor of that name.
    Own,
    /// Tensors of other modules have that name too.
    Common,
}

/// One tensor of a quantised layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotSpec {
    /// What it is for.
    pub role: SlotRole,
    /// The end of the tensor's name, after the layer's.
    pub suffix: &'static str,
    /// Its dtype.
    pub dtype: SlotDtype,
    /// Its shape.
    pub shape: SlotShape,
    /// Whether each layer has it.
    pub presence: Presence,
    /// What becomes of it when a fused layer is taken apart.
    pub sharing: Sharing,
    /// Whether its name alone tells that a layer is quantised.
    pub spelling: Spelling,
}

impl SlotSpec {
    /// A slot that every layer of the format has.
    #[must_use]
    pub const fn required(role: SlotRole, suffix: &'static str, dtype: SlotDtype, shape: SlotShape) -> Self {
        Self {
            role,
            suffix,
            dtype,
            shape,
            presence: Presence::Required,
            sharing: Sharing::ByRows,
            spelling: Spelling::Own,
        }
    }

    /// A slot that some layers of the format have.
    #[must_use]
    pub const fn optional(role: SlotRole, suffix: &'static str, dtype: SlotDtype, shape: SlotShape) -> Self {
        Self {
            role,
            suffix,
            dtype,
            shape,
            presence: Presence::Optional,
            sharing: Sharing::ByRows,
            spelling: Spelling::Own,
        }
    }

    /// This slot, but each layer of a fused one gets it whole.
    #[must_use]
    pub const fn whole(mut self) -> Self {
        self.sharing = Sharing::Whole;
        self
    }

    /// This slot, but its rows lie in tiles.
    #[must_use]
    pub const fn tiled(mut self) -> Self {
        self.sharing = Sharing::ByTiles;
        self
    }

    /// This slot, but other modules have tensors of that name too.
    #[must_use]
    pub const fn common(mut self) -> Self {
        self.spelling = Spelling::Common;
        self
    }

    /// Its name in the layer, without the dot: `weight`, `scales`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.suffix.trim_start_matches('.')
    }
}

/// The dtype that dequantising gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gives {
    /// The dtype of the scales.
    LikeScales,
    /// BF16, or F32 if the layer has a global scale.
    Bf16OrF32,
}

/// What MLX computes with a format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Computed {
    /// MLX's mode.
    pub mode: Mode,
    /// Bits of a code that MLX has; the first is its default.
    pub bits: &'static [u64],
    /// Group sizes that MLX has; the first is its default.
    pub group_sizes: &'static [u64],
    /// The dtype of a dequantised weight.
    pub gives: Gives,
}

/// What the codes of a format are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodeRule {
    /// Always these.
    Always(Codes),
    /// 8-bit floats; the dtype of the weight says which.
    ByDtype,
    /// 8-bit floats in U8; the mark says which.
    ByMark,
}

/// Which codes of a format share a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GridRule {
    /// None have a scale.
    Unscaled,
    /// Those of a row, or all of them: the shape of the scales says which.
    RowsOrOne,
    /// Those of a square of so many rows and columns.
    Squares(u64),
    /// Those of a row, or all of them, or those of a square, or some columns of a row: the shape of the scales says which.
    ByShape {
        /// Rows, and columns, of a square.
        side: u64,
        /// Columns that share a scale which is a power of two.
        group: u64,
    },
    /// So many columns of a row. The scales lie the other way round.
    Transposed(u64),
    /// So many columns of a row. The scales lie in tiles.
    Tiled(u64, TileScale),
}

/// Whether weights of a format were rotated before they were quantised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RotationRule {
    /// Never.
    Never,
    /// When the mark says so. Rotated weights have a scale for each row.
    IfMarked,
    /// Always.
    Always,
}

/// How weightsd itself makes the layers of a format plain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Formula {
    /// What the codes are.
    pub codes: CodeRule,
    /// Which of them share a scale.
    pub grid: GridRule,
    /// Whether the weight was rotated.
    pub rotation: RotationRule,
    /// Why the tensors of a layer that no mark describes do not tell its numbers; `None` when they do.
    pub unmarked: Option<&'static str>,
}

/// What is computed from the layers of a format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arithmetic {
    /// MLX has the format.
    Mlx(Computed),
    /// MLX does not have it, and weightsd makes its layers plain.
    Ours(Formula),
    /// Nothing: its layers are recognised and lent as they are stored. The reason is a clause.
    Lent(&'static str),
}

/// One way in which layers are quantised: a row of [`super::FORMATS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// What people call it.
    pub name: &'static str,
    /// Words by which `quant_method` of a config names it.
    pub methods: &'static [&'static str],
    /// Words by which the mark of a layer names it.
    pub marks: &'static [&'static str],
    /// The tensors of a layer.
    pub slots: &'static [SlotSpec],
    /// What is computed from them.
    pub arithmetic: Arithmetic,
}

impl Format {
    /// What MLX computes with it; `None` when MLX does not have it.
    #[must_use]
    pub fn computed(&self) -> Option<&Computed> {
        match &self.arithmetic {
            Arithmetic::Mlx(computed) => Some(computed),
            Arithmetic::Ours(_) | Arithmetic::Lent(_) => None,
        }
    }

    /// How weightsd makes its layers plain; `None` when MLX does, or nothing does.
    #[must_use]
    pub fn formula(&self) -> Option<&Formula> {
        match &self.arithmetic {
            Arithmetic::Ours(formula) => Some(formula),
            Arithmetic::Mlx(_) | Arithmetic::Lent(_) => None,
        }
    }

    /// Whether a layer of that mark or `quant_method` may be in this format.
    #[must_use]
    pub fn is_called(&self, word: &str) -> bool {
        self.methods.contains(&word) || self.marks.contains(&word)
    }

    /// The slot of that role.
    #[must_use]
    pub fn slot(&self, role: SlotRole) -> Option<&'static SlotSpec> {
        self.slots.iter().find(|slot| slot.role == role)
    }

    /// The slots that every layer has.
    pub fn required(&self) -> impl Iterator<Item = &'static SlotSpec> {
        self.slots.iter().filter(|slot| slot.presence == Presence::Required)
    }
}
