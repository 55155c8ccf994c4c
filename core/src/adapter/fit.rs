//! From the keys of a change to factors that make a product of the layer's shape.

use std::{collections::BTreeMap, ops::Range};

use super::{AdapterError, Along, Change, FactorKeys, LowRank, MagnitudeKey, strength::NUMBERS};
use crate::{
    derive::{Factor, Lines, Magnitude, Matrix, Product, Slice},
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

/// What matrices are made of, for errors.
const FLOATS_EXPECTED: &str = "F32, F16 or BF16";

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
                let (first, second) = (self.factor(w1, &[])?, self.factor(w2, frame.kernel())?);
                // Where both are products, their ranks are the same: it is a setting of the trainer.
                let rank = rank_of(&second).or(rank_of(&first));
                (Product::Kronecker { first, second }, rank)
            }
            Change::Hadamard { w1, w2 } => {
                let (first, second) = (self.factor(w1, frame.kernel())?, self.factor(w2, frame.kernel())?);
                let rank = rank_of(&first);
                (Product::Hadamard { first, second }, rank)
            }
            Change::Full(key) | Change::Whole(key) => (Product::Full(self.whole(key)?), None),
        };
        if frame.holds(&product) && rank != Some(0) { Ok((product, rank)) } else { Err(self.misfit(change, frame)) }
    }

    fn low_rank(self, pair: &LowRank, change: &Change, frame: &Frame<'_>) -> Result<Ranked, AdapterError> {
        if let Some(core) = &pair.core {
            let (left, right) = (self.matrix(&pair.up, &[])?, self.matrix(&pair.down, &[])?);
            let factor = Factor::Cored { core: self.core(core, frame.kernel())?, left, right };
            let (rank, product) = (rank_of(&factor), Product::Cored(factor));
            let fits = frame.holds(&product) && rank != Some(0);
            return if fits { Ok((product, rank)) } else { Err(self.misfit(change, frame)) };
        }
        if let Some(stacked) = self.stacked(pair, frame)? {
            return Ok(stacked);
        }
        let (down, up) = (self.matrix(&pair.down, frame.kernel())?, self.matrix(&pair.up, &[])?);
        let orders = if pair.tool == Tool::MlxLm { MLX } else { TORCH };
        let turned = orders.into_iter().map(|(turn_down, turn_up)| {
            let down = Matrix { transposed: turn_down, ..down.clone() };
            let rank = down.dimensions().map(|(rank, _)| rank);
            (Product::LowRank { down, up: Matrix { transposed: turn_up, ..up.clone() } }, rank)
        });
        let mut fitting = turned.filter(|(product, rank)| frame.holds(product) && *rank != Some(0));
        fitting.next().ok_or_else(|| self.misfit(change, frame))
    }

    /// The product of mlx-lm's pair for a stack of experts, where it is one.
    fn stacked(self, pair: &LowRank, frame: &Frame<'_>) -> Result<Option<Ranked>, AdapterError> {
        if pair.tool != Tool::MlxLm || frame.shape.len() != 3 {
            return Ok(None);
        }
        let stack = |key: &str| {
            let slice = self.slice(key, &FLOATS, FLOATS_EXPECTED)?;
            // A rank of one counts.
            let shape = self.table.get(key).map_or_else(Vec::new, |tensor| tensor.info.shape.clone());
            Ok::<_, AdapterError>(Slice { shape, ..slice })
        };
        let (down, up) = (stack(&pair.down)?, stack(&pair.up)?);
        let rank = down.shape.get(1).copied();
        let product = Product::Stacked { down, up };
        Ok((frame.holds(&product) && rank != Some(0)).then_some((product, rank)))
    }

    /// A factor; its last matrix, or its core, has the dimensions of a kernel.
    fn factor(self, keys: &FactorKeys, kernel: &[u64]) -> Result<Factor, AdapterError> {
        Ok(match keys {
            FactorKeys::Whole(key) => Factor::Whole(self.matrix(key, kernel)?),
            FactorKeys::Product(left, right) => Factor::Product(self.matrix(left, &[])?, self.matrix(right, kernel)?),
            FactorKeys::Cored { core, left, right } => {
                // Both are written `[rank, ...]`.
                let left = Matrix { transposed: true, ..self.matrix(left, &[])? };
                Factor::Cored { core: self.core(core, kernel)?, left, right: self.matrix(right, &[])? }
            }
        })
    }

    /// A difference or a whole weight, of any shape.
    fn whole(self, key: &str) -> Result<Matrix, AdapterError> {
        let slice = self.slice(key, &FLOATS, FLOATS_EXPECTED)?;
        Ok(Matrix { slice, transposed: false })
    }

    /// A matrix. What it has of `kernel` behind its second dimension is put into that one.
    fn matrix(self, key: &str, kernel: &[u64]) -> Result<Matrix, AdapterError> {
        let mut matrix = self.whole(key)?;
        let shape = &mut matrix.slice.shape;
        if shape.len() > 2 && shape[2..] == *trimmed(kernel) {
            shape[1] = shape[1..].iter().product();
            shape.truncate(2);
        }
        Ok(matrix)
    }

    /// A core, as `[rank, rank, kernel]`, where it is one.
    fn core(self, key: &str, kernel: &[u64]) -> Result<Slice, AdapterError> {
        let mut slice = self.slice(key, &FLOATS, FLOATS_EXPECTED)?;
        if slice.shape.len() >= 2 && slice.shape[2..] == *trimmed(kernel) {
            slice.shape.truncate(2);
            slice.shape.push(kernel.iter().product());
        }
        Ok(slice)
    }

    /// The magnitudes of a change, for the rows `rows` of it. They have one number for each row or column, and ones.
    pub(super) fn magnitude(
        self,
        MagnitudeKey { key, along }: &MagnitudeKey,
        frame: &Frame<'_>,
        rows: &Range<u64>,
    ) -> Result<Magnitude, AdapterError> {
        let mut slice = self.slice(key, &FLOATS, FLOATS_EXPECTED)?;
        let (&[output, input], Some(tensor)) = (&frame.shape[..frame.shape.len().min(2)], self.table.get(key)) else {
            return Err(self.misfit_magnitude(key, frame));
        };
        let found = &tensor.info.shape;
        let count: u64 = found.iter().product();
        let is_line = found.iter().filter(|&&size| size != 1).count() <= 1;
        // Where all are one, they are alike. PEFT writes those of a kernel's rows as `[1, rows, 1, 1]`.
        let is_by_rows = *along == Along::Rows || found.first() == Some(&count);
        let is_by_columns = !is_by_rows && found.get(1) == Some(&count) && count == input && *rows == (0..output);
        let of = if is_line && is_by_rows && count == output {
            Lines::Rows
        } else if is_line && is_by_columns {
            Lines::Columns
        } else {
            return Err(self.misfit_magnitude(key, frame));
        };
        slice.shape = vec![count];
        if of == Lines::Rows {
            let size = slice.bytes().checked_div(count).unwrap_or_default();
            let start = slice.range.start;
            slice.range = start + rows.start * size..start + rows.end * size;
            slice.shape = vec![rows.end - rows.start];
        }
        Ok(Magnitude { slice, of })
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

    fn misfit_magnitude(self, key: &str, frame: &Frame<'_>) -> AdapterError {
        let found = self.table.get(key).map_or(&[][..], |tensor| &tensor.info.shape);
        let expected = match frame.shape[..] {
            [rows, columns, ..] => {
                format!("{rows} magnitudes of rows, or [1, {columns}] of the columns of a layer that is not fused")
            }
            _ => "no magnitudes, since the layer has no matrix".to_owned(),
        };
        AdapterError::Shape { layer: shown(frame.layer), key: shown(key), expected, found: format!("{found:?}") }
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
            (Change::LowRank(LowRank { core: None, tool: Tool::MlxLm, .. }), &[count, output, input]) => {
                format!("[{count}, rank, {input}] and [{count}, {output}, rank]")
            }
            (Change::LowRank(LowRank { core: None, .. }), [output, kernel @ ..]) if kernel.len() > 1 => {
                format!(
                    "[rank, {}] and [{output}, rank]",
                    kernel.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
                )
            }
            (Change::LowRank(_) | Change::Kronecker { .. } | Change::Hadamard { .. }, kernel) if kernel.len() > 2 => {
                format!("factors, or factors around a core, of a kernel {kernel:?}")
            }
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
    /// The dimensions of a kernel behind its channels.
    fn kernel(&self) -> &[u64] {
        self.shape.get(2..).unwrap_or_default()
    }

    fn holds(&self, product: &Product) -> bool {
        match (product, &self.shape[..]) {
            (Product::Full(whole), shape) => {
                !shape.is_empty() && whole.slice.shape[..] == *trimmed_to(shape, whole.slice.shape.len())
            }
            // Vectors have differences only.
            (_, [output, rest @ ..]) if !rest.is_empty() => {
                product.dimensions() == Some((*output, rest.iter().product()))
            }
            _ => false,
        }
    }
}

fn rank_of(factor: &Factor) -> Option<u64> {
    match factor {
        Factor::Whole(_) => None,
        Factor::Product(_, right) | Factor::Cored { right, .. } => right.dimensions().map(|(rank, _)| rank),
    }
}

/// Dimensions without the ones at their end.
fn trimmed(dimensions: &[u64]) -> &[u64] {
    let length = dimensions.iter().rposition(|&size| size != 1).map_or(0, |last| last + 1);
    &dimensions[..length]
}

/// A shape without the ones behind its first `length` dimensions; the whole shape where they are not ones.
fn trimmed_to(shape: &[u64], length: usize) -> &[u64] {
    match shape.get(length..) {
        Some(rest) if rest.iter().all(|&size| size == 1) => &shape[..length],
        _ => shape,
    }
}
