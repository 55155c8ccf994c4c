//! The config of a component, and what it has to say of weights that were treated.

use std::{collections::BTreeMap, fs, io::ErrorKind, path::Path};

use serde_json::{Map, Value, json};
use weightsd_proto::v1::Packing;

use crate::{
    Component, Dtype,
    folder_error::{FolderError, FolderFormat},
};

/// Keys under which programs look for the dtype of the weights. Older ones know the first only.
const DTYPE_KEYS: [&str; 2] = ["torch_dtype", "dtype"];
/// Keys under which quantised layers are declared.
const QUANTISATION_KEYS: [&str; 2] = ["quantization", "quantization_config"];

/// A `config.json`. One that is not there is empty.
pub(super) struct Config {
    object: Map<String, Value>,
}

impl Config {
    pub(super) fn read(path: &Path) -> Result<Config, FolderError> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Config { object: Map::new() }),
            Err(error) => return Err(FolderError::io("read", path)(error)),
        };
        let object = serde_json::from_slice(&bytes);
        let object = object.map_err(|source| FolderError::Config { path: path.to_owned(), source })?;
        Ok(Config { object })
    }

    /// The name that the weights must have, without the ending.
    pub(super) fn stem(&self, format: FolderFormat) -> &'static str {
        // diffusers writes its class into the configs of its own models; those of transformers have architectures.
        let is_of_diffusers = self.object.contains_key("_class_name");
        if format == FolderFormat::Diffusers && is_of_diffusers { "diffusion_pytorch_model" } else { "model" }
    }

    /// Makes it say what the weights are. Returns whether anything changed.
    pub(super) fn adapt(&mut self, component: &Component, format: FolderFormat) -> Result<bool, FolderError> {
        let before = self.object.clone();
        if let Some(dtype) = dtype(component) {
            let declared = |key: &&str| self.object.contains_key(*key);
            let keys: Vec<&str> = DTYPE_KEYS.iter().copied().filter(|key| declared(key)).collect();
            for key in
                if keys.is_empty() && !self.object.contains_key("_class_name") { vec![DTYPE_KEYS[0]] } else { keys }
            {
                self.object.insert(key.to_owned(), json!(dtype));
            }
        }
        let declared = quantisation(component)?;
        for key in QUANTISATION_KEYS {
            match &declared {
                Some(declared) if format == FolderFormat::Mlx => {
                    self.object.insert(key.to_owned(), declared.clone());
                }
                Some(_) => {}
                None => {
                    self.object.remove(key);
                }
            }
        }
        Ok(self.object != before)
    }

    pub(super) fn text(&self) -> String {
        format!("{:#}\n", Value::Object(self.object.clone()))
    }
}

/// The dtype of most of the floats, as torch calls it.
fn dtype(component: &Component) -> Option<&'static str> {
    let mut bytes: BTreeMap<&'static str, usize> = BTreeMap::new();
    for tensor in component.tensors() {
        let name = match tensor.dtype() {
            Dtype::BF16 => "bfloat16",
            Dtype::F16 => "float16",
            Dtype::F32 => "float32",
            _ => continue,
        };
        *bytes.entry(name).or_default() += tensor.bytes().len();
    }
    bytes.into_iter().max_by_key(|(_, bytes)| *bytes).map(|(name, _)| name)
}

/// The quantised layers as mlx-lm declares them: the most frequent scheme for all, and by name those of another one.
fn quantisation(component: &Component) -> Result<Option<Value>, FolderError> {
    let storage = component.storage();
    let layers = storage
        .quantised_layers()
        .map_err(|error| FolderError::Layers { component: component.name().to_owned(), problem: error.to_string() })?;
    let scheme = |packing: &Packing| {
        let mode = packing.mode().as_str_name().trim_start_matches("QUANTISATION_MODE_").to_lowercase();
        json!({"group_size": packing.group_size, "bits": packing.bits, "mode": mode})
    };
    let mut counts: BTreeMap<String, (usize, Value)> = BTreeMap::new();
    for layer in &layers {
        let scheme = scheme(layer.packing);
        counts.entry(scheme.to_string()).or_insert((0, scheme)).0 += 1;
    }
    let Some((_, mut declared)) = counts.into_values().max_by_key(|(count, _)| *count) else { return Ok(None) };
    let usual = declared.clone();
    for layer in &layers {
        let own = scheme(layer.packing);
        if own != usual {
            declared[layer.name] = own;
        }
    }
    Ok(Some(declared))
}
