//! What a checkpoint says about its quantisation: in a manifest, in `config.json`, or in the metadata of its files.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Map, Value};

use super::{Foreign, Mode, Scheme, SchemeError};
use crate::{layer_name::WEIGHT, shown::shown, tool::Tool};

/// Manifest of a quantised model, in its root.
pub const MANIFEST: &str = "quantization.json";
/// Manifest of a quantised control model, beside its weights.
pub const CONTROLNET_MANIFEST: &str = "controlnet_quantization.json";

/// mflux quantises in groups of this size only.
const MFLUX_GROUP_SIZE: u64 = 64;
/// Most layers that a manifest may list.
const LAYERS_MAX: usize = 1 << 17;

/// Keys of an MLX quantisation that have a meaning here.
const SCHEME_KEYS: [&str; 3] = ["group_size", "bits", "mode"];
/// Keys that mlx-lm writes beside them: that a layer has a global scale, which the tensor beside it must confirm, and
/// that its input is quantised, on which no stored weight depends. Their values are booleans; a number would be a
/// factor.
const HARMLESS_KEYS: [&str; 2] = [GLOBAL_SCALE, "quantize_input"];
const GLOBAL_SCALE: &str = "global_scale";

/// What a declaration says about one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Declared {
    /// Nothing: the layer has no entry.
    Silent,
    /// It is not quantised.
    Plain,
    /// It is quantised by this scheme.
    Packed(Scheme),
}

/// How a checkpoint is meant to be quantised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declaration {
    /// The program that wrote it.
    pub tool: Tool,
    /// The scheme of layers without an entry; `None` when the declaration names none of MLX's formats.
    pub default: Option<Scheme>,
    /// A format that the declaration names and MLX does not have.
    pub foreign: Option<Foreign>,
    layers: BTreeMap<String, Declared>,
    /// Whether layers are said to have a global scale: by entry, and of all without an entry.
    global_scales: (BTreeMap<String, bool>, Option<bool>),
    /// Entries that are `true` and no more, which may be switches of all layers.
    switches: BTreeSet<String>,
    /// Keys that have no meaning here, in words, by the entry that has them.
    doubts: BTreeMap<String, String>,
    /// Keys that have no meaning here and concern all layers.
    doubt: Option<String>,
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
    #[serde(default, rename = "model_id")]
    _model_id: IgnoredAny,
    #[serde(default, rename = "revision")]
    _revision: IgnoredAny,
    #[serde(flatten)]
    others: BTreeMap<String, IgnoredAny>,
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
    #[serde(default, rename = "file")]
    _file: IgnoredAny,
    #[serde(default, rename = "quant_file")]
    _quant_file: IgnoredAny,
    #[serde(flatten)]
    others: BTreeMap<String, IgnoredAny>,
}

/// `` `a`, `b` `` of keys that have no meaning here; `None` when there are none.
fn unknown<'a>(keys: impl Iterator<Item = &'a String>) -> Option<String> {
    let keys: Vec<String> = keys.map(|key| format!("`{}`", shown(key))).collect();
    (!keys.is_empty()).then(|| keys.join(", "))
}

impl Declaration {
    fn of(tool: Tool, default: Option<Scheme>, foreign: Option<Foreign>) -> Self {
        Self {
            tool,
            default,
            foreign,
            layers: BTreeMap::new(),
            global_scales: (BTreeMap::new(), None),
            switches: BTreeSet::new(),
            doubts: BTreeMap::new(),
            doubt: None,
        }
    }

    /// Reads a manifest.
    ///
    /// # Errors
    /// When it is not JSON of that form, lists a layer twice or with two shapes, or has numbers that MLX does not have.
    pub fn from_manifest(path: &str, json: &[u8]) -> Result<Self, DeclarationError> {
        let malformed = |problem: String| DeclarationError::Malformed { path: path.to_owned(), problem };
        let written: WrittenManifest =
            serde_json::from_slice(json).map_err(|error| malformed(shown(&error.to_string())))?;
        if written.layers.len() > LAYERS_MAX {
            return Err(malformed(format!("it lists more than {LAYERS_MAX} layers")));
        }
        let default = scheme(path, "the default", &written.mode, Some(written.bits), Some(written.group_size))?;
        let mut declaration = Self::of(Tool::ZImageSwift, Some(default), None);
        declaration.doubt = unknown(written.others.keys()).map(|keys| format!("`{path}` has {keys}"));
        for layer in &written.layers {
            let name = shown(&layer.name);
            if layer.shape != [layer.out_dim, layer.in_dim] {
                let WrittenLayer { shape, out_dim, in_dim, .. } = layer;
                return Err(malformed(format!(
                    "layer `{name}` has shape {shape:?}, and its out_dim and in_dim are {out_dim} and {in_dim}"
                )));
            }
            // A layer inherits from the default what it leaves out, unless it has another mode.
            let mode = layer.mode.as_deref().unwrap_or(&written.mode);
            let inherits = mode == written.mode;
            let bits = layer.bits.or(inherits.then_some(written.bits));
            let group_size = layer.group_size.or(inherits.then_some(written.group_size));
            let scheme = scheme(path, &format!("layer `{name}`"), mode, bits, group_size)?;
            if let Some(keys) = unknown(layer.others.keys()) {
                declaration.doubts.insert(layer.name.clone(), format!("its entry in `{path}` has {keys}"));
            }
            if declaration.layers.insert(layer.name.clone(), Declared::Packed(scheme)).is_some() {
                return Err(malformed(format!("layer `{name}` is listed twice")));
            }
        }
        Ok(declaration)
    }

    /// Reads the `quantization` and `quantization_config` of a `config.json`; `None` when it has neither.
    ///
    /// # Errors
    /// When they are not of the form that mlx-lm and transformers write, have numbers that MLX does not have, or contradict
    /// each other.
    pub fn from_config(path: &str, config: &Value) -> Result<Option<Self>, DeclarationError> {
        // Models of text and images keep the settings of the text model below a key of their own.
        let places = [config, config.get("text_config").unwrap_or(&Value::Null)];
        let is_said = |found: &&Value| !found.is_null() && found.as_object().is_none_or(|keys| !keys.is_empty());
        let find = |key: &str| places.iter().find_map(|place| place.get(key).filter(is_said));
        let (own, shared) = (find("quantization"), find("quantization_config"));
        let foreign = shared.and_then(|shared| Foreign::of(path, shared));
        match (own, shared, foreign) {
            (None, None, _) => Ok(None),
            (None, Some(_), Some(foreign)) => Ok(Some(Self::of(Tool::Unknown, None, Some(foreign)))),
            (None, Some(shared), None) if shared.get("group_size").is_none() => {
                let keys = unknown(shared.as_object().into_iter().flat_map(Map::keys)).unwrap_or_default();
                let place = format!("`quantization_config` in `{path}` has {keys} and no `quant_method`, which");
                Ok(Some(Self::of(Tool::Unknown, None, Some(Foreign::unnamed(place)))))
            }
            (None, Some(shared), None) => Self::of_mlx_lm(path, "quantization_config", shared).map(Some),
            (Some(own), None, _) => Self::of_mlx_lm(path, "quantization", own).map(Some),
            // Older versions of mlx-lm kept what the converted model had said of itself.
            (Some(own), Some(_), Some(foreign)) => {
                Ok(Some(Self { foreign: Some(foreign), ..Self::of_mlx_lm(path, "quantization", own)? }))
            }
            (Some(own), Some(shared), None) => {
                let declaration = Self::of_mlx_lm(path, "quantization", own)?;
                if own == shared || Self::of_mlx_lm(path, "quantization_config", shared)? == declaration {
                    return Ok(Some(declaration));
                }
                let problem = "`quantization` and `quantization_config` contradict each other".to_owned();
                Err(DeclarationError::Malformed { path: path.to_owned(), problem })
            }
        }
    }

    /// Reads what mlx-lm writes under `key`.
    fn of_mlx_lm(path: &str, key: &str, found: &Value) -> Result<Self, DeclarationError> {
        let entries = found.as_object().ok_or_else(|| DeclarationError::Malformed {
            path: path.to_owned(),
            problem: format!("`{key}` is not an object"),
        })?;
        let default = scheme_of(path, &format!("`{key}`"), entries)?;
        let mut declaration = Self::of(Tool::MlxLm, Some(default), None);
        let is_known = |key: &str, value: &Value| {
            SCHEME_KEYS.contains(&key) || value.is_null() || (HARMLESS_KEYS.contains(&key) && value.is_boolean())
        };
        let mut others = Vec::new();
        declaration.global_scales.1 = entries.get(GLOBAL_SCALE).and_then(Value::as_bool);
        for (name, entry) in entries {
            let declared = match entry {
                Value::Object(entry) => {
                    let strange = entry.iter().filter(|(key, value)| !is_known(key, value)).map(|(key, _)| key);
                    if let Some(keys) = unknown(strange) {
                        declaration.doubts.insert(name.clone(), format!("its entry in `{path}` has {keys}"));
                    }
                    if let Some(has_one) = entry.get(GLOBAL_SCALE).and_then(Value::as_bool) {
                        declaration.global_scales.0.insert(name.clone(), has_one);
                    }
                    Declared::Packed(scheme_of(path, &format!("layer `{}`", shown(name)), entry)?)
                }
                _ if is_known(name, entry) => continue,
                Value::Bool(false) => Declared::Plain,
                // mlx-lm writes `true` for a layer that has the default.
                Value::Bool(true) => {
                    declaration.switches.insert(name.clone());
                    Declared::Packed(default)
                }
                _ => {
                    others.push(name);
                    continue;
                }
            };
            declaration.layers.insert(name.clone(), declared);
        }
        declaration.doubt = unknown(others.into_iter()).map(|keys| format!("`{key}` in `{path}` has {keys}"));
        Ok(declaration)
    }

    /// Reads the metadata of a safetensors file that mflux wrote; `None` when it did not, or the file is not quantised.
    ///
    /// # Errors
    /// When mflux's `quantization_level` is not a number of bits that MLX has.
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
        Ok(Some(Self::of(Tool::Mflux, Some(default), None)))
    }

    /// Names of the layers that are declared as quantised, as the declaration spells them.
    pub fn listed(&self) -> impl Iterator<Item = &str> {
        self.listed_schemes().map(|(name, _)| name)
    }

    fn listed_schemes(&self) -> impl Iterator<Item = (&str, Scheme)> {
        self.layers.iter().filter_map(|(name, declared)| match declared {
            Declared::Packed(scheme) => Some((name.as_str(), *scheme)),
            Declared::Silent | Declared::Plain => None,
        })
    }

    /// Entries that may mean this layer under another spelling: with other names of the modules around it, or with the name
    /// of a tensor.
    pub fn alike<'a>(&'a self, layer: &'a str) -> impl Iterator<Item = (&'a str, Scheme)> {
        let ends = |long: &str, short: &str| long.strip_suffix(short).is_some_and(|before| before.ends_with('.'));
        self.listed_schemes().filter(move |(entry, _)| {
            let entry = entry.strip_suffix(WEIGHT).unwrap_or(entry);
            entry == layer || ends(entry, layer) || ends(layer, entry)
        })
    }

    /// What the declaration says of a layer, and the name of its entry. `names` are the names that a writer may have
    /// given the layer, each with or without its component in front.
    #[must_use]
    pub fn entry(&self, component: &str, names: &[&str]) -> (Declared, Option<&str>) {
        let found = names.iter().find_map(|name| {
            let prefixed = self.layers.get_key_value(&format!("{component}.{name}"));
            prefixed.or_else(|| self.layers.get_key_value(*name))
        });
        found.map_or((Declared::Silent, None), |(name, declared)| (*declared, Some(name)))
    }

    /// Whether a layer with that entry, or without one, is said to have a global scale.
    #[must_use]
    pub fn global_scale(&self, entry: Option<&str>) -> Option<bool> {
        let (entries, of_others) = &self.global_scales;
        entry.map_or(*of_others, |entry| entries.get(entry).copied())
    }

    /// Entries that are `true` and no more. One that names no layer is a setting whose meaning is not known.
    pub fn switches(&self) -> impl Iterator<Item = &str> {
        self.switches.iter().map(String::as_str)
    }

    /// What the entry of a layer, or the declaration as a whole, says and has no meaning here. Nothing may be computed from
    /// such a layer.
    #[must_use]
    pub fn doubt(&self, entry: Option<&str>) -> Option<&str> {
        entry.and_then(|entry| self.doubts.get(entry)).or(self.doubt.as_ref()).map(String::as_str)
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

    fn entry(declaration: &Declaration, component: &str, layer: &str) -> Declared {
        declaration.entry(component, &[layer]).0
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
        assert_eq!(found.default, Some(affine(8, 32)));
        assert_eq!(entry(&found, "transformer", "layers.0.attention.to_q"), Declared::Packed(affine(4, 32)));
        assert_eq!(entry(&found, "controlnet", "control_layers.0.attention.to_q"), Declared::Packed(affine(4, 64)));
        // zimage.swift lists layers of the language model under the names of its modules.
        let names = ["model.layers.0.self_attn.q_proj", "encoder.layers.0.self_attn.q_proj"];
        let mxfp4 = Scheme::new(Mode::Mxfp4, None, None).unwrap();
        let listed = Some("text_encoder.encoder.layers.0.self_attn.q_proj");
        assert_eq!(found.entry("text_encoder", &names), (Declared::Packed(mxfp4), listed));
        assert_eq!(entry(&found, "transformer", "layers.1.attention.to_q"), Declared::Silent);
        assert_eq!(found.listed().count(), 3);
    }

    #[test]
    fn a_damaged_manifest_is_an_error() {
        let good = json!({"group_size": 32, "bits": 8, "mode": "affine", "layers": []});
        assert!(manifest(&good).unwrap().listed().count() == 0);
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
        assert_eq!((found.tool, found.default), (Tool::MlxLm, Some(affine(4, 64))));
        assert_eq!(entry(&found, "model", "lm_head"), Declared::Plain);
        assert_eq!(entry(&found, "model", "model.embed_tokens"), Declared::Packed(affine(8, 32)));
        assert_eq!(entry(&found, "model", "x"), Declared::Packed(affine(4, 64)));
        for config in [json!({}), json!({"quantization": null})] {
            assert_eq!(Declaration::from_config("config.json", &config), Ok(None), "{config}");
        }
        let second = json!({"quantization_config": {"group_size": 32, "bits": 8}});
        assert_eq!(Declaration::from_config("config.json", &second).unwrap().unwrap().default, Some(affine(8, 32)));
        for damaged in [
            json!({"quantization": 4}),
            json!({"quantization": {"bits": "4"}}),
            json!({"quantization": {"bits": 4, "mode": 1}}),
            json!({"quantization": {"bits": 4, "a": {"bits": 1}}}),
            json!({"quantization": {"bits": 4}, "quantization_config": {"bits": 8, "group_size": 64}}),
        ] {
            assert!(Declaration::from_config("config.json", &damaged).is_err(), "{damaged}");
        }
    }

    #[test]
    fn methods_of_other_libraries_are_named() {
        let read = |config: &Value| Declaration::from_config("config.json", config).unwrap().unwrap();
        let gptq = json!({"quant_method": "gptq", "bits": 4, "group_size": 128});
        let found = read(&json!({"quantization_config": gptq}));
        assert_eq!((found.tool, found.default), (Tool::Unknown, None));
        assert_eq!(found.foreign.unwrap().to_string(), "`quant_method` in `config.json` is `gptq`");
        let nested = read(&json!({"text_config": {"quantization_config": {"quant_method": "awq"}}}));
        assert_eq!(nested.foreign.unwrap().method, "awq");
        // mlx-lm converted it, and left what the model said before.
        let converted = read(&json!({"quantization": {"bits": 4}, "quantization_config": gptq}));
        assert_eq!(converted.default, Some(affine(4, 64)));
        assert!(converted.foreign.is_some());
        let unnamed = read(&json!({"quantization_config": {"load_in_4bit": true}})).foreign.unwrap();
        assert!(unnamed.place.contains("load_in_4bit"), "{unnamed}");
    }

    #[test]
    fn what_has_no_meaning_here_is_kept_as_a_doubt() {
        let read = |config: Value| Declaration::from_config("config.json", &config).unwrap().unwrap();
        let of_all = read(json!({"quantization": {"bits": 4, "zero_point": 8, "a": {"bits": 8}}}));
        assert!(of_all.doubt(None).unwrap().contains("`zero_point`"));
        assert!(of_all.doubt(Some("a")).unwrap().contains("`zero_point`"));
        let of_one = read(json!({"quantization": {"bits": 4, "a": {"bits": 8, "sym": true},
            "b": {"global_scale": true, "mode": "nvfp4"}}}));
        assert!(of_one.doubt(Some("a")).unwrap().contains("`sym`"));
        assert_eq!((of_one.doubt(Some("b")), of_one.doubt(None)), (None, None));
        let of_null = read(json!({"quantization": {"bits": 4, "zero_point": null, "a": null, "b": {"sym": null}}}));
        assert_eq!((of_null.doubt(Some("b")), of_null.doubt(None)), (None, None), "`null` says nothing");
        let of_factor = read(json!({"quantization": {"bits": 4, "global_scale": 0.5, "a": {"global_scale": 2}}}));
        assert!(of_factor.doubt(None).unwrap().contains("`global_scale`"), "a factor is no yes or no");
        assert!(of_factor.doubt(Some("a")).unwrap().contains("`global_scale`"));
        let of_manifest = manifest(&json!({"group_size": 32, "bits": 8, "mode": "affine", "rotation": 3, "layers": [
            layer("a", &json!({"zeros": 1}))]}))
        .unwrap();
        assert!(of_manifest.doubt(Some("a")).unwrap().contains("`zeros`"));
        assert!(of_manifest.doubt(None).unwrap().contains("`rotation`"));
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
        assert_eq!(read(Some("8")).unwrap().unwrap().default, Some(affine(8, 64)));
        assert!(read(Some("eight")).is_err() && read(Some("7")).is_err());
    }
}
