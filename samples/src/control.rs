//! Control ("Fun") checkpoints for a transformer.

use weightsd_core::family::{ComponentSite, Membership};

use crate::{Checkpoint, Component, Dtype, Tensor};

/// Which control checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlVersion {
    /// Union 1.0: 136 tensors.
    V1,
    /// Union 2.0 without unused refiners: 259.
    V2,
    /// Union 2.1: 295.
    V2_1,
    /// Union 2.1 lite: 91.
    V2_1Lite,
}

impl Checkpoint {
    /// Adds the component `controlnet`, in BF16, for the checkpoint's transformer.
    ///
    /// # Panics
    /// When the transformer has lost the block that is copied.
    pub fn add_control(&mut self, version: ControlVersion) -> &mut Self {
        let (layers, has_refiners, are_projected, channels) = match version {
            ControlVersion::V1 => (6, true, false, 16),
            ControlVersion::V2 => (15, false, false, 33),
            ControlVersion::V2_1 => (15, true, true, 33),
            ControlVersion::V2_1Lite => (3, true, true, 33),
        };
        let transformer = self.component("transformer");
        let block: Vec<(String, Vec<u64>)> = transformer
            .tensors()
            .iter()
            .filter_map(|tensor| Some((tensor.name.strip_prefix("layers.0.")?.to_owned(), tensor.shape.clone())))
            .collect();
        let dim = transformer.tensor("layers.0.attention_norm1.weight").shape[0];
        let mut tensors = Vec::new();
        let mut add = |name: String, shape: Vec<u64>| tensors.push(Tensor { name, dtype: Dtype::BF16, shape });
        add("control_all_x_embedder.2-1.weight".to_owned(), vec![dim, 4 * channels]);
        add("control_all_x_embedder.2-1.bias".to_owned(), vec![dim]);
        let layers = (0..layers).map(|layer| (format!("control_layers.{layer}"), true));
        let refiners = (0..if has_refiners { 2 } else { 0 })
            .map(|refiner| (format!("control_noise_refiner.{refiner}"), are_projected));
        for (base, is_projected) in layers.chain(refiners) {
            for (name, shape) in &block {
                add(format!("{base}.{name}"), shape.clone());
            }
            for projection in ["after_proj", "before_proj"] {
                if is_projected && (projection == "after_proj" || base.ends_with(".0")) {
                    add(format!("{base}.{projection}.weight"), vec![dim, dim]);
                    add(format!("{base}.{projection}.bias"), vec![dim]);
                }
            }
        }
        let site = ComponentSite {
            name: "controlnet".to_owned(),
            folder: "controlnet".to_owned(),
            stem: "diffusion_pytorch_model".to_owned(),
            config: None,
            membership: Membership::Member,
        };
        let metadata = [("format".to_owned(), "pt".to_owned())].into();
        self.components.push(Component { site, tensors, shard_bytes_max: u64::MAX, metadata, numbered: false });
        self
    }
}
