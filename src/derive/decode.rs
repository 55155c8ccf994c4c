//! The arithmetic of formats that MLX does not have: from the bytes of a coded layer's tensors to floats. Pure functions on
//! bytes. `tests/python/test_coded.py` compares their results with torch's and with ComfyUI's own code.
//!
//! Every product is computed in F32, and each result is rounded once, to the dtype that is wanted. A rotated weight is
//! turned back as sums of its codes, which are exact, before it is multiplied by its scale.

use std::ops::Range;

use weightsd_core::{
    header::Dtype,
    quantisation::{Codes, Decoding, Grid, TILE_COLUMNS, TILE_ROWS, TileScale},
};

/// Values of the 4-bit floats (E2M1).
const E2M1: [f32; 16] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// Some rows of a coded layer, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct CodedBytes<'a> {
    /// The codes of these rows.
    pub(super) weight: &'a [u8],
    /// Columns of the weight that the layer stands for. What is stored may have more.
    pub(super) columns: usize,
    /// The rows, as the scales count them.
    pub(super) rows: (usize, usize),
    /// All scales, those of other rows included.
    pub(super) scales: Numbers<'a>,
    /// What is added to the products.
    pub(super) zeros: Numbers<'a>,
    /// The factor on the scales.
    pub(super) global: Numbers<'a>,
}

/// Numbers of one dtype, with the last of their dimensions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Numbers<'a> {
    /// Their bytes.
    pub(super) bytes: &'a [u8],
    /// F32, F16, BF16, `F8_E8M0`, or another dtype of 8 bits whose bytes are taken as they are.
    pub(super) dtype: Dtype,
    /// The last dimension, 1 for a scalar.
    pub(super) width: usize,
}

/// What was read is not what the plan says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the tensors of a coded layer have other lengths than planned")]
pub(super) struct Torn;

impl Numbers<'_> {
    /// No numbers.
    pub(super) const NONE: Self = Self { bytes: &[], dtype: Dtype::F32, width: 1 };

    fn float(&self, at: usize) -> Result<f32, Torn> {
        fn two(bytes: &[u8], at: usize) -> Option<[u8; 2]> {
            bytes.get(2 * at..2 * at + 2)?.try_into().ok()
        }
        let found = match self.dtype {
            Dtype::F32 => {
                self.bytes.get(4 * at..4 * at + 4).and_then(|it| Some(f32::from_le_bytes(it.try_into().ok()?)))
            }
            Dtype::F16 => two(self.bytes, at).map(|it| half::f16::from_le_bytes(it).to_f32()),
            Dtype::BF16 => two(self.bytes, at).map(|it| half::bf16::from_le_bytes(it).to_f32()),
            Dtype::F8_E8M0 => self.bytes.get(at).map(|scale| power(*scale)),
            _ => None,
        };
        found.ok_or(Torn)
    }
}

/// The value of an E4M3 float without infinities.
fn e4m3(code: u8) -> f32 {
    let magnitude = code & 0x7f;
    // Exponent and first bits of the mantissa in place, the exponents' biases apart by 120. This holds for small numbers
    // without a leading 1 as well.
    let value = f32::from_bits(u32::from(magnitude) << 20) * 2_f32.powi(120);
    let value = if magnitude == 0x7f { f32::NAN } else { value };
    if code & 0x80 == 0 { value } else { -value }
}

/// The value of an E5M2 float, which is half of an IEEE half.
fn e5m2(code: u8) -> f32 {
    half::f16::from_bits(u16::from(code) << 8).to_f32()
}

/// The value of a number of type `F8_E8M0`, as OCP's standard and torch have it: the least is 2 to the power of -127, and the
/// largest code is no number.
fn power(code: u8) -> f32 {
    match code {
        0 => f32::from_bits(1 << 22),
        0xff => f32::NAN,
        _ => f32::from_bits(u32::from(code) << 23),
    }
}

/// The value of a scale in tiles that is a power of two. As in ComfyUI, the least one stands for zero and the largest for
/// infinity.
fn e8m0(scale: u8) -> f32 {
    f32::from_bits(u32::from(scale) << 23)
}

/// The values of all codes of one byte.
fn values(codes: Codes) -> [f32; 256] {
    std::array::from_fn(|code| {
        let code = u8::try_from(code).unwrap_or_default();
        match codes {
            Codes::E4m3 => e4m3(code),
            Codes::E5m2 => e5m2(code),
            Codes::I8 | Codes::I4 | Codes::U4 | Codes::E2m1 => f32::from(code.cast_signed()),
        }
    })
}

/// A dtype of results.
trait Float: Copy {
    const BYTES: usize;
    fn of(value: f32) -> Self;
    fn put(self, out: &mut [u8]);
}

impl Float for f32 {
    const BYTES: usize = 4;
    fn of(value: f32) -> Self {
        value
    }
    fn put(self, out: &mut [u8]) {
        out.copy_from_slice(&self.to_le_bytes());
    }
}

impl Float for half::f16 {
    const BYTES: usize = 2;
    fn of(value: f32) -> Self {
        Self::from_f32(value)
    }
    fn put(self, out: &mut [u8]) {
        out.copy_from_slice(&self.to_le_bytes());
    }
}

impl Float for half::bf16 {
    const BYTES: usize = 2;
    fn of(value: f32) -> Self {
        Self::from_f32(value)
    }
    fn put(self, out: &mut [u8]) {
        out.copy_from_slice(&self.to_le_bytes());
    }
}

/// Makes `coded` plain, in dtype `float`, into `out`.
///
/// # Errors
/// When the lengths do not fit together.
pub(super) fn decode(coded: &CodedBytes<'_>, decoding: &Decoding, float: Dtype, out: &mut [u8]) -> Result<(), Torn> {
    match float {
        Dtype::BF16 => decode_as::<half::bf16>(coded, decoding, out),
        Dtype::F16 => decode_as::<half::f16>(coded, decoding, out),
        Dtype::F32 => decode_as::<f32>(coded, decoding, out),
        _ => Err(Torn),
    }
}

fn decode_as<F: Float>(coded: &CodedBytes<'_>, decoding: &Decoding, out: &mut [u8]) -> Result<(), Torn> {
    if out.is_empty() {
        return Ok(());
    }
    let is_flat = decoding.codes.per_byte() == 1 && decoding.rotation.is_none();
    match decoding.grid {
        Grid::Unscaled if is_flat => by_table::<F>(coded.weight, &values(decoding.codes), 1.0, out),
        Grid::Whole if is_flat => by_table::<F>(coded.weight, &values(decoding.codes), coded.scales.float(0)?, out),
        Grid::Rows if is_flat => {
            let values = values(decoding.codes);
            each_row(coded, F::BYTES, out, |row, codes, out| {
                by_table::<F>(codes, &values, coded.scales.float(row)?, out)
            })
        }
        _ => {
            let mut row_of = vec![0.0_f32; coded.columns];
            let mut sums = vec![0_i32; coded.columns];
            let values = values(decoding.codes);
            each_row(coded, F::BYTES, out, |row, codes, out| {
                match decoding.rotation {
                    Some(columns) => turned_back(coded, decoding, columns, (row, codes), &mut sums, &mut row_of)?,
                    None => scaled(coded, decoding, &values, (row, codes), &mut row_of)?,
                }
                for (value, out) in row_of.iter().zip(out.chunks_exact_mut(F::BYTES)) {
                    F::of(*value).put(out);
                }
                Ok(())
            })
        }
    }
}

/// Calls `row` with the number, the codes and the output of each row.
fn each_row(
    coded: &CodedBytes<'_>,
    float_bytes: usize,
    out: &mut [u8],
    mut row: impl FnMut(usize, &[u8], &mut [u8]) -> Result<(), Torn>,
) -> Result<(), Torn> {
    let (first, count) = coded.rows;
    if count == 0 || coded.columns == 0 || !coded.weight.len().is_multiple_of(count) {
        return Err(Torn);
    }
    let stored = coded.weight.len() / count;
    if stored == 0 || out.len() != count * coded.columns * float_bytes {
        return Err(Torn);
    }
    let outputs = out.chunks_exact_mut(coded.columns * float_bytes);
    for (at, (codes, out)) in coded.weight.chunks_exact(stored).zip(outputs).enumerate() {
        row(first + at, codes, out)?;
    }
    Ok(())
}

/// Codes of one byte that share a scale. There are no more results than codes.
fn by_table<F: Float>(codes: &[u8], values: &[f32; 256], scale: f32, out: &mut [u8]) -> Result<(), Torn> {
    let table: [F; 256] = values.map(|value| F::of(value * scale));
    // Rows may be stored with columns of padding.
    let wanted = out.len() / F::BYTES;
    let codes = codes.get(..wanted).ok_or(Torn)?;
    for (code, out) in codes.iter().zip(out.chunks_exact_mut(F::BYTES)) {
        table[usize::from(*code)].put(out);
    }
    Ok(())
}

/// The two halves of each byte, the low ones first.
fn halves(codes: &[u8]) -> impl Iterator<Item = u8> {
    codes.iter().flat_map(|byte| [byte & 0xf, byte >> 4])
}

/// A 4-bit integer with a sign.
fn signed(code: u8) -> i8 {
    (code << 4).cast_signed() >> 4
}

/// One row of codes times their scales.
fn scaled(
    coded: &CodedBytes<'_>,
    decoding: &Decoding,
    values: &[f32; 256],
    (row, codes): (usize, &[u8]),
    out: &mut [f32],
) -> Result<(), Torn> {
    let enough = |per_byte: usize| (codes.len() * per_byte >= out.len()).then_some(()).ok_or(Torn);
    enough(usize::try_from(decoding.codes.per_byte()).unwrap_or(1))?;
    match decoding.codes {
        Codes::E4m3 | Codes::E5m2 | Codes::I8 => {
            out.iter_mut().zip(codes).for_each(|(out, code)| *out = values[usize::from(*code)]);
        }
        Codes::I4 => out.iter_mut().zip(halves(codes)).for_each(|(out, code)| *out = f32::from(signed(code))),
        Codes::U4 => out.iter_mut().zip(halves(codes)).for_each(|(out, code)| *out = f32::from(code) - 8.0),
        Codes::E2m1 => {
            let high_first = codes.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
            out.iter_mut().zip(high_first).for_each(|(out, code)| *out = E2M1[usize::from(code)]);
        }
    }
    let size = |columns: u64| usize::try_from(columns).ok().filter(|columns| *columns > 0).ok_or(Torn);
    match decoding.grid {
        Grid::Unscaled => {}
        Grid::Whole => multiply(out, coded.scales.float(0)?),
        Grid::Rows => multiply(out, coded.scales.float(row)?),
        Grid::Squares { side } => {
            let side = size(side)?;
            let first = row / side * coded.scales.width;
            for (at, square) in out.chunks_mut(side).enumerate() {
                multiply(square, coded.scales.float(first + at)?);
            }
        }
        Grid::Groups { columns } => {
            let first = row * coded.scales.width;
            for (at, group) in out.chunks_mut(size(columns)?).enumerate() {
                multiply(group, coded.scales.float(first + at)?);
            }
        }
        Grid::Transposed { columns } => {
            for (at, group) in out.chunks_mut(size(columns)?).enumerate() {
                let place = at * coded.scales.width + row;
                let (scale, zero) = (coded.scales.float(place)?, coded.zeros.float(place)?);
                group.iter_mut().for_each(|value| *value = *value * scale + zero);
            }
        }
        Grid::Tiled { columns, scale } => {
            let global = match scale {
                TileScale::E4m3 => coded.global.float(0)?,
                TileScale::E8m0 => 1.0,
            };
            for (at, group) in out.chunks_mut(size(columns)?).enumerate() {
                let stored = *coded.scales.bytes.get(tiled(row, at, coded.scales.width)).ok_or(Torn)?;
                let scale = match scale {
                    TileScale::E4m3 => e4m3(stored) * global,
                    TileScale::E8m0 => e8m0(stored),
                };
                multiply(group, scale);
            }
        }
    }
    Ok(())
}

fn multiply(values: &mut [f32], factor: f32) {
    values.iter_mut().for_each(|value| *value *= factor);
}

/// Where the scale of a row and a group lies, in scales of so many columns, padding included.
fn tiled(row: usize, column: usize, width: usize) -> usize {
    let (rows, columns) = (sides().0, sides().1);
    let tile = row / rows * width.div_ceil(columns) + column / columns;
    let inside = 16 * (row % 32) + 4 * (row % rows / 32) + column % columns;
    rows * columns * tile + inside
}

fn sides() -> (usize, usize) {
    let size = |side: u64| usize::try_from(side).unwrap_or(usize::MAX);
    (size(TILE_ROWS), size(TILE_COLUMNS))
}

/// One row of a weight that was rotated in groups: the product with the groups' orthogonal matrix, which is its own inverse.
fn turned_back(
    coded: &CodedBytes<'_>,
    decoding: &Decoding,
    columns: u64,
    (row, codes): (usize, &[u8]),
    sums: &mut [i32],
    out: &mut [f32],
) -> Result<(), Torn> {
    let columns = usize::try_from(columns).map_err(|_| Torn)?;
    let stored = codes.len() * usize::try_from(decoding.codes.per_byte()).unwrap_or(1);
    if stored < sums.len() || columns < 4 || !sums.len().is_multiple_of(columns) || decoding.grid != Grid::Rows {
        return Err(Torn);
    }
    match decoding.codes {
        Codes::I8 => sums.iter_mut().zip(codes).for_each(|(sum, code)| *sum = i32::from(code.cast_signed())),
        Codes::I4 => sums.iter_mut().zip(halves(codes)).for_each(|(sum, code)| *sum = i32::from(signed(code))),
        Codes::E4m3 | Codes::E5m2 | Codes::U4 | Codes::E2m1 => return Err(Torn),
    }
    let scale = coded.scales.float(row)?;
    // The root of a power of 4.
    let root = 2_f32.powi(i32::try_from(columns.trailing_zeros() / 2).map_err(|_| Torn)?);
    for (sums, out) in sums.chunks_exact_mut(columns).zip(out.chunks_exact_mut(columns)) {
        rotate(sums);
        for (sum, out) in sums.iter().zip(out) {
            #[expect(clippy::cast_precision_loss, reason = "sums of 65536 codes of 8 bits have at most 24 bits")]
            let exact = *sum as f32 / root;
            *out = exact * scale;
        }
    }
    Ok(())
}

/// The product with the matrix of Hadamard's kind that is made of `[[1, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1,
/// 1]]`, without its factor.
fn rotate(sums: &mut [i32]) {
    let mut stride = 1;
    while stride < sums.len() {
        for block in sums.chunks_exact_mut(4 * stride) {
            let (left, right) = block.split_at_mut(2 * stride);
            let ((first, second), (third, fourth)) = (left.split_at_mut(stride), right.split_at_mut(stride));
            let pairs = first.iter_mut().zip(second).zip(third.iter_mut().zip(fourth));
            for ((a, b), (c, d)) in pairs {
                let all = *a + *b + *c + *d;
                (*a, *b, *c, *d) = (all - 2 * *d, all - 2 * *c, all - 2 * *b, all - 2 * *a);
            }
        }
        stride *= 4;
    }
}

/// The codes and the scales of a layer that MLX has under another order of bytes (MXFP8), as MLX orders them: codes row by
/// row without padding, and scales by rows. A scale of 0 stands for zero here and for the smallest power of two there, so
/// that its codes become zeros.
///
/// # Errors
/// When the lengths do not fit together.
pub(super) fn repacked(coded: &CodedBytes<'_>, group: u64, codes: &mut [u8], scales: &mut [u8]) -> Result<(), Torn> {
    let group = usize::try_from(group).ok().filter(|group| *group > 0).ok_or(Torn)?;
    let groups = coded.columns.div_ceil(group);
    let (first, count) = coded.rows;
    if codes.is_empty() && scales.is_empty() {
        return Ok(());
    }
    if scales.len() != count * groups {
        return Err(Torn);
    }
    each_row(coded, 1, codes, |row, stored, out| {
        out.copy_from_slice(stored.get(..out.len()).ok_or(Torn)?);
        let place: Range<usize> = (row - first) * groups..(row - first + 1) * groups;
        for (at, (group, scale)) in out.chunks_mut(group).zip(&mut scales[place]).enumerate() {
            *scale = *coded.scales.bytes.get(tiled(row, at, coded.scales.width)).ok_or(Torn)?;
            if *scale == 0 {
                group.iter_mut().filter(|code| **code & 0x7f != 0x7f).for_each(|code| *code &= 0x80);
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    fn numbers(bytes: &[u8], dtype: Dtype, width: usize) -> Numbers<'_> {
        Numbers { bytes, dtype, width }
    }

    /// The results in F32.
    fn run(coded: &CodedBytes<'_>, codes: Codes, grid: Grid, rotation: Option<u64>) -> Vec<f32> {
        let mut out = vec![0; coded.rows.1 * coded.columns * 4];
        decode(coded, &Decoding { codes, grid, rotation }, Dtype::F32, &mut out).unwrap();
        out.chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
    }

    fn plain<'a>(weight: &'a [u8], columns: usize, rows: (usize, usize), scales: Numbers<'a>) -> CodedBytes<'a> {
        CodedBytes { weight, columns, rows, scales, zeros: Numbers::NONE, global: Numbers::NONE }
    }

    #[test]
    fn floats_of_8_bits_have_the_values_of_their_definition() {
        for (code, value) in [(0x00, 0.0), (0x01, 2_f32.powi(-9)), (0x08, 2_f32.powi(-6)), (0x38, 1.0), (0x7e, 448.0)] {
            assert_eq!((e4m3(code), e4m3(code | 0x80)), (value, -value), "{code:#x}");
        }
        assert!(e4m3(0x7f).is_nan() && e4m3(0xff).is_nan() && e4m3(0x80).is_sign_negative());
        for (code, value) in [(0x01, 2_f32.powi(-16)), (0x3c, 1.0), (0x7b, 57344.0), (0x7c, f32::INFINITY)] {
            assert_eq!((e5m2(code), e5m2(code | 0x80)), (value, -value), "{code:#x}");
        }
        assert!(e5m2(0x7d).is_nan());
        assert_eq!([0, 1, 127, 255].map(e8m0), [0.0, 2_f32.powi(-126), 1.0, f32::INFINITY]);
    }

    #[test]
    fn scales_of_a_row_and_of_a_square_are_those_of_their_place() {
        let scales = floats(&[0.0, 2.0, 0.5]);
        let rows = plain(&[1, 0xff, 2, 0xfe], 2, (1, 2), numbers(&scales, Dtype::F32, 3));
        assert_eq!(run(&rows, Codes::I8, Grid::Rows, None), [2.0, -2.0, 1.0, -1.0]);
        // Rows 1 and 2 of a weight of 3x3 in squares of 2.
        let scales = floats(&[1.0, 2.0, 3.0, 4.0]);
        let squares = plain(&[1, 1, 1, 1, 1, 1], 3, (1, 2), numbers(&scales, Dtype::F32, 2));
        assert_eq!(run(&squares, Codes::I8, Grid::Squares { side: 2 }, None), [1.0, 1.0, 2.0, 3.0, 3.0, 4.0]);
    }

    #[test]
    fn scales_may_be_halves_and_padding_is_left_out() {
        let scales: Vec<u8> =
            [half::bf16::from_f32(0.5), half::bf16::from_f32(4.0)].iter().flat_map(|it| it.to_le_bytes()).collect();
        let rows = plain(&[2, 9, 9, 3, 9, 9], 1, (0, 2), numbers(&scales, Dtype::BF16, 2));
        assert_eq!(run(&rows, Codes::I8, Grid::Rows, None), [1.0, 12.0]);
    }

    #[test]
    fn codes_of_4_bits_lie_as_each_format_has_them() {
        let (scales, zeros) = (floats(&[2.0, 10.0]), floats(&[0.5, 1.0]));
        // Two rows; scale and zero of row 1.
        let mut awq = plain(&[0x9f], 2, (1, 1), numbers(&scales, Dtype::F32, 2));
        awq.zeros = numbers(&zeros, Dtype::F32, 2);
        assert_eq!(run(&awq, Codes::U4, Grid::Transposed { columns: 2 }, None), [71.0, 11.0]);
        let one = floats(&[1.0]);
        let signed = plain(&[0x9f, 0x07], 4, (0, 1), numbers(&one, Dtype::F32, 1));
        assert_eq!(run(&signed, Codes::I4, Grid::Rows, None), [-1.0, -7.0, 7.0, 0.0]);
        let global = floats(&[0.25]);
        let mut tiles = vec![0_u8; 512];
        (tiles[16], tiles[17]) = (0x38, 0x40);
        let mut nvfp4 = plain(&[0x2a; 16], 32, (1, 1), numbers(&tiles, Dtype::U8, 4));
        nvfp4.global = numbers(&global, Dtype::F32, 1);
        let grid = Grid::Tiled { columns: 16, scale: TileScale::E4m3 };
        let found = run(&nvfp4, Codes::E2m1, grid, None);
        assert_eq!((found[0], found[1], found[16], found[17]), (0.25, -0.25, 0.5, -0.5), "the high half is first");
    }

    #[test]
    fn tiles_are_found_again() {
        // Every place of a padded matrix of 256 x 8 is used once.
        let mut seen = vec![false; 256 * 8];
        for row in 0..256 {
            for column in 0..8 {
                assert!(!std::mem::replace(&mut seen[tiled(row, column, 8)], true));
            }
        }
        assert_eq!(
            (tiled(0, 1, 8), tiled(1, 0, 8), tiled(32, 0, 8), tiled(0, 4, 8), tiled(128, 0, 8)),
            (1, 16, 4, 512, 1024)
        );
    }

    #[test]
    fn a_rotation_is_its_own_inverse_and_is_exact() {
        let original: Vec<i32> = (0..64).map(|at| at * 37 % 255 - 127).collect();
        let mut turned = original.clone();
        rotate(&mut turned);
        assert_ne!(turned, original);
        rotate(&mut turned);
        assert_eq!(turned.iter().map(|sum| sum / 64).collect::<Vec<_>>(), original);
        // The first row of the matrix of 4.
        let scale = floats(&[0.5]);
        let row = plain(&[8, 0, 0, 0], 4, (0, 1), numbers(&scale, Dtype::F32, 1));
        assert_eq!(run(&row, Codes::I8, Grid::Rows, Some(4)), [2.0, 2.0, 2.0, -2.0]);
    }

    #[test]
    fn bytes_are_repacked_for_mlx_and_zeros_stay_zeros() {
        let mut weight = vec![0x38_u8; 64];
        (weight[32], weight[33]) = (0xb8, 0x7f);
        let mut tiles = vec![127_u8; 512];
        tiles[1] = 0;
        let coded = plain(&weight, 64, (0, 1), numbers(&tiles, Dtype::U8, 4));
        let (mut codes, mut scales) = (vec![0; 64], vec![9; 2]);
        repacked(&coded, 32, &mut codes, &mut scales).unwrap();
        assert_eq!(scales, [127, 0]);
        assert_eq!((&codes[..32], codes[32], codes[33], codes[34]), (&[0x38; 32][..], 0x80, 0x7f, 0));
    }

    #[test]
    fn lengths_that_do_not_fit_are_an_error_and_no_panic() {
        let scales = floats(&[1.0]);
        let short = plain(&[1, 2], 4, (0, 1), numbers(&scales, Dtype::F32, 1));
        let grids = [
            Grid::Unscaled,
            Grid::Whole,
            Grid::Rows,
            Grid::Squares { side: 0 },
            Grid::Transposed { columns: 2 },
            Grid::Tiled { columns: 2, scale: TileScale::E4m3 },
        ];
        for (grid, rotation) in grids.into_iter().flat_map(|grid| [(grid, None), (grid, Some(4))]) {
            for codes in [Codes::E4m3, Codes::I4, Codes::U4, Codes::E2m1, Codes::I8] {
                let mut out = vec![0; 17];
                assert_eq!(decode(&short, &Decoding { codes, grid, rotation }, Dtype::BF16, &mut out), Err(Torn));
            }
        }
        assert_eq!(repacked(&short, 32, &mut [0; 4], &mut [0; 4]), Err(Torn));
    }
}
