//! Z-Image: a flow-matching transformer, a Qwen3 text encoder and the FLUX autoencoder, in diffusers' layout.
//!
//! Names and shapes are those of `Tongyi-MAI/Z-Image-Turbo` and `Tongyi-MAI/Z-Image`.

mod adapter;
mod config;
mod control;
mod dialects;
mod infer;
pub mod known;
mod names;
mod parts;
mod text_encoder;
mod transformer;
mod vae;

use std::collections::BTreeMap;

pub use self::control::{ControlConfig, ControlVersion};
pub use config::{SchedulerConfig, TextEncoderConfig, TransformerConfig, VaeConfig};
use serde::Serialize;

use super::{
    ComponentSite, ConfigError, Description, Family, InferError, Inferred, ModelFacts, Named, language_adapter,
    read_config, within,
};
use crate::{
    adapter::Targets, catalogue::Catalogue, derive::Float, naming::Naming, parts::PartSign, rewrite::Rules,
    table::Table, tool::Tool,
};

/// The family; see the module.
#[derive(Debug)]
pub struct ZImage;

/// Path of the scheduler's config.
pub const SCHEDULER_CONFIG: &str = "scheduler/scheduler_config.json";

/// A config that determines the tensors of a component.
trait Blueprint: serde::de::DeserializeOwned + Serialize {
    /// Why no model can have these values.
    fn check(&self) -> Result<(), String>;
    /// The tensors, in checkpoint names.
    fn catalogue(&self) -> Catalogue;
    /// How many blocks there are that another layout counts from the other end.
    fn blocks_from_the_end(&self) -> Option<u64> {
        None
    }
}

impl Family for ZImage {
    fn id(&self) -> &'static str {
        "z-image"
    }

    fn detects(&self, facts: &ModelFacts) -> bool {
        let class_of =
            |path| read_config::<serde_json::Value>(facts, path).ok()?["_class_name"].as_str().map(str::to_owned);
        match class_of("model_index.json") {
            Some(class) => class.starts_with("ZImage"),
            None => class_of("transformer/config.json").is_some_and(|class| class == "ZImageTransformer2DModel"),
        }
    }

    fn components(&self, _: &ModelFacts) -> Vec<ComponentSite> {
        let site = |name: &str, stem: &str| ComponentSite {
            name: name.to_owned(),
            folder: name.to_owned(),
            stem: stem.to_owned(),
            config: Some(format!("{name}/config.json")),
        };
        vec![
            site("transformer", "diffusion_pytorch_model"),
            site("text_encoder", "model"),
            site("vae", "diffusion_pytorch_model"),
        ]
    }

    fn describe(&self, site: &ComponentSite, facts: &ModelFacts) -> Result<Description, ConfigError> {
        match site.name.as_str() {
            "transformer" => blueprint::<TransformerConfig>(site, facts, names::TRANSFORMER),
            "text_encoder" => blueprint::<TextEncoderConfig>(site, facts, names::TEXT_ENCODER),
            _ => blueprint::<VaeConfig>(site, facts, Naming::NONE),
        }
    }

    fn parts(&self) -> &'static [PartSign] {
        &parts::PARTS
    }

    fn rules(&self, component: &str, tool: Tool) -> Rules {
        match (component, tool) {
            ("vae", Tool::Mflux) => Rules { set: &dialects::VAE_MFLUX, count: None },
            _ => rules(component, None),
        }
    }

    fn adapter_targets(&self, component: &str) -> Option<&'static Targets> {
        match component {
            "transformer" => Some(&adapter::TARGETS),
            "text_encoder" => Some(&language_adapter::TARGETS),
            _ => None,
        }
    }

    fn float(&self, _: &str) -> Option<Float> {
        Some(Float::Bf16)
    }

    /// The layers that zimage.swift quantises.
    fn quantises(&self, component: &str, layer: &str) -> bool {
        let is_plain = ["all_x_embedder", "all_final_layer"].iter().any(|start| layer.starts_with(start));
        component != "vae" && !is_plain && !layer.contains("embed") && !layer.contains("norm")
    }

    fn infer(&self, component: &str, table: &Table, model: Named) -> Result<Inferred, InferError> {
        infer::infer(component, table, model)
    }

    fn name(&self, name: Option<&str>, facts: &ModelFacts) -> Option<Named> {
        Some(known::name(name, facts))
    }

    fn configs(&self, facts: &ModelFacts) -> BTreeMap<String, serde_json::Value> {
        let sites = self.components(facts);
        let mut configs: BTreeMap<_, _> = sites
            .iter()
            .filter_map(|site| Some((site.name.clone(), self.describe(site, facts).ok()?.config)))
            .collect();
        if let Ok(scheduler) = read_config::<SchedulerConfig>(facts, SCHEDULER_CONFIG) {
            configs.insert("scheduler".to_owned(), to_json(&scheduler));
        }
        configs
    }
}

/// Rules for a component; `blocks` is the number of the autoencoder's, when it is known.
fn rules(component: &str, blocks: Option<u64>) -> Rules {
    match component {
        "transformer" => Rules { set: &dialects::TRANSFORMER, count: None },
        "text_encoder" => Rules { set: &dialects::TEXT_ENCODER, count: None },
        "vae" => Rules { set: &dialects::VAE, count: blocks },
        "controlnet" => Rules { set: &dialects::CONTROLNET, count: None },
        _ => Rules::NONE,
    }
}

fn blueprint<B: Blueprint>(
    site: &ComponentSite,
    facts: &ModelFacts,
    naming: Naming,
) -> Result<Description, ConfigError> {
    let path = site.config.as_deref().unwrap_or_default();
    let config: B = read_config(facts, path)?;
    config.check().map_err(|problem| ConfigError::Impossible { path: path.to_owned(), problem })?;
    Ok(Description {
        config: to_json(&config),
        catalogue: Some(config.catalogue()),
        naming,
        rules: rules(&site.name, config.blocks_from_the_end()),
        borrowed: Vec::new(),
    })
}

fn to_json(config: &impl Serialize) -> serde_json::Value {
    serde_json::to_value(config).unwrap_or_default()
}

/// Widths above this are refused.
const WIDTH_MAX: u64 = 1 << 20;
/// Layer counts above this are refused.
const LAYERS_MAX: u64 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn describe(component: &str, config: &str) -> Result<Description, ConfigError> {
        let path = format!("{component}/config.json");
        let facts = ModelFacts { files: vec![], documents: [(path, config.as_bytes().to_vec())].into() };
        let site = ZImage.components(&facts).into_iter().find(|site| site.name == component).unwrap();
        ZImage.describe(&site, &facts)
    }

    fn catalogue(component: &str, config: &str) -> Catalogue {
        describe(component, config).unwrap().catalogue.unwrap()
    }

    /// Key lists and values of `Tongyi-MAI/Z-Image-Turbo`.
    pub(super) const TRANSFORMER: &str = r#"{"_class_name":"ZImageTransformer2DModel","all_patch_size":[2],
        "all_f_patch_size":[1],"in_channels":16,"dim":3840,"n_layers":30,"n_refiner_layers":2,"n_heads":30,
        "n_kv_heads":30,"norm_eps":1e-05,"qk_norm":true,"cap_feat_dim":2560,"rope_theta":256.0,"t_scale":1000.0,
        "axes_dims":[32,48,48],"axes_lens":[1536,512,512]}"#;
    const TEXT_ENCODER: &str = r#"{"model_type":"qwen3","attention_bias":false,"head_dim":128,"hidden_size":2560,
        "intermediate_size":9728,"max_position_embeddings":40960,"num_attention_heads":32,"num_hidden_layers":36,
        "num_key_value_heads":8,"rms_norm_eps":1e-06,"rope_theta":1000000,"vocab_size":151936,
        "tie_word_embeddings":true,"torch_dtype":"bfloat16"}"#;
    const VAE: &str = r#"{"_class_name":"AutoencoderKL","block_out_channels":[128,256,512,512],"in_channels":3,
        "out_channels":3,"latent_channels":16,"layers_per_block":2,"mid_block_add_attention":true,
        "norm_num_groups":32,"sample_size":1024,"scaling_factor":0.3611,"shift_factor":0.1159,
        "use_quant_conv":false,"use_post_quant_conv":false}"#;

    #[test]
    fn true_dims_give_the_published_counts() {
        let transformer = catalogue("transformer", TRANSFORMER);
        assert_eq!((transformer.tensors().len(), transformer.parameters()), (521, 6_154_908_736));
        assert_eq!(transformer.tensors().iter().filter(|tensor| tensor.shape.len() == 2).count(), 278);
        let text_encoder = catalogue("text_encoder", TEXT_ENCODER);
        assert_eq!((text_encoder.tensors().len(), text_encoder.parameters()), (398, 4_022_468_096));
        let vae = catalogue("vae", VAE);
        assert_eq!((vae.tensors().len(), vae.parameters()), (244, 83_819_683));
        let half = |start: &str| -> (usize, usize, u64) {
            let half: Vec<_> = vae.tensors().iter().filter(|tensor| tensor.name.starts_with(start)).collect();
            let kernels = half.iter().filter(|tensor| tensor.shape.len() == 4).count();
            (half.len(), kernels, half.iter().map(|tensor| tensor.shape.iter().product::<u64>()).sum())
        };
        assert_eq!(half("encoder."), (106, 27, 34_274_208));
        assert_eq!(half("decoder."), (138, 35, 49_545_475));
    }

    #[test]
    fn the_rule_quantises_the_published_numbers_of_layers() {
        let count = |component: &str, catalogue: &Catalogue, group: u64| {
            let layers = catalogue.tensors().iter().filter(|tensor| {
                let layer = tensor.name.strip_suffix(".weight").filter(|layer| ZImage.quantises(component, layer));
                layer.is_some() && tensor.shape.len() == 2 && tensor.shape[1].is_multiple_of(group)
            });
            let shapes: Vec<u64> = layers.map(|tensor| tensor.shape.iter().product()).collect();
            (shapes.len(), shapes.iter().sum::<u64>())
        };
        for group in [32, 64, 128] {
            let transformer = count("transformer", &catalogue("transformer", TRANSFORMER), group);
            assert_eq!(transformer, (270, 6_142_033_920), "groups of {group}");
            let text_encoder = count("text_encoder", &catalogue("text_encoder", TEXT_ENCODER), group);
            assert_eq!(text_encoder, (252, 3_633_315_840), "groups of {group}");
            assert_eq!(count("vae", &catalogue("vae", VAE), group).0, 0);
        }
    }

    #[test]
    fn optional_parts_follow_the_config() {
        let no_norm = TRANSFORMER.replace("\"qk_norm\":true", "\"qk_norm\":false");
        assert_eq!(catalogue("transformer", &no_norm).tensors().len(), 521 - 2 * 34);
        let omni = TRANSFORMER.replace("\"in_channels\"", "\"siglip_feat_dim\":1152,\"in_channels\"");
        assert_eq!(catalogue("transformer", &omni).tensors().len(), 521 + 4 + 2 * 13);
        let quant = VAE.replace("\"use_quant_conv\":false,\"use_post_quant_conv\":false", "\"act_fn\":\"silu\"");
        assert_eq!(catalogue("vae", &quant).tensors().len(), 244 + 4);
        let flat = VAE.replace("\"mid_block_add_attention\":true", "\"mid_block_add_attention\":false");
        assert_eq!(catalogue("vae", &flat).tensors().len(), 244 - 20);
    }

    #[test]
    fn both_spellings_of_transformers_are_read() {
        let new = TEXT_ENCODER
            .replace("\"rope_theta\":1000000", "\"rope_parameters\":{\"rope_theta\":1000000,\"rope_type\":\"default\"}")
            .replace("torch_dtype", "dtype");
        let (old, new) = (describe("text_encoder", TEXT_ENCODER).unwrap(), describe("text_encoder", &new).unwrap());
        assert_eq!(old.config, new.config);
        assert_eq!(old.config["rope_theta"], 1_000_000.0);
    }

    #[test]
    fn impossible_configs_are_refused() {
        let cases = [
            ("transformer", TRANSFORMER.replace("\"dim\":3840", "\"dim\":3841"), "dim"),
            ("transformer", TRANSFORMER.replace("\"n_layers\":30", "\"n_layers\":99999999"), "n_layers"),
            ("transformer", TRANSFORMER.replace("\"n_kv_heads\":30", "\"n_kv_heads\":10"), "n_kv_heads"),
            ("transformer", TRANSFORMER.replace("\"n_heads\":30", "\"n_heads\":0"), "n_heads"),
            ("transformer", TRANSFORMER.replace("\"dim\":3840,", ""), "dim"),
            ("transformer", TRANSFORMER.replace("\"all_patch_size\":[2]", "\"all_patch_size\":[2,4]"), "patch"),
            ("text_encoder", TEXT_ENCODER.replace("\"rope_theta\":1000000,", ""), "rope_theta"),
            ("vae", VAE.replace("[128,256,512,512]", "[]"), "block_out_channels"),
            ("vae", VAE.replace("\"layers_per_block\":2", "\"layers_per_block\":-1"), "layers_per_block"),
            ("vae", "{".to_owned(), ""),
        ];
        for (component, config, word) in cases {
            let error = describe(component, &config).unwrap_err().to_string();
            assert!(error.contains(word), "{error} should name {word}");
        }
    }

    #[test]
    fn names_there_and_back() {
        for (component, config) in [("transformer", TRANSFORMER), ("text_encoder", TEXT_ENCODER), ("vae", VAE)] {
            let description = describe(component, config).unwrap();
            for tensor in description.catalogue.unwrap().tensors() {
                if let Some(renamed) = description.naming.apply(&tensor.name) {
                    assert_eq!(description.naming.reverse(&renamed).as_ref(), Some(&tensor.name));
                }
            }
        }
    }
}
