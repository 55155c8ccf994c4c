//! The entries of a header's JSON object: tensors and `__metadata__`.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error as _, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    DIMENSION_MAX, ENTRY_BYTES_MAX, HeaderError, METADATA_ENTRIES_MAX, NAME_BYTES_MAX, RANK_MAX, TENSORS_MAX,
    TensorInfo, bit_length, dtype_from_name,
};
use crate::shown::shown;

/// Collects the pairs of the top-level object without looking into the values.
pub(super) struct RawHeader<'a> {
    /// The limit that stopped it: serde has no room for an error of ours.
    pub(super) limit: &'a mut Option<HeaderError>,
}

impl<'de> DeserializeSeed<'de> for RawHeader<'_> {
    type Value = Vec<(String, &'de RawValue)>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for RawHeader<'_> {
    type Value = Vec<(String, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry::<String, &'de RawValue>()? {
            // One more than the limit: `__metadata__` is a pair too.
            if pairs.len() > TENSORS_MAX {
                *self.limit = Some(HeaderError::TooManyTensors);
                return Err(A::Error::custom("too many tensors"));
            }
            pairs.push(pair);
        }
        Ok(pairs)
    }
}

/// Why `text` is not a JSON object: the parser's words, or a better name for mistakes that writers make.
pub(super) fn not_json(text: &str, error: &serde_json::Error) -> String {
    if text.is_empty() {
        "it is empty".to_owned()
    } else if text.starts_with('\u{feff}') {
        "it begins with a byte order mark".to_owned()
    } else if text.ends_with('\0') {
        "it is padded with NUL bytes, expected spaces".to_owned()
    } else {
        shown(&error.to_string())
    }
}

pub(super) fn parse_metadata(entry: &RawValue) -> Result<BTreeMap<String, String>, HeaderError> {
    struct Distinct(BTreeMap<String, String>);
    impl<'de> Deserialize<'de> for Distinct {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct DistinctVisitor;
            impl<'de> Visitor<'de> for DistinctVisitor {
                type Value = Distinct;
                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("an object of strings")
                }
                fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Distinct, A::Error> {
                    let mut found = BTreeMap::new();
                    while let Some((key, value)) = map.next_entry::<String, String>()? {
                        if found.contains_key(&key) {
                            return Err(A::Error::custom(format!("key `{}` comes twice", shown(&key))));
                        }
                        if found.len() == METADATA_ENTRIES_MAX {
                            return Err(A::Error::custom(format!("it has more than {METADATA_ENTRIES_MAX} entries")));
                        }
                        found.insert(key, value);
                    }
                    Ok(Distinct(found))
                }
            }
            deserializer.deserialize_map(DistinctVisitor)
        }
    }
    // Checked here, because serde's message would repeat the whole text that stands in its place.
    if !entry.get().starts_with(['{', 'n']) {
        return Err(HeaderError::Metadata { problem: "it is not an object".to_owned() });
    }
    // MLX writes `"__metadata__": null` when it has none.
    let found: Option<Distinct> = serde_json::from_str(entry.get())
        .map_err(|error| HeaderError::Metadata { problem: shown(&error.to_string()) })?;
    Ok(found.map(|distinct| distinct.0).unwrap_or_default())
}

/// Reads the entry of a tensor. Its range still counts from the start of the data.
pub(super) fn parse_tensor(name: &str, entry: &RawValue) -> Result<TensorInfo, HeaderError> {
    #[derive(Deserialize)]
    struct Entry {
        dtype: String,
        shape: Vec<u64>,
        data_offsets: (u64, u64),
        // Other fields must be JSON that other readers accept: no nesting bombs, no half surrogates.
        #[serde(flatten)]
        _future: serde::de::IgnoredAny,
    }
    check_name(name)?;
    let bad = |problem: String| HeaderError::BadEntry { name: name.to_owned(), problem };
    if !entry.get().starts_with('{') {
        return Err(bad("it is not an object".to_owned()));
    }
    if entry.get().len() > ENTRY_BYTES_MAX {
        return Err(bad(format!("it is {} bytes long", entry.get().len())));
    }
    let found: Entry = serde_json::from_str(entry.get()).map_err(|error| bad(shown(&error.to_string())))?;
    let dtype = dtype_from_name(&found.dtype).ok_or_else(|| HeaderError::UnknownDtype {
        name: name.to_owned(),
        found: found.dtype.chars().take(32).collect(),
    })?;
    if found.shape.len() > RANK_MAX {
        return Err(HeaderError::RankTooHigh { name: name.to_owned(), found: found.shape.len() });
    }
    if let Some(&found) = found.shape.iter().find(|&&dimension| dimension > DIMENSION_MAX) {
        return Err(HeaderError::DimensionTooLarge { name: name.to_owned(), found });
    }
    let overflow = || HeaderError::SizeOverflow { name: name.to_owned() };
    // An overflow counts also beside a dimension of 0: readers multiply in the order of the shape.
    let others: Vec<u64> = found.shape.iter().copied().filter(|&dimension| dimension > 0).collect();
    let bits = bit_length(dtype, &others).ok_or_else(overflow)?;
    let bits = if others.len() < found.shape.len() { 0 } else { bits };
    if bits % 8 != 0 {
        return Err(HeaderError::PartialByte { name: name.to_owned(), dtype, bits });
    }
    let (begin, end) = found.data_offsets;
    if end < begin {
        return Err(HeaderError::ReversedOffsets { name: name.to_owned(), begin, end });
    }
    if end - begin != bits / 8 {
        return Err(HeaderError::SizeMismatch { name: name.to_owned(), expected: bits / 8, found: end - begin });
    }
    Ok(TensorInfo { name: name.into(), dtype, shape: found.shape, range: begin..end, encoding: None })
}

/// Why no tensor can have this name.
pub(crate) fn name_problem(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("it is empty")
    } else if name.len() > NAME_BYTES_MAX {
        Some("it is too long")
    } else if name.chars().any(char::is_control) {
        Some("it has control characters")
    } else {
        None
    }
}

fn check_name(name: &str) -> Result<(), HeaderError> {
    let bad = |problem| HeaderError::BadName { name: name.chars().take(64).collect(), problem };
    name_problem(name).map_or(Ok(()), |problem| Err(bad(problem)))
}

/// Checks that the ranges cover the data exactly, without hole or overlap.
pub(super) fn check_tiling(tensors: &mut [TensorInfo], data_start: u64, available: u64) -> Result<(), HeaderError> {
    tensors.sort_unstable_by_key(|tensor| (tensor.range.start, tensor.range.end));
    let mut end = 0;
    let mut last: Option<&TensorInfo> = None;
    for tensor in &*tensors {
        let begin = tensor.range.start;
        if begin > end && begin > available {
            return Err(HeaderError::OutOfFile { name: tensor.name.to_string(), begin, available });
        }
        if begin > end {
            return Err(HeaderError::Gap { begin: end, end: begin, next: tensor.name.to_string() });
        }
        if let (true, Some(last)) = (begin < end, last) {
            if tensor.range.is_empty() {
                return Err(HeaderError::EmptyInside { inner: tensor.name.to_string(), outer: last.name.to_string() });
            }
            return Err(HeaderError::Overlap {
                first: last.name.to_string(),
                second: tensor.name.to_string(),
                bytes: end.min(tensor.range.end) - begin,
            });
        }
        end = tensor.range.end;
        last = Some(tensor);
    }
    match end.cmp(&available) {
        std::cmp::Ordering::Less => Err(HeaderError::TrailingBytes { bytes: available - end }),
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => {
            Err(HeaderError::Truncated { expected: data_start.saturating_add(end), found: data_start + available })
        }
    }
}
