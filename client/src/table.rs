//! Checks the daemon's answer before anything is mapped: each tensor lies within its segment and has the length that
//! its shape and dtype give.

use std::path::PathBuf;

use safetensors::Dtype;
use thiserror::Error;
use weightsd_core::header;
use weightsd_proto::v1::{self, TensorOperation};
use weightsd_segment::FileIdentity;

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
    /// A tensor whose entry contradicts itself or its segment.
    #[error("tensor {name:?}: {problem}")]
    Tensor {
        /// The tensor.
        name: String,
        /// What is wrong with it.
        problem: TensorProblem,
    },
}

/// Why a tensor's entry cannot be right.
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

/// A tensor whose range lies within its segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    /// Empty when it is the same as `name`.
    pub(crate) source_name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<u64>,
    pub(crate) segment: usize,
    pub(crate) offset: u64,
    pub(crate) length: u64,
    pub(crate) operation: TensorOperation,
    /// Its part in a quantised layer; boxed, because most tensors have none.
    pub(crate) packing: Option<Box<v1::Packing>>,
    /// The layer in a format that MLX lacks and that it is a part of, or was computed from.
    pub(crate) coding: Option<Box<v1::Coding>>,
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

/// The tensors, each checked, in the order of their names.
pub(crate) fn entries(tensors: Vec<v1::Tensor>, files: &[SegmentFile]) -> Result<Vec<Entry>, ProtocolError> {
    let mut entries = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        match check(&tensor, files) {
            Ok(dtype) => entries.push(Entry {
                operation: tensor.operation(),
                packing: tensor.packing.map(Box::new),
                coding: tensor.coding.map(Box::new),
                name: tensor.name,
                source_name: tensor.source_name,
                dtype,
                shape: tensor.shape,
                segment: tensor.segment as usize,
                offset: tensor.offset,
                length: tensor.length,
            }),
            Err(problem) => return Err(ProtocolError::Tensor { name: tensor.name, problem }),
        }
    }
    if !entries.is_sorted_by(|a, b| a.name < b.name) {
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(pair) = entries.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(ProtocolError::Duplicate { name: pair[0].name.clone() });
        }
    }
    Ok(entries)
}

/// The same of tensors in one allocation of that length.
pub(crate) fn entries_in(tensors: Vec<v1::Tensor>, length: u64) -> Result<Vec<Entry>, ProtocolError> {
    let identity = FileIdentity { device: 0, inode: 0, length, modified_ns: 0, changed_ns: 0 };
    entries(tensors, &[SegmentFile { path: PathBuf::new(), identity }])
}

fn check(tensor: &v1::Tensor, files: &[SegmentFile]) -> Result<Dtype, TensorProblem> {
    let dtype =
        header::dtype_from_name(&tensor.dtype).ok_or_else(|| TensorProblem::UnknownDtype(tensor.dtype.clone()))?;
    let file = files
        .get(tensor.segment as usize)
        .ok_or(TensorProblem::NoSegment { segment: tensor.segment, count: files.len() })?;
    let (offset, length, segment_length) = (tensor.offset, tensor.length, file.identity.length);
    if offset.checked_add(length).is_none_or(|end| end > segment_length) {
        return Err(TensorProblem::OutOfRange { offset, length, segment_length });
    }
    if header::byte_length(dtype, &tensor.shape) != Some(length) {
        return Err(TensorProblem::WrongLength { dtype, shape: tensor.shape.clone(), length });
    }
    Ok(dtype)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Segment, offset, length.
    type Place = (u32, u64, u64);
    type Honest = (&'static str, &'static [u64], Place);
    type Lying = (&'static str, &'static [u64], Place, &'static str);

    fn files_of(lengths: &[u64]) -> Vec<SegmentFile> {
        let identity = |&length| FileIdentity { device: 1, inode: 2, length, modified_ns: 3, changed_ns: 4 };
        lengths.iter().map(|length| SegmentFile { path: PathBuf::from("/x"), identity: identity(length) }).collect()
    }

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
        let files = files_of(&[32, 100]);
        for (dtype, shape, place) in table {
            entries(vec![tensor("a", dtype, shape, *place)], &files).unwrap();
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
        let files = files_of(&[32, 100]);
        for (dtype, shape, place, expected) in table {
            let error = entries(vec![tensor("a.b", dtype, shape, *place)], &files).unwrap_err();
            assert!(error.to_string().starts_with("tensor \"a.b\": "), "{error}");
            assert!(error.to_string().contains(expected), "{error}, expected {expected}");
        }
    }

    #[test]
    fn the_table_is_sorted_and_names_are_unique() {
        let files = files_of(&[32]);
        let named = |name: &str| tensor(name, "U8", &[1], (0, 0, 1));
        let names = |names: &[&str]| {
            let tensors = names.iter().map(|name| named(name)).collect();
            Ok(entries(tensors, &files)?.into_iter().map(|entry| entry.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&["a", "b", "c"]).unwrap(), ["a", "b", "c"]);
        assert_eq!(names(&["c", "a", "b"]).unwrap(), ["a", "b", "c"]);
        let duplicate = Err::<Vec<String>, _>(ProtocolError::Duplicate { name: "a".into() });
        assert_eq!(names(&["a", "b", "a"]), duplicate);
        assert_eq!(names(&["a", "a"]), duplicate);
    }

    #[test]
    fn segments_need_an_identity() {
        let whole = v1::Segment { identity: Some(v1::FileIdentity::default()), ..v1::Segment::default() };
        assert_eq!(files(std::slice::from_ref(&whole)).unwrap().len(), 1);
        assert_eq!(files(&[whole.clone(), v1::Segment::default()]), Err(ProtocolError::NoIdentity(1)));
        assert_eq!(files(&vec![whole; 65_536]), Err(ProtocolError::TooManySegments(65_536)));
    }
}
