//! Which rule of the format a GGUF file breaks.

use super::{ARRAY_TYPE, HEADER_BYTES_MAX, METADATA_ENTRIES_MAX, RANK_MAX};
use crate::{
    explain::{Explain, Explanation, Reason},
    ggml::BlockType,
    header::{DIMENSION_MAX, TENSORS_MAX},
};

/// Why a file is not a GGUF file, or not one that is accepted. Names and keys are shown as they are in the file, cut.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GgufError {
    /// Another beginning than that of a GGUF file.
    #[error("the file is {what}, not a GGUF file")]
    SomethingElse {
        /// What it looks like.
        what: &'static str,
        /// What to do about it.
        hint: &'static str,
    },
    /// Numbers in the order of big-endian machines.
    #[error("the file is big-endian (version {version}), and little-endian ones are read")]
    BigEndian {
        /// Its version.
        version: u32,
    },
    /// A version that is not read.
    #[error("the file is of version {found} of the format, expected 2 or 3")]
    Version {
        /// Its version.
        found: u32,
    },
    /// The file ends inside its header.
    #[error("the file ends after {found} bytes, inside its header: {what} ends at byte {needed}")]
    HeaderTruncated {
        /// What was being read.
        what: &'static str,
        /// Where that ends.
        needed: u64,
        /// Length of the file.
        found: u64,
    },
    /// A header longer than [`HEADER_BYTES_MAX`].
    #[error("the header has more than {HEADER_BYTES_MAX} bytes: {what} ends at byte {needed}")]
    HeaderTooLong {
        /// What was being read.
        what: &'static str,
        /// Where that ends.
        needed: u64,
    },
    /// Over [`TENSORS_MAX`].
    #[error("the header announces {found} tensors, at most {TENSORS_MAX} are read")]
    TooManyTensors {
        /// The number that is announced.
        found: u64,
    },
    /// Over [`METADATA_ENTRIES_MAX`].
    #[error("the header announces {found} entries of metadata, at most {METADATA_ENTRIES_MAX} are read")]
    TooManyEntries {
        /// The number that is announced.
        found: u64,
    },
    /// A key that is no text of a sane length.
    #[error("a key of the metadata cannot be used: {problem}")]
    BadKey {
        /// What is wrong.
        problem: String,
    },
    /// A key that comes twice.
    #[error("the key `{key}` comes twice in the metadata")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// A type of values that the format does not have.
    #[error("the value of `{key}` is of type {found}, expected 0 to 12")]
    ValueType {
        /// The key.
        key: String,
        /// The type.
        found: u32,
    },
    /// An array of arrays, which no reader of llama.cpp's takes.
    #[error("the value of `{key}` is an array of arrays (type {ARRAY_TYPE})")]
    NestedArray {
        /// The key.
        key: String,
    },
    /// A truth value other than 0 and 1.
    #[error("the value of `{key}` is the truth value {found}, expected 0 or 1")]
    NotBool {
        /// The key.
        key: String,
        /// The byte.
        found: u8,
    },
    /// `general.alignment` that is no power of two, or of another type than U32.
    #[error("`general.alignment` is {found}, expected a power of two as U32")]
    Alignment {
        /// What it is.
        found: String,
    },
    /// A tensor's name that is no text of a sane length.
    #[error("tensor name {name:?} cannot be used: {problem}")]
    BadName {
        /// The name, cut.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// A name that comes twice.
    #[error("tensor `{name}` is listed twice")]
    DuplicateName {
        /// The name.
        name: String,
    },
    /// Over [`RANK_MAX`].
    #[error("tensor `{name}` has {found} dimensions, at most {RANK_MAX} are in the format")]
    RankTooHigh {
        /// The tensor.
        name: String,
        /// Its rank.
        found: u32,
    },
    /// Over [`DIMENSION_MAX`].
    #[error("tensor `{name}` has a dimension of {found}, at most {DIMENSION_MAX} is accepted")]
    DimensionTooLarge {
        /// The tensor.
        name: String,
        /// The dimension.
        found: u64,
    },
    /// Elements or bytes over 2^64.
    #[error("the size of tensor `{name}` overflows 64 bits")]
    SizeOverflow {
        /// The tensor.
        name: String,
    },
    /// A type that ggml does not have.
    #[error("tensor `{name}` is of ggml's type {found}, which is not known")]
    UnknownType {
        /// The tensor.
        name: String,
        /// The number of the type.
        found: u32,
    },
    /// A type that ggml had once.
    #[error("tensor `{name}` is of type {found}, which ggml no longer reads")]
    WithdrawnType {
        /// The tensor.
        name: String,
        /// The name of the type.
        found: &'static str,
    },
    /// Rows that are no whole blocks.
    #[error("tensor `{name}` has rows of {columns} elements, expected a multiple of {} ({kind})", kind.elements())]
    RaggedRows {
        /// The tensor.
        name: String,
        /// The length of a row.
        columns: u64,
        /// Its type.
        kind: BlockType,
    },
    /// A tensor that does not begin at a multiple of the alignment.
    #[error("tensor `{name}` begins at data byte {begin}, expected a multiple of {alignment}")]
    Misaligned {
        /// The tensor.
        name: String,
        /// Its begin.
        begin: u64,
        /// The file's alignment.
        alignment: u64,
    },
    /// `comfy.gguf.orig_shape.` with a shape that the tensor cannot have.
    #[error("`comfy.gguf.orig_shape.{name}` is {found}, and the tensor has {elements} elements")]
    OriginalShape {
        /// The tensor.
        name: String,
        /// What the metadata says.
        found: String,
        /// Elements of the tensor.
        elements: u64,
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
    /// Bytes that belong to no tensor and are more than padding.
    #[error("bytes {begin} to {end} of the data belong to no tensor; `{next}` comes after them")]
    Gap {
        /// Begin of the hole.
        begin: u64,
        /// End of the hole.
        end: u64,
        /// The tensor after it.
        next: String,
    },
    /// The table is good, and the file ends before the last tensor does.
    #[error("the file is truncated: it has {found} bytes, its header describes {expected}")]
    Truncated {
        /// By the header.
        expected: u64,
        /// Length of the file.
        found: u64,
    },
    /// The table is good, and more than padding follows the last tensor.
    #[error("{bytes} bytes follow the last tensor")]
    TrailingBytes {
        /// How many.
        bytes: u64,
    },
}

impl Explain for GgufError {
    fn explain(&self) -> Explanation {
        let hint = match self {
            Self::SomethingElse { hint, .. } => hint,
            Self::BigEndian { .. } => "convert it: `gguf-convert-endian FILE little`, of the Python package `gguf`",
            Self::Version { .. } => "the file was written by a very old or a newer program: convert the model anew",
            Self::Truncated { .. } | Self::HeaderTruncated { .. } => {
                "the file was cut while it was copied or downloaded: fetch it again"
            }
            Self::WithdrawnType { .. } => "quantise the model anew with a llama.cpp of today",
            Self::UnknownType { .. } => "the file was written by a newer ggml, or is damaged: fetch it again",
            Self::TrailingBytes { .. } => {
                "the file is longer than its header says: it was written over an older one, or appended to: fetch it again"
            }
            Self::OriginalShape { .. } => "the file was not written as ComfyUI-GGUF does: convert the model anew",
            _ => "the file is damaged or was not written by a GGUF library: fetch it again, or convert the model anew",
        };
        Explanation::new(Reason::InvalidCheckpoint, "", hint)
    }
}
