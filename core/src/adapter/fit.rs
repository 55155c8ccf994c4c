//! From the keys of a change to factors that make a product of the layer's shape.

use std::collections::BTreeMap;

use super::{AdapterError, Change, FactorKeys, LowRank, strength::NUMBERS};
use crate::{
    derive::{Factor, Matrix, Product, Slice},
    header::{Dtype, FLOATS},
    shown::shown,
    table::Table,
    tool::Tool,
};

/// Whether the factors of a pair, down and up, are transposed, in the order in which it is tried: as PyTorch writes them
/// first, either one last.
const TORCH: [(bool, bool); 4] = [(false, false), (true, true), (true, false), (false, true)];
/// The same where mlx-lm wrote them.
const MLX: [(bool, bool); 4] = [(true, true), (false, false), (true, false), (false, true)];

/// The tensors of an adapter.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tensors<'a> {
    pub(super) table: &'a Table,
    pub(super) alphas: &'a BTreeMap<String, f64>,
}

/// The tensor that a change must fit.
#[derive(Debug, Clone)]
pub(super) struct Frame<'a> {
    /// The layer, or the first one of several; for errors.
    pub(super) layer: &'a str,
    /// The shape of the tensor; of a fused layer that of all its shares.
    pub(super) shape: Vec<u64>,
}

/// A product, and its rank where it has one.
pub(super) type Ranked = (Product, Option<u64>);

impl Tensors<'_> {
    /// The product that a change is, and its rank; whole matrices have none.
    pub(super) fn product(self, change: &Change, frame: &Frame<'_>) -> Result<Ranked, AdapterError> {
        let (product, rank) = match change {
            Change::LowRank(pair) => return self.low_rank(pair, change, frame),
            Change::Kronecker { w1, w2 } => {
                let (first, second) = (self.factor(w1)?, self.factor(w2)?);
                // Where both are products, their ranks are the same: it is a setting of the trainer.
                let rank = rank_of(&second).or(rank_of(&first));
                (Product::Kronecker { first, second }, rank)
            }
            Change::Hadamard { w1, w2 } => {
                let first = (self.matrix(&w1.0)?, self.matrix(&w1.1)?);
                let second = (self.matrix(&w2.0)?, self.matrix(&w2.1)?);
                let rank = first.1.dimensions().map(|(rank, _)| rank);
                (Product::Hadamard { first, second }, rank)
            }
            Change::Full(key) | Change::Whole(key) => (Product::Full(self.matrix(key)?), None),
        };
        if frame.holds(&product) && rank != Some(0) { Ok((product, rank)) } else { Err(self.misfit(change, frame)) }
    }

    fn low_rank(self, pair: &LowRank, change: &Change, frame: &Frame<'_>) -> Result<Ranked, AdapterError> {
        let (down, up) = (self.matrix(&pair.down)?, self.matrix(&pair.up)?);
        let orders = if pair.tool == Tool::MlxLm { MLX } else { TORCH };
        let turned = orders.into_iter().map(|(turn_down, turn_up)| {
            let down = Matrix { transposed: turn_down, ..down.clone() };
            let rank = down.dimensions().map(|(rank, _)| rank);
            (Product::LowRank { down, up: Matrix { transposed: turn_up, ..up.clone() } }, rank)
        });
        let mut fitting = turned.filter(|(product, rank)| frame.holds(product) && *rank != Some(0));
        fitting.next().ok_or_else(|| self.misfit(change, frame))
    }

    fn factor(self, keys: &FactorKeys) -> Result<Factor, AdapterError> {
        Ok(match keys {
            FactorKeys::Whole(key) => Factor::Whole(self.matrix(key)?),
            FactorKeys::Product(left, right) => Factor::Product(self.matrix(left)?, self.matrix(right)?),
        })
    }

    fn matrix(self, key: &str) -> Result<Matrix, AdapterError> {
        let slice = self.slice(key, &FLOATS, "F32, F16 or BF16")?;
        Ok(Matrix { slice, transposed: false })
    }

    /// The alpha of that name.
    pub(super) fn alpha(self, key: &str) -> Result<f64, AdapterError> {
        let slice = self.slice(key, &NUMBERS, "a float or an integer")?;
        if slice.shape.iter().any(|&dimension| dimension != 1) {
            return Err(AdapterError::Alpha { key: shown(key), found: slice.shape });
        }
        let found = *self.alphas.get(key).ok_or_else(|| AdapterError::Missing { key: shown(key) })?;
        let problem = match found {
            0.0 => "kohya's trainer takes that for the rank, and ComfyUI for no change at all",
            _ if !found.is_finite() => "expected a finite number",
            _ => return Ok(found),
        };
        Err(AdapterError::AlphaValue { key: shown(key), found, problem })
    }

    /// The tensor of that name, without the trailing ones of a 1x1 kernel.
    fn slice(self, key: &str, dtypes: &[Dtype], expected: &'static str) -> Result<Slice, AdapterError> {
        let missing = || AdapterError::Missing { key: shown(key) };
        let tensor = self.table.get(key).ok_or_else(missing)?;
        if !dtypes.contains(&tensor.info.dtype) {
            return Err(AdapterError::Dtype { key: shown(key), found: tensor.info.dtype, expected });
        }
        let mut shape = tensor.info.shape.clone();
        while shape.len() > 2 && shape.last() == Some(&1) {
            shape.pop();
        }
        Ok(Slice { source: tensor.source, range: tensor.info.range.clone(), dtype: tensor.info.dtype, shape })
    }

    fn misfit(self, change: &Change, frame: &Frame<'_>) -> AdapterError {
        let shape = |key: &str| self.table.get(key).map_or(&[][..], |tensor| &tensor.info.shape);
        let keys = change.keys();
        let expected = match (change, &frame.shape[..]) {
            (Change::LowRank(_), &[output, input]) => {
                format!("[rank, {input}] and [{output}, rank], or either one transposed")
            }
            (Change::Kronecker { .. }, &[output, input]) => {
                format!("factors of a Kronecker product [{output}, {input}]")
            }
            (Change::Hadamard { .. }, &[output, input]) => format!("[{output}, rank] and [rank, {input}], twice"),
            (Change::Full(_) | Change::Whole(_), whole) => format!("{whole:?}"),
            (_, whole) => format!("a difference {whole:?}, since the layer has no matrix"),
        };
        // The factor of the pair that does not fit.
        let key = match (change, frame.shape.last()) {
            (Change::LowRank(LowRank { down, up, .. }), Some(input)) if shape(down).contains(input) => up,
            _ => keys[0],
        };
        let found: Vec<String> = keys.iter().map(|key| format!("{:?}", shape(key))).collect();
        AdapterError::Shape { layer: shown(frame.layer), key: shown(key), expected, found: found.join(" and ") }
    }
}

impl Frame<'_> {
    fn holds(&self, product: &Product) -> bool {
        match (product, &self.shape[..]) {
            // Vectors, tokens and kernels have differences only.
            (Product::Full(whole), shape) => whole.slice.shape == shape && !shape.is_empty(),
            (_, &[output, input]) => product.dimensions() == Some((output, input)),
            _ => false,
        }
    }
}

fn rank_of(factor: &Factor) -> Option<u64> {
    match factor {
        Factor::Whole(_) => None,
        Factor::Product(_, right) => right.dimensions().map(|(rank, _)| rank),
    }
}
