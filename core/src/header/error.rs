//! Which rule of the format a file breaks.

use super::{DIMENSION_MAX, Dtype, HEADER_BYTES_MAX, PREFIX_BYTES, RANK_MAX, TENSORS_MAX};
use crate::explain::{Explain, Explanation, Reason};

/// Why a file is not a safetensors file, or not one that is accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Shorter than the length prefix.
    #[error("the file has {found} bytes, and a safetensors file begins with {PREFIX_BYTES}")]
    FileTooShort {
        /// Length of the file.
        found: u64,
    },
    /// The beginning of a text that downloads leave in a file's place.
    #[error("the file is {what}, not a safetensors file")]
    SomethingElse {
        /// What it looks like.
        what: &'static str,
        /// What to do about it.
        hint: &'static str,
    },
    /// A header longer than [`HEADER_BYTES_MAX`] is announced.
    #[error("the header is announced as {found} bytes, at most {HEADER_BYTES_MAX} are read")]
    HeaderTooLong {
        /// Announced length.
        found: u64,
    },
    /// The announced header is longer than the file.
    #[error("the header is announced as {announced} bytes and the file ends after {available}")]
    HeaderTruncated {
        /// Announced length.
        announced: u64,
        /// Bytes after the prefix.
        available: u64,
    },
    /// Not UTF-8.
    #[error("the header is not UTF-8 (byte {at})")]
    NotUtf8 {
        /// Offset in the header.
        at: usize,
    },
    /// Not one JSON object.
    #[error("the header is not a JSON object: {problem}")]
    NotJson {
        /// The parser's words.
        problem: String,
    },
    /// `__metadata__` that is not an object of strings, or repeats a key.
    #[error("`__metadata__` is not an object of strings with distinct keys: {problem}")]
    Metadata {
        /// What is wrong.
        problem: String,
    },
    /// A name that comes twice.
    #[error("tensor `{name}` is listed twice")]
    DuplicateName {
        /// The name.
        name: String,
    },
    /// A name that is empty, over-long or has control characters.
    #[error("tensor name {name:?} cannot be used: {problem}")]
    BadName {
        /// The name, cut.
        name: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// Over [`TENSORS_MAX`].
    #[error("the header lists more than {TENSORS_MAX} tensors")]
    TooManyTensors,
    /// An entry that is not an object with dtype, shape and data_offsets.
    #[error("the entry of tensor `{name}` is malformed: {problem}")]
    BadEntry {
        /// The tensor.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// A dtype that the format does not have.
    #[error("tensor `{name}` has unknown dtype {found:?}")]
    UnknownDtype {
        /// The tensor.
        name: String,
        /// Its dtype.
        found: String,
    },
    /// Over [`RANK_MAX`].
    #[error("tensor `{name}` has {found} dimensions, at most {RANK_MAX} are accepted")]
    RankTooHigh {
        /// The tensor.
        name: String,
        /// Its rank.
        found: usize,
    },
    /// Over [`DIMENSION_MAX`].
    #[error("tensor `{name}` has a dimension of {found}, at most {DIMENSION_MAX} is accepted")]
    DimensionTooLarge {
        /// The tensor.
        name: String,
        /// The dimension.
        found: u64,
    },
    /// Elements or bits over 2^64.
    #[error("the size of tensor `{name}` overflows 64 bits")]
    SizeOverflow {
        /// The tensor.
        name: String,
    },
    /// 4- and 6-bit tensors that do not fill whole bytes.
    #[error("tensor `{name}` of {dtype} has {bits} bits, which is no whole number of bytes")]
    PartialByte {
        /// The tensor.
        name: String,
        /// Its dtype.
        dtype: Dtype,
        /// Its size.
        bits: u64,
    },
    /// End before begin.
    #[error("the offsets of tensor `{name}` are reversed: {begin} to {end}")]
    ReversedOffsets {
        /// The tensor.
        name: String,
        /// Begin.
        begin: u64,
        /// End.
        end: u64,
    },
    /// Offsets that do not fit shape and dtype.
    #[error("tensor `{name}` needs {expected} bytes by its shape and dtype, its offsets give {found}")]
    SizeMismatch {
        /// The tensor.
        name: String,
        /// By shape and dtype.
        expected: u64,
        /// By offsets.
        found: u64,
    },
    /// Begins after the end of the file.
    #[error("tensor `{name}` begins at data byte {begin}, and the file has {available}")]
    OutOfFile {
        /// The tensor.
        name: String,
        /// Its begin.
        begin: u64,
        /// Data bytes in the file.
        available: u64,
    },
    /// Bytes that belong to no tensor.
    #[error("bytes {begin} to {end} of the data belong to no tensor; `{next}` comes after them")]
    Gap {
        /// Begin of the hole.
        begin: u64,
        /// End of the hole.
        end: u64,
        /// The tensor after it.
        next: String,
    },
    /// Bytes that belong to two tensors.
    #[error("tensors `{first}` and `{second}` overlap by {bytes} bytes")]
    Overlap {
        /// The earlier one.
        first: String,
        /// The later one.
        second: String,
        /// By how much.
        bytes: u64,
    },
    /// A tensor without bytes that lies among the bytes of another one.
    #[error("empty tensor `{inner}` lies inside tensor `{outer}`")]
    EmptyInside {
        /// The one without bytes.
        inner: String,
        /// The other.
        outer: String,
    },
    /// The table is good, and the file ends before the last tensor does.
    #[error("the file is truncated: it has {found} bytes, its header describes {expected}")]
    Truncated {
        /// By the header.
        expected: u64,
        /// Length of the file.
        found: u64,
    },
    /// The table is good, and bytes follow the last tensor.
    #[error("{bytes} bytes follow the last tensor")]
    TrailingBytes {
        /// How many.
        bytes: u64,
    },
}

impl Explain for HeaderError {
    fn explain(&self) -> Explanation {
        let hint = match self {
            Self::FileTooShort { found: 0 } => "the file is empty: fetch it again; if it stays empty, its source is",
            Self::Truncated { .. } | Self::HeaderTruncated { .. } | Self::FileTooShort { .. } => {
                "the file was cut while it was copied or downloaded: fetch it again"
            }
            Self::SomethingElse { hint, .. } => hint,
            Self::Metadata { .. } => {
                "the format allows only strings in `__metadata__`: save the file anew with strings there"
            }
            Self::TrailingBytes { .. } => {
                "the file is longer than its header says: it was written over an older one, or appended to: fetch it again"
            }
            Self::UnknownDtype { .. } => "the file was written by a newer or another format: convert it",
            _ => "the file is damaged or was not written by a safetensors library: fetch it again, or save it anew",
        };
        Explanation::new(Reason::InvalidCheckpoint, "", hint)
    }
}
