//! The index of a sharded checkpoint: `{"metadata": {"total_size": bytes}, "weight_map": {tensor: shard}}`.
//!
//! Its file names come from strangers: they are checked here, before anything joins them to a path.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::{impostor::Impostor, shown::shown, weight_name};

/// Longest index file that is read, in bytes.
pub const INDEX_BYTES_MAX: u64 = 25_000_000;
/// Most shards that an index may name.
pub const SHARDS_MAX: usize = 1024;
/// Most tensors that an index may list.
pub const INDEX_TENSORS_MAX: usize = 1 << 19;

/// A parsed index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// `metadata.total_size`, when it is there and a number.
    pub total_size: Option<u64>,
    /// Shard of each tensor, as a path below the model's directory.
    pub shard_of: BTreeMap<String, String>,
}

/// Why an index cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// Not JSON of that form.
    #[error("not an index: {problem}")]
    NotAnIndex {
        /// The parser's words.
        problem: String,
    },
    /// An empty `weight_map`.
    #[error("its weight_map is empty")]
    Empty,
    /// A shard outside the model's directory, or not a safetensors file.
    #[error(
        "tensor `{tensor}` is mapped to {file:?}, which is not the name of a safetensors file below the model's directory"
    )]
    BadFileName {
        /// The tensor.
        tensor: String,
        /// The name.
        file: String,
    },
    /// Over [`SHARDS_MAX`].
    #[error("it names more than {SHARDS_MAX} shards")]
    TooManyShards,
}

impl Index {
    /// Parses an index that lies in `folder` (below the model's directory, empty for its root).
    ///
    /// # Errors
    /// When it is not JSON of that form, lists nothing, names something other than safetensors files below the model's
    /// directory, or names more than [`SHARDS_MAX`] of them.
    pub fn parse(json: &[u8], folder: &str) -> Result<Self, IndexError> {
        #[derive(Deserialize)]
        struct Raw<'a> {
            // Kept as text: megabytes of numbers take far more memory as values.
            #[serde(borrow)]
            metadata: Option<&'a RawValue>,
            #[serde(borrow)]
            weight_map: &'a RawValue,
        }
        #[derive(Deserialize)]
        struct Totals {
            total_size: u64,
        }
        if let Some(problem) = Impostor::in_place_of_json(json) {
            return Err(IndexError::NotAnIndex { problem });
        }
        // Serde reads an array as a structure too.
        if json.trim_ascii_start().starts_with(b"[") {
            return Err(IndexError::NotAnIndex { problem: "it is not an object".to_owned() });
        }
        let raw: Raw<'_> = serde_json::from_slice(json)
            .map_err(|error| IndexError::NotAnIndex { problem: shown(&error.to_string()) })?;
        // Checked here, because serde's message would repeat the whole text that stands in its place.
        if !raw.weight_map.get().starts_with('{') {
            return Err(IndexError::NotAnIndex { problem: "its weight_map is not an object".to_owned() });
        }
        let WeightMap(weight_map) = serde_json::from_str(raw.weight_map.get())
            .map_err(|error| IndexError::NotAnIndex { problem: shown(&error.to_string()) })?;
        if weight_map.is_empty() {
            return Err(IndexError::Empty);
        }
        let totals = raw.metadata.and_then(|metadata| serde_json::from_str::<Totals>(metadata.get()).ok());
        let total_size = totals.map(|totals| totals.total_size);
        let mut shard_of = BTreeMap::new();
        for (tensor, file) in weight_map {
            if !is_safe_relative(&file) || !file.ends_with(weight_name::SUFFIX) {
                return Err(IndexError::BadFileName { tensor: shown(&tensor), file: shown(&file) });
            }
            // Some writers give the path below the model's directory instead of the bare name.
            let path = if file.contains('/') { file } else { weight_name::in_folder(folder, &file) };
            shard_of.insert(tensor, path);
        }
        let index = Self { total_size, shard_of };
        if index.shards().len() > SHARDS_MAX {
            return Err(IndexError::TooManyShards);
        }
        Ok(index)
    }

    /// The distinct shards, sorted by path.
    #[must_use]
    pub fn shards(&self) -> Vec<&str> {
        let mut shards: Vec<&str> = self.shard_of.values().map(String::as_str).collect();
        shards.sort_unstable();
        shards.dedup();
        shards
    }
}

/// A map of at most [`INDEX_TENSORS_MAX`] entries.
struct WeightMap(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WeightMapVisitor;
        impl<'de> Visitor<'de> for WeightMapVisitor {
            type Value = WeightMap;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of file names")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WeightMap, A::Error> {
                let mut found = BTreeMap::new();
                while let Some((tensor, file)) = map.next_entry()? {
                    if found.len() == INDEX_TENSORS_MAX {
                        return Err(A::Error::custom(format!("it lists more than {INDEX_TENSORS_MAX} tensors")));
                    }
                    found.insert(tensor, file);
                }
                Ok(WeightMap(found))
            }
        }
        deserializer.deserialize_map(WeightMapVisitor)
    }
}

/// Whether `path` is relative and has no empty, `.` or `..` part, no backslash and no control character.
#[must_use]
pub fn is_safe_relative(path: &str) -> bool {
    !path.is_empty()
        && path.len() <= 1024
        && !path.contains('\\')
        && !path.chars().any(char::is_control)
        && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_and_prefixed_names_mean_the_same() {
        let json = br#"{"metadata":{"total_size":7},"weight_map":{"a":"x.safetensors","b":"t/x.safetensors"}}"#;
        let index = Index::parse(json, "t").unwrap();
        assert_eq!(index.shards(), ["t/x.safetensors"]);
        assert_eq!(index.total_size, Some(7));
    }

    #[test]
    fn names_that_leave_the_directory_are_refused() {
        for file in ["../x.safetensors", "/x.safetensors", "a/../x.safetensors", "a\\x.safetensors", "x.bin", ""] {
            let json = serde_json::json!({"weight_map": {"a": file}}).to_string();
            assert!(matches!(Index::parse(json.as_bytes(), "t"), Err(IndexError::BadFileName { .. })), "{file}");
        }
        assert_eq!(Index::parse(br#"{"weight_map":{}}"#, ""), Err(IndexError::Empty));
        for no_index in ["[]", r#"[null,{"a":"x.safetensors"}]"#, "{"] {
            assert!(matches!(Index::parse(no_index.as_bytes(), ""), Err(IndexError::NotAnIndex { .. })), "{no_index}");
        }
    }
}
