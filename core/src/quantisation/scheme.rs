//! How MLX quantises a layer: mode, bits and group size.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{
    SlotRole,
    format::{Computed, Format, Gives, Mode, Packing, Presence, SlotSpec},
    formats::FORMATS,
};
use crate::{
    header::{Dtype, FLOATS},
    shown::shown,
};

impl Mode {
    /// All modes: those of the rows of the table of formats that are computed.
    pub fn all() -> impl Iterator<Item = Self> + Clone {
        FORMATS.iter().filter_map(|format| Some(format.computed()?.mode))
    }

    /// Its row in the table of formats, and what is computed with it.
    fn row(self) -> (&'static Format, &'static Computed) {
        let mut rows = FORMATS.iter().filter_map(|format| Some((format, format.computed()?)));
        rows.find(|(_, computed)| computed.mode == self).expect("each mode has a row, says a test")
    }

    /// The tensors of a layer.
    #[must_use]
    pub fn format(self) -> &'static Format {
        self.row().0
    }

    /// MLX's word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.format().name
    }

    /// The mode of that name.
    ///
    /// # Errors
    /// When MLX has no mode of that name.
    pub fn parse(name: &str) -> Result<Self, SchemeError> {
        let found = Self::all().find(|mode| mode.name() == name);
        found.ok_or_else(|| SchemeError::Mode { found: shown(name) })
    }

    /// Bits and group sizes that MLX has for it; the first of each is its default.
    #[must_use]
    pub fn supported(self) -> (&'static [u64], &'static [u64]) {
        let computed = self.row().1;
        (computed.bits, computed.group_sizes)
    }
}

/// How a layer is quantised. Only combinations that MLX has can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Scheme {
    mode: Mode,
    bits: u64,
    group_size: u64,
}

/// Why mode, bits and group size make no [`Scheme`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemeError {
    /// A mode that MLX does not have.
    #[error("mode {found:?} is unknown, expected one of {}", Mode::all().map(Mode::name).collect::<Vec<_>>().join(", "))]
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
    /// A scheme. `None` stands for MLX's default of the mode.
    ///
    /// # Errors
    /// When the mode has no such bits or group size.
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

    /// What codes and scales mean.
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

    /// The tensors of a layer; some layers have [optional](Presence::Optional) ones too.
    pub fn slots(&self) -> impl Iterator<Item = &'static SlotSpec> {
        self.mode.format().required()
    }

    /// The slot of that role, optional ones included.
    #[must_use]
    pub fn slot(&self, role: SlotRole) -> Option<&'static SlotSpec> {
        self.mode.format().slot(role)
    }

    /// The tensors that only some layers have.
    pub fn optional(&self) -> impl Iterator<Item = &'static SlotSpec> {
        self.mode.format().slots.iter().filter(|slot| slot.presence == Presence::Optional)
    }

    fn packing(&self) -> Packing {
        Packing { bits: self.bits, group_size: self.group_size }
    }

    /// Shape on disk of a slot of a layer whose weight has this logical shape. `None` when the weight cannot be
    /// quantised by this scheme (it is not a matrix, or its rows are not whole groups), and for slots that may have
    /// several shapes.
    #[must_use]
    pub fn shape_of(&self, role: SlotRole, logical: &[u64]) -> Option<Vec<u64>> {
        self.slot(role)?.shape.exact(logical, self.packing())
    }

    /// Whether a weight of this shape can be quantised by this scheme: it is a matrix whose rows are whole groups.
    #[must_use]
    pub fn packs(&self, logical: &[u64]) -> bool {
        self.shape_of(SlotRole::Weight, logical).is_some()
    }

    /// Whether a slot of this shape belongs to a layer whose weight has this logical shape.
    #[must_use]
    pub fn fits(&self, slot: &SlotSpec, found: &[u64], logical: &[u64]) -> bool {
        match slot.shape.exact(logical, self.packing()) {
            Some(shape) => shape == found,
            None => self.packs(logical) && slot.shape.may_be(found, logical),
        }
    }

    /// The logical shape of a layer whose weight has this shape on disk.
    #[must_use]
    pub fn logical_shape(&self, packed: &[u64]) -> Option<Vec<u64>> {
        self.slot(SlotRole::Weight)?.shape.logical(packed, self.packing())
    }

    /// All schemes that MLX has.
    pub fn all() -> impl Iterator<Item = Self> {
        Mode::all().flat_map(|mode| {
            let (all_bits, group_sizes) = mode.supported();
            let of_bits = move |&bits: &u64| group_sizes.iter().map(move |&group_size| Self { mode, bits, group_size });
            all_bits.iter().flat_map(of_bits)
        })
    }

    /// The scheme that gives a layer of this logical shape these slots, if exactly one does. `found` gives dtype and
    /// shape of the slot with that role.
    #[must_use]
    pub fn inferred<'a>(logical: &[u64], found: impl Fn(SlotRole) -> Option<(Dtype, &'a [u64])>) -> Option<Self> {
        let is = |scheme: &Self, slot: &SlotSpec| {
            found(slot.role).is_some_and(|(dtype, shape)| slot.dtype.allows(dtype) && scheme.fits(slot, shape, logical))
        };
        let mut fitting = Self::all().filter(|scheme| scheme.slots().all(|slot| is(scheme, slot)));
        let first = fitting.next()?;
        fitting.next().is_none().then_some(first)
    }

    /// Dtypes that a slot may have on disk.
    #[must_use]
    pub fn dtypes(&self, role: SlotRole) -> &'static [Dtype] {
        self.slot(role).and_then(|slot| slot.dtype.all()).unwrap_or(&FLOATS)
    }

    /// The dtype that MLX gives a dequantised weight: `slot` gives the dtype of the slot with that role.
    #[must_use]
    pub fn dequantised(&self, slot: impl Fn(SlotRole) -> Option<Dtype>) -> Dtype {
        match self.mode.row().1.gives {
            Gives::LikeScales => slot(SlotRole::Scales).unwrap_or(Dtype::F32),
            Gives::Bf16OrF32 if slot(SlotRole::GlobalScale).is_some() => Dtype::F32,
            Gives::Bf16OrF32 => Dtype::BF16,
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
            let weight = scheme.shape_of(SlotRole::Weight, &logical).unwrap();
            let scales = scheme.shape_of(SlotRole::Scales, &logical).unwrap();
            assert_eq!((weight[1], scales[1]), (words, groups), "{scheme}");
            assert_eq!(scheme.logical_shape(&weight).unwrap(), logical, "{scheme}");
            let found =
                |role| Some((scheme.dtypes(role)[0], if role == SlotRole::Weight { &*weight } else { &*scales }));
            assert_eq!(Scheme::inferred(&logical, found), Some(scheme));
        }
        let eight = scheme(Mode::Affine, 8, 64);
        assert_eq!(eight.shape_of(SlotRole::Weight, &[10, 96]), None, "96 is no multiple of 64");
        assert_eq!(eight.shape_of(SlotRole::Weight, &[64]), None, "a vector is not quantised");
        assert_eq!(scheme(Mode::Affine, 3, 32).logical_shape(&[64, 10]), None, "320 bits are no whole codes of 3");
        let found = |role| {
            Some(match role {
                SlotRole::Weight => (Dtype::U32, &[8_u64, 16][..]),
                _ => (Dtype::F32, &[9, 2][..]),
            })
        };
        assert_eq!(Scheme::inferred(&[8, 64], found), None, "rows differ");
    }

    #[test]
    fn a_global_scale_is_one_number_for_each_matrix() {
        let nvfp4 = scheme(Mode::Nvfp4, 4, 16);
        let slot = nvfp4.slot(SlotRole::GlobalScale).unwrap();
        for (found, logical, fits) in [
            (&[][..], &[8, 64][..], true),
            (&[1], &[8, 64], true),
            (&[8], &[8, 64], false),
            (&[3], &[3, 8, 64], true),
            (&[], &[3, 8, 64], false),
        ] {
            assert_eq!(nvfp4.fits(slot, found, logical), fits, "{found:?} for {logical:?}");
        }
        assert_eq!(nvfp4.optional().count(), 1);
        assert_eq!(scheme(Mode::Affine, 4, 64).optional().count(), 0);
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
        for (name, expected) in [
            ("affine", "affine 4-bit, groups of 64"),
            ("mxfp4", "mxfp4 4-bit, groups of 32"),
            ("mxfp8", "mxfp8 8-bit, groups of 32"),
            ("nvfp4", "nvfp4 4-bit, groups of 16"),
        ] {
            assert_eq!(Scheme::new(Mode::parse(name).unwrap(), None, None).unwrap().to_string(), expected);
        }
        assert!(Mode::all().all(|mode| Mode::parse(mode.name()) == Ok(mode)));
    }
}
