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
    let mut pairs = products(first, second)?;
    match (&first.magnitude, &second.magnitude) {
        (None, None) => {}
        (Some(one), Some(other)) if one.of == other.of && is_alike(&one.slice, &other.slice) => {
            pairs.push((one.slice.clone(), other.slice.clone()));
        }
        _ => return None,
    }
    Some(pairs)
}

/// The same for their products.
fn products(first: &Delta, second: &Delta) -> Option<Vec<(Slice, Slice)>> {
    let whole = |one: Vec<Matrix>, other: Vec<Matrix>| {
        let is_whole = first.rows == second.rows && one.len() == other.len();
        is_whole.then_some(())?;
        one.iter().zip(&other).map(|(one, other)| same(one, other)).collect()
    };
    match (&first.product, &second.product) {
        (Product::LowRank { down: one, up: of_one }, Product::LowRank { down: other, up: of_other }) => {
            Some(vec![same(one, other)?, same(&rows(of_one, &first.rows)?, &rows(of_other, &second.rows)?)?])
        }
        (Product::Full(one), Product::Full(other)) => {
            Some(vec![same(&rows(one, &first.rows)?, &rows(other, &second.rows)?)?])
        }
        (Product::Kronecker { first: a, second: b }, Product::Kronecker { first: c, second: d })
        | (Product::Hadamard { first: a, second: b }, Product::Hadamard { first: c, second: d }) => {
            let alike = |one: &Factor, other: &Factor| std::mem::discriminant(one) == std::mem::discriminant(other);
            (alike(a, c) && alike(b, d)).then_some(())?;
            whole([factors(a), factors(b)].concat(), [factors(c), factors(d)].concat())
        }
        (Product::Cored(one), Product::Cored(other)) => whole(factors(one), factors(other)),
        _ => None,
    }
}

/// The matrices of a factor, and its core as one.
fn factors(factor: &Factor) -> Vec<Matrix> {
    match factor {
        Factor::Whole(matrix) => vec![matrix.clone()],
        Factor::Product(left, right) => vec![left.clone(), right.clone()],
        Factor::Cored { core, left, right } => {
            let core = Matrix { slice: core.clone(), transposed: false };
            vec![core, left.clone(), right.clone()]
        }
    }
}

/// Whether two slices may have the same bytes.
fn is_alike(one: &Slice, other: &Slice) -> bool {
    one.dtype == other.dtype && one.shape == other.shape
}

/// The bytes of two matrices that are written alike.
fn same(first: &Matrix, second: &Matrix) -> Option<(Slice, Slice)> {
    let (one, other) = (&first.slice, &second.slice);
    let is_same = first.transposed == second.transposed && is_alike(one, other);
    is_same.then(|| (one.clone(), other.clone()))
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
