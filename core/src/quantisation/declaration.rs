//! What a checkpoint says about its quantisation, in the three conventions that are found.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Mode, Scheme, SchemeError};
use crate::{shown::shown, tool::Tool};

/// Manifest of a quantised model, in its root.
pub const MANIFEST: &str = "quantization.json";
/// Manifest of a quantised control model, beside its weights.
pub const CONTROLNET_MANIFEST: &str = "controlnet_quantization.json";

/// mflux quantises in groups of this size only.
const MFLUX_GROUP_SIZE: u64 = 64;
/// Most layers that a manifest may list.
const LAYERS_MAX: usize = 1 << 17;

/// How a checkpoint is meant to be quantised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declaration {
    /// Who wrote it.
    pub tool: Tool,
    /// For layers without an entry.
    pub default: Scheme,
    layers: BTreeMap<String, Option<Scheme>>,
}

/// Why a declaration cannot be used. Weights whose quantisation is in doubt are refused: read with wrong numbers they
/// are noise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeclarationError {
    /// Not JSON of that form.
    #[error("`{path}` is damaged: {problem}")]
    Malformed {
        /// The file.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// Numbers that MLX does not have.
    #[error("`{path}`: {of}: {problem}")]
    Unsupported {
        /// The file.
        path: String,
        /// The layer, or the default.
        of: String,
        /// What is wrong.
        problem: SchemeError,
    },
}

#[derive(Deserialize)]
struct WrittenManifest {
    group_size: u64,
    bits: u64,
    mode: String,
    layers: Vec<WrittenLayer>,
}

#[derive(Deserialize)]
struct WrittenLayer {
    name: String,
    shape: [u64; 2],
    in_dim: u64,
    out_dim: u64,
    group_size: Option<u64>,
    bits: Option<u64>,
    mode: Option<String>,
}

impl Declaration {
    /// Reads a manifest.
    ///
    /// # Errors
    /// [`DeclarationError`].
    pub fn from_manifest(path: &str, json: &[u8]) -> Result<Self, DeclarationError> {
        let malformed = |problem: String| DeclarationError::Malformed { path: path.to_owned(), problem };
        let written: WrittenManifest =
            serde_json::from_slice(json).map_err(|error| malformed(shown(&error.to_string())))?;
        if written.layers.len() > LAYERS_MAX {
            return Err(malformed(format!("it lists more than {LAYERS_MAX} layers")));
        }
        let default = scheme(path, "the default", &written.mode, Some(written.bits), Some(written.group_size))?;
        let mut layers = BTreeMap::new();
        for layer in written.layers {
            if layer.shape != [layer.out_dim, layer.in_dim] {
                return Err(malformed(format!(
                    "layer `{}` has shape {:?}, and its out_dim and in_dim are {} and {}",
                    shown(&layer.name),
                    layer.shape,
                    layer.out_dim,
                    layer.in_dim
                )));
            }
            // What a layer leaves out it has from the default, unless its mode is another.
            let mode = layer.mode.as_deref().unwrap_or(&written.mode);
            let inherits = mode == written.mode;
            let bits = layer.bits.or(inherits.then_some(written.bits));
            let group_size = layer.group_size.or(inherits.then_some(written.group_size));
            let scheme = scheme(path, &format!("layer `{}`", shown(&layer.name)), mode, bits, group_size)?;
            if layers.insert(layer.name.clone(), Some(scheme)).is_some() {
                return Err(malformed(format!("layer `{}` is listed twice", shown(&layer.name))));
            }
        }
        Ok(Self { tool: Tool::ZImageSwift, default, layers })
    }

    /// Reads the `quantization` of a `config.json`; `None` when it has none.
    ///
    /// # Errors
    /// [`DeclarationError`].
    pub fn from_config(path: &str, config: &Value) -> Result<Option<Self>, DeclarationError> {
        let malformed =
            |problem: &str| DeclarationError::Malformed { path: path.to_owned(), problem: problem.to_owned() };
        let found = match (config.get("quantization"), config.get("quantization_config")) {
            (Some(found), _) => found,
            // Other libraries write this one key too, about kinds of quantisation that are not MLX's.
            (None, Some(found)) if found.get("group_size").is_some() && found.get("quant_method").is_none() => found,
            _ => return Ok(None),
        };
        if found.is_null() {
            return Ok(None);
        }
        let entries = found.as_object().ok_or_else(|| malformed("`quantization` is not an object"))?;
        let default = scheme_of(path, "`quantization`", entries)?;
        let mut layers = BTreeMap::new();
        for (layer, entry) in entries {
            let of = format!("layer `{}`", shown(layer));
            match entry {
                Value::Bool(false) => drop(layers.insert(layer.clone(), None)),
                // mlx-lm writes `true` for a layer that has the default.
                Value::Bool(true) => drop(layers.insert(layer.clone(), Some(default))),
                Value::Object(entry) => drop(layers.insert(layer.clone(), Some(scheme_of(path, &of, entry)?))),
                _ => {}
            }
        }
        Ok(Some(Self { tool: Tool::MlxLm, default, layers }))
    }

    /// Reads the metadata of a safetensors file that mflux wrote; `None` when it did not, or did not quantise.
    ///
    /// # Errors
    /// [`DeclarationError`].
    pub fn from_metadata(path: &str, metadata: &BTreeMap<String, String>) -> Result<Option<Self>, DeclarationError> {
        let level = match metadata.get("quantization_level").map(String::as_str) {
            None | Some("" | "None" | "null") => return Ok(None),
            Some(level) => level,
        };
        let bits = level.parse().map_err(|_| DeclarationError::Malformed {
            path: path.to_owned(),
            problem: format!("`quantization_level` is {:?}, expected a number of bits", shown(level)),
        })?;
        let default = scheme(path, "`quantization_level`", Mode::Affine.name(), Some(bits), Some(MFLUX_GROUP_SIZE))?;
        Ok(Some(Self { tool: Tool::Mflux, default, layers: BTreeMap::new() }))
    }

    /// Entries for single layers, under the names of the declaration; `None` for a layer that is not quantised.
    #[must_use]
    pub fn entries(&self) -> &BTreeMap<String, Option<Scheme>> {
        &self.layers
    }

    /// The entry of a layer of `component`, by its name with or without that of the component before it, and with
    /// `encoder.` for `model.`, as zimage.swift calls the language model. The outer `None` is no entry.
    #[must_use]
    pub fn entry(&self, component: &str, layer: &str) -> Option<Option<Scheme>> {
        let module = layer.strip_prefix("model.").map(|rest| format!("encoder.{rest}"));
        [Some(layer.to_owned()), module].into_iter().flatten().find_map(|name| {
            let prefixed = self.layers.get(&format!("{component}.{name}"));
            prefixed.or_else(|| self.layers.get(&name)).copied()
        })
    }
}

fn scheme(
    path: &str,
    of: &str,
    mode: &str,
    bits: Option<u64>,
    group_size: Option<u64>,
) -> Result<Scheme, DeclarationError> {
    Mode::parse(mode)
        .and_then(|mode| Scheme::new(mode, bits, group_size))
        .map_err(|problem| DeclarationError::Unsupported { path: path.to_owned(), of: of.to_owned(), problem })
}

fn scheme_of(path: &str, of: &str, entry: &Map<String, Value>) -> Result<Scheme, DeclarationError> {
    let number = |key: &str| match entry.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_u64().map(Some).ok_or_else(|| DeclarationError::Malformed {
            path: path.to_owned(),
            problem: format!("{of}: `{key}` is {}, expected a whole number", shown(&value.to_string())),
        }),
    };
    let mode = match entry.get("mode") {
        None | Some(Value::Null) => Mode::Affine.name(),
        Some(Value::String(mode)) => mode,
        Some(other) => {
            return Err(DeclarationError::Malformed {
                path: path.to_owned(),
                problem: format!("{of}: `mode` is {}, expected a word", shown(&other.to_string())),
            });
        }
    };
    scheme(path, of, mode, number("bits")?, number("group_size")?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn manifest(json: &Value) -> Result<Declaration, DeclarationError> {
        Declaration::from_manifest(MANIFEST, json.to_string().as_bytes())
    }

    fn layer(name: &str, rest: &Value) -> Value {
        let mut all = json!({"name": name, "shape": [8, 64], "in_dim": 64, "out_dim": 8, "file": ""});
        all.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        all
    }

    fn affine(bits: u64, group_size: u64) -> Scheme {
        Scheme::new(Mode::Affine, Some(bits), Some(group_size)).unwrap()
    }

    #[test]
    fn overrides_are_found_with_and_without_the_component() {
        let found = manifest(&json!({
            "model_id": "a/b", "revision": "main", "group_size": 32, "bits": 8, "mode": "affine",
            "layers": [
                layer("transformer.layers.0.attention.to_q", &json!({"bits": 4})),
                layer("control_layers.0.attention.to_q", &json!({"group_size": 64, "bits": 4, "mode": "affine", "quant_file": "x"})),
                layer("text_encoder.encoder.layers.0.self_attn.q_proj", &json!({"mode": "mxfp4"})),
            ],
        }))
        .unwrap();
        assert_eq!(found.default, affine(8, 32));
        assert_eq!(found.entry("transformer", "layers.0.attention.to_q"), Some(Some(affine(4, 32))));
        assert_eq!(found.entry("controlnet", "control_layers.0.attention.to_q"), Some(Some(affine(4, 64))));
        let q_proj = found.entry("text_encoder", "model.layers.0.self_attn.q_proj").flatten().unwrap();
        assert_eq!((q_proj.mode(), q_proj.bits(), q_proj.group_size()), (Mode::Mxfp4, 4, 32));
        assert_eq!(found.entry("transformer", "layers.1.attention.to_q"), None);
        assert_eq!(found.entries().len(), 3);
    }

    #[test]
    fn a_damaged_manifest_is_an_error() {
        let good = json!({"group_size": 32, "bits": 8, "mode": "affine", "layers": []});
        assert!(manifest(&good).unwrap().entries().is_empty());
        let with = |key: &str, value: Value| {
            let mut all = good.clone();
            all[key] = value;
            manifest(&all).unwrap_err().to_string()
        };
        let twice = json!([layer("a", &json!({})), layer("a", &json!({}))]);
        let wrong = json!([layer("a", &json!({"in_dim": 65}))]);
        let cases = [
            (with("group_size", json!(48)), "48"),
            (with("bits", json!(9)), "9"),
            (with("bits", json!("8")), "invalid type"),
            (with("mode", json!("int4")), "int4"),
            (with("layers", json!(null)), "invalid type"),
            (with("layers", twice), "twice"),
            (with("layers", wrong), "in_dim"),
            (with("layers", json!([layer("a", &json!({"bits": 7}))])), "layer `a`"),
            (manifest(&json!({"group_size": 32, "bits": 8, "layers": []})).unwrap_err().to_string(), "mode"),
            (Declaration::from_manifest(MANIFEST, b"{").unwrap_err().to_string(), "EOF"),
        ];
        for (error, word) in cases {
            assert!(error.contains(word) && error.contains(MANIFEST), "{error} should name {word}");
        }
    }

    #[test]
    fn a_config_is_read_as_mlx_lm_writes_it() {
        let config = json!({"quantization": {"group_size": 64, "bits": 4, "lm_head": false, "model.embed_tokens": {"bits": 8, "group_size": 32}, "x": true}});
        let found = Declaration::from_config("config.json", &config).unwrap().unwrap();
        assert_eq!((found.tool, found.default), (Tool::MlxLm, affine(4, 64)));
        assert_eq!(found.entry("model", "lm_head"), Some(None));
        assert_eq!(found.entry("model", "model.embed_tokens"), Some(Some(affine(8, 32))));
        assert_eq!(found.entry("model", "x"), Some(Some(affine(4, 64))));
        let none = [
            json!({}),
            json!({"quantization": null}),
            json!({"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}}),
        ];
        for config in none {
            assert_eq!(Declaration::from_config("config.json", &config), Ok(None), "{config}");
        }
        let second = json!({"quantization_config": {"group_size": 32, "bits": 8}});
        assert_eq!(Declaration::from_config("config.json", &second).unwrap().unwrap().default, affine(8, 32));
        for damaged in [
            json!({"quantization": 4}),
            json!({"quantization": {"bits": "4"}}),
            json!({"quantization": {"bits": 4, "mode": 1}}),
            json!({"quantization": {"bits": 4, "a": {"bits": 1}}}),
        ] {
            assert!(Declaration::from_config("config.json", &damaged).is_err(), "{damaged}");
        }
    }

    #[test]
    fn metadata_is_read_as_mflux_writes_it() {
        let read = |level: Option<&str>| {
            let mut metadata = BTreeMap::from([("mflux_version".to_owned(), "0.9".to_owned())]);
            metadata.extend(level.map(|level| ("quantization_level".to_owned(), level.to_owned())));
            Declaration::from_metadata("0.safetensors", &metadata)
        };
        for none in [None, Some("None"), Some("null"), Some("")] {
            assert_eq!(read(none), Ok(None));
        }
        assert_eq!(read(Some("8")).unwrap().unwrap().default, affine(8, 64));
        assert!(read(Some("eight")).is_err() && read(Some("7")).is_err());
    }
}
