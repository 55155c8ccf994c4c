//! The sheet of a component: all of its tensors in one piece of memory that is read where it lies. The daemon writes it once
//! and hands it over like a segment, so that no client decodes names and shapes.
//!
//! ```text
//! words of 64 bits, in this machine's order, since a sheet never leaves it; `a | b` are the lower and the upper half of one
//! head      MAGIC, tensors | packings, codings | words of shapes, bytes of text | 0
//! tensors   of 8 words each, in the order of their names: offset, length, name, source name, shape, dtype | operation,
//!           segment | 0, packing + 1 | coding + 1
//! packings  where the text has each, as an encoded message
//! codings   the same
//! shapes    dimensions
//! text      bytes, filled up to a word
//! ```
//!
//! A place in the text is `first byte | length`, one among the shapes `first word | rank`. Names are UTF-8; an empty source name
//! is the name. A dtype is its place in `DTYPES`. Layers of one kind share a packing and a coding.

use std::collections::HashMap;

use safetensors::Dtype;
use thiserror::Error;

/// The first word: `wsheet` and the version of the format.
const MAGIC: u64 = 0x0001_7465_6568_7377;
const HEAD: usize = 4;
const ROW: usize = 8;

/// The dtypes by number. New ones are added at the end.
const DTYPES: [Dtype; 22] = [
    Dtype::BOOL,
    Dtype::F4,
    Dtype::F6_E2M3,
    Dtype::F6_E3M2,
    Dtype::U8,
    Dtype::I8,
    Dtype::F8_E5M2,
    Dtype::F8_E4M3,
    Dtype::F8_E8M0,
    Dtype::I16,
    Dtype::U16,
    Dtype::F16,
    Dtype::BF16,
    Dtype::I32,
    Dtype::U32,
    Dtype::F32,
    Dtype::C64,
    Dtype::F64,
    Dtype::I64,
    Dtype::U64,
    Dtype::F8_E4M3FNUZ,
    Dtype::F8_E5M2FNUZ,
];

/// Why bytes are no sheet.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SheetError {
    /// They do not begin as one of this version does.
    #[error("the table of tensors does not begin as one of this version")]
    Magic,
    /// There are fewer or more of them than the head says.
    #[error("the table of tensors has {found} bytes, and its head says {expected}")]
    Length {
        /// Bytes by the head.
        expected: u64,
        /// Bytes that are there.
        found: u64,
    },
    /// A tensor's row leads out of the sheet, or its text is none.
    #[error("row {0} of the table of tensors leads nowhere")]
    Row(usize),
    /// A packing or a coding lies outside of the text.
    #[error("packing or coding {0} of the table of tensors leads nowhere")]
    Detail(usize),
    /// A tensor has a dtype that this version does not know.
    #[error("row {row} of the table of tensors has dtype number {number}, which this version does not know")]
    Dtype {
        /// The row.
        row: usize,
        /// The number.
        number: u32,
    },
    /// There is more than 32 bits can count.
    #[error("a table of so many tensors does not fit")]
    TooLarge,
}

/// One tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row<'a> {
    /// Its name in the layout that was asked for.
    pub name: &'a str,
    /// Its name in the checkpoint; empty when it is the same.
    pub source_name: &'a str,
    /// The type of its elements.
    pub dtype: Dtype,
    /// Its dimensions, row-major.
    pub shape: &'a [u64],
    /// The number of its segment.
    pub segment: u32,
    /// Its first byte there.
    pub offset: u64,
    /// Its bytes.
    pub length: u64,
    /// How it follows from the tensor in the checkpoint, as messages number it.
    pub operation: u32,
    /// The number of its packing.
    pub packing: Option<usize>,
    /// The number of its coding.
    pub coding: Option<usize>,
}

/// A sheet in memory.
#[derive(Debug, Clone, Copy)]
pub struct Sheet<'a> {
    rows: &'a [[u64; ROW]],
    packings: &'a [u64],
    codings: &'a [u64],
    shapes: &'a [u64],
    text: &'a [u8],
}

impl<'a> Sheet<'a> {
    /// The sheet that these words are. Looks at the head only.
    ///
    /// # Errors
    /// When they do not begin as one, or are more or fewer than the head says.
    pub fn of(words: &'a [u64]) -> Result<Sheet<'a>, SheetError> {
        let Some((&[magic, first, second, third], rest)) = words.split_first_chunk::<HEAD>() else {
            return Err(SheetError::Magic);
        };
        if magic != MAGIC {
            return Err(SheetError::Magic);
        }
        let ((tensors, packings), (codings, shapes), (text, _)) = (halves(first), halves(second), halves(third));
        // None of these sums overflows: each part is of 32 bits.
        let parts = [tensors as u64 * ROW as u64, packings as u64, codings as u64, shapes as u64];
        let expected = parts.iter().sum::<u64>() + (text as u64).div_ceil(8);
        if expected != rest.len() as u64 {
            let bytes = |words: u64| (words + HEAD as u64) * 8;
            return Err(SheetError::Length { expected: bytes(expected), found: bytes(rest.len() as u64) });
        }
        let (rows, rest) = rest.split_at(tensors * ROW);
        let (packings, rest) = rest.split_at(packings);
        let (codings, rest) = rest.split_at(codings);
        let (shapes, rest) = rest.split_at(shapes);
        let text = &bytemuck::cast_slice(rest)[..text];
        Ok(Sheet { rows: bytemuck::cast_slice(rows), packings, codings, shapes, text })
    }

    /// Number of tensors.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are no tensors.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The name of a tensor, as it is stored. Empty beyond the last.
    #[must_use]
    pub fn name(&self, row: usize) -> &'a [u8] {
        self.rows.get(row).and_then(|row| self.bytes(row[2])).unwrap_or_default()
    }

    /// A tensor.
    ///
    /// # Errors
    /// When there is none of that number, its row leads out of the sheet, or its dtype is unknown.
    pub fn row(&self, number: usize) -> Result<Row<'a>, SheetError> {
        let nowhere = || SheetError::Row(number);
        let &[offset, length, name, source_name, shape, kind, segment, details] =
            self.rows.get(number).ok_or_else(nowhere)?;
        let text = |place: u64| std::str::from_utf8(self.bytes(place)?).ok();
        let (first, rank) = halves(shape);
        let shape = first.checked_add(rank).and_then(|end| self.shapes.get(first..end));
        let ((dtype, operation), (segment, _), (packing, coding)) = (halves(kind), halves(segment), halves(details));
        let detail = |number: usize, all: &[u64]| match number.checked_sub(1) {
            Some(detail) if detail >= all.len() => Err(nowhere()),
            detail => Ok(detail),
        };
        let unknown = || SheetError::Dtype { row: number, number: u32_of(dtype) };
        Ok(Row {
            name: text(name).ok_or_else(nowhere)?,
            source_name: text(source_name).ok_or_else(nowhere)?,
            dtype: *DTYPES.get(dtype).ok_or_else(unknown)?,
            shape: shape.ok_or_else(nowhere)?,
            segment: u32_of(segment),
            offset,
            length,
            operation: u32_of(operation),
            packing: detail(packing, self.packings)?,
            coding: detail(coding, self.codings)?,
        })
    }

    /// All packings, as encoded messages.
    pub fn packings(&self) -> impl Iterator<Item = Result<&'a [u8], SheetError>> {
        self.details(self.packings)
    }

    /// All codings, as encoded messages.
    pub fn codings(&self) -> impl Iterator<Item = Result<&'a [u8], SheetError>> {
        self.details(self.codings)
    }

    fn details(self, places: &'a [u64]) -> impl Iterator<Item = Result<&'a [u8], SheetError>> {
        places.iter().enumerate().map(move |(number, &place)| self.bytes(place).ok_or(SheetError::Detail(number)))
    }

    fn bytes(&self, place: u64) -> Option<&'a [u8]> {
        let (first, length) = halves(place);
        self.text.get(first..first.checked_add(length)?)
    }
}

/// A tensor that is to be written.
#[derive(Debug, Clone, Copy)]
pub struct Written<'a> {
    /// Everything but its packing and its coding, which are ignored.
    pub row: Row<'a>,
    /// Its packing as an encoded message.
    pub packing: Option<&'a [u8]>,
    /// Its coding as an encoded message.
    pub coding: Option<&'a [u8]>,
}

/// Writes a sheet.
#[derive(Debug, Default)]
pub struct SheetWriter {
    rows: Vec<[u64; ROW]>,
    packings: Details,
    codings: Details,
    shapes: Vec<u64>,
    text: Vec<u8>,
}

/// Encoded messages, each of them once.
#[derive(Debug, Default)]
struct Details {
    numbers: HashMap<Vec<u8>, u64>,
    places: Vec<u64>,
}

impl SheetWriter {
    /// Adds the next tensor; they come in the order of their names.
    ///
    /// # Errors
    /// When there is more than 32 bits can count.
    pub fn add(&mut self, tensor: &Written<'_>) -> Result<(), SheetError> {
        let row = &tensor.row;
        let name = self.text(row.name.as_bytes())?;
        let source_name = self.text(row.source_name.as_bytes())?;
        let shape = place(self.shapes.len(), row.shape.len())?;
        self.shapes.extend_from_slice(row.shape);
        let packing = tensor.packing.map_or(Ok(0), |bytes| self.packings.number(bytes, &mut self.text))?;
        let coding = tensor.coding.map_or(Ok(0), |bytes| self.codings.number(bytes, &mut self.text))?;
        let dtype = DTYPES.iter().position(|&dtype| dtype == row.dtype).ok_or(SheetError::TooLarge)?;
        self.rows.push([
            row.offset,
            row.length,
            name,
            source_name,
            shape,
            place(dtype, row.operation as usize)?,
            row.segment.into(),
            packing | coding << 32,
        ]);
        Ok(())
    }

    /// The whole sheet.
    ///
    /// # Errors
    /// When there is more than 32 bits can count.
    pub fn finish(mut self) -> Result<Vec<u64>, SheetError> {
        let (packings, codings) = (self.packings.places, self.codings.places);
        let head = [
            MAGIC,
            place(self.rows.len(), packings.len())?,
            place(codings.len(), self.shapes.len())?,
            place(self.text.len(), 0)?,
        ];
        let mut words: Vec<u64> = head.into_iter().chain(self.rows.into_iter().flatten()).collect();
        words.extend(packings.into_iter().chain(codings).chain(self.shapes));
        self.text.resize(self.text.len().next_multiple_of(8), 0);
        words.extend(self.text.as_chunks().0.iter().map(|bytes| u64::from_ne_bytes(*bytes)));
        Ok(words)
    }

    fn text(&mut self, bytes: &[u8]) -> Result<u64, SheetError> {
        append(&mut self.text, bytes)
    }
}

impl Details {
    /// The number of such a message, counted from 1.
    fn number(&mut self, bytes: &[u8], text: &mut Vec<u8>) -> Result<u64, SheetError> {
        if let Some(&number) = self.numbers.get(bytes) {
            return Ok(number);
        }
        self.places.push(append(text, bytes)?);
        let number = self.places.len() as u64;
        self.numbers.insert(bytes.to_vec(), number);
        Ok(number)
    }
}

fn append(text: &mut Vec<u8>, bytes: &[u8]) -> Result<u64, SheetError> {
    let place = place(text.len(), bytes.len())?;
    text.extend_from_slice(bytes);
    Ok(place)
}

fn place(lower: usize, upper: usize) -> Result<u64, SheetError> {
    let half = |number: usize| u32::try_from(number).map_err(|_| SheetError::TooLarge);
    Ok(u64::from(half(lower)?) | u64::from(half(upper)?) << 32)
}

fn halves(word: u64) -> (usize, usize) {
    let half = |number: u64| usize::try_from(number & u64::from(u32::MAX)).unwrap_or(usize::MAX);
    (half(word), half(word >> 32))
}

fn u32_of(half: usize) -> u32 {
    u32::try_from(half).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::header;

    type Plain = (String, String, usize, Vec<u64>, u32, u64, u64, Option<Vec<u8>>, Option<Vec<u8>>);

    fn row(plain: &Plain) -> Written<'_> {
        let (name, source_name, dtype, shape, segment, offset, length, packing, coding) = plain;
        let row = Row {
            name,
            source_name,
            dtype: DTYPES[*dtype],
            shape,
            segment: *segment,
            offset: *offset,
            length: *length,
            operation: *segment % 4,
            packing: None,
            coding: None,
        };
        Written { row, packing: packing.as_deref(), coding: coding.as_deref() }
    }

    fn sheet(tensors: &[Plain]) -> Vec<u64> {
        let mut writer = SheetWriter::default();
        tensors.iter().for_each(|tensor| writer.add(&row(tensor)).unwrap());
        writer.finish().unwrap()
    }

    fn tensors() -> impl Strategy<Value = Vec<Plain>> {
        let detail = || proptest::option::of(proptest::collection::vec(any::<u8>(), 0..3));
        let shape = proptest::collection::vec(any::<u64>(), 0..5);
        let one =
            (".{0,9}", ".{0,9}", 0..DTYPES.len(), shape, any::<u32>(), any::<u64>(), any::<u64>(), detail(), detail());
        proptest::collection::vec(one, 0..9)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(tensors in tensors()) {
            let words = sheet(&tensors);
            let sheet = Sheet::of(&words).unwrap();
            let packings: Vec<_> = sheet.packings().collect::<Result<_, _>>().unwrap();
            let codings: Vec<_> = sheet.codings().collect::<Result<_, _>>().unwrap();
            prop_assert_eq!(sheet.len(), tensors.len());
            for (number, plain) in tensors.iter().enumerate() {
                let (found, expected) = (sheet.row(number).unwrap(), row(plain));
                prop_assert_eq!(found.packing.map(|number| packings[number]), expected.packing);
                prop_assert_eq!(found.coding.map(|number| codings[number]), expected.coding);
                prop_assert_eq!(Row { packing: None, coding: None, ..found }, expected.row);
                prop_assert_eq!(sheet.name(number), plain.0.as_bytes());
            }
            prop_assert_eq!(sheet.row(tensors.len()), Err(SheetError::Row(tensors.len())));
        }

        /// Whatever another process wrote: an error or rows, and no panic.
        #[test]
        fn damage_is_an_error(tensors in tensors(), at in any::<prop::sample::Index>(), word in any::<u64>(), cut in 0..3_usize) {
            let mut words = sheet(&tensors);
            let at = at.index(words.len());
            words[at] = word;
            words.truncate(words.len().saturating_sub(cut));
            if let Ok(sheet) = Sheet::of(&words) {
                (0..=sheet.len().min(99)).for_each(|number| drop(sheet.row(number)));
                sheet.packings().chain(sheet.codings()).take(99).for_each(drop);
            }
        }
    }

    #[test]
    fn every_dtype_has_its_number() {
        for dtype in DTYPES {
            assert_eq!(header::dtype_from_name(&dtype.to_string()), Some(dtype));
        }
    }

    #[test]
    fn another_version_and_another_length_are_told() {
        let mut words = sheet(&[]);
        words.push(0);
        assert_eq!(Sheet::of(&words).unwrap_err(), SheetError::Length { expected: 32, found: 40 });
        words[0] += 1;
        assert_eq!(Sheet::of(&words).unwrap_err(), SheetError::Magic);
        assert_eq!(Sheet::of(&[]).unwrap_err(), SheetError::Magic);
    }

    #[test]
    fn layers_of_one_kind_share_a_packing() {
        let plain = |name: &str| (name.to_owned(), String::new(), 4, vec![1], 0, 0, 1, Some(vec![7]), None);
        let words = sheet(&[plain("a"), plain("b")]);
        assert_eq!(Sheet::of(&words).unwrap().packings().count(), 1);
    }
}
