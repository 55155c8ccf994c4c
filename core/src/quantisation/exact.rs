//! Encoded tensors that are quantised layers of MLX already, but for the order of their bits.

use super::{Mode, Scheme};
use crate::ggml::{BlockType, Encoding};

/// The scheme of MLX that says exactly what an encoded tensor of this shape says, if there is one.
#[must_use]
pub fn exact_scheme(encoding: &Encoding, shape: &[u64]) -> Option<Scheme> {
    let bits = encoding.affine_bits()?;
    encoding.rows_together(shape)?;
    let scheme = Scheme::new(Mode::Affine, Some(bits), Some(BlockType::AFFINE_GROUP)).ok()?;
    scheme.packs(shape).then_some(scheme)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_one_scale_and_whole_rows_are_affine_layers() {
        let scheme = |kind, shape: &[u64]| exact_scheme(&Encoding::of(kind), shape).map(|scheme| scheme.to_string());
        assert_eq!(scheme(BlockType::Q8_0, &[2, 64]).as_deref(), Some("affine 8-bit, groups of 32"));
        assert_eq!(scheme(BlockType::Q4_1, &[3, 2, 32]).as_deref(), Some("affine 4-bit, groups of 32"));
        assert_eq!(scheme(BlockType::Q8_0, &[4, 8]), None, "a block holds several rows");
        assert_eq!(scheme(BlockType::Q5_0, &[2, 64]), None);
        assert_eq!(scheme(BlockType::F32, &[2, 64]), None);
    }
}
