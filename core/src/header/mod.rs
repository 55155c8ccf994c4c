//! The header of a safetensors file, read strictly.
//!
//! The dtype vocabulary is the `safetensors` crate's (22 kinds in format 0.8). The crate's own parser is not used on
//! strangers' files: it accepts duplicate names, tensors written as arrays and ranks of millions, reports holes and
//! overlaps alike, and panics on sums over 2^64 in debug builds. The tests below hold this parser to it: whatever is
//! accepted here, the crate accepts with the same ranges.
//!
//! Format: `u64` little-endian header length `N`, `N` bytes of JSON, data. Offsets count from the end of the header.

mod entry;
mod error;

use std::{collections::BTreeMap, ops::Range};

pub use safetensors::Dtype;
use serde::{Deserialize as _, de::DeserializeSeed as _};

pub(crate) use self::entry::name_problem;
use self::entry::{RawHeader, check_tiling, not_json, parse_metadata, parse_tensor};
pub use self::error::HeaderError;
use crate::{ggml::Encoding, impostor::Impostor};

/// Dtypes that a float parameter may have on disk.
pub const FLOATS: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::BF16];

/// `F32, F16 or BF16`.
pub(crate) fn names(dtypes: &[Dtype]) -> String {
    let names: Vec<String> = dtypes.iter().map(ToString::to_string).collect();
    match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => names.concat(),
    }
}

/// Bytes before the JSON.
pub const PREFIX_BYTES: u64 = 8;
/// Longest header that is read, in bytes; the limit of `huggingface_hub` for remote headers. Real ones stay under 1 MB.
pub const HEADER_BYTES_MAX: u64 = 25_000_000;
/// Most tensors in one file.
pub const TENSORS_MAX: usize = 131_072;
/// Longest tensor name, in bytes.
pub const NAME_BYTES_MAX: usize = 512;
/// Most dimensions of a tensor.
pub const RANK_MAX: usize = 32;
/// Largest dimension.
pub const DIMENSION_MAX: u64 = 1 << 48;
/// Most entries of `__metadata__`. Real files have some hundreds; millions of short ones cost gigabytes.
pub const METADATA_ENTRIES_MAX: usize = 65_536;
/// The entry that is no tensor.
const METADATA: &str = "__metadata__";
/// Longest JSON text of one tensor's entry, in bytes.
const ENTRY_BYTES_MAX: usize = 65_536;

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name.
    pub name: Box<str>,
    /// Type of an element.
    pub dtype: Dtype,
    /// Dimensions, row-major; empty for a scalar.
    pub shape: Vec<u64>,
    /// Its bytes, counted from the start of the file.
    pub range: Range<u64>,
    /// How the bytes become elements; `None` where they are the elements.
    pub encoding: Option<Encoding>,
}

impl TensorInfo {
    /// Length in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Length in bits of `elements` neighbours; `None` when they are no whole blocks, or it overflows.
    #[must_use]
    pub fn bits_of(&self, elements: u64) -> Option<u64> {
        match &self.encoding {
            Some(encoding) => encoding.blocks.length(elements)?.checked_mul(8),
            None => elements.checked_mul(self.dtype.bitsize() as u64),
        }
    }

    /// The type of its elements as they are stored, as people call it: `BF16`, `Q4_K`.
    #[must_use]
    pub fn stored_type(&self) -> String {
        self.encoding.map_or_else(|| self.dtype.to_string(), |encoding| encoding.blocks.to_string())
    }
}

/// The checked header of a file of tensors. Of a safetensors file they tile the data exactly, of a GGUF file with
/// padding between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Offset of the first data byte in the file.
    pub data_start: u64,
    /// Length of the file.
    pub file_length: u64,
    /// Tensors, sorted by name.
    pub tensors: Vec<TensorInfo>,
    /// `__metadata__`.
    pub metadata: BTreeMap<String, String>,
}

/// Reads the length prefix and checks it against the file.
///
/// # Errors
/// When the announced header is longer than is read, or than the file; a file that begins like another format is
/// named.
pub fn header_length(prefix: [u8; 8], file_length: u64) -> Result<usize, HeaderError> {
    let announced = u64::from_le_bytes(prefix);
    let available = file_length.saturating_sub(PREFIX_BYTES);
    let error = if announced > HEADER_BYTES_MAX {
        HeaderError::HeaderTooLong { found: announced }
    } else if announced > available {
        HeaderError::HeaderTruncated { announced, available }
    } else {
        return usize::try_from(announced).map_err(|_| HeaderError::HeaderTooLong { found: announced });
    };
    // Looked at last, because the first bytes of some other formats may also be the length of a short header.
    Err(match Impostor::of_weights(&prefix) {
        Some(&Impostor { what, hint, .. }) => HeaderError::SomethingElse { what, hint },
        None => error,
    })
}

impl Header {
    /// Parses the JSON of a header. `file_length` is the length of the whole file.
    ///
    /// # Errors
    /// When the header breaks a rule of the format. The error names the first such rule, and the tensor that breaks it.
    pub fn parse(json: &[u8], file_length: u64) -> Result<Self, HeaderError> {
        let data_start = PREFIX_BYTES + json.len() as u64;
        let Some(available) = file_length.checked_sub(data_start) else {
            let available = file_length.saturating_sub(PREFIX_BYTES);
            return Err(HeaderError::HeaderTruncated { announced: json.len() as u64, available });
        };
        let text = std::str::from_utf8(json).map_err(|error| HeaderError::NotUtf8 { at: error.valid_up_to() })?;
        if let Some(first) = text.trim_start().chars().next().filter(|&first| !matches!(first, '{' | '\u{feff}')) {
            // Checked here, because serde's message would repeat the whole text that stands in its place.
            return Err(HeaderError::NotJson { problem: format!("it begins with {first:?}") });
        }
        let mut limit = None;
        let mut reader = serde_json::Deserializer::from_str(text);
        let raw = RawHeader { limit: &mut limit }.deserialize(&mut reader).and_then(|raw| reader.end().map(|()| raw));
        let raw = match (raw, limit) {
            (_, Some(limit)) => return Err(limit),
            (Err(error), None) => return Err(HeaderError::NotJson { problem: not_json(text, &error) }),
            (Ok(raw), None) => raw,
        };
        if raw.iter().filter(|(name, _)| name != METADATA).count() > TENSORS_MAX {
            return Err(HeaderError::TooManyTensors);
        }
        let mut metadata = BTreeMap::new();
        let mut seen_metadata = false;
        let mut tensors = Vec::with_capacity(raw.len());
        for (name, entry) in &raw {
            if name == METADATA {
                if std::mem::replace(&mut seen_metadata, true) {
                    return Err(HeaderError::Metadata { problem: "it comes twice".to_owned() });
                }
                metadata = parse_metadata(entry)?;
            } else {
                tensors.push(parse_tensor(name, entry)?);
            }
        }
        // Checked before the ranges, because a tensor that is listed twice overlaps itself.
        tensors.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        if let Some(pair) = tensors.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(HeaderError::DuplicateName { name: pair[0].name.to_string() });
        }
        check_tiling(&mut tensors, data_start, available)?;
        for tensor in &mut tensors {
            tensor.range = tensor.range.start + data_start..tensor.range.end + data_start;
        }
        tensors.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(Self { data_start, file_length, tensors, metadata })
    }

    /// The tensor of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&TensorInfo> {
        let at = self.tensors.binary_search_by(|tensor| (*tensor.name).cmp(name)).ok()?;
        self.tensors.get(at)
    }

    /// Sum of the tensors' lengths in bytes.
    #[must_use]
    pub fn tensor_bytes(&self) -> u64 {
        self.file_length - self.data_start
    }
}

/// The dtype of that exact name.
#[must_use]
pub fn dtype_from_name(name: &str) -> Option<Dtype> {
    let quoted = serde::de::value::StrDeserializer::<serde::de::value::Error>::new(name);
    Dtype::deserialize(quoted).ok()
}

/// Size in bits of a tensor; `None` when it overflows 64 bits.
#[must_use]
pub fn bit_length(dtype: Dtype, shape: &[u64]) -> Option<u64> {
    if shape.contains(&0) {
        return Some(0);
    }
    shape.iter().try_fold(dtype.bitsize() as u64, |bits, &dimension| bits.checked_mul(dimension))
}

/// Size in bytes of a tensor; `None` when it overflows or is no whole number of bytes.
#[must_use]
pub fn byte_length(dtype: Dtype, shape: &[u64]) -> Option<u64> {
    bit_length(dtype, shape).filter(|bits| bits % 8 == 0).map(|bits| bits / 8)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use safetensors::{SafeTensors, tensor::TensorView};

    use super::*;

    fn parse(json: &str, data: u64) -> Result<Header, HeaderError> {
        Header::parse(json.as_bytes(), 8 + json.len() as u64 + data)
    }

    fn name_of(error: &HeaderError) -> String {
        format!("{error:?}").split([' ', '{']).next().unwrap_or_default().to_owned()
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table of headers")]
    fn every_broken_rule_has_its_own_error() {
        let huge = u64::MAX / 2;
        let cases: &[(&str, String, u64)] = &[
            ("NotJson", "[]".into(), 0),
            ("NotJson", "{} {}".into(), 0),
            ("Metadata", r#"{"__metadata__":{"a":1}}"#.into(), 0),
            ("Metadata", r#"{"__metadata__":{"a":"1","a":"2"}}"#.into(), 0),
            ("Metadata", r#"{"__metadata__":null,"__metadata__":null}"#.into(), 0),
            ("BadEntry", r#"{"a":["F32",[1],[0,4]]}"#.into(), 4),
            ("BadEntry", r#"{"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}}"#.into(), 4),
            ("BadEntry", r#"{"a":{"dtype":{"F32":null},"shape":[1],"data_offsets":[0,4]}}"#.into(), 4),
            ("BadEntry", r#"{"a":{"dtype":"F32","shape":[1]}}"#.into(), 4),
            (
                "BadEntry",
                format!(
                    r#"{{"a":{{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":{}{}}}}}"#,
                    "[".repeat(200),
                    "]".repeat(200)
                ),
                1,
            ),
            ("BadEntry", r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":"\ud800"}}"#.into(), 1),
            ("UnknownDtype", r#"{"a":{"dtype":"f32","shape":[1],"data_offsets":[0,4]}}"#.into(), 4),
            ("BadName", r#"{"":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#.into(), 4),
            ("BadName", r#"{"a\u0000b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#.into(), 4),
            ("DimensionTooLarge", format!(r#"{{"a":{{"dtype":"F32","shape":[0,{huge}],"data_offsets":[0,0]}}}}"#), 0),
            (
                "SizeOverflow",
                r#"{"a":{"dtype":"F32","shape":[281474976710656,281474976710656],"data_offsets":[0,4]}}"#.into(),
                4,
            ),
            (
                "SizeOverflow",
                r#"{"a":{"dtype":"F32","shape":[281474976710656,281474976710656,0],"data_offsets":[0,0]}}"#.into(),
                0,
            ),
            ("PartialByte", r#"{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}}"#.into(), 2),
            ("ReversedOffsets", r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}"#.into(), 4),
            ("SizeMismatch", r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#.into(), 4),
            ("OutOfFile", r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[9,10]}}"#.into(), 4),
            ("Gap", r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#.into(), 2),
            (
                "Overlap",
                r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}"#.into(),
                3,
            ),
            (
                "EmptyInside",
                r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[0],"data_offsets":[1,1]}}"#.into(),
                2,
            ),
            ("Truncated", r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#.into(), 3),
            ("TrailingBytes", r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#.into(), 5),
            (
                "DuplicateName",
                r#"{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"\u0061":{"dtype":"I8","shape":[0],"data_offsets":[0,0]}}"#.into(),
                0,
            ),
        ];
        for (expected, json, data) in cases {
            let error = parse(json, *data).expect_err(json);
            assert_eq!(&name_of(&error), expected, "{json}: {error}");
        }
        let rank = format!(r#"{{"a":{{"dtype":"U8","shape":[{}1],"data_offsets":[0,1]}}}}"#, "1,".repeat(RANK_MAX));
        assert_eq!(name_of(&parse(&rank, 1).unwrap_err()), "RankTooHigh");
        assert_eq!(name_of(&Header::parse(b"{\"\xff\":1}", 100).unwrap_err()), "NotUtf8");
        assert_eq!(name_of(&Header::parse(b"{}", 5).unwrap_err()), "HeaderTruncated");
        assert_eq!(name_of(&header_length(*b"GGUF\x03\0\0\0", u64::MAX).unwrap_err()), "SomethingElse");
        assert_eq!(name_of(&header_length(u64::MAX.to_le_bytes(), 100).unwrap_err()), "HeaderTooLong");
        assert_eq!(name_of(&header_length(93u64.to_le_bytes(), 100).unwrap_err()), "HeaderTruncated");
    }

    #[test]
    fn mistakes_of_writers_are_named_in_one_line() {
        let words = [
            ("", "empty"),
            ("\u{feff}{}", "byte order mark"),
            ("{}\0\0", "NUL"),
            (r#"{"__metadata__":{"a\nb":"1","a\nb":"2"}}"#, r"a\nb"),
        ];
        let many: Vec<String> = (0..=METADATA_ENTRIES_MAX).map(|at| format!("\"{at}\":\"\"")).collect();
        let many = format!(r#"{{"__metadata__":{{{}}}}}"#, many.join(","));
        let long = format!(r#"{{"__metadata__":"{}"}}"#, "x".repeat(1 << 20));
        for (json, word) in words.into_iter().chain([(many.as_str(), "more than"), (long.as_str(), "not an object")]) {
            let error = parse(json, 0).unwrap_err().to_string();
            assert!(error.contains(word) && error.len() < 1000 && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn what_real_writers_do_is_accepted() {
        let padded = parse("  {\"__metadata__\":null}   \n", 0).unwrap();
        assert!(padded.tensors.is_empty());
        let scalar = parse(r#"{"s":{"dtype":"F64","shape":[],"data_offsets":[0,8],"future":{"x":[1]}}}"#, 8).unwrap();
        assert_eq!(scalar.get("s").unwrap().bytes(), 8);
    }

    #[test]
    fn sums_over_64_bits_are_refused_without_a_panic() {
        let each = DIMENSION_MAX;
        let json = format!(
            r#"{{"a":{{"dtype":"F64","shape":[{each},8191],"data_offsets":[0,{}]}},"b":{{"dtype":"F64","shape":[{each},8191],"data_offsets":[{0},{}]}}}}"#,
            each * 8 * 8191,
            (each * 8 * 8191).wrapping_mul(2),
        );
        assert!(parse(&json, 100).is_err());
    }

    #[test]
    fn all_dtypes_of_the_format_are_known() {
        let names = "BOOL F4 F6_E2M3 F6_E3M2 U8 I8 F8_E5M2 F8_E4M3 F8_E8M0 F8_E4M3FNUZ F8_E5M2FNUZ I16 U16 F16 BF16 \
                     I32 U32 F32 C64 F64 I64 U64";
        for name in names.split_whitespace() {
            assert_eq!(dtype_from_name(name).unwrap().to_string(), name);
        }
    }

    proptest! {
        #[test]
        fn what_the_crate_writes_is_read_alike(shapes in proptest::collection::vec(proptest::collection::vec(0usize..5, 0..4), 0..9)) {
            let data = vec![7u8; 4 * 625];
            let views: Vec<_> = shapes.iter().enumerate().map(|(index, shape)| {
                let bytes = 4 * shape.iter().product::<usize>();
                (format!("t{index}"), TensorView::new(Dtype::F32, shape.clone(), &data[..bytes]).unwrap())
            }).collect();
            let file = safetensors::serialize(views, None).unwrap();
            let length = header_length(file[..8].try_into().unwrap(), file.len() as u64).unwrap();
            let header = Header::parse(&file[8..8 + length], file.len() as u64).unwrap();
            prop_assert_eq!(header.tensors.len(), shapes.len());
            for (index, shape) in shapes.iter().enumerate() {
                let found = header.get(&format!("t{index}")).unwrap();
                let dims: Vec<usize> = found.shape.iter().map(|&d| usize::try_from(d).unwrap()).collect();
                prop_assert_eq!(&dims, shape);
            }
        }

        #[test]
        fn what_is_accepted_here_the_crate_accepts_with_the_same_ranges(
            json in r#"\{("[ab]":\{"dtype":"(U8|F4|F16)","shape":\[[0-4](,[0-4])?\],"data_offsets":\[[0-4],[0-8]\]\},?){1,2}\}"#,
            data in 0u64..9,
        ) {
            if let Ok(header) = parse(&json, data) {
                let mut file = (json.len() as u64).to_le_bytes().to_vec();
                file.extend_from_slice(json.as_bytes());
                file.resize(file.len() + usize::try_from(data).unwrap(), 0);
                let theirs = SafeTensors::deserialize(&file).unwrap();
                prop_assert_eq!(theirs.len(), header.tensors.len());
                for tensor in &header.tensors {
                    prop_assert_eq!(theirs.tensor(&tensor.name).unwrap().data().len() as u64, tensor.bytes());
                }
            }
        }
    }
}
