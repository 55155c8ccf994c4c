//! The terms in which the arithmetic of coded layers is described: what a code is, and which codes share a scale.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::header::Dtype;

/// Rows that lie together in scales made for tensor cores.
pub const TILE_ROWS: u64 = 128;
/// Columns of scales that lie together in them.
pub const TILE_COLUMNS: u64 = 4;

/// What one code is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Codes {
    /// An 8-bit float with 4 bits of exponent, without infinities (`float8_e4m3fn`).
    E4m3,
    /// An 8-bit float with 5 bits of exponent (`float8_e5m2`).
    E5m2,
    /// A signed integer of 8 bits.
    I8,
    /// A signed integer of 4 bits. The even column is in the low half of a byte.
    I4,
    /// An unsigned integer of 4 bits, less 8. The even column is in the low half of a byte.
    U4,
    /// A 4-bit float with 2 bits of exponent. The even column is in the high half of a byte.
    E2m1,
}

impl Codes {
    /// Codes in one byte.
    #[must_use]
    pub fn per_byte(self) -> u64 {
        match self {
            Self::E4m3 | Self::E5m2 | Self::I8 => 1,
            Self::I4 | Self::U4 | Self::E2m1 => 2,
        }
    }

    /// The 8-bit float of that dtype.
    #[must_use]
    pub fn float8(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F8_E4M3 => Some(Self::E4m3),
            Dtype::F8_E5M2 => Some(Self::E5m2),
            _ => None,
        }
    }
}

impl fmt::Display for Codes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::E4m3 => "E4M3",
            Self::E5m2 => "E5M2",
            Self::I8 => "I8",
            Self::I4 => "I4",
            Self::U4 => "U4",
            Self::E2m1 => "E2M1",
        })
    }
}

/// Which codes share a scale, and where the scale lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Grid {
    /// No code has a scale.
    Unscaled,
    /// All codes share one.
    Whole,
    /// The codes of a row share one.
    Rows,
    /// The codes of a square share one; `[rows / side, columns / side]`, rounded up.
    Squares {
        /// Rows, and columns, of a square.
        side: u64,
    },
    /// Some columns of a row share one; `[rows, columns / group]`.
    Groups {
        /// Columns that share a scale.
        columns: u64,
    },
    /// Some columns of a row share one. `[columns / group, rows]`: the other way round.
    Transposed {
        /// Columns that share a scale.
        columns: u64,
    },
    /// Some columns of a row share one, of 8 bits. The scales lie in tiles of 128 rows and 4 columns, as cuBLAS wants them.
    Tiled {
        /// Columns that share a scale.
        columns: u64,
        /// What a scale is.
        scale: TileScale,
    },
}

/// A scale of 8 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TileScale {
    /// An 8-bit float with 4 bits of exponent.
    E4m3,
    /// A power of two. 0 stands for zero.
    E8m0,
}

impl Grid {
    /// Rows and columns that share a scale in a weight of this shape; empty where there are no scales.
    #[must_use]
    pub fn block(self, logical: &[u64]) -> Vec<u64> {
        let columns = logical.last().copied().unwrap_or(1);
        match self {
            Self::Unscaled => Vec::new(),
            Self::Whole => logical.to_vec(),
            Self::Rows => vec![1, columns],
            Self::Squares { side } => vec![side, side],
            Self::Groups { columns } | Self::Transposed { columns } | Self::Tiled { columns, .. } => vec![1, columns],
        }
    }
}

/// From the bytes of a layer's tensors to the numbers that they stand for. Products are computed in F32, and the result is
/// rounded once, to the dtype that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Decoding {
    /// What one code is.
    pub codes: Codes,
    /// Which codes share a scale.
    pub grid: Grid,
    /// Columns of the groups in which the weight was rotated before it was quantised; `None` when it was not.
    pub rotation: Option<u64>,
}
