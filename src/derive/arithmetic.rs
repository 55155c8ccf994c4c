//! What MLX computes for a job, and where [`decode`] computes what MLX cannot. MLX's results are the definition of right: `tests/python/test_derive*.py` compare them bit
//! for bit with what Python's MLX computes from the same inputs.

use std::{collections::BTreeMap, ops::Range};

use weightsd_arrays::{
    ArrayError, PackedMatrix, bytes, dequantise, dtype, filled,
    mlx_rs::{self, Array, ops::indexing::TryIndexOp as _},
    quantise,
};
use weightsd_core::{
    axes::Axes,
    derive::{Delta, Effect, Factor, Input, Job, Lines, Magnitude, Matrix, Product, Slice},
    ggml::Encoding,
    header::Dtype,
    quantisation::{Decoding, Scheme, SlotRole},
};

use super::decode::{self, CodedBytes, Numbers, Torn};

/// Reads the elements of a slice.
pub(super) trait Read {
    /// Why it cannot.
    type Error: From<ArrayError>;
    /// All of it.
    fn whole(&self, slice: &Slice) -> Result<Array, Self::Error>;
    /// The rows of this piece.
    fn rows(&self, slice: &Slice) -> Result<Array, Self::Error>;
    /// The bytes of all of it.
    fn whole_bytes(&self, slice: &Slice) -> Result<Vec<u8>, Self::Error>;
    /// The bytes of the rows of this piece.
    fn rows_bytes(&self, slice: &Slice) -> Result<Vec<u8>, Self::Error>;
    /// The same rows of an encoded tensor of that shape, decoded to F32.
    fn decoded(&self, slice: &Slice, encoding: &Encoding, shape: &[u64]) -> Result<Array, Self::Error>;
    /// Of `rows` of a weight, those in this piece.
    fn within(&self, rows: &Range<u64>) -> Range<u64>;
}

/// The arrays of a job's outputs, in order and evaluated.
pub(super) fn outputs<R: Read>(job: &Job, read: &R) -> Result<Vec<Array>, R::Error> {
    let weight = match &job.input {
        Input::Plain(slice) => read.rows(slice)?,
        Input::Packed { slots, scheme } => dequantised(slots, scheme, read)?,
        Input::Coded { slots, decoding, logical, first_row } => {
            let coded = CodedSlots::read(slots, logical, *first_row, read)?;
            match job.quantise.filter(|scheme| job.deltas.is_empty() && decoding.is_repacked_as(scheme)) {
                Some(scheme) => return Ok(coded.repacked(&scheme)?),
                // A sum with deltas is rounded once, after them.
                None if job.deltas.is_empty() => coded.plain(decoding, job.cast.unwrap_or(Dtype::F32))?,
                None => coded.plain(decoding, Dtype::F32)?,
            }
        }
        Input::Encoded { slice, encoding, shape } => read.decoded(slice, encoding, shape)?,
        Input::Bytes(slice) => {
            let taken = read.rows(slice)?;
            bytes(&taken)?;
            return Ok(vec![taken]);
        }
    };
    let found = weight.dtype();
    let mut weight = if job.deltas.is_empty() { weight } else { adapted(&weight, &job.deltas, read)? };
    let wanted = job.cast.map_or(Ok(found), |cast| dtype(cast).ok_or(ArrayError::Dtype(cast)))?;
    weight = cast(&weight, wanted)?;
    weight = ordered(weight, job.reorder)?;
    let outputs = match &job.quantise {
        Some(scheme) => quantise(&weight, scheme)?,
        None => vec![weight],
    };
    for output in &outputs {
        bytes(output)?;
    }
    Ok(outputs)
}

/// The tensors of a coded layer, read: those rows of the codes that are in this piece, and the others whole.
struct CodedSlots {
    weight: Vec<u8>,
    others: BTreeMap<SlotRole, (Vec<u8>, Dtype, usize)>,
    /// Dimensions of these rows.
    shape: Vec<u64>,
    first_row: u64,
}

impl CodedSlots {
    fn read<R: Read>(
        slots: &BTreeMap<SlotRole, Slice>,
        logical: &[u64],
        first_row: u64,
        read: &R,
    ) -> Result<Self, R::Error> {
        let absent = || ArrayError::Mlx("a coded layer without codes".to_owned());
        let weight = read.rows_bytes(slots.get(&SlotRole::Weight).ok_or_else(absent)?)?;
        let mut others = BTreeMap::new();
        for (role, slice) in slots.iter().filter(|(role, _)| **role != SlotRole::Weight) {
            let width = slice.shape.last().and_then(|&width| usize::try_from(width).ok()).unwrap_or(1);
            others.insert(*role, (read.whole_bytes(slice)?, slice.dtype, width));
        }
        let mut shape = logical.to_vec();
        let rows = read.within(&(0..logical.first().copied().unwrap_or(1)));
        if let Some(first) = shape.first_mut() {
            *first = rows.end - rows.start;
        }
        Ok(Self { weight, others, shape, first_row: first_row + rows.start })
    }

    fn numbers(&self, role: SlotRole) -> Numbers<'_> {
        let found = self.others.get(&role);
        found.map_or(Numbers::NONE, |(bytes, dtype, width)| Numbers { bytes, dtype: *dtype, width: *width })
    }

    fn bytes(&self) -> Result<CodedBytes<'_>, ArrayError> {
        let size = |number: u64| usize::try_from(number).map_err(|_| ArrayError::Shape(self.shape.clone()));
        let (columns, rows) = match self.shape.split_last() {
            Some((&columns, rows)) => (columns, rows.iter().product()),
            None => (1, 1),
        };
        Ok(CodedBytes {
            weight: &self.weight,
            columns: size(columns)?,
            rows: (size(self.first_row)?, size(rows)?),
            scales: self.numbers(SlotRole::Scales),
            zeros: self.numbers(SlotRole::ZeroPoints),
            global: self.numbers(SlotRole::GlobalScale),
        })
    }

    /// The rows in dtype `float`.
    fn plain(&self, decoding: &Decoding, float: Dtype) -> Result<Array, ArrayError> {
        let coded = self.bytes()?;
        filled(float, &self.shape, |memory| decode::decode(&coded, decoding, float, memory).map_err(torn))
    }

    /// The codes and the scales as MLX orders them.
    fn repacked(&self, scheme: &Scheme) -> Result<Vec<Array>, ArrayError> {
        let coded = self.bytes()?;
        let shape =
            |role: SlotRole| scheme.shape_of(role, &self.shape).ok_or_else(|| ArrayError::Shape(self.shape.clone()));
        let length = |shape: &[u64]| usize::try_from(shape.iter().product::<u64>()).unwrap_or_default();
        let (codes, groups) = (shape(SlotRole::Weight)?, shape(SlotRole::Scales)?);
        let mut scales = vec![0; length(&groups)];
        let weight = filled(Dtype::U32, &codes, |memory| {
            decode::repacked(&coded, scheme.group_size(), memory, &mut scales).map_err(torn)
        })?;
        let scales = filled(Dtype::U8, &groups, |memory| {
            memory.copy_from_slice(&scales);
            Ok::<(), ArrayError>(())
        })?;
        Ok(vec![weight, scales])
    }
}

fn torn(torn: Torn) -> ArrayError {
    ArrayError::Mlx(torn.to_string())
}

/// The weight that a packed layer stands for.
fn dequantised<R: Read>(slots: &BTreeMap<SlotRole, Slice>, scheme: &Scheme, read: &R) -> Result<Array, R::Error> {
    let slot = |role: SlotRole| slots.get(&role).map(|slice| read.rows(slice)).transpose();
    let absent = |role: SlotRole| ArrayError::Mlx(format!("a packed layer without {role:?}"));
    let weight = slot(SlotRole::Weight)?.ok_or_else(|| absent(SlotRole::Weight))?;
    let scales = slot(SlotRole::Scales)?.ok_or_else(|| absent(SlotRole::Scales))?;
    let biases = slot(SlotRole::Biases)?;
    let Some(global_scale) = slots.get(&SlotRole::GlobalScale) else {
        return Ok(dequantise(&PackedMatrix { weight, scales, biases, global_scale: None }, scheme)?);
    };
    // One number for each matrix of a stack; a single matrix has it whole, whichever rows are wanted.
    let is_stack = weight.shape().len() > 2;
    let global_scale =
        mlx((if is_stack { read.rows(global_scale)? } else { read.whole(global_scale)? }).reshape(&[-1]))?;
    let matrices = |array: &Array| -> Result<Array, ArrayError> {
        let (rows, columns) = (array.dim(-2), array.dim(-1));
        mlx(array.reshape(&[-1, rows, columns]))
    };
    let shape = weight.shape().to_vec();
    let (weight, scales) = (matrices(&weight)?, matrices(&scales)?);
    let one = |at: i32| -> Result<Array, ArrayError> {
        let matrix = PackedMatrix {
            weight: mlx(weight.try_index(at))?,
            scales: mlx(scales.try_index(at))?,
            biases: None,
            global_scale: Some(mlx(global_scale.try_index(at))?),
        };
        dequantise(&matrix, scheme)
    };
    let all = (0..weight.dim(0)).map(one).collect::<Result<Vec<_>, _>>()?;
    let stacked = mlx(mlx_rs::ops::stack(&all, 0))?;
    let shape: Vec<i32> = shape[..shape.len() - 1].iter().copied().chain([stacked.dim(-1)]).collect();
    Ok(mlx(stacked.reshape(&shape))?)
}

/// The weight after what adapters do to it, in F32.
fn adapted<R: Read>(weight: &Array, deltas: &[Delta], read: &R) -> Result<Array, R::Error> {
    let weight = cast(weight, mlx_rs::Dtype::Float32)?;
    let order = deltas.iter().find_map(|delta| delta.order);
    // What magnitudes are compared with: the weight before any adapter.
    let mut base = ordered(weight, order.map(Axes::inverse))?;
    let mut sum = base.clone();
    for delta in deltas {
        let product = mlx(product(delta, read)?.reshape(base.shape()))?;
        sum = match (delta.effect, &delta.magnitude) {
            (Effect::Replaces, _) => {
                base = product.clone();
                product
            }
            (Effect::Adds, None) => mlx(sum.add(product))?,
            (Effect::Adds, Some(magnitude)) => {
                let lengths = lengths(&mlx(base.add(&product))?, magnitude.of)?;
                let wanted = lines(magnitude, &lengths, read)?;
                let factor = mlx(wanted.divide(&lengths))?;
                let has_none = mlx(mlx_rs::ops::eq(&lengths, Array::from_f32(0.0)))?;
                let factor = mlx(mlx_rs::ops::select(&has_none, Array::from_f32(1.0), factor))?;
                mlx(mlx(sum.add(product))?.multiply(factor))?
            }
        };
    }
    Ok(ordered(sum, order)?)
}

/// The norms of the rows or columns of a weight, in its dimensions.
fn lengths(weight: &Array, of: Lines) -> Result<Array, ArrayError> {
    let dimensions = 0..i32::try_from(weight.ndim()).unwrap_or(i32::MAX);
    let line = if of == Lines::Rows { 0 } else { 1 };
    let others: Vec<i32> = dimensions.filter(|&dimension| dimension != line).collect();
    mlx(mlx(mlx(weight.square())?.sum_axes(&others, true))?.sqrt())
}

/// Magnitudes in F32, in the dimensions of `lengths`: those of this piece.
fn lines<R: Read>(magnitude: &Magnitude, lengths: &Array, read: &R) -> Result<Array, R::Error> {
    let mut all = cast(&read.whole(&magnitude.slice)?, mlx_rs::Dtype::Float32)?;
    if magnitude.of == Lines::Rows {
        let count = magnitude.slice.shape.first().copied().unwrap_or_default();
        all = rows(all, &read.within(&(0..count)))?;
    }
    Ok(mlx(all.reshape(lengths.shape()))?)
}

fn ordered(array: Array, order: Option<Axes>) -> Result<Array, ArrayError> {
    let Some(order) = order else { return Ok(array) };
    let axes: Vec<i32> = order.places().iter().map(|&place| i32::from(place)).collect();
    mlx(mlx(array.transpose_axes(&axes))?.contiguous())
}

/// The product of a delta in F32, scaled: the rows of this piece.
fn product<R: Read>(delta: &Delta, read: &R) -> Result<Array, R::Error> {
    let wanted = read.within(&delta.rows);
    let product = match &delta.product {
        // Of a fused layer, or in a piece, no more is multiplied than is wanted.
        Product::LowRank { down, up } => mlx(rows(matrix(up, read)?, &wanted)?.matmul(matrix(down, read)?))?,
        Product::Stacked { down, up } => {
            let stack = |slice: &Slice| -> Result<Array, R::Error> {
                Ok(rows(cast(&read.whole(slice)?, mlx_rs::Dtype::Float32)?, &wanted)?)
            };
            mlx(stack(up)?.matmul(stack(down)?))?
        }
        Product::Kronecker { first, second } => {
            rows(mlx(mlx_rs::ops::kron(factor(first, read)?, factor(second, read)?))?, &wanted)?
        }
        Product::Hadamard { first, second } => {
            let first = factor(first, read)?;
            rows(mlx(first.multiply(factor(second, read)?))?, &wanted)?
        }
        Product::Cored(whole) => rows(factor(whole, read)?, &wanted)?,
        Product::Full(whole) => rows(matrix(whole, read)?, &wanted)?,
    };
    Ok(mlx(product.multiply(Array::from_f32(strength(delta))))?)
}

/// Some rows.
fn rows(product: Array, wanted: &Range<u64>) -> Result<Array, ArrayError> {
    let range = i32::try_from(wanted.start).ok().zip(i32::try_from(wanted.end).ok());
    let (start, end) = range.ok_or_else(|| ArrayError::Shape(vec![wanted.end]))?;
    if (start, end) == (0, product.dim(0)) { Ok(product) } else { mlx(product.try_index(start..end)) }
}

/// `scale * alpha / divisor`, rounded once, to F32.
fn strength(delta: &Delta) -> f32 {
    #[expect(clippy::cast_possible_truncation, reason = "rounding is what is meant")]
    let strength = (delta.scale * delta.alpha / delta.divisor) as f32;
    strength
}

fn factor<R: Read>(factor: &Factor, read: &R) -> Result<Array, R::Error> {
    match factor {
        Factor::Whole(whole) => matrix(whole, read),
        Factor::Product(first, second) => multiplied(first, second, read),
        Factor::Cored { core, left, right } => cored(core, matrix(left, read)?, matrix(right, read)?, read),
    }
}

/// Tucker's decomposition as a matrix: first the rows, then the columns, for each element of the kernel.
fn cored<R: Read>(core: &Slice, left: Array, right: Array, read: &R) -> Result<Array, R::Error> {
    let core = cast(&read.whole(core)?, mlx_rs::Dtype::Float32)?;
    let (outer, inner, kernel) = (core.dim(0), core.dim(1), core.dim(2));
    let height = left.dim(0);
    let tall = mlx(left.matmul(mlx(core.reshape(&[outer, inner * kernel]))?))?;
    let tall = mlx(tall.reshape(&[height, inner, kernel]))?;
    let whole = mlx(mlx(right.transpose())?.matmul(tall))?;
    Ok(mlx(whole.reshape(&[height, -1]))?)
}

fn multiplied<R: Read>(first: &Matrix, second: &Matrix, read: &R) -> Result<Array, R::Error> {
    Ok(mlx(matrix(first, read)?.matmul(matrix(second, read)?))?)
}

/// A matrix of an adapter, in F32 and the right way round.
fn matrix<R: Read>(matrix: &Matrix, read: &R) -> Result<Array, R::Error> {
    let stored = cast(&read.whole(&matrix.slice)?, mlx_rs::Dtype::Float32)?;
    Ok(if matrix.transposed { mlx(stored.transpose())? } else { stored })
}

fn cast(array: &Array, dtype: mlx_rs::Dtype) -> Result<Array, ArrayError> {
    mlx(array.as_dtype(dtype))
}

fn mlx<T>(result: mlx_rs::error::Result<T>) -> Result<T, ArrayError> {
    Ok(result?)
}

/// Whether an array is of this dtype.
pub(super) fn is(array: &Array, expected: Dtype) -> bool {
    dtype(expected) == Some(array.dtype())
}
