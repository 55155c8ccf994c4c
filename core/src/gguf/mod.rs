//! The header of a GGUF file, read strictly: versions 2 and 3, little-endian.
//!
//! Format: `GGUF`, `u32` version, `u64` number of tensors, `u64` number of metadata entries; the entries (key, type,
//! value); the tensors (name, dimensions from the innermost out, type, offset); padding; data. Offsets count from the
//! begin of the data. How long a header is shows only when it is read, so [`parse`] asks for more bytes where it has to.

mod error;
mod reader;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

pub use self::error::GgufError;
use self::reader::{Reader, Stop, Value};
use crate::{
    ggml::{BlockType, Encoding},
    header::{self, DIMENSION_MAX, Dtype, Header, TENSORS_MAX, TensorInfo},
    impostor::Impostor,
    shown::shown_up_to,
};

/// The first bytes of a file.
pub const MAGIC: [u8; 4] = *b"GGUF";
/// Bytes that are read first: a header without a vocabulary fits.
pub const FIRST_BYTES: u64 = 64 * 1024;
/// Longest header that is read, in bytes. Vocabularies of 260,000 words with their merges take some 15 MB.
pub const HEADER_BYTES_MAX: u64 = 64_000_000;
/// Most entries of metadata.
pub const METADATA_ENTRIES_MAX: u64 = 65_536;
/// Longest key, in bytes.
pub const KEY_BYTES_MAX: u64 = 1024;
/// Most dimensions of a tensor.
pub const RANK_MAX: u32 = 4;
/// Longest value that is kept, in bytes; longer ones, such as templates of chats, are passed over.
const KEPT_BYTES_MAX: u64 = 1024;
/// Most elements of an array that is kept.
const KEPT_ELEMENTS_MAX: u64 = 32;
/// The number of the type of arrays.
const ARRAY_TYPE: u32 = 9;
/// The highest number of a type of values.
const LAST_TYPE: u32 = 12;
/// Where tensors begin, when nothing says so.
const ALIGNMENT: u64 = 32;
/// The key that says so.
const ALIGNMENT_KEY: &str = "general.alignment";
/// Before the name of a tensor: the shape that it had, where ComfyUI-GGUF stored it in another one.
const ORIGINAL_SHAPE: &str = "comfy.gguf.orig_shape.";
/// Bytes of a name that an error shows.
const SHOWN_BYTES: usize = 64;

/// What the first bytes of a file give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// The header is longer: the bytes from the begin of the file that are needed at least.
    More(u64),
    /// The header.
    Header(Header),
}

/// Reads the header from `bytes`, the beginning of a file of `file_length` bytes. The metadata that comes back are texts,
/// numbers and short arrays, as JSON writes them, texts without their quotes.
///
/// # Errors
/// When the file breaks a rule of the format. The error names the first such rule, and the tensor or key that breaks it.
pub fn parse(bytes: &[u8], file_length: u64) -> Result<Parsed, GgufError> {
    let mut reader = Reader::new(bytes, file_length);
    match read(&mut reader, file_length) {
        Ok(header) => Ok(Parsed::Header(header)),
        Err(Stop::More(needed)) => Ok(Parsed::More(needed)),
        Err(Stop::Bad(error)) => Err(*error),
    }
}

fn read(reader: &mut Reader<'_>, file_length: u64) -> Result<Header, Stop> {
    let (tensors, entries) = start(reader)?;
    let metadata = metadata(reader, entries)?;
    let alignment = match metadata.get(ALIGNMENT_KEY) {
        None => ALIGNMENT,
        Some(Value::U32(found)) if found.is_power_of_two() => u64::from(*found),
        Some(found) => return Err(GgufError::Alignment { found: cut(&found.to_string()) }.into()),
    };
    let mut described = Vec::with_capacity(usize::try_from(tensors).unwrap_or_default());
    for _ in 0..tensors {
        described.push(tensor(reader, alignment, &metadata)?);
    }
    let header_end = reader.position();
    let data_start = header_end.checked_next_multiple_of(alignment).unwrap_or(u64::MAX);
    check_names(&described)?;
    check_places(&mut described, alignment, (header_end, data_start), file_length)?;
    let mut tensors: Vec<TensorInfo> = described.into_iter().map(|tensor| tensor.at(data_start)).collect();
    tensors.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    let metadata = metadata.into_iter().map(|(key, value)| (key, value.to_string())).collect();
    Ok(Header { data_start: data_start.min(file_length), file_length, tensors, metadata })
}

/// Reads what comes before the metadata: the numbers of tensors and of entries.
fn start(reader: &mut Reader<'_>) -> Result<(u64, u64), Stop> {
    let magic = reader.bytes(8.min(reader.file_length()), "the beginning")?;
    if !magic.starts_with(&MAGIC) {
        let error = match Impostor::of_weights(magic) {
            Some(&Impostor { what, hint, .. }) => GgufError::SomethingElse { what, hint },
            None if magic.is_empty() => GgufError::SomethingElse { what: "empty", hint: "fetch it again" },
            None => GgufError::SomethingElse {
                what: "of another kind",
                hint: "rename it: files are read as what the end of their name says",
            },
        };
        return Err(error.into());
    }
    reader.back_to(4);
    let version = reader.u32("the version")?;
    if version & 0xffff == 0 && version != 0 {
        return Err(GgufError::BigEndian { version: version.swap_bytes() }.into());
    }
    if !(2..=3).contains(&version) {
        return Err(GgufError::Version { found: version }.into());
    }
    let tensors = reader.u64("the number of tensors")?;
    let entries = reader.u64("the number of metadata entries")?;
    if tensors > TENSORS_MAX as u64 {
        return Err(GgufError::TooManyTensors { found: tensors }.into());
    }
    if entries > METADATA_ENTRIES_MAX {
        return Err(GgufError::TooManyEntries { found: entries }.into());
    }
    Ok((tensors, entries))
}

/// Reads the entries; those that are worth it are kept.
fn metadata(reader: &mut Reader<'_>, entries: u64) -> Result<BTreeMap<String, Value>, Stop> {
    let (mut seen, mut kept) = (BTreeSet::new(), BTreeMap::new());
    for _ in 0..entries {
        let length = reader.u64("the length of a key")?;
        let bad = |problem: String| GgufError::BadKey { problem };
        if length == 0 || length > KEY_BYTES_MAX {
            return Err(bad(format!("it has {length} bytes, expected 1 to {KEY_BYTES_MAX}")).into());
        }
        let key = std::str::from_utf8(reader.bytes(length, "a key")?);
        let key = key.map_err(|_| bad("it is not UTF-8".to_owned()))?.to_owned();
        if key.chars().any(char::is_control) {
            return Err(bad(format!("{:?} has control characters", cut(&key))).into());
        }
        let value = reader.value(&key)?;
        if !seen.insert(key.clone()) {
            return Err(GgufError::DuplicateKey { key: cut(&key) }.into());
        }
        kept.extend(value.map(|value| (key, value)));
    }
    Ok(kept)
}

/// A tensor, with its range in the data.
struct Described {
    name: Box<str>,
    kind: BlockType,
    shape: Vec<u64>,
    range: Range<u64>,
}

impl Described {
    /// The tensor in its file.
    fn at(self, data_start: u64) -> TensorInfo {
        let Self { name, kind, shape, range } = self;
        // A vector of BF16 is a norm or a bias, which ggml computes with as F32.
        let encoding = match kind {
            BlockType::BF16 if shape.len() <= 1 => Some(Encoding::of(kind)),
            _ => plain(kind).is_none().then(|| Encoding::of(kind)),
        };
        let dtype = plain(kind).filter(|_| encoding.is_none()).unwrap_or(Dtype::F32);
        TensorInfo { name, dtype, shape, range: data_start + range.start..data_start + range.end, encoding }
    }
}

/// The dtype whose elements a type's blocks are.
fn plain(kind: BlockType) -> Option<Dtype> {
    Some(match kind {
        BlockType::F32 => Dtype::F32,
        BlockType::F16 => Dtype::F16,
        BlockType::BF16 => Dtype::BF16,
        BlockType::F64 => Dtype::F64,
        BlockType::I8 => Dtype::I8,
        BlockType::I16 => Dtype::I16,
        BlockType::I32 => Dtype::I32,
        BlockType::I64 => Dtype::I64,
        _ => return None,
    })
}

fn tensor(reader: &mut Reader<'_>, alignment: u64, metadata: &BTreeMap<String, Value>) -> Result<Described, Stop> {
    let length = reader.u64("the length of a tensor's name")?;
    if length > header::NAME_BYTES_MAX as u64 {
        let problem = format!("it has {length} bytes, at most {} are accepted", header::NAME_BYTES_MAX);
        return Err(GgufError::BadName { name: String::new(), problem }.into());
    }
    let name = reader.bytes(length, "a tensor's name")?;
    let bad =
        |problem: &str| GgufError::BadName { name: cut(&String::from_utf8_lossy(name)), problem: problem.to_owned() };
    let name: Box<str> = std::str::from_utf8(name).map_err(|_| bad("it is not UTF-8"))?.into();
    header::name_problem(&name).map_or(Ok(()), |problem| Err(bad(problem)))?;
    let shown = || cut(&name);
    let rank = reader.u32("a number of dimensions")?;
    if rank > RANK_MAX {
        return Err(GgufError::RankTooHigh { name: shown(), found: rank }.into());
    }
    let mut shape = Vec::new();
    for _ in 0..rank {
        let found = reader.u64("a dimension")?;
        if found > DIMENSION_MAX {
            return Err(GgufError::DimensionTooLarge { name: shown(), found }.into());
        }
        shape.insert(0, found);
    }
    let number = reader.u32("a tensor's type")?;
    let kind = BlockType::of_number(number).ok_or_else(|| match BlockType::withdrawn(number) {
        Some(found) => GgufError::WithdrawnType { name: shown(), found },
        None => GgufError::UnknownType { name: shown(), found: number },
    })?;
    let begin = reader.u64("a tensor's offset")?;
    let overflow = || GgufError::SizeOverflow { name: shown() };
    let columns = shape.last().copied().unwrap_or(1);
    if !columns.is_multiple_of(kind.elements()) {
        return Err(GgufError::RaggedRows { name: shown(), columns, kind }.into());
    }
    // An overflow counts also beside a dimension of 0: readers multiply in the order of the shape.
    let product = |shape: &[u64]| shape.iter().try_fold(1_u64, |all, &side| all.checked_mul(side));
    let others: Vec<u64> = shape.iter().copied().filter(|&side| side > 0).collect();
    let elements = product(&others).and_then(|_| product(&shape)).ok_or_else(overflow)?;
    let bytes = kind.length(elements).ok_or_else(overflow)?;
    if !begin.is_multiple_of(alignment) {
        return Err(GgufError::Misaligned { name: shown(), begin, alignment }.into());
    }
    let range = begin..begin.checked_add(bytes).ok_or_else(overflow)?;
    if let Some(found) = metadata.get(&format!("{ORIGINAL_SHAPE}{name}")) {
        shape = found
            .shape()
            .filter(|shape| product(shape) == Some(elements))
            .ok_or_else(|| GgufError::OriginalShape { name: shown(), found: cut(&found.to_string()), elements })?;
    }
    Ok(Described { name, kind, shape, range })
}

fn check_names(tensors: &[Described]) -> Result<(), GgufError> {
    let mut seen = BTreeSet::new();
    match tensors.iter().find(|tensor| !seen.insert(&*tensor.name)) {
        Some(twice) => Err(GgufError::DuplicateName { name: cut(&twice.name) }),
        None => Ok(()),
    }
}

/// Checks that the tensors follow each other with padding between them, and fill the file.
fn check_places(
    tensors: &mut [Described],
    alignment: u64,
    (header_end, data_start): (u64, u64),
    file_length: u64,
) -> Result<(), GgufError> {
    tensors.sort_unstable_by_key(|tensor| (tensor.range.start, tensor.range.end));
    let padded = |end: u64| end.checked_next_multiple_of(alignment).unwrap_or(u64::MAX);
    let mut end = 0;
    let mut last: Option<&Described> = None;
    // A tensor without bytes may lie anywhere.
    for tensor in tensors.iter().filter(|tensor| !tensor.range.is_empty()) {
        let begin = tensor.range.start;
        if let (true, Some(last)) = (begin < end, last) {
            let (first, second) = (cut(&last.name), cut(&tensor.name));
            return Err(GgufError::Overlap { first, second, bytes: end.min(tensor.range.end) - begin });
        }
        if begin > padded(end) {
            return Err(GgufError::Gap { begin: end, end: begin, next: cut(&tensor.name) });
        }
        end = tensor.range.end;
        last = Some(tensor);
    }
    let expected = if end == 0 { header_end } else { data_start.saturating_add(end) };
    if expected > file_length {
        return Err(GgufError::Truncated { expected, found: file_length });
    }
    match file_length - expected {
        // Most writers pad the last tensor too.
        rest if rest <= padded(expected).saturating_sub(expected) => Ok(()),
        bytes => Err(GgufError::TrailingBytes { bytes }),
    }
}

fn cut(name: &str) -> String {
    shown_up_to(name, SHOWN_BYTES)
}

#[cfg(test)]
mod tests;
