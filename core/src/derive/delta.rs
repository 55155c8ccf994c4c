//! What an adapter adds to a weight.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::Slice;
use crate::axes::Axes;

/// A matrix of an adapter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Matrix {
    /// Its bytes. The shape has two dimensions: those of a kernel behind its second one are in the second.
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
    /// Tucker's decomposition: element `[p, q * kernel + k]` is the sum over `i` and `j` of
    /// `left[p, i] * core[i, j, k] * right[j, q]`.
    Cored {
        /// `[i, j, kernel]`.
        core: Slice,
        /// `[rows, i]`.
        left: Matrix,
        /// `[j, columns]`.
        right: Matrix,
    },
}

impl Factor {
    /// Rows and columns. `None` when the matrices do not make one.
    #[must_use]
    pub fn dimensions(&self) -> Option<(u64, u64)> {
        match self {
            Self::Whole(matrix) => matrix.dimensions(),
            Self::Product(left, right) => left.times(right),
            Self::Cored { core, left, right } => {
                let ((rows, i), (j, columns)) = (left.dimensions()?, right.dimensions()?);
                match core.shape[..] {
                    [one, other, kernel] if (one, other) == (i, j) => Some((rows, columns.checked_mul(kernel)?)),
                    _ => None,
                }
            }
        }
    }
}

/// How matrices make the change, before it is scaled. Of a kernel, or a stack of matrices, they make the matrix whose columns
/// are all that is behind its first dimension.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Product {
    /// LoRA: `up @ down`.
    LowRank {
        /// `[rank, input]`.
        down: Matrix,
        /// `[output, rank]`.
        up: Matrix,
    },
    /// LoRA of a stack of matrices, one after the other: `up[i] @ down[i]`.
    Stacked {
        /// `[count, rank, input]`.
        down: Slice,
        /// `[count, output, rank]`.
        up: Slice,
    },
    /// LoKr: `kron(first, second)`.
    Kronecker {
        /// `[output / m, input / n]`.
        first: Factor,
        /// `[m, n]`.
        second: Factor,
    },
    /// LoRA with a core between its two matrices.
    Cored(Factor),
    /// LoHa: `first * second`, element by element.
    Hadamard {
        /// `[output, input]`.
        first: Factor,
        /// The same.
        second: Factor,
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
            Self::Stacked { down, up } => match (&up.shape[..], &down.shape[..]) {
                (&[count, output, rank], &[others, inner, input]) if (count, rank) == (others, inner) => {
                    Some((count, output.checked_mul(input)?))
                }
                _ => None,
            },
            Self::Kronecker { first, second } => {
                let (first, second) = (first.dimensions()?, second.dimensions()?);
                Some((first.0.checked_mul(second.0)?, first.1.checked_mul(second.1)?))
            }
            Self::Hadamard { first, second } => {
                let (first, second) = (first.dimensions()?, second.dimensions()?);
                (first == second).then_some(first)
            }
            Self::Cored(factor) => factor.dimensions(),
            Self::Full(matrix) => matrix.dimensions(),
        }
    }
}

/// DoRA: how long the rows or columns of a weight are after a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Magnitude {
    /// One number for each of them, in one dimension.
    pub slice: Slice,
    /// Of what.
    pub of: Lines,
}

/// Parts of a weight that have a length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lines {
    /// All elements of one output: the first dimension.
    Rows,
    /// All elements of one input: the second dimension.
    Columns,
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
///
/// With magnitudes it does what PEFT does when it merges: `(sum + change) * (magnitude / norm(weight + change))`, line by
/// line, where `weight` is what it was before any adapter, and `sum` what it is after those that come before this one. The
/// scale is on the change, inside of the norm. A line without a direction, whose norm is 0, stays as it is.
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
    /// To which lengths the sum is brought; `None` where they are what they come to.
    pub magnitude: Option<Magnitude>,
    /// In which order the weight's dimensions lie in its file, where that is not the order of the product.
    pub order: Option<Axes>,
}
