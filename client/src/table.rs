//! The table of a component's tensors, in memory or in a file that the daemon handed over, and read where it lies. Checked
//! once: each tensor lies within its segment and has the length that its shape and dtype give.

use std::{fmt, path::PathBuf};

use prost::Message;
use safetensors::Dtype;
use thiserror::Error;
use weightsd_core::{
    header,
    sheet::{Row, Sheet, SheetError, SheetWriter, Written},
};
use weightsd_proto::v1::{self, Coding, Packing};
use weightsd_segment::{FileIdentity, View};

/// The daemon's answer contradicts itself, or the protocol.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// The stream ended without a component.
    #[error("the stream ended before the component came")]
    NoComponent,
    /// The stream of a pull or a verification ended without a report.
    #[error("the stream ended before the report came")]
    NoReport,
    /// Two components on one stream.
    #[error("a second component came")]
    SecondComponent,
    /// Tensors without a component.
    #[error("tensors came before their component")]
    EarlyPage,
    /// The daemon announced another number of tensors than it sent.
    #[error("the component has {expected} tensors, {found} came")]
    TensorCount {
        /// Number announced.
        expected: u32,
        /// Number received.
        found: usize,
    },
    /// A lease without a usable ticket.
    #[error("the ticket of the lease cannot be used: {0}")]
    Ticket(#[from] weightsd_core::handoff::HandoffError),
    /// More segments than can be handed over.
    #[error("the component has {0} segments")]
    TooManySegments(usize),
    /// A segment without identity.
    #[error("segment {0} has no identity")]
    NoIdentity(usize),
    /// A component in files, where the memory of a card was asked for, or the other way.
    #[error("the component does not lie where it was asked for ({asked}); the daemon may be too old to know cards")]
    OtherPlace {
        /// The UUID that the request names; empty for files.
        asked: String,
    },
    /// Two tensors of one name.
    #[error("tensor {name:?} comes twice")]
    Duplicate {
        /// The name.
        name: String,
    },
    /// A quantised layer without its codes or without its scales.
    #[error("quantised layer {name:?} lacks its weight or its scales")]
    TornLayer {
        /// The layer.
        name: String,
    },
    /// A part of a quantised layer whose role this client does not know.
    #[error("tensor {name:?} has a role in a quantised layer that this client does not know")]
    UnknownPart {
        /// The tensor.
        name: String,
    },
    /// The table that was handed over is none.
    #[error(transparent)]
    Sheet(#[from] SheetError),
    /// The table that was handed over has another length than was announced.
    #[error("a table of {expected} bytes was announced, and one of {found} came")]
    SheetLength {
        /// Bytes announced.
        expected: u64,
        /// Bytes received.
        found: usize,
    },
    /// A packing or a coding in the table that was handed over is no message.
    #[error("the table of tensors has a packing or a coding that cannot be read")]
    Detail,
    /// A tensor whose row contradicts itself or its segment.
    #[error("tensor {name:?}: {problem}")]
    Tensor {
        /// The tensor.
        name: String,
        /// What is wrong with it.
        problem: TensorProblem,
    },
}

/// Why a tensor's row cannot be right.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TensorProblem {
    /// Not a dtype of safetensors.
    #[error("unknown dtype {0:?}")]
    UnknownDtype(String),
    /// The segment does not exist.
    #[error("segment {segment} of {count}")]
    NoSegment {
        /// Index of the segment.
        segment: u32,
        /// Number of segments.
        count: usize,
    },
    /// The bytes are not within the segment.
    #[error("{length} bytes at {offset} leave the segment of {segment_length} bytes")]
    OutOfRange {
        /// First byte.
        offset: u64,
        /// Length in bytes.
        length: u64,
        /// Length of the segment in bytes.
        segment_length: u64,
    },
    /// Shape and dtype make another length, or none.
    #[error("{dtype} of shape {shape:?} does not make {length} bytes")]
    WrongLength {
        /// The dtype.
        dtype: Dtype,
        /// The shape.
        shape: Vec<u64>,
        /// The length the daemon says, in bytes.
        length: u64,
    },
}

/// A file that must be mapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SegmentFile {
    pub(crate) path: PathBuf,
    pub(crate) identity: FileIdentity,
}

/// All tensors, sorted by name.
pub(crate) struct Table {
    words: Words,
    packings: Vec<Packing>,
    codings: Vec<Coding>,
}

/// Where a sheet lies.
enum Words {
    /// In this process, which wrote it from pages.
    Own(Vec<u64>),
    /// In a file that the daemon wrote.
    Shared(View),
}

/// The segments, each with an identity.
pub(crate) fn files(segments: &[v1::Segment]) -> Result<Vec<SegmentFile>, ProtocolError> {
    if segments.len() > usize::from(u16::MAX) {
        return Err(ProtocolError::TooManySegments(segments.len()));
    }
    let file = |(index, segment): (usize, &v1::Segment)| {
        let identity = segment.identity.as_ref().ok_or(ProtocolError::NoIdentity(index))?;
        Ok(SegmentFile {
            path: PathBuf::from(&segment.path),
            identity: FileIdentity {
                device: identity.device,
                inode: identity.inode,
                length: identity.length,
                modified_ns: identity.modified_ns,
                changed_ns: identity.changed_ns,
            },
        })
    };
    segments.iter().enumerate().map(file).collect()
}

impl Table {
    /// The tensors of pages, in segments of these lengths.
    pub(crate) fn of_pages(mut tensors: Vec<v1::Tensor>, segments: &[u64]) -> Result<Table, ProtocolError> {
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        let mut sheet = SheetWriter::default();
        for tensor in &tensors {
            let problem = |problem| ProtocolError::Tensor { name: tensor.name.clone(), problem };
            let dtype = header::dtype_from_name(&tensor.dtype);
            let row = Row {
                name: &tensor.name,
                source_name: &tensor.source_name,
                dtype: dtype.ok_or_else(|| problem(TensorProblem::UnknownDtype(tensor.dtype.clone())))?,
                shape: &tensor.shape,
                segment: tensor.segment,
                offset: tensor.offset,
                length: tensor.length,
                operation: tensor.operation.cast_unsigned(),
                packing: None,
                coding: None,
            };
            let packing = tensor.packing.as_ref().map(Message::encode_to_vec);
            let coding = tensor.coding.as_ref().map(Message::encode_to_vec);
            sheet.add(&Written { row, packing: packing.as_deref(), coding: coding.as_deref() })?;
        }
        Table::of(Words::Own(sheet.finish()?), tensors.len(), segments)
    }

    /// The tensors of a sheet that was handed over, so many as were announced, in segments of these lengths.
    pub(crate) fn of_sheet(view: View, (bytes, count): (u64, u32), segments: &[u64]) -> Result<Table, ProtocolError> {
        if view.len() as u64 != bytes || !view.len().is_multiple_of(8) {
            return Err(ProtocolError::SheetLength { expected: bytes, found: view.len() });
        }
        Table::of(Words::Shared(view), count as usize, segments)
    }

    fn of(words: Words, count: usize, segments: &[u64]) -> Result<Table, ProtocolError> {
        let sheet = Sheet::of(words.all())?;
        if sheet.len() != count {
            let expected = u32::try_from(count).unwrap_or(u32::MAX);
            return Err(ProtocolError::TensorCount { expected, found: sheet.len() });
        }
        let mut before: Option<&str> = None;
        for number in 0..count {
            let row = sheet.row(number)?;
            check(&row, segments).map_err(|problem| ProtocolError::Tensor { name: row.name.to_owned(), problem })?;
            match before {
                Some(before) if before == row.name => {
                    return Err(ProtocolError::Duplicate { name: row.name.to_owned() });
                }
                Some(before) if before > row.name => return Err(SheetError::Row(number).into()),
                _ => before = Some(row.name),
            }
        }
        let (packings, codings) = (decoded(sheet.packings())?, decoded(sheet.codings())?);
        Ok(Table { words, packings, codings })
    }

    fn sheet(&self) -> Sheet<'_> {
        Sheet::of(self.words.all()).expect("it was one when the table was made, and nobody can change it")
    }

    /// Number of tensors.
    pub(crate) fn len(&self) -> usize {
        self.sheet().len()
    }

    /// The row of a tensor.
    pub(crate) fn row(&self, number: usize) -> Row<'_> {
        self.sheet().row(number).expect("each row was read when the table was made, and nobody can change it")
    }

    /// All rows, in the order of their names.
    pub(crate) fn rows(&self) -> impl ExactSizeIterator<Item = Row<'_>> {
        (0..self.len()).map(|number| self.row(number))
    }

    /// The number of the tensor of that name.
    pub(crate) fn position(&self, name: &str) -> Option<usize> {
        let sheet = self.sheet();
        let (mut first, mut end) = (0, sheet.len());
        while first < end {
            let middle = first.midpoint(end);
            match sheet.name(middle).cmp(name.as_bytes()) {
                std::cmp::Ordering::Less => first = middle + 1,
                std::cmp::Ordering::Equal => return Some(middle),
                std::cmp::Ordering::Greater => end = middle,
            }
        }
        None
    }

    /// The packing of a row.
    pub(crate) fn packing(&self, row: &Row<'_>) -> Option<&Packing> {
        self.packings.get(row.packing?)
    }

    /// The coding of a row.
    pub(crate) fn coding(&self, row: &Row<'_>) -> Option<&Coding> {
        self.codings.get(row.coding?)
    }
}

impl Words {
    fn all(&self) -> &[u64] {
        match self {
            Words::Own(words) => words,
            // A mapping begins at a page, and `of_sheet` looked at its length.
            Words::Shared(view) => view.bytes(0, view.len() as u64).map_or(&[], bytemuck::cast_slice),
        }
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("tensors", &self.len()).finish_non_exhaustive()
    }
}

fn decoded<'a, M: Message + Default>(
    messages: impl Iterator<Item = Result<&'a [u8], SheetError>>,
) -> Result<Vec<M>, ProtocolError> {
    messages.map(|bytes| M::decode(bytes?).map_err(|_| ProtocolError::Detail)).collect()
}

fn check(row: &Row<'_>, segments: &[u64]) -> Result<(), TensorProblem> {
    let segment_length = *segments
        .get(row.segment as usize)
        .ok_or(TensorProblem::NoSegment { segment: row.segment, count: segments.len() })?;
    let (offset, length) = (row.offset, row.length);
    if offset.checked_add(length).is_none_or(|end| end > segment_length) {
        return Err(TensorProblem::OutOfRange { offset, length, segment_length });
    }
    if header::byte_length(row.dtype, row.shape) != Some(length) {
        return Err(TensorProblem::WrongLength { dtype: row.dtype, shape: row.shape.to_vec(), length });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Segment, offset, length.
    type Place = (u32, u64, u64);
    type Honest = (&'static str, &'static [u64], Place);
    type Lying = (&'static str, &'static [u64], Place, &'static str);

    fn tensor(name: &str, dtype: &str, shape: &[u64], (segment, offset, length): Place) -> v1::Tensor {
        let (name, dtype, shape) = (name.into(), dtype.into(), shape.to_vec());
        v1::Tensor { name, dtype, shape, segment, offset, length, ..v1::Tensor::default() }
    }

    #[test]
    fn honest_tensors_pass() {
        let table: &[Honest] = &[
            ("F32", &[2, 3], (0, 8, 24)),
            ("BF16", &[], (1, 98, 2)),
            ("BOOL", &[100], (1, 0, 100)),
            ("F4", &[4], (0, 0, 2)),
            ("F6_E2M3", &[4], (0, 0, 3)),
            ("F32", &[0, u64::MAX, u64::MAX], (0, 32, 0)),
            ("C64", &[1], (0, 1, 8)),
        ];
        for (dtype, shape, place) in table {
            Table::of_pages(vec![tensor("a", dtype, shape, *place)], &[32, 100]).unwrap();
        }
    }

    #[test]
    fn lying_tensors_are_refused() {
        let table: &[Lying] = &[
            ("F33", &[1], (0, 0, 4), "unknown dtype"),
            ("f32", &[1], (0, 0, 4), "unknown dtype"),
            ("", &[1], (0, 0, 4), "unknown dtype"),
            ("F32", &[1], (2, 0, 4), "segment 2 of 2"),
            ("F32", &[1], (u32::MAX, 0, 4), "of 2"),
            ("F32", &[1], (0, 29, 4), "leave the segment"),
            ("F32", &[1], (0, u64::MAX, 4), "leave the segment"),
            ("U8", &[u64::MAX], (0, 1, u64::MAX), "leave the segment"),
            ("F32", &[0], (0, 33, 0), "leave the segment"),
            ("F32", &[2], (0, 0, 4), "does not make 4 bytes"),
            ("F32", &[0], (0, 0, 4), "does not make 4 bytes"),
            ("F32", &[1 << 32, 1 << 32], (0, 0, 0), "does not make 0 bytes"),
            ("F64", &[1 << 61], (0, 0, 0), "does not make 0 bytes"),
            ("F4", &[3], (0, 0, 1), "does not make 1 bytes"),
        ];
        for (dtype, shape, place, expected) in table {
            let error = Table::of_pages(vec![tensor("a.b", dtype, shape, *place)], &[32, 100]).unwrap_err();
            assert!(error.to_string().starts_with("tensor \"a.b\": "), "{error}");
            assert!(error.to_string().contains(expected), "{error}, expected {expected}");
        }
    }

    #[test]
    fn the_table_is_sorted_and_names_are_unique() {
        let named = |name: &str| tensor(name, "U8", &[1], (0, 0, 1));
        let names = |names: &[&str]| {
            let table = Table::of_pages(names.iter().map(|name| named(name)).collect(), &[32])?;
            assert_eq!(
                names.iter().map(|name| table.row(table.position(name).unwrap()).name).collect::<Vec<_>>(),
                names
            );
            assert_eq!(table.position("d"), None);
            Ok((0..table.len()).map(|number| table.row(number).name.to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(names(&["a", "b", "c"]).unwrap(), ["a", "b", "c"]);
        assert_eq!(names(&["c", "a", "b"]).unwrap(), ["a", "b", "c"]);
        let duplicate = Err::<Vec<String>, _>(ProtocolError::Duplicate { name: "a".into() });
        assert_eq!(names(&["a", "b", "a"]), duplicate);
        assert_eq!(names(&["a", "a"]), duplicate);
    }

    fn shared(words: &[u64]) -> View {
        View::map_sealed(&weightsd_segment::sealed(bytemuck::cast_slice(words)).unwrap()).unwrap()
    }

    #[test]
    fn a_sheet_that_was_handed_over_is_checked_like_pages() {
        let row = |name: &'static str, offset| Row {
            name,
            source_name: "",
            dtype: Dtype::U8,
            shape: &[1],
            segment: 0,
            offset,
            length: 1,
            operation: 0,
            packing: None,
            coding: None,
        };
        let words = |rows: &[Row<'_>], packing: Option<&[u8]>| {
            let mut sheet = SheetWriter::default();
            rows.iter().for_each(|&row| sheet.add(&Written { row, packing, coding: None }).unwrap());
            sheet.finish().unwrap()
        };
        let read = |words: &[u64], count| Table::of_sheet(shared(words), (words.len() as u64 * 8, count), &[4]);
        let (a, b) = (row("a", 0), row("b", 3));
        let table = read(&words(&[a, b], None), 2).unwrap();
        assert_eq!((table.row(0), table.row(1), table.position("b")), (a, b, Some(1)));
        let problem = TensorProblem::OutOfRange { offset: 4, length: 1, segment_length: 4 };
        let wrong: [(Vec<u64>, u32, ProtocolError); 6] = [
            (words(&[a, b], None), 3, ProtocolError::TensorCount { expected: 3, found: 2 }),
            (words(&[row("a", 4)], None), 1, ProtocolError::Tensor { name: "a".into(), problem }),
            (words(&[b, a], None), 2, SheetError::Row(1).into()),
            (words(&[a, a], None), 2, ProtocolError::Duplicate { name: "a".into() }),
            (words(&[a], Some(&[0xff])), 1, ProtocolError::Detail),
            (vec![1; 9], 1, SheetError::Magic.into()),
        ];
        for (words, count, expected) in wrong {
            assert_eq!(read(&words, count).unwrap_err(), expected);
        }
        let short = Table::of_sheet(shared(&[1]), (7, 0), &[]).unwrap_err();
        assert_eq!(short, ProtocolError::SheetLength { expected: 7, found: 8 });
    }

    #[test]
    fn segments_need_an_identity() {
        let whole = v1::Segment { identity: Some(v1::FileIdentity::default()), ..v1::Segment::default() };
        assert_eq!(files(std::slice::from_ref(&whole)).unwrap().len(), 1);
        assert_eq!(files(&[whole.clone(), v1::Segment::default()]), Err(ProtocolError::NoIdentity(1)));
        assert_eq!(files(&vec![whole; 65_536]), Err(ProtocolError::TooManySegments(65_536)));
    }
}
