//! From the keys of a change to matrices that make one of the layer's shape.

use super::{AdapterError, Change, FactorKeys, LowRank, Written};
use crate::{
    derive::{Factor, Matrix, Product, Slice},
    header::Dtype,
    header::FLOATS,
    shown::shown,
    table::Table,
};

/// Dtypes of a scalar.
const NUMBERS: [Dtype; 12] = [
    Dtype::F64,
    Dtype::F32,
    Dtype::F16,
    Dtype::BF16,
    Dtype::I64,
    Dtype::I32,
    Dtype::I16,
    Dtype::I8,
    Dtype::U64,
    Dtype::U32,
    Dtype::U16,
    Dtype::U8,
];

/// Whether the matrices of a pair, down and up, are to be transposed, in the order in which it is tried: as PyTorch
/// writes them first, either one last.
const TORCH: [(bool, bool); 4] = [(false, false), (true, true), (true, false), (false, true)];
/// The same where mlx-lm wrote them.
const MLX: [(bool, bool); 4] = [(true, true), (false, false), (true, false), (false, true)];

/// The tensors of an adapter.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tensors<'a> {
    pub(super) table: &'a Table,
}

/// What a change has to be the size of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame<'a> {
    /// The layer, or the first one of several; for errors.
    pub(super) layer: &'a str,
    /// Rows.
    pub(super) output: u64,
    /// Columns.
    pub(super) input: u64,
}

impl Tensors<'_> {
    /// The product that a change is, and its rank; of whole matrices there is none.
    pub(super) fn product(self, change: &Change, frame: Frame<'_>) -> Result<(Product, Option<u64>), AdapterError> {
        let (product, rank) = match change {
            Change::LowRank(pair) => return self.low_rank(pair, change, frame),
            Change::Kronecker { w1, w2 } => {
                let (first, second) = (self.factor(w1)?, self.factor(w2)?);
                // Where both are products, their ranks are the same: it is a setting of the trainer.
                let rank = rank_of(&second).or(rank_of(&first));
                (Product::Kronecker { first, second }, rank)
            }
            Change::Hadamard { w1, w2 } => {
                let pair = |keys: &(String, String)| Ok((self.matrix(&keys.0)?, self.matrix(&keys.1)?));
                let (first, second) = (pair(w1)?, pair(w2)?);
                let rank = first.1.dimensions().map(|(rank, _)| rank);
                (Product::Hadamard { first, second }, rank)
            }
            Change::Full(key) => (Product::Full(self.matrix(key)?), None),
        };
        if frame.holds(&product) && rank != Some(0) { Ok((product, rank)) } else { Err(self.misfit(change, frame)) }
    }

    fn low_rank(
        self,
        pair: &LowRank,
        change: &Change,
        frame: Frame<'_>,
    ) -> Result<(Product, Option<u64>), AdapterError> {
        let (down, up) = (self.matrix(&pair.down)?, self.matrix(&pair.up)?);
        let orders = if pair.written == Written::Torch { TORCH } else { MLX };
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

    /// The scalar of that name.
    pub(super) fn scalar(self, key: &str) -> Result<Slice, AdapterError> {
        let slice = self.slice(key, &NUMBERS, "a float or an integer")?;
        if slice.shape.iter().any(|&dimension| dimension != 1) {
            return Err(AdapterError::Alpha { key: shown(key), found: slice.shape });
        }
        Ok(slice)
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

    fn misfit(self, change: &Change, frame: Frame<'_>) -> AdapterError {
        let Frame { layer, output, input } = frame;
        let shape = |key: &str| self.table.get(key).map_or(&[][..], |tensor| &tensor.info.shape);
        let keys = change.keys();
        // Of a pair, the one that is to blame.
        let key = match change {
            Change::LowRank(LowRank { down, up, .. }) if shape(down).contains(&input) => up,
            _ => keys[0],
        };
        let expected = match change {
            Change::LowRank(_) => format!("[rank, {input}] and [{output}, rank], or either one transposed"),
            Change::Kronecker { .. } => format!("factors of a Kronecker product [{output}, {input}]"),
            Change::Hadamard { .. } => format!("[{output}, rank] and [rank, {input}], twice"),
            Change::Full(_) => format!("[{output}, {input}]"),
        };
        let found: Vec<String> = keys.iter().map(|key| format!("{:?}", shape(key))).collect();
        AdapterError::Shape { layer: layer.to_owned(), key: shown(key), expected, found: found.join(" and ") }
    }
}

impl Frame<'_> {
    fn holds(&self, product: &Product) -> bool {
        product.dimensions() == Some((self.output, self.input))
    }
}

fn rank_of(factor: &Factor) -> Option<u64> {
    match factor {
        Factor::Whole(_) => None,
        Factor::Product(_, right) => right.dimensions().map(|(rank, _)| rank),
    }
}
