//! What a quantised layer consists of, in terms of a table: [`super::formats`] has a row for each format.

use serde::{Deserialize, Serialize};

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
pub enum PartRole {
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

/// Which dtypes a part may have on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartDtype {
    /// That of the weight before it was quantised: F32, F16 or BF16.
    Float,
    /// One of these. The first is written.
    OneOf(&'static [Dtype]),
    /// Any.
    Any,
}

impl PartDtype {
    /// The dtypes that it may have; `None` for any.
    #[must_use]
    pub fn all(self) -> Option<&'static [Dtype]> {
        match self {
            Self::Float => Some(&FLOATS),
            Self::OneOf(dtypes) => Some(dtypes),
            Self::Any => None,
        }
    }

    /// Whether it may be this one.
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

/// How a part's shape follows from that of the weight, `[.., rows, columns]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartShape {
    /// `[.., rows, columns * bits / 32]`.
    Words,
    /// `[.., rows, columns / group size]`.
    Groups,
    /// One number for each matrix: `[]` or `[1]`, and `[count]` for a stack of matrices.
    EachMatrix,
    /// One number for each row, or one for all of them: `[]`, `[1]`, `[rows]` or `[rows, 1]`.
    RowsOrOne,
    /// The weight's shape, with as many codes in an element, after rows and columns were rounded up to a multiple.
    Padded {
        /// Rows and columns may have been rounded up to a multiple of it.
        multiple: u64,
        /// Codes in one element.
        codes: u64,
    },
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

impl PartShape {
    /// The shape for a weight of shape `logical`. `None` where the rule leaves a choice, where the weight is no matrix, and
    /// where its rows are no whole number of groups.
    #[must_use]
    pub fn exact(self, logical: &[u64], packing: Packing) -> Option<Vec<u64>> {
        let (&columns, rows) = logical.split_last()?;
        if rows.is_empty() || columns == 0 || !columns.is_multiple_of(packing.group_size) {
            return None;
        }
        let with = |last: u64| Some(rows.iter().copied().chain([last]).collect());
        match self {
            // Whole words, for all groups but 16 have 32 elements or a multiple, and 4 bits fill words by 8.
            Self::Words => with(columns.checked_mul(packing.bits)? / WORD_BITS),
            Self::Groups => with(columns / packing.group_size),
            Self::EachMatrix if rows.len() > 1 => Some(rows[..rows.len() - 1].to_vec()),
            Self::EachMatrix | Self::RowsOrOne | Self::Padded { .. } | Self::Free => None,
        }
    }

    /// The weight's shape, from that of the codes; the reverse of [`Self::exact`] for [`Self::Words`].
    #[must_use]
    pub fn logical(self, found: &[u64], packing: Packing) -> Option<Vec<u64>> {
        let (&words, rows) = found.split_last()?;
        let bits = words.checked_mul(WORD_BITS)?;
        let logical: Vec<u64> = rows.iter().copied().chain([bits / packing.bits]).collect();
        (bits.is_multiple_of(packing.bits) && self.exact(&logical, packing)? == found).then_some(logical)
    }

    /// Whether a part of shape `found` may belong to a weight of shape `logical`, whatever bits and groups it has.
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
            Self::Free => true,
        }
    }
}

/// Whether a layer can do without a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// The format is told by it.
    Required,
    /// Some layers have it.
    Optional,
}

/// How a layer's rows are dealt out when a fused layer becomes several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// A part with a first dimension of as many as the weight has goes by rows, another belongs to all.
    ByRows,
    /// As `ByRows`, in tiles of 128 rows that cannot be cut.
    ByTiles,
    /// It belongs to all of them, whole.
    Whole,
}

/// Whose name a part has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spelling {
    /// Nothing but a quantised layer has a tensor of that name.
    Own,
    /// Tensors of other modules are called so too.
    Common,
}

/// One tensor of a quantised layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartSpec {
    /// What it is for.
    pub role: PartRole,
    /// What follows the layer's name in the tensor's.
    pub suffix: &'static str,
    /// Its dtype.
    pub dtype: PartDtype,
    /// Its shape.
    pub shape: PartShape,
    /// Whether each layer has it.
    pub presence: Presence,
    /// What becomes of it when a fused layer is taken apart.
    pub sharing: Sharing,
    /// Whether its name alone tells that a layer is quantised.
    pub spelling: Spelling,
}

impl PartSpec {
    /// A part that every layer of the format has.
    #[must_use]
    pub const fn required(role: PartRole, suffix: &'static str, dtype: PartDtype, shape: PartShape) -> Self {
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

    /// A part that some layers of the format have.
    #[must_use]
    pub const fn optional(role: PartRole, suffix: &'static str, dtype: PartDtype, shape: PartShape) -> Self {
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

    /// The same, and it goes whole to each layer of a fused one.
    #[must_use]
    pub const fn whole(mut self) -> Self {
        self.sharing = Sharing::Whole;
        self
    }

    /// The same, and its rows lie in tiles.
    #[must_use]
    pub const fn tiled(mut self) -> Self {
        self.sharing = Sharing::ByTiles;
        self
    }

    /// The same, under a name that is not quantisation's alone.
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

/// What dequantising gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gives {
    /// The dtype of the scales.
    LikeScales,
    /// BF16; F32 where the layer has a global scale.
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

/// One way in which layers are quantised: a row of [`super::FORMATS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// What people call it.
    pub name: &'static str,
    /// Words by which `quant_method` of a config names it.
    pub methods: &'static [&'static str],
    /// The tensors of a layer.
    pub parts: &'static [PartSpec],
    /// What is computed with it. `None`: it is recognised and lent as stored, and nothing is computed from it.
    pub computed: Option<Computed>,
}

impl Format {
    /// The part of that role.
    #[must_use]
    pub fn part(&self, role: PartRole) -> Option<&'static PartSpec> {
        self.parts.iter().find(|part| part.role == role)
    }

    /// The parts that every layer has.
    pub fn required(&self) -> impl Iterator<Item = &'static PartSpec> {
        self.parts.iter().filter(|part| part.presence == Presence::Required)
    }
}
