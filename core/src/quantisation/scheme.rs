//! Mode, bits and group size, and the arithmetic of packed shapes.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{header::Dtype, header::FLOATS, shown::shown};

use super::PackedRole;

/// Bits of a word into which codes are packed.
const WORD_BITS: u64 = 32;

/// What a code and a scale mean.
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

impl Mode {
    /// All modes.
    pub const ALL: [Self; 4] = [Self::Affine, Self::Mxfp4, Self::Mxfp8, Self::Nvfp4];

    /// MLX's word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Affine => "affine",
            Self::Mxfp4 => "mxfp4",
            Self::Mxfp8 => "mxfp8",
            Self::Nvfp4 => "nvfp4",
        }
    }

    /// The mode of that name.
    ///
    /// # Errors
    /// [`SchemeError::Mode`].
    pub fn parse(name: &str) -> Result<Self, SchemeError> {
        let found = Self::ALL.into_iter().find(|mode| mode.name() == name);
        found.ok_or_else(|| SchemeError::Mode { found: shown(name) })
    }

    /// Bits and group sizes that MLX has for it; the first of each is its default.
    #[must_use]
    pub fn supported(self) -> (&'static [u64], &'static [u64]) {
        match self {
            Self::Affine => (&[4, 2, 3, 5, 6, 8], &[64, 32, 128]),
            Self::Mxfp4 => (&[4], &[32]),
            Self::Mxfp8 => (&[8], &[32]),
            Self::Nvfp4 => (&[4], &[16]),
        }
    }
}

/// How a layer is quantised; only combinations that MLX has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Scheme {
    mode: Mode,
    bits: u64,
    group_size: u64,
}

/// Why numbers make no [`Scheme`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemeError {
    /// A mode that MLX does not have.
    #[error("mode {found:?} is unknown, expected affine, mxfp4, mxfp8 or nvfp4")]
    Mode {
        /// The mode.
        found: String,
    },
    /// Bits that the mode does not have.
    #[error("{found} bits are not supported in mode {}, expected one of {}", mode.name(), list(mode.supported().0))]
    Bits {
        /// The mode.
        mode: Mode,
        /// The bits.
        found: u64,
    },
    /// A group size that the mode does not have.
    #[error("group size {found} is not supported in mode {}, expected one of {}", mode.name(), list(mode.supported().1))]
    GroupSize {
        /// The mode.
        mode: Mode,
        /// The group size.
        found: u64,
    },
}

fn list(numbers: &[u64]) -> String {
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable();
    sorted.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
}

impl Scheme {
    /// A scheme; what is `None` is MLX's default for the mode.
    ///
    /// # Errors
    /// [`SchemeError`].
    pub fn new(mode: Mode, bits: Option<u64>, group_size: Option<u64>) -> Result<Self, SchemeError> {
        let (all_bits, all_sizes) = mode.supported();
        let (bits, group_size) = (bits.unwrap_or(all_bits[0]), group_size.unwrap_or(all_sizes[0]));
        if !all_bits.contains(&bits) {
            return Err(SchemeError::Bits { mode, found: bits });
        }
        if !all_sizes.contains(&group_size) {
            return Err(SchemeError::GroupSize { mode, found: group_size });
        }
        Ok(Self { mode, bits, group_size })
    }

    /// Affine, or what else codes and scales mean.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Bits of a code.
    #[must_use]
    pub fn bits(&self) -> u64 {
        self.bits
    }

    /// Elements that share a scale.
    #[must_use]
    pub fn group_size(&self) -> u64 {
        self.group_size
    }

    /// The tensors of a layer.
    #[must_use]
    pub fn roles(&self) -> &'static [PackedRole] {
        match self.mode {
            Mode::Affine => &[PackedRole::Weight, PackedRole::Scales, PackedRole::Biases],
            Mode::Mxfp4 | Mode::Mxfp8 | Mode::Nvfp4 => &[PackedRole::Weight, PackedRole::Scales],
        }
    }

    /// Shape on disk of a tensor of a layer whose weight has this logical shape. `None` when the weight cannot be
    /// quantised so: it is no matrix, or its rows are no whole number of groups.
    #[must_use]
    pub fn shape_of(&self, role: PackedRole, logical: &[u64]) -> Option<Vec<u64>> {
        let (&columns, rows) = logical.split_last()?;
        if rows.is_empty() || columns == 0 || !columns.is_multiple_of(self.group_size) {
            return None;
        }
        let last = match role {
            // Whole words, for all groups but 16 have 32 elements or a multiple, and 4 bits fill words by 8.
            PackedRole::Weight => columns.checked_mul(self.bits)? / WORD_BITS,
            PackedRole::Scales | PackedRole::Biases => columns / self.group_size,
        };
        Some(rows.iter().copied().chain([last]).collect())
    }

    /// The logical shape of a layer whose weight has this shape on disk.
    #[must_use]
    pub fn logical_shape(&self, packed: &[u64]) -> Option<Vec<u64>> {
        let (&words, rows) = packed.split_last()?;
        let bits = words.checked_mul(WORD_BITS)?;
        let logical: Vec<u64> = rows.iter().copied().chain([bits / self.bits]).collect();
        (bits.is_multiple_of(self.bits) && self.shape_of(PackedRole::Weight, &logical)? == packed).then_some(logical)
    }

    /// The scheme by which a layer of this logical shape has tensors of these shapes, when there is one.
    #[must_use]
    pub fn inferred(logical: &[u64], weight: &[u64], scales: &[u64], scales_dtype: Dtype) -> Option<Self> {
        let (columns, words, groups) = (*logical.last()?, *weight.last()?, *scales.last()?);
        let bits = words.checked_mul(WORD_BITS)?.checked_div(columns)?;
        let group_size = columns.checked_div(groups)?;
        let mode = match (scales_dtype, bits, group_size) {
            (Dtype::U8 | Dtype::F8_E8M0, 4, 32) => Mode::Mxfp4,
            (Dtype::U8 | Dtype::F8_E8M0, 8, 32) => Mode::Mxfp8,
            (Dtype::U8 | Dtype::F8_E4M3, 4, 16) => Mode::Nvfp4,
            (dtype, ..) if FLOATS.contains(&dtype) => Mode::Affine,
            _ => return None,
        };
        let scheme = Self::new(mode, Some(bits), Some(group_size)).ok()?;
        let fits = |role, found: &[u64]| scheme.shape_of(role, logical).is_some_and(|shape| shape == found);
        (fits(PackedRole::Weight, weight) && fits(PackedRole::Scales, scales)).then_some(scheme)
    }

    /// Dtypes that a tensor of a layer may have on disk.
    #[must_use]
    pub fn dtypes(&self, role: PackedRole) -> &'static [Dtype] {
        match (role, self.mode) {
            (PackedRole::Weight, _) => &[Dtype::U32],
            (PackedRole::Scales | PackedRole::Biases, Mode::Affine) => &FLOATS,
            // MLX keeps the bytes of 8-bit floats as U8; other writers name what they are.
            (_, Mode::Mxfp4 | Mode::Mxfp8) => &[Dtype::U8, Dtype::F8_E8M0],
            (_, Mode::Nvfp4) => &[Dtype::U8, Dtype::F8_E4M3],
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}-bit, groups of {}", self.mode.name(), self.bits, self.group_size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scheme(mode: Mode, bits: u64, group_size: u64) -> Scheme {
        Scheme::new(mode, Some(bits), Some(group_size)).unwrap()
    }

    #[test]
    fn packed_shapes_are_mlx_s() {
        let cases: [(Scheme, [u64; 2], u64, u64); 6] = [
            (scheme(Mode::Affine, 8, 32), [3840, 3840], 960, 120),
            (scheme(Mode::Affine, 4, 64), [10240, 3840], 480, 60),
            (scheme(Mode::Affine, 4, 32), [15360, 256], 32, 8),
            (scheme(Mode::Affine, 3, 32), [64, 96], 9, 3),
            (scheme(Mode::Mxfp8, 8, 32), [64, 96], 24, 3),
            (scheme(Mode::Nvfp4, 4, 16), [64, 48], 6, 3),
        ];
        for (scheme, logical, words, groups) in cases {
            let weight = scheme.shape_of(PackedRole::Weight, &logical).unwrap();
            let scales = scheme.shape_of(PackedRole::Scales, &logical).unwrap();
            assert_eq!((weight[1], scales[1]), (words, groups), "{scheme}");
            assert_eq!(scheme.logical_shape(&weight).unwrap(), logical, "{scheme}");
            let dtype = scheme.dtypes(PackedRole::Scales)[0];
            assert_eq!(Scheme::inferred(&logical, &weight, &scales, dtype), Some(scheme));
        }
        let eight = scheme(Mode::Affine, 8, 64);
        assert_eq!(eight.shape_of(PackedRole::Weight, &[10, 96]), None, "96 is no multiple of 64");
        assert_eq!(eight.shape_of(PackedRole::Weight, &[64]), None, "a vector is not quantised");
        assert_eq!(scheme(Mode::Affine, 3, 32).logical_shape(&[64, 10]), None, "320 bits are no whole codes of 3");
        assert_eq!(Scheme::inferred(&[8, 64], &[8, 16], &[9, 2], Dtype::F32), None, "rows differ");
    }

    #[test]
    fn errors_name_the_value_and_what_is_supported() {
        let group_size = Scheme::new(Mode::Affine, Some(8), Some(48)).unwrap_err().to_string();
        assert!(group_size.contains("48") && group_size.contains("32, 64, 128"), "{group_size}");
        let bits = Scheme::new(Mode::Affine, Some(7), None).unwrap_err().to_string();
        assert!(bits.contains('7') && bits.contains("2, 3, 4, 5, 6, 8"), "{bits}");
        let mode = Mode::parse("awq").unwrap_err().to_string();
        assert!(mode.contains("awq") && mode.contains("mxfp4"), "{mode}");
        assert!(Scheme::new(Mode::Mxfp4, Some(8), None).is_err());
    }

    #[test]
    fn names_and_defaults_are_mlx_s() {
        let shown: Vec<String> =
            Mode::ALL.iter().map(|&mode| Scheme::new(mode, None, None).unwrap().to_string()).collect();
        let expected = [
            "affine 4-bit, groups of 64",
            "mxfp4 4-bit, groups of 32",
            "mxfp8 8-bit, groups of 32",
            "nvfp4 4-bit, groups of 16",
        ];
        assert_eq!(shown, expected);
        assert!(Mode::ALL.iter().all(|&mode| Mode::parse(mode.name()) == Ok(mode)));
    }
}
