//! How strongly a change counts, and who says so.

use std::fmt;

use super::{AdapterKey, Kind};
use crate::{
    header::Dtype,
    table::{Sourced, Table},
};

/// The factor on a product: `alpha / divisor`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Strength {
    pub(super) alpha: f64,
    pub(super) divisor: f64,
}

impl Strength {
    /// The strength of a change that is added as it is.
    pub(super) const ONE: Self = Self { alpha: 1.0, divisor: 1.0 };

    pub(super) fn value(self) -> f64 {
        self.alpha / self.divisor
    }
}

/// Who says how strong a change is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StrengthSource {
    /// A tensor beside the matrices.
    AlphaTensor,
    /// `adapter_config.json`.
    Config,
    /// The metadata of the file.
    Metadata,
    /// Nobody, so that the change is added as it is.
    Nothing,
}

impl fmt::Display for StrengthSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AlphaTensor => "alpha tensors",
            Self::Config => "adapter_config.json",
            Self::Metadata => "the file's metadata",
            Self::Nothing => "nothing says a strength",
        })
    }
}

/// Dtypes of an alpha.
pub(super) const NUMBERS: [Dtype; 12] = [
    Dtype::F64,
    Dtype::F32,
    Dtype::F16,
    Dtype::BF16,
    Dtype::I64,
    Dtype::I32,
    Dtype::I16,
    Dtype::I8,
    Dtype::U64,
    Dtype::U32,
    Dtype::U16,
    Dtype::U8,
];

/// The tensors of an adapter whose value [`super::AdapterInput::alphas`] must have: alphas of one element.
pub fn alphas(table: &Table) -> impl Iterator<Item = &Sourced> {
    table.tensors().iter().filter(|tensor| {
        let is_alpha = AdapterKey::parse(&tensor.info.name).is_some_and(|key| key.kind == Ok(Kind::Alpha));
        is_alpha && tensor.info.shape.iter().all(|&size| size == 1) && NUMBERS.contains(&tensor.info.dtype)
    })
}

/// The number in the bytes of a tensor of one element. `None` when there are not as many bytes as `dtype` has, or when it
/// is no number of [`alphas`].
#[must_use]
pub fn number(dtype: Dtype, bytes: &[u8]) -> Option<f64> {
    Some(match dtype {
        Dtype::F64 => f64::from_le_bytes(bytes.try_into().ok()?),
        Dtype::F32 => f64::from(f32::from_le_bytes(bytes.try_into().ok()?)),
        Dtype::F16 => half(u16::from_le_bytes(bytes.try_into().ok()?)),
        Dtype::BF16 => f64::from(f32::from_bits(u32::from(u16::from_le_bytes(bytes.try_into().ok()?)) << 16)),
        Dtype::I64 => i64::from_le_bytes(bytes.try_into().ok()?) as f64,
        Dtype::I32 => f64::from(i32::from_le_bytes(bytes.try_into().ok()?)),
        Dtype::I16 => f64::from(i16::from_le_bytes(bytes.try_into().ok()?)),
        Dtype::I8 => f64::from(i8::from_le_bytes(bytes.try_into().ok()?)),
        Dtype::U64 => u64::from_le_bytes(bytes.try_into().ok()?) as f64,
        Dtype::U32 => f64::from(u32::from_le_bytes(bytes.try_into().ok()?)),
        Dtype::U16 => f64::from(u16::from_le_bytes(bytes.try_into().ok()?)),
        Dtype::U8 => f64::from(*bytes.first().filter(|_| bytes.len() == 1)?),
        _ => return None,
    })
}

/// A number of IEEE 754's binary16.
fn half(bits: u16) -> f64 {
    let (sign, exponent, fraction) = (bits >> 15, i32::from(bits >> 10 & 0x1f), f64::from(bits & 0x3ff));
    let size = match exponent {
        0 => fraction * 2f64.powi(-24),
        0x1f if fraction == 0.0 => f64::INFINITY,
        0x1f => f64::NAN,
        _ => (1.0 + fraction / 1024.0) * 2f64.powi(exponent - 15),
    };
    if sign == 1 { -size } else { size }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_dtype_are_read() {
        let cases: [(Dtype, &[u8], f64); 10] = [
            (Dtype::F64, &1.7f64.to_le_bytes(), 1.7),
            (Dtype::F32, &0.25f32.to_le_bytes(), 0.25),
            (Dtype::F16, &0x3c00u16.to_le_bytes(), 1.0),
            (Dtype::F16, &0xc100u16.to_le_bytes(), -2.5),
            (Dtype::F16, &0x0001u16.to_le_bytes(), 5.960_464_477_539_063e-8),
            (Dtype::BF16, &0x4300u16.to_le_bytes(), 128.0),
            (Dtype::I64, &4i64.to_le_bytes(), 4.0),
            (Dtype::I8, &[0xff], -1.0),
            (Dtype::U8, &[0xff], 255.0),
            (Dtype::U16, &[0, 1], 256.0),
        ];
        for (dtype, bytes, expected) in cases {
            assert_eq!(number(dtype, bytes), Some(expected), "{dtype} {bytes:?}");
        }
        assert_eq!(number(Dtype::F16, &0x7c00u16.to_le_bytes()), Some(f64::INFINITY));
        assert!(number(Dtype::F16, &0x7e00u16.to_le_bytes()).unwrap().is_nan());
        for (dtype, bytes) in [(Dtype::F32, &[0; 3][..]), (Dtype::U8, &[0; 2]), (Dtype::BOOL, &[1])] {
            assert_eq!(number(dtype, bytes), None);
        }
    }
}
