//! Two changes of one tensor that may be the same: trainers write a layer under the names of two programs, so that each
//! finds its own.

use std::ops::Range;

use crate::derive::{Delta, Factor, Matrix, Product, Slice};

use super::AdapterError;

/// Two changes of one tensor, equal as far as headers tell. They are one change if the bytes of each pair are equal, and
/// refuse the adapter if not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Twin {
    /// The layer.
    pub layer: String,
    /// Base of the change that is planned.
    pub first: String,
    /// Base of the other one.
    pub second: String,
    /// Bytes that must be equal.
    pub pairs: Vec<(Slice, Slice)>,
}

impl Twin {
    /// The refusal of an adapter whose bytes differ.
    #[must_use]
    pub fn differs(&self) -> AdapterError {
        AdapterError::Twice { layer: self.layer.clone(), first: self.first.clone(), second: self.second.clone() }
    }
}

/// The bytes that have to be equal if two deltas are one. `None` when they differ anyway, or when it cannot be told from
/// bytes.
pub(super) fn pairs(first: &Delta, second: &Delta) -> Option<Vec<(Slice, Slice)>> {
    let as_strong = first.alpha / first.divisor == second.alpha / second.divisor;
    if !as_strong || first.effect != second.effect {
        return None;
    }
    let whole = |pairs: Vec<Option<(Slice, Slice)>>| {
        if first.rows == second.rows { pairs.into_iter().collect() } else { None }
    };
    match (&first.product, &second.product) {
        (Product::LowRank { down: one, up: of_one }, Product::LowRank { down: other, up: of_other }) => {
            Some(vec![same(one, other)?, same(&rows(of_one, &first.rows)?, &rows(of_other, &second.rows)?)?])
        }
        (Product::Full(one), Product::Full(other)) => {
            Some(vec![same(&rows(one, &first.rows)?, &rows(other, &second.rows)?)?])
        }
        (Product::Kronecker { first: a, second: b }, Product::Kronecker { first: c, second: d }) => {
            let (one, other) = ([factors(a), factors(b)].concat(), [factors(c), factors(d)].concat());
            (one.len() == other.len()).then_some(())?;
            whole(one.iter().zip(&other).map(|(one, other)| same(one, other)).collect())
        }
        (Product::Hadamard { first: a, second: b }, Product::Hadamard { first: c, second: d }) => {
            whole(vec![same(&a.0, &c.0), same(&a.1, &c.1), same(&b.0, &d.0), same(&b.1, &d.1)])
        }
        _ => None,
    }
}

fn factors(factor: &Factor) -> Vec<&Matrix> {
    match factor {
        Factor::Whole(matrix) => vec![matrix],
        Factor::Product(left, right) => vec![left, right],
    }
}

/// The bytes of two matrices that are written alike.
fn same(first: &Matrix, second: &Matrix) -> Option<(Slice, Slice)> {
    let (one, other) = (&first.slice, &second.slice);
    let is_alike = first.transposed == second.transposed && one.dtype == other.dtype && one.shape == other.shape;
    is_alike.then(|| (one.clone(), other.clone()))
}

/// Some rows of a matrix, when they lie together.
fn rows(matrix: &Matrix, rows: &Range<u64>) -> Option<Matrix> {
    let Slice { range, shape, .. } = &matrix.slice;
    let height = *shape.first()?;
    if matrix.transposed {
        let is_all = matrix.dimensions() == Some((rows.end, height)) && rows.start == 0;
        return is_all.then(|| matrix.clone());
    }
    let row_bytes = (range.end - range.start).checked_div(height)?;
    let mut part = matrix.clone();
    part.slice.range = range.start + rows.start * row_bytes..range.start + rows.end * row_bytes;
    *part.slice.shape.first_mut()? = rows.end - rows.start;
    (rows.end <= height).then_some(part)
}
