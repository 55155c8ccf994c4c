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
mod sample;
mod text_encoder;
mod transformer;
mod vae;

use std::collections::BTreeMap;

pub use self::control::{ControlConfig, ControlVersion};
pub use config::{SchedulerConfig, TextEncoderConfig, TransformerConfig, VaeConfig};
use serde::Serialize;

use super::{
    ComponentSite, ConfigError, Description, Family, InferError, Inferred, Membership, ModelFacts, Named, Sample,
    language_adapter, read_config, read_json, within,
};
use crate::{
    adapter::Targets, catalogue::Catalogue, derive::Float, naming::Naming, parts::PartSign, rewrite::Rules,
    shown::shown, table::Table, tool::Tool,
};

/// The Z-Image family.
#[derive(Debug)]
pub struct ZImage;

/// Path of the scheduler's config.
pub const SCHEDULER_CONFIG: &str = "scheduler/scheduler_config.json";

/// A config that determines the tensors of a component.
trait Blueprint: serde::de::DeserializeOwned + Serialize {
    /// Why no model can have these values.
    fn check(&self) -> Result<(), String>;
    /// The class that has this config, and the key that names it.
    const CLASS: Class;
    /// The tensors, in checkpoint names.
    fn catalogue(&self) -> Catalogue;
    /// What the config says that [`Self::catalogue`] does not follow.
    fn unread(&self) -> Option<String> {
        None
    }
    /// How many blocks there are that another layout counts from the other end.
    fn blocks_from_the_end(&self) -> Option<u64> {
        None
    }
}

/// How a config names the class that it belongs to.
struct Class {
    key: &'static str,
    name: &'static str,
}

impl Class {
    /// Why a config is another class's, or is followed by other code than the library's.
    fn contradicted(&self, written: &serde_json::Map<String, serde_json::Value>) -> Option<String> {
        let Self { key, name } = self;
        match written.get(*key) {
            None | Some(serde_json::Value::Null) => {}
            Some(found) if found == name => {}
            Some(found) => return Some(format!("`{key}` is {}, expected \"{name}\"", shown(&found.to_string()))),
        }
        let code = written.get("auto_map").is_some_and(|code| !code.is_null());
        code.then(|| "`auto_map` names code of the repository's own, which may have other tensors".to_owned())
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
            membership: Membership::Member,
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

    fn documents(&self) -> &'static [&'static str] {
        &["scheduler_config.json"]
    }

    fn sample(&self) -> Option<Sample> {
        Some(sample::SAMPLE)
    }

    fn parts(&self) -> &'static [PartSign] {
        &parts::PARTS
    }

    fn published(&self, component: &str) -> Option<Catalogue> {
        match component {
            "transformer" => Some(known::transformer().catalogue()),
            "text_encoder" => Some(known::text_encoder().catalogue()),
            "vae" => Some(known::vae().catalogue()),
            _ => None,
        }
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
            "vae" => Some(&adapter::VAE),
            _ => None,
        }
    }

    fn float(&self, _: &str) -> Option<Float> {
        Some(Float::Bf16)
    }

    fn mflux_names(&self, component: &str) -> Option<Naming> {
        match component {
            "transformer" => Some(names::TRANSFORMER_MFLUX),
            "text_encoder" => Some(names::TEXT_ENCODER_MFLUX),
            "vae" => Some(names::VAE_MFLUX),
            _ => None,
        }
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
    let written = read_json(facts, path)?;
    let unchecked = |reason: String| format!("`{path}`: {reason}");
    if let Some(reason) = B::CLASS.contradicted(&written) {
        return Ok(Description::uncatalogued(written.into(), Some(unchecked(reason))));
    }
    let config: B = read_config(facts, path)?;
    config.check().map_err(|problem| ConfigError::Impossible { path: path.to_owned(), problem })?;
    let unread = config.unread();
    Ok(Description {
        config: to_json(&config),
        catalogue: unread.is_none().then(|| config.catalogue()),
        unchecked: unread.map(unchecked),
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
    use serde_json::json;

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

    /// The config of a component of `Tongyi-MAI/Z-Image-Turbo`, as published but for the order of its keys.
    fn published(component: &str) -> String {
        let all: serde_json::Value = serde_json::from_str(include_str!("../../../tests/golden/z-image.json")).unwrap();
        all[component].to_string()
    }

    /// The published config with other values for some keys.
    fn changed(component: &str, changes: serde_json::Value) -> String {
        let mut config: serde_json::Map<_, _> = serde_json::from_str(&published(component)).unwrap();
        config.extend(changes.as_object().unwrap().clone());
        serde_json::to_string(&config).unwrap()
    }

    #[test]
    fn the_known_configs_are_the_published_ones() {
        for (component, known) in [
            ("transformer", to_json(&known::transformer())),
            ("text_encoder", to_json(&known::text_encoder())),
            ("vae", to_json(&known::vae())),
        ] {
            assert_eq!(describe(component, &published(component)).unwrap().config, known, "{component}");
        }
    }

    #[test]
    fn true_dims_give_the_published_counts() {
        let transformer = catalogue("transformer", &published("transformer"));
        assert_eq!((transformer.tensors().len(), transformer.parameters()), (521, 6_154_908_736));
        assert_eq!(transformer.tensors().iter().filter(|tensor| tensor.shape.len() == 2).count(), 278);
        let text_encoder = catalogue("text_encoder", &published("text_encoder"));
        assert_eq!((text_encoder.tensors().len(), text_encoder.parameters()), (398, 4_022_468_096));
        let vae = catalogue("vae", &published("vae"));
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
            let transformer = count("transformer", &catalogue("transformer", &published("transformer")), group);
            assert_eq!(transformer, (270, 6_142_033_920), "groups of {group}");
            let text_encoder = count("text_encoder", &catalogue("text_encoder", &published("text_encoder")), group);
            assert_eq!(text_encoder, (252, 3_633_315_840), "groups of {group}");
            assert_eq!(count("vae", &catalogue("vae", &published("vae")), group).0, 0);
        }
    }

    #[test]
    fn optional_parts_follow_the_config() {
        let no_norm = published("transformer").replace("\"qk_norm\":true", "\"qk_norm\":false");
        assert_eq!(catalogue("transformer", &no_norm).tensors().len(), 521 - 2 * 34);
        let omni = published("transformer").replace("\"in_channels\"", "\"siglip_feat_dim\":1152,\"in_channels\"");
        assert_eq!(catalogue("transformer", &omni).tensors().len(), 521 + 4 + 2 * 13);
        let quant = published("vae").replace(",\"use_post_quant_conv\":false,\"use_quant_conv\":false", "");
        assert_eq!(catalogue("vae", &quant).tensors().len(), 244 + 4);
        let flat = published("vae").replace("\"mid_block_add_attention\":true", "\"mid_block_add_attention\":false");
        assert_eq!(catalogue("vae", &flat).tensors().len(), 244 - 20);
    }

    #[test]
    fn attending_blocks_have_the_tensors_of_their_attention() {
        let plain = catalogue("vae", &published("vae"));
        let of = |key: &str, kind: &str, attending: &str| {
            catalogue("vae", &changed("vae", json!({key: [kind, kind, attending, kind]})))
        };
        // A norm and four projections, a weight and a bias each, after each of two layers, or of three.
        let down = of("down_block_types", "DownEncoderBlock2D", "AttnDownEncoderBlock2D");
        assert_eq!(down.tensors().len(), plain.tensors().len() + 2 * 10);
        assert_eq!(down.get("encoder.down_blocks.2.attentions.1.to_out.0.weight").unwrap().shape, [512, 512]);
        let up = of("up_block_types", "UpDecoderBlock2D", "AttnUpDecoderBlock2D");
        assert_eq!(up.tensors().len(), plain.tensors().len() + 3 * 10);
        assert_eq!(up.get("decoder.up_blocks.2.attentions.2.group_norm.bias").unwrap().shape, [256]);
    }

    #[test]
    fn a_config_that_is_read_in_part_makes_no_catalogue() {
        let up = ["UpDecoderBlock2D", "KUpBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"];
        let cases = [
            ("vae", json!({"up_block_types": up}), "KUpBlock2D"),
            ("vae", json!({"_class_name": "AsymmetricAutoencoderKL"}), "AsymmetricAutoencoderKL"),
            ("transformer", json!({"_class_name": "ZImageNextTransformer"}), "ZImageNext"),
            ("text_encoder", json!({"model_type": "qwen3_vl"}), "qwen3_vl"),
            ("text_encoder", json!({"auto_map": {"AutoModel": "x.Y"}}), "auto_map"),
        ];
        for (component, changes, word) in cases {
            let found = describe(component, &changed(component, changes)).unwrap();
            let reason = found.unchecked.unwrap();
            assert!(found.catalogue.is_none() && reason.contains(word), "{reason} should name {word}");
            assert!(reason.contains("/config.json"), "{reason}");
        }
    }

    #[test]
    fn keys_that_are_null_have_their_defaults() {
        let nulls = json!({"down_block_types": null, "shift_factor": null, "act_fn": null, "use_quant_conv": null});
        let found = catalogue("vae", &changed("vae", nulls));
        assert!(found.contains("quant_conv.weight"), "diffusers' default");
        let nulls = json!({"head_dim": null, "attention_bias": null});
        let found = describe("text_encoder", &changed("text_encoder", nulls)).unwrap();
        assert_eq!(found.config["head_dim"], 80, "the width over the heads");
        assert_eq!(found.catalogue.unwrap().tensors().len(), 398);
        let error = describe("vae", &changed("vae", json!({"latent_channels": null}))).unwrap_err().to_string();
        assert!(error.contains("latent_channels"), "{error}");
    }

    #[test]
    fn both_spellings_of_transformers_are_read() {
        let new = published("text_encoder")
            .replace("\"rope_theta\":1000000", "\"rope_parameters\":{\"rope_theta\":1000000,\"rope_type\":\"default\"}")
            .replace("torch_dtype", "dtype");
        let (old, new) =
            (describe("text_encoder", &published("text_encoder")).unwrap(), describe("text_encoder", &new).unwrap());
        assert_eq!(old.config, new.config);
        assert_eq!(old.config["rope_theta"], 1_000_000.0);
    }

    #[test]
    fn impossible_configs_are_refused() {
        let cases = [
            ("transformer", published("transformer").replace("\"dim\":3840", "\"dim\":3841"), "dim"),
            ("transformer", published("transformer").replace("\"n_layers\":30", "\"n_layers\":99999999"), "n_layers"),
            ("transformer", published("transformer").replace("\"n_kv_heads\":30", "\"n_kv_heads\":10"), "n_kv_heads"),
            ("transformer", published("transformer").replace("\"n_heads\":30", "\"n_heads\":0"), "n_heads"),
            ("transformer", published("transformer").replace("\"dim\":3840,", ""), "dim"),
            (
                "transformer",
                published("transformer").replace("\"all_patch_size\":[2]", "\"all_patch_size\":[2,4]"),
                "patch",
            ),
            ("text_encoder", published("text_encoder").replace("\"rope_theta\":1000000,", ""), "rope_theta"),
            ("vae", published("vae").replace("[128,256,512,512]", "[]"), "block_out_channels"),
            ("vae", published("vae").replace("\"layers_per_block\":2", "\"layers_per_block\":-1"), "layers_per_block"),
            ("vae", changed("vae", json!({"down_block_types": ["DownEncoderBlock2D"]})), "down_block_types"),
            ("vae", "{".to_owned(), ""),
        ];
        for (component, config, word) in cases {
            let error = describe(component, &config).unwrap_err().to_string();
            assert!(error.contains(word), "{error} should name {word}");
        }
    }

    #[test]
    fn names_there_and_back() {
        for component in ["transformer", "text_encoder", "vae"] {
            let description = describe(component, &published(component)).unwrap();
            for tensor in description.catalogue.unwrap().tensors() {
                if let Some(renamed) = description.naming.apply(&tensor.name) {
                    assert_eq!(description.naming.reverse(&renamed).as_ref(), Some(&tensor.name));
                }
            }
        }
    }
}
