//! How ggml stores the elements of tensors: in blocks, each with its own scales. [`BlockType`] is the table of types,
//! `decode` turns blocks into floats, `affine` turns some of them into the quantised layers of MLX.
//!
//! Numbers and sizes of the types are those of ggml's `ggml.h` and `ggml-common.h`.

mod affine;
mod decode;
mod encoding;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use self::{
    affine::{Triplet, Unrepresentable},
    decode::decode,
    encoding::{Encoding, Shift},
};

/// A type of ggml's tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[expect(non_camel_case_types, reason = "the names are ggml's")]
#[expect(missing_docs, reason = "the names are ggml's; the table below has their sizes")]
pub enum BlockType {
    F32,
    F16,
    BF16,
    F64,
    I8,
    I16,
    I32,
    I64,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q8_1,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    Q8_K,
    IQ4_NL,
    IQ4_XS,
    TQ1_0,
    TQ2_0,
    MXFP4,
    NVFP4,
    Q1_0,
    IQ1_S,
    IQ1_M,
    IQ2_XXS,
    IQ2_XS,
    IQ2_S,
    IQ3_XXS,
    IQ3_S,
}

use BlockType as T;

/// What a block of one type is.
#[derive(Debug, Clone, Copy)]
struct Row {
    kind: BlockType,
    /// Its number in files.
    number: u32,
    name: &'static str,
    /// Elements of a block.
    elements: u64,
    /// Bytes of a block.
    bytes: u64,
}

const fn row(kind: BlockType, number: u32, name: &'static str, elements: u64, bytes: u64) -> Row {
    Row { kind, number, name, elements, bytes }
}

/// All types, in the order of [`BlockType`].
static ROWS: [Row; 34] = [
    row(T::F32, 0, "F32", 1, 4),
    row(T::F16, 1, "F16", 1, 2),
    row(T::BF16, 30, "BF16", 1, 2),
    row(T::F64, 28, "F64", 1, 8),
    row(T::I8, 24, "I8", 1, 1),
    row(T::I16, 25, "I16", 1, 2),
    row(T::I32, 26, "I32", 1, 4),
    row(T::I64, 27, "I64", 1, 8),
    row(T::Q4_0, 2, "Q4_0", 32, 18),
    row(T::Q4_1, 3, "Q4_1", 32, 20),
    row(T::Q5_0, 6, "Q5_0", 32, 22),
    row(T::Q5_1, 7, "Q5_1", 32, 24),
    row(T::Q8_0, 8, "Q8_0", 32, 34),
    row(T::Q8_1, 9, "Q8_1", 32, 36),
    row(T::Q2_K, 10, "Q2_K", 256, 84),
    row(T::Q3_K, 11, "Q3_K", 256, 110),
    row(T::Q4_K, 12, "Q4_K", 256, 144),
    row(T::Q5_K, 13, "Q5_K", 256, 176),
    row(T::Q6_K, 14, "Q6_K", 256, 210),
    row(T::Q8_K, 15, "Q8_K", 256, 292),
    row(T::IQ4_NL, 20, "IQ4_NL", 32, 18),
    row(T::IQ4_XS, 23, "IQ4_XS", 256, 136),
    row(T::TQ1_0, 34, "TQ1_0", 256, 54),
    row(T::TQ2_0, 35, "TQ2_0", 256, 66),
    row(T::MXFP4, 39, "MXFP4", 32, 17),
    row(T::NVFP4, 40, "NVFP4", 64, 36),
    row(T::Q1_0, 41, "Q1_0", 128, 18),
    row(T::IQ1_S, 19, "IQ1_S", 256, 50),
    row(T::IQ1_M, 29, "IQ1_M", 256, 56),
    row(T::IQ2_XXS, 16, "IQ2_XXS", 256, 66),
    row(T::IQ2_XS, 17, "IQ2_XS", 256, 74),
    row(T::IQ2_S, 22, "IQ2_S", 256, 82),
    row(T::IQ3_XXS, 18, "IQ3_XXS", 256, 98),
    row(T::IQ3_S, 21, "IQ3_S", 256, 110),
];

/// Numbers that older versions of ggml gave to types which the newer ones do not read.
static WITHDRAWN: [(u32, &str); 8] = [
    (4, "Q4_2"),
    (5, "Q4_3"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
    (36, "IQ4_NL_4_4"),
    (37, "IQ4_NL_4_8"),
    (38, "IQ4_NL_8_8"),
];

impl BlockType {
    /// All types.
    pub fn all() -> impl Iterator<Item = Self> {
        ROWS.iter().map(|row| row.kind)
    }

    /// The type of that number in files.
    #[must_use]
    pub fn of_number(number: u32) -> Option<Self> {
        ROWS.iter().find(|row| row.number == number).map(|row| row.kind)
    }

    /// The name of a type that ggml once had under this number.
    #[must_use]
    pub fn withdrawn(number: u32) -> Option<&'static str> {
        WITHDRAWN.iter().find(|(found, _)| *found == number).map(|(_, name)| *name)
    }

    fn row(self) -> &'static Row {
        &ROWS[self as usize]
    }

    /// Its number in files.
    #[must_use]
    pub fn number(self) -> u32 {
        self.row().number
    }

    /// ggml's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// Elements of a block; 1 for types that have no blocks.
    #[must_use]
    pub fn elements(self) -> u64 {
        self.row().elements
    }

    /// Bytes of a block.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.row().bytes
    }

    /// Bytes of so many elements. `None` when they are no whole blocks, or more than 64 bits count.
    #[must_use]
    pub fn length(self, elements: u64) -> Option<u64> {
        let Row { elements: of_block, bytes, .. } = self.row();
        elements.is_multiple_of(*of_block).then(|| (elements / of_block).checked_mul(*bytes))?
    }

    /// Whether its elements are floats, each by itself.
    #[must_use]
    pub fn is_plain_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16)
    }

    /// Whether [`decode()`] knows what its blocks mean. The types that it does not know need code books of ggml's own.
    #[must_use]
    pub fn is_decoded(self) -> bool {
        !matches!(
            self,
            Self::F64
                | Self::I8
                | Self::I16
                | Self::I32
                | Self::I64
                | Self::Q1_0
                | Self::IQ1_S
                | Self::IQ1_M
                | Self::IQ2_XXS
                | Self::IQ2_XS
                | Self::IQ2_S
                | Self::IQ3_XXS
                | Self::IQ3_S
        )
    }
}

impl fmt::Display for BlockType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_types_and_has_each_number_once() {
        for (at, row) in ROWS.iter().enumerate() {
            assert_eq!(row.kind as usize, at, "{}", row.name);
            assert_eq!(format!("{:?}", row.kind), row.name);
            assert_eq!(BlockType::of_number(row.number), Some(row.kind));
            assert_eq!(BlockType::withdrawn(row.number), None);
        }
        let numbers: std::collections::BTreeSet<u32> = ROWS.iter().map(|row| row.number).collect();
        assert_eq!(numbers.len(), ROWS.len());
        assert_eq!((BlockType::of_number(4), BlockType::withdrawn(4)), (None, Some("Q4_2")));
        assert_eq!(BlockType::of_number(1 << 30), None);
    }

    #[test]
    fn lengths_are_whole_blocks() {
        assert_eq!(BlockType::Q4_K.length(512), Some(288));
        assert_eq!(BlockType::Q4_K.length(500), None);
        assert_eq!(BlockType::F64.length(u64::MAX), None);
        assert_eq!(BlockType::Q8_0.length(0), Some(0));
    }
}
