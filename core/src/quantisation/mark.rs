//! Marks: what a file says of one layer in ComfyUI's words, either in a tensor `.comfy_quant` beside the weight or in a list
//! in its metadata. Both hold the same JSON.
//!
//! Many writers pad the tensor with NUL bytes, and some put the settings under `params`. A key that is not known forbids
//! computing from the layer, because it may change what the codes mean.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::shown::shown;

/// Longest mark that is read, in bytes.
pub const MARK_BYTES_MAX: usize = 65_536;
/// The list of quantised layers, in the metadata of a safetensors file.
pub const LAYERS_LIST: &str = "_quantization_metadata";
/// The end of the name of a tensor that holds a mark.
pub const MARK_SUFFIX: &str = ".comfy_quant";
/// Keys on which no stored weight depends: how the layer's input is multiplied with it, and which dtype it had.
const HARMLESS: [&str; 4] = ["full_precision_matrix_mult", "linear_dtype", "orig_dtype", "params"];

/// Whether the weight was rotated before it was quantised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// The mark does not say.
    Unsaid,
    /// It was not.
    Off,
    /// It was, in groups of so many columns.
    On(u64),
}

/// What a file says of one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// The name of the format, such as `nvfp4`.
    pub format: String,
    /// Whether the weight was rotated.
    pub rotation: Rotation,
    /// Columns that share a scale, when the mark says so.
    pub group_size: Option<u64>,
    /// Keys whose meaning is not known.
    pub unknown: Vec<String>,
}

/// Why a mark cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MarkError {
    /// Over [`MARK_BYTES_MAX`].
    #[error("it has {found} bytes, expected at most {MARK_BYTES_MAX}")]
    TooLong {
        /// Its length.
        found: usize,
    },
    /// Not JSON of that form.
    #[error("it is no JSON object that names a format: {problem}")]
    Malformed {
        /// What is wrong.
        problem: String,
    },
    /// Settings that contradict each other.
    #[error("{problem}")]
    Contradiction {
        /// Which.
        problem: String,
    },
}

fn malformed(problem: impl Into<String>) -> MarkError {
    MarkError::Malformed { problem: problem.into() }
}

impl Mark {
    /// Columns of a rotated group when a mark names none.
    pub const ROTATED_COLUMNS: u64 = 256;

    /// Reads the bytes of a mark. NUL bytes and spaces at its end are padding.
    ///
    /// # Errors
    /// When it is too long, no JSON object with a format, or contradicts itself.
    pub fn parse(bytes: &[u8]) -> Result<Self, MarkError> {
        if bytes.len() > MARK_BYTES_MAX {
            return Err(MarkError::TooLong { found: bytes.len() });
        }
        let end = bytes.iter().rposition(|byte| !matches!(byte, 0 | b' ' | b'\n')).map_or(0, |last| last + 1);
        let read: Value =
            serde_json::from_slice(&bytes[..end]).map_err(|error| malformed(shown(&error.to_string())))?;
        Self::of(&read)
    }

    /// Reads a mark that was parsed as JSON.
    ///
    /// # Errors
    /// When it is no object with a format, or contradicts itself.
    pub fn of(read: &Value) -> Result<Self, MarkError> {
        let entries = read.as_object().ok_or_else(|| malformed("it is no object"))?;
        let settings = Settings::of(entries)?;
        let format = match settings.get("format")? {
            Some(Value::String(format)) => shown(format),
            Some(other) => return Err(malformed(format!("`format` is {}", shown(&other.to_string())))),
            None => return Err(malformed("it has no `format`")),
        };
        let known = ["format", "convrot", "convrot_groupsize", "group_size"];
        let is_strange = |key: &&String| !known.contains(&key.as_str()) && !HARMLESS.contains(&key.as_str());
        let unknown = settings.keys().filter(is_strange).map(|key| shown(key)).collect();
        Ok(Self { format, rotation: settings.rotation()?, group_size: settings.number("group_size")?, unknown })
    }

    /// The JSON that a list in the metadata has for each layer, by the layer's name.
    ///
    /// # Errors
    /// When the list is no JSON of the form `{"layers": {...}}`.
    pub fn list(json: &str) -> Result<BTreeMap<String, Value>, MarkError> {
        let read: Value = serde_json::from_str(json).map_err(|error| malformed(shown(&error.to_string())))?;
        let layers = read.get("layers").and_then(Value::as_object);
        let layers = layers.ok_or_else(|| malformed("it has no object `layers`"))?;
        Ok(layers.iter().map(|(name, mark)| (name.clone(), mark.clone())).collect())
    }
}

/// The settings of a mark. Some may stand under `params`.
struct Settings<'a> {
    own: &'a Map<String, Value>,
    params: Option<&'a Map<String, Value>>,
}

impl<'a> Settings<'a> {
    fn of(own: &'a Map<String, Value>) -> Result<Self, MarkError> {
        match own.get("params") {
            None | Some(Value::Null) => Ok(Self { own, params: None }),
            Some(Value::Object(params)) => Ok(Self { own, params: Some(params) }),
            Some(other) => Err(malformed(format!("`params` is {}", shown(&other.to_string())))),
        }
    }

    fn keys(&self) -> impl Iterator<Item = &'a String> {
        self.own.keys().chain(self.params.into_iter().flat_map(Map::keys))
    }

    /// The value of a key; `null` says nothing.
    fn get(&self, key: &str) -> Result<Option<&'a Value>, MarkError> {
        let said = |map: &'a Map<String, Value>| map.get(key).filter(|value| !value.is_null());
        match (said(self.own), self.params.and_then(said)) {
            (Some(outside), Some(inside)) if outside != inside => {
                let (outside, inside) = (shown(&outside.to_string()), shown(&inside.to_string()));
                let problem = format!("it says {outside} for `{key}`, and {inside} under `params`");
                Err(MarkError::Contradiction { problem })
            }
            (outside, inside) => Ok(outside.or(inside)),
        }
    }

    fn number(&self, key: &str) -> Result<Option<u64>, MarkError> {
        self.get(key)?
            .map(|value| value.as_u64().ok_or(value))
            .transpose()
            .map_err(|value| malformed(format!("`{key}` is {}, expected a whole number", shown(&value.to_string()))))
    }

    fn rotation(&self) -> Result<Rotation, MarkError> {
        let columns = self.number("convrot_groupsize")?;
        match self.get("convrot")? {
            Some(Value::Bool(true)) => Ok(Rotation::On(columns.unwrap_or(Mark::ROTATED_COLUMNS))),
            Some(Value::Bool(false)) => Ok(Rotation::Off),
            Some(other) => {
                Err(malformed(format!("`convrot` is {}, expected true or false", shown(&other.to_string()))))
            }
            None => match columns {
                None => Ok(Rotation::Unsaid),
                Some(columns) => {
                    let problem = format!("it has a `convrot_groupsize` of {columns} and no `convrot`");
                    Err(MarkError::Contradiction { problem })
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Mark, MarkError> {
        Mark::parse(json.as_bytes())
    }

    #[test]
    fn a_mark_is_read_padded_or_not_and_with_or_without_params() {
        let plain = Mark { format: "nvfp4".into(), rotation: Rotation::Unsaid, group_size: None, unknown: vec![] };
        for json in [
            r#"{"format": "nvfp4"}"#,
            "{\"format\": \"nvfp4\"}\0\0\0",
            r#"{"format": "nvfp4", "full_precision_matrix_mult": true, "linear_dtype": "bf16", "group_size": null}"#,
            r#"{"params": {"format": "nvfp4"}}"#,
            r#"{"format": "nvfp4", "params": {"format": "nvfp4"}}"#,
        ] {
            assert_eq!(parse(json), Ok(plain.clone()), "{json}");
        }
        let rotated = parse(r#"{"format": "int8_tensorwise", "params": {"convrot": true, "convrot_groupsize": 64}}"#);
        assert_eq!(rotated.unwrap().rotation, Rotation::On(64));
        let default = parse(r#"{"format": "int8_tensorwise", "convrot": true}"#).unwrap();
        assert_eq!(default.rotation, Rotation::On(Mark::ROTATED_COLUMNS));
        let off = parse(r#"{"format": "int8_tensorwise", "convrot": false, "convrot_groupsize": 256}"#).unwrap();
        assert_eq!(off.rotation, Rotation::Off);
        assert_eq!(parse(r#"{"format": "nvfp4", "zero": 1}"#).unwrap().unknown, ["zero"]);
    }

    #[test]
    fn a_mark_that_is_damaged_or_contradicts_itself_is_an_error() {
        let cases = [
            ("", "EOF"),
            ("{", "EOF"),
            ("\0\0", "EOF"),
            ("[]", "no object"),
            ("{}", "no `format`"),
            (r#"{"format": 4}"#, "`format` is 4"),
            (r#"{"format": "a", "params": []}"#, "`params`"),
            (r#"{"format": "a", "params": {"format": "b"}}"#, "under `params`"),
            (r#"{"format": "a", "convrot": 1}"#, "`convrot` is 1"),
            (r#"{"format": "a", "convrot_groupsize": 256}"#, "no `convrot`"),
            (r#"{"format": "a", "convrot_groupsize": -1, "convrot": true}"#, "whole number"),
            (r#"{"format": "a", "group_size": "x"}"#, "whole number"),
        ];
        for (json, word) in cases {
            let said = parse(json).unwrap_err().to_string();
            assert!(said.contains(word), "{json}: {said}");
        }
        assert!(matches!(Mark::parse(&vec![b'{'; MARK_BYTES_MAX + 1]), Err(MarkError::TooLong { .. })));
        assert!(Mark::parse(&[0xff, 0xfe]).is_err());
    }

    #[test]
    fn a_list_has_a_mark_for_each_layer() {
        let list = Mark::list(r#"{"format_version": "1.0", "layers": {"a.b": {"format": "float8_e4m3fn"}}}"#).unwrap();
        assert_eq!(Mark::of(&list["a.b"]).unwrap().format, "float8_e4m3fn");
        assert!(Mark::list("{}").is_err() && Mark::list("x").is_err());
    }
}
