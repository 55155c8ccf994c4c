//! The bytes of tensors.
//!
//! A tensor is a sequence of 64-bit words, each a function of key and place, so that any tensor can be made again
//! without the others. Masks leave sign, mantissa and the two low bits of the exponent to chance: every float is finite
//! and its size lies between 2^-7 and 2^-3, as trained weights do.

use safetensors::Dtype;

/// What the tensors hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents {
    /// Small finite numbers that depend on seed, component and tensor name only.
    Random {
        /// Any number.
        seed: u64,
    },
    /// Zeros that take no disk: only headers are written, files are then extended to their length.
    Sparse,
}

/// Makes the bytes of one tensor, piece by piece.
#[derive(Debug)]
pub(crate) struct Filler {
    word: u64,
    keep: u64,
    set: u64,
}

/// Step of the Weyl sequence under splitmix64 (Steele, Lea, Flood 2014).
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

impl Filler {
    pub(crate) fn new(seed: u64, component: &str, name: &str, dtype: Dtype) -> Self {
        // FNV-1a over seed, component and name.
        let key = seed
            .to_le_bytes()
            .iter()
            .chain(component.as_bytes())
            .chain(b"/")
            .chain(name.as_bytes())
            .fold(0xCBF2_9CE4_8422_2325_u64, |hash, &byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
            });
        let (keep, set) = masks(dtype);
        Self { word: key, keep, set }
    }

    /// Fills the next piece. All pieces but the last have a multiple of 8 bytes.
    pub(crate) fn fill(&mut self, piece: &mut [u8]) {
        let (words, rest) = piece.as_chunks_mut::<8>();
        for word in words {
            *word = self.next().to_le_bytes();
        }
        if !rest.is_empty() {
            rest.copy_from_slice(&self.next().to_le_bytes()[..rest.len()]);
        }
    }

    fn next(&mut self) -> u64 {
        self.word = self.word.wrapping_add(STEP);
        let mut mixed = self.word;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) & self.keep) | self.set
    }
}

/// Bits of a word that chance decides, and bits that are set.
fn masks(dtype: Dtype) -> (u64, u64) {
    match dtype {
        Dtype::F64 => (0x803F_FFFF_FFFF_FFFF, 0x3F80_0000_0000_0000),
        Dtype::F32 | Dtype::C64 => (0x81FF_FFFF_81FF_FFFF, 0x3C00_0000_3C00_0000),
        Dtype::BF16 => (0x81FF_81FF_81FF_81FF, 0x3C00_3C00_3C00_3C00),
        Dtype::F16 => (0x8FFF_8FFF_8FFF_8FFF, 0x2000_2000_2000_2000),
        Dtype::BOOL => (0x0101_0101_0101_0101, 0),
        Dtype::F8_E4M3 | Dtype::F8_E5M2 | Dtype::F8_E4M3FNUZ | Dtype::F8_E5M2FNUZ => {
            (0x8F8F_8F8F_8F8F_8F8F, 0x2020_2020_2020_2020)
        }
        // 0xFF is its only NaN.
        Dtype::F8_E8M0 => (0x7F7F_7F7F_7F7F_7F7F, 0),
        // Integers, and floats of 4 and 6 bits, which have no NaN.
        _ => (u64::MAX, 0),
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    fn bytes(name: &str, dtype: Dtype, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        Filler::new(1, "vae", name, dtype).fill(&mut bytes);
        bytes
    }

    fn chunks<const N: usize>(dtype: Dtype) -> Vec<[u8; N]> {
        bytes("x", dtype, 1 << 16).as_chunks::<N>().0.to_vec()
    }

    #[test]
    fn floats_are_small_and_of_both_signs() {
        let check = |values: Vec<f64>| {
            assert!(values.iter().all(|value| (2f64.powi(-7)..2f64.powi(-3)).contains(&value.abs())));
            assert!(values.iter().any(|&value| value < 0.0) && values.iter().any(|&value| value > 0.0));
        };
        check(chunks(Dtype::F32).into_iter().map(|bytes| f32::from_le_bytes(bytes).into()).collect());
        check(chunks(Dtype::F64).into_iter().map(f64::from_le_bytes).collect());
        check(chunks(Dtype::BF16).into_iter().map(|bytes| bf16::from_le_bytes(bytes).into()).collect());
        check(chunks(Dtype::F16).into_iter().map(|bytes| f16::from_le_bytes(bytes).into()).collect());
    }

    #[test]
    fn bytes_depend_on_the_name_and_not_on_the_pieces() {
        let whole = bytes("a", Dtype::F32, 44);
        let mut filler = Filler::new(1, "vae", "a", Dtype::F32);
        let mut pieces = vec![0; 44];
        let (first, second) = pieces.split_at_mut(16);
        filler.fill(first);
        filler.fill(second);
        assert_eq!(whole, pieces);
        assert_ne!(whole, bytes("b", Dtype::F32, 44));
        assert_ne!(whole[..8], whole[8..16]);
    }
}
