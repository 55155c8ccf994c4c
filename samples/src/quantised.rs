//! Components whose matrices are packed, as the tools lay them out. The codes are made up: what counts is where they are.

use serde_json::json;

use crate::{Checkpoint, Dtype, Tensor};

/// How layers are quantised, and where it is declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantisation {
    /// zimage.swift: affine, F32 scales, declared in `quantization.json`.
    Manifest {
        /// Bits of a code.
        bits: u64,
        /// Elements that share a scale.
        group_size: u64,
    },
    /// mlx-lm: affine, scales in the component's dtype, declared in the component's `config.json`.
    MlxLm {
        /// Bits of a code.
        bits: u64,
        /// Elements that share a scale.
        group_size: u64,
    },
    /// mflux: affine in groups of 64, declared in the metadata of the files.
    Mflux {
        /// Bits of a code.
        bits: u64,
    },
    /// mxfp4, declared in `quantization.json`.
    Mxfp4,
    /// Nothing declares it.
    Undeclared {
        /// Bits of a code.
        bits: u64,
        /// Elements that share a scale.
        group_size: u64,
    },
}

impl Checkpoint {
    /// Packs the matrices of a component that zimage.swift would: no embeddings, no norms, none of the first and last
    /// layer, and only rows of whole groups. Returns how many.
    ///
    /// # Panics
    /// When there is no such component, or its config is not JSON.
    pub fn quantise(&mut self, component: &str, how: Quantisation) -> usize {
        let (bits, group_size, mode) = match how {
            Quantisation::Manifest { bits, group_size }
            | Quantisation::MlxLm { bits, group_size }
            | Quantisation::Undeclared { bits, group_size } => (bits, group_size, "affine"),
            Quantisation::Mflux { bits } => (bits, 64, "affine"),
            Quantisation::Mxfp4 => (4, 32, "mxfp4"),
        };
        let mut layers = Vec::new();
        let mut tensors = Vec::new();
        for tensor in std::mem::take(&mut self.component_mut(component).tensors) {
            let base = tensor.name.strip_suffix(".weight").unwrap_or_default().to_owned();
            let is_packed = !base.is_empty()
                && tensor.shape.len() == 2
                && !["embed", "norm"].iter().any(|word| base.contains(word))
                && !base.starts_with("all_")
                && tensor.shape[1] % group_size == 0;
            if !is_packed {
                tensors.push(tensor);
                continue;
            }
            let (rows, columns) = (tensor.shape[0], tensor.shape[1]);
            let scale = match how {
                Quantisation::Manifest { .. } => Dtype::F32,
                Quantisation::Mxfp4 => Dtype::U8,
                Quantisation::MlxLm { .. } | Quantisation::Mflux { .. } | Quantisation::Undeclared { .. } => {
                    tensor.dtype
                }
            };
            let groups = vec![rows, columns / group_size];
            let part = |name: &str, dtype, shape| Tensor { name: format!("{base}.{name}"), dtype, shape };
            tensors.push(part("weight", Dtype::U32, vec![rows, columns * bits / 32]));
            tensors.push(part("scales", scale, groups.clone()));
            if mode == "affine" {
                tensors.push(part("biases", scale, groups));
            }
            layers.push(json!({"name": format!("{component}.{base}"), "shape": [rows, columns], "in_dim": columns,
                "out_dim": rows, "file": "", "group_size": group_size, "bits": bits, "mode": mode}));
        }
        self.component_mut(component).tensors = tensors;
        let count = layers.len();
        let manifest = json!({"model_id": "org/quantised", "revision": "main", "group_size": group_size,
            "bits": bits, "mode": mode, "layers": layers});
        self.declare(component, how, &manifest);
        count
    }

    /// Writes down how the component is quantised, where the tool of `how` does.
    fn declare(&mut self, component: &str, how: Quantisation, manifest: &serde_json::Value) {
        match how {
            Quantisation::Manifest { .. } | Quantisation::Mxfp4 => {
                self.put_file("quantization.json", manifest.to_string());
            }
            Quantisation::MlxLm { bits, group_size } => {
                let path = format!("{component}/config.json");
                let config = self.file(&path).expect("the component has a config");
                let mut config: serde_json::Value = serde_json::from_slice(config).expect("a config is JSON");
                let quantization = json!({"group_size": group_size, "bits": bits});
                config["quantization"] = quantization.clone();
                config["quantization_config"] = quantization;
                self.put_file(&path, config.to_string());
            }
            Quantisation::Mflux { bits } => {
                let component = self.component_mut(component);
                component.put_metadata("mflux_version", "0.9.0").put_metadata("quantization_level", &bits.to_string());
            }
            Quantisation::Undeclared { .. } => {}
        }
    }
}
