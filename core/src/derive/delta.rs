//! What an adapter adds to a weight.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::Slice;

/// A matrix of an adapter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Matrix {
    /// Its bytes. The shape has two dimensions; trailing ones of a 1x1 kernel are left out.
    pub slice: Slice,
    /// Whether rows and columns are to be exchanged.
    pub transposed: bool,
}

impl Matrix {
    /// Rows and columns, exchanged where they are to be. `None` when it is no matrix.
    #[must_use]
    pub fn dimensions(&self) -> Option<(u64, u64)> {
        match self.slice.shape[..] {
            [rows, columns] if self.transposed => Some((columns, rows)),
            [rows, columns] => Some((rows, columns)),
            _ => None,
        }
    }

    fn times(&self, right: &Self) -> Option<(u64, u64)> {
        let ((rows, inner), (others, columns)) = (self.dimensions()?, right.dimensions()?);
        (inner == others).then_some((rows, columns))
    }
}

/// A factor, which may itself be a product.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Factor {
    /// A matrix.
    Whole(Matrix),
    /// The product of two.
    Product(Matrix, Matrix),
}

impl Factor {
    /// Rows and columns. `None` when the matrices do not make one.
    #[must_use]
    pub fn dimensions(&self) -> Option<(u64, u64)> {
        match self {
            Self::Whole(matrix) => matrix.dimensions(),
            Self::Product(left, right) => left.times(right),
        }
    }
}

/// How matrices make the change, before it is scaled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Product {
    /// LoRA: `up @ down`.
    LowRank {
        /// `[rank, input]`.
        down: Matrix,
        /// `[output, rank]`.
        up: Matrix,
    },
    /// LoKr: `kron(first, second)`.
    Kronecker {
        /// `[output / m, input / n]`.
        first: Factor,
        /// `[m, n]`.
        second: Factor,
    },
    /// LoHa: `(a.0 @ a.1) * (b.0 @ b.1)`, element by element.
    Hadamard {
        /// `[output, rank]` and `[rank, input]`.
        first: (Matrix, Matrix),
        /// The same.
        second: (Matrix, Matrix),
    },
    /// The difference, or the weight itself, of any shape.
    Full(Matrix),
}

impl Product {
    /// Rows and columns. `None` when the matrices do not make one.
    #[must_use]
    pub fn dimensions(&self) -> Option<(u64, u64)> {
        match self {
            Self::LowRank { down, up } => up.times(down),
            Self::Kronecker { first, second } => {
                let (first, second) = (first.dimensions()?, second.dimensions()?);
                Some((first.0.checked_mul(second.0)?, first.1.checked_mul(second.1)?))
            }
            Self::Hadamard { first, second } => {
                let (first, second) = (first.0.times(&first.1)?, second.0.times(&second.1)?);
                (first == second).then_some(first)
            }
            Self::Full(matrix) => matrix.dimensions(),
        }
    }
}

/// What becomes of the weight that was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {
    /// The product is added to it.
    Adds,
    /// It is replaced. Its dtype and its packing stay.
    Replaces,
}

/// What an adapter does to one tensor, with rows of `product * (scale * alpha / divisor)`, computed in F32.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Delta {
    /// The product, of the shape of the tensor; of a fused layer all its rows.
    pub product: Product,
    /// The scale that the user asked for.
    pub scale: f64,
    /// The adapter's own strength, undivided.
    pub alpha: f64,
    /// The rank, its root for adapters that say so, or 1 where nothing divides.
    pub divisor: f64,
    /// Which rows of the product are this tensor's.
    pub rows: Range<u64>,
    /// Whether they are added to it.
    pub effect: Effect,
}
