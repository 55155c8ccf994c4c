//! What has to be done to the bytes of a tensor before they are its elements.

use serde::{Deserialize, Serialize};

use super::{BlockType, Triplet, Unrepresentable, affine::affine, decode::decode};

/// What is added to each element after decoding.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Shift {
    /// Nothing.
    #[default]
    None,
    /// Minus one: llama.cpp stores the norms of Gemma as what they multiply by, transformers as the difference from 1.
    MinusOne,
}

/// How the bytes of a tensor become its elements, where they are not its elements as they lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Encoding {
    /// How the elements are stored.
    pub blocks: BlockType,
    /// Rows of a head whose two halves are interleaved: its first row, the first of its second half, its second row, and
    /// so on. llama.cpp stores queries and keys so.
    pub interleaved: Option<u64>,
    /// What is added.
    pub shift: Shift,
}

impl Encoding {
    /// Blocks of a type, in order.
    #[must_use]
    pub fn of(blocks: BlockType) -> Self {
        Self { blocks, interleaved: None, shift: Shift::None }
    }

    /// Whether the bytes are the elements after all.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        *self == Self::of(self.blocks) && self.blocks.is_plain_float()
    }

    /// Bits of a code in MLX's affine quantisation that says exactly what the tensor says.
    #[must_use]
    pub fn affine_bits(&self) -> Option<u64> {
        self.blocks.affine_bits().filter(|_| self.shift == Shift::None)
    }

    /// Rows that have to be decoded together. `None` when all of them have: where rows are no whole blocks.
    #[must_use]
    pub fn rows_together(&self, shape: &[u64]) -> Option<u64> {
        let columns: u64 = shape.get(1..)?.iter().product();
        self.blocks.length(columns).map(|_| self.interleaved.unwrap_or(1))
    }

    /// Where the row at `row` goes, counted from the first one that is decoded, which begins a head.
    fn place(&self, row: usize) -> usize {
        let Some(rows) = self.interleaved.and_then(|rows| usize::try_from(rows).ok()) else { return row };
        let (head, within) = (row / rows, row % rows);
        head * rows + within % 2 * (rows / 2) + within / 2
    }

    /// Decodes `rows` rows. Lengths fit, and the rows are whole heads if these are interleaved.
    pub fn decode(&self, bytes: &[u8], rows: usize, floats: &mut [f32]) {
        let (stored, columns) = (bytes.len() / rows.max(1), floats.len() / rows.max(1));
        match self.interleaved {
            None => decode(self.blocks, bytes, floats),
            Some(_) => {
                for (row, bytes) in bytes.chunks_exact(stored.max(1)).enumerate() {
                    decode(self.blocks, bytes, &mut floats[self.place(row) * columns..][..columns]);
                }
            }
        }
        if self.shift == Shift::MinusOne {
            floats.iter_mut().for_each(|float| *float -= 1.0);
        }
    }

    /// Writes `rows` rows as a triplet. Lengths fit, and the rows are whole heads if these are interleaved.
    ///
    /// # Errors
    /// When a block has a scale with which the triplet would say something else.
    pub fn affine(&self, bytes: &[u8], rows: usize, to: Triplet<'_>) -> Result<(), Unrepresentable> {
        if self.interleaved.is_none() {
            return affine(self.blocks, bytes, to);
        }
        let Triplet { codes, scales, biases } = to;
        let [stored, words, groups] = [bytes.len(), codes.len(), scales.len()].map(|length| length / rows.max(1));
        for (row, bytes) in bytes.chunks_exact(stored.max(1)).enumerate() {
            let place = self.place(row);
            let to = Triplet {
                codes: &mut codes[place * words..][..words],
                scales: &mut scales[place * groups..][..groups],
                biases: &mut biases[place * groups..][..groups],
            };
            affine(self.blocks, bytes, to)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_halves_of_a_head_are_put_apart_again() {
        let encoding = Encoding { interleaved: Some(4), ..Encoding::of(BlockType::F32) };
        // Two heads of four rows of two; the number of a row is where it belongs.
        let stored: Vec<u8> = [0, 2, 1, 3, 4, 6, 5, 7]
            .into_iter()
            .flat_map(|row| [row as f32, row as f32 + 0.5].into_iter().flat_map(f32::to_le_bytes))
            .collect();
        let mut floats = vec![0.0; 16];
        encoding.decode(&stored, 8, &mut floats);
        let expected: Vec<f32> = (0..16).map(|at| at as f32 / 2.0).collect();
        assert_eq!(floats, expected);
        assert_eq!(encoding.rows_together(&[8, 2]), Some(4));
        assert!(!encoding.is_plain() && Encoding::of(BlockType::F32).is_plain());
    }

    #[test]
    fn triplets_of_interleaved_heads_have_the_rows_of_the_decoded_weight() {
        let encoding = Encoding { interleaved: Some(4), ..Encoding::of(BlockType::Q8_0) };
        let block = |row: u8| [0, 0x3c].into_iter().chain([row; 32]).collect::<Vec<u8>>();
        let stored: Vec<u8> = [0, 2, 1, 3].into_iter().flat_map(block).collect();
        let (mut codes, mut scales, mut biases) = (vec![0; 128], vec![0; 8], vec![0; 8]);
        encoding.affine(&stored, 4, Triplet { codes: &mut codes, scales: &mut scales, biases: &mut biases }).unwrap();
        assert_eq!(codes.chunks(32).map(|row| row[0] ^ 0x80).collect::<Vec<_>>(), [0, 1, 2, 3]);
    }

    #[test]
    fn a_shift_is_applied_after_decoding_and_keeps_a_layer_from_being_packed() {
        let encoding = Encoding { shift: Shift::MinusOne, ..Encoding::of(BlockType::F32) };
        let mut floats = [0.0; 2];
        encoding.decode(&[1.5_f32, 1.0].map(f32::to_le_bytes).concat(), 2, &mut floats);
        assert_eq!(floats, [0.5, 0.0]);
        assert_eq!(Encoding { shift: Shift::MinusOne, ..Encoding::of(BlockType::Q8_0) }.affine_bits(), None);
    }

    #[test]
    fn rows_that_are_no_whole_blocks_are_decoded_together() {
        assert_eq!(Encoding::of(BlockType::Q8_0).rows_together(&[3, 64]), Some(1));
        assert_eq!(Encoding::of(BlockType::Q8_0).rows_together(&[4, 8]), None);
        assert_eq!(Encoding::of(BlockType::BF16).rows_together(&[7]), Some(1));
        assert_eq!(Encoding::of(BlockType::Q8_0).rows_together(&[64]), None);
    }
}
