//! Blocks that are quantised layers of MLX in another order: affine codes with a scale and a bias for each 32 elements.
//! Nothing is computed but the bias, which is a power of two times the scale; so no bit is lost.

use half::f16;

use super::BlockType;

/// What a triplet cannot say of a block.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum Unrepresentable {
    /// A scale that is no number, with which the sum of product and bias has no meaning.
    #[error("a block's scale is {scale}")]
    NotFinite {
        /// The scale.
        scale: f16,
    },
    /// A scale whose bias is no half float.
    #[error("a block's scale is {scale}, whose bias is beyond the range of half floats")]
    BiasOverflow {
        /// The scale.
        scale: f16,
    },
}

/// The three tensors of an affine layer of MLX, or some rows of them.
#[derive(Debug)]
pub struct Triplet<'a> {
    /// Codes, little-endian words.
    pub codes: &'a mut [u8],
    /// One half float for each group.
    pub scales: &'a mut [u8],
    /// One half float for each group.
    pub biases: &'a mut [u8],
}

impl BlockType {
    /// Elements that share a scale in triplets made from blocks.
    pub const AFFINE_GROUP: u64 = 32;

    /// Bits of a code in MLX's affine quantisation, in groups of 32, that says exactly what the blocks say.
    #[must_use]
    pub fn affine_bits(self) -> Option<u64> {
        match self {
            Self::Q4_0 | Self::Q4_1 => Some(4),
            Self::Q8_0 => Some(8),
            _ => None,
        }
    }
}

/// Writes whole blocks as a triplet, whose lengths fit.
///
/// # Errors
/// When a block has a scale with which the triplet would say something else.
///
/// # Panics
/// When the type has no [`BlockType::affine_bits`].
pub(super) fn affine(kind: BlockType, blocks: &[u8], to: Triplet<'_>) -> Result<(), Unrepresentable> {
    let Triplet { codes, scales, biases } = to;
    let scales = scales.as_chunks_mut::<2>().0.iter_mut();
    let biases = biases.as_chunks_mut::<2>().0.iter_mut();
    let floats = scales.zip(biases);
    match kind {
        BlockType::Q8_0 => {
            let codes = codes.as_chunks_mut::<32>().0.iter_mut();
            for ((block, codes), (scale, bias)) in blocks.as_chunks::<34>().0.iter().zip(codes).zip(floats) {
                (*scale, *bias) = with_bias([block[0], block[1]], -128.0)?;
                // From two's complement to codes that begin at 0.
                codes.iter_mut().zip(&block[2..]).for_each(|(code, &byte)| *code = byte ^ 0x80);
            }
        }
        BlockType::Q4_0 => {
            let codes = codes.as_chunks_mut::<16>().0.iter_mut();
            for ((block, codes), (scale, bias)) in blocks.as_chunks::<18>().0.iter().zip(codes).zip(floats) {
                (*scale, *bias) = with_bias([block[0], block[1]], -8.0)?;
                in_pairs(&block[2..], codes);
            }
        }
        BlockType::Q4_1 => {
            let codes = codes.as_chunks_mut::<16>().0.iter_mut();
            for ((block, codes), (scale, bias)) in blocks.as_chunks::<20>().0.iter().zip(codes).zip(floats) {
                let stored = [block[0], block[1]];
                if !f16::from_le_bytes(stored).is_finite() {
                    return Err(Unrepresentable::NotFinite { scale: f16::from_le_bytes(stored) });
                }
                (*scale, *bias) = (stored, [block[2], block[3]]);
                in_pairs(&block[4..], codes);
            }
        }
        other => panic!("{other} is no affine layer, which the plan knows"),
    }
    Ok(())
}

/// A scale, and the bias that is `factor` times it.
fn with_bias(stored: [u8; 2], factor: f32) -> Result<([u8; 2], [u8; 2]), Unrepresentable> {
    let scale = f16::from_le_bytes(stored);
    if !scale.is_finite() {
        return Err(Unrepresentable::NotFinite { scale });
    }
    let bias = f16::from_f32(scale.to_f32() * factor);
    if bias.is_finite() { Ok((stored, bias.to_le_bytes())) } else { Err(Unrepresentable::BiasOverflow { scale }) }
}

/// From the halves of a block in the low and the high nibbles to neighbours in one byte.
fn in_pairs(block: &[u8], codes: &mut [u8; 16]) {
    for (at, pair) in block.as_chunks::<2>().0.iter().enumerate().take(8) {
        codes[at] = pair[0] & 15 | pair[1] << 4;
        codes[at + 8] = pair[0] >> 4 | pair[1] & 0xf0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ggml::decode;

    /// MLX's formula over the triplet: code times scale plus bias.
    fn dequantised(codes: &[u8], scales: &[u8], biases: &[u8], bits: u64) -> Vec<f32> {
        let number = |bytes: &[u8], group: usize| f16::from_le_bytes([bytes[2 * group], bytes[2 * group + 1]]).to_f32();
        let code = |at: usize| match bits {
            8 => codes[at],
            _ => codes[at / 2] >> (at % 2 * 4) & 15,
        };
        let count = codes.len() * 8 / usize::try_from(bits).unwrap();
        (0..count).map(|at| f32::from(code(at)) * number(scales, at / 32) + number(biases, at / 32)).collect()
    }

    #[test]
    fn a_triplet_says_what_the_blocks_say() {
        for kind in BlockType::all() {
            let Some(bits) = kind.affine_bits() else { continue };
            let bytes = usize::try_from(kind.bytes()).unwrap();
            let mut blocks: Vec<u8> = (0..64 * bytes).map(|at| (at * 89 % 251) as u8).collect();
            for (number, block) in blocks.chunks_exact_mut(bytes).enumerate() {
                // Scales of every sign and of small and large size, subnormal ones among them.
                block[..2].copy_from_slice(&f16::from_bits((number * 0x2b7) as u16 & 0x9fff).to_le_bytes());
                if kind == BlockType::Q4_1 {
                    block[2..4].copy_from_slice(&f16::from_f32(number as f32 - 30.0).to_le_bytes());
                }
            }
            let mut expected = vec![0.0; 64 * 32];
            decode(kind, &blocks, &mut expected);
            let (mut codes, mut scales, mut biases) = (vec![0; 64 * 4 * bits as usize], vec![0; 128], vec![0; 128]);
            let to = Triplet { codes: &mut codes, scales: &mut scales, biases: &mut biases };
            affine(kind, &blocks, to).unwrap();
            assert_eq!(dequantised(&codes, &scales, &biases, bits), expected, "{kind}");
        }
    }

    #[test]
    fn scales_that_a_triplet_cannot_have_are_refused() {
        let refused = |kind: BlockType, scale: f16| {
            let mut block = vec![0; usize::try_from(kind.bytes()).unwrap()];
            block[..2].copy_from_slice(&scale.to_le_bytes());
            let (mut codes, mut scales, mut biases) = ([0; 32], [0; 2], [0; 2]);
            affine(kind, &block, Triplet { codes: &mut codes, scales: &mut scales, biases: &mut biases }).unwrap_err()
        };
        let large = f16::from_f32(600.0);
        assert_eq!(refused(BlockType::Q8_0, large), Unrepresentable::BiasOverflow { scale: large });
        for kind in [BlockType::Q8_0, BlockType::Q4_0, BlockType::Q4_1] {
            assert!(refused(kind, f16::NAN).to_string().contains("NaN"));
            assert_eq!(refused(kind, f16::INFINITY), Unrepresentable::NotFinite { scale: f16::INFINITY });
        }
    }
}
