//! The small JSON files, with exactly the keys that diffusers and transformers wrote for `Tongyi-MAI/Z-Image-Turbo`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use weightsd_core::family::z_image::{SCHEDULER_CONFIG, TextEncoderConfig};

use crate::{Dims, python_json::dumps};

const DIFFUSERS_VERSION: &str = "0.36.0.dev0";

/// All of them, by path.
pub(crate) fn documents(dims: &Dims) -> BTreeMap<String, Vec<u8>> {
    let blocks = dims.vae.block_out_channels.len();
    let transformer = typed(&dims.transformer, json!({"_class_name": "ZImageTransformer2DModel"}));
    let vae = typed(
        &dims.vae,
        json!({
            "_class_name": "AutoencoderKL",
            "_name_or_path": "flux-dev",
            "act_fn": "silu",
            "down_block_types": vec!["DownEncoderBlock2D"; blocks],
            "up_block_types": vec!["UpDecoderBlock2D"; blocks],
            "force_upcast": true,
            "latents_mean": null,
            "latents_std": null,
        }),
    );
    let scheduler = typed(&dims.scheduler, json!({"_class_name": "FlowMatchEulerDiscreteScheduler"}));
    let index = json!({
        "_class_name": "ZImagePipeline",
        "_diffusers_version": DIFFUSERS_VERSION,
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "Qwen3Model"],
        "tokenizer": ["transformers", "Qwen2Tokenizer"],
        "transformer": ["diffusers", "ZImageTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    });
    // Indents and final newlines differ from file to file in the real repository too.
    [
        ("model_index.json", dumps(&index, 4)),
        (SCHEDULER_CONFIG, dumps(&scheduler, 2)),
        ("text_encoder/config.json", dumps(&text_encoder(&dims.text_encoder), 2)),
        ("transformer/config.json", dumps(&transformer, 2) + "\n"),
        ("vae/config.json", dumps(&vae, 2) + "\n"),
    ]
    .into_iter()
    .map(|(path, text)| (path.to_owned(), text.into_bytes()))
    .collect()
}

/// A config of diffusers: the typed values, and what no reader needs.
fn typed(config: &impl serde::Serialize, rest: Value) -> Value {
    let mut all = json!({"_diffusers_version": DIFFUSERS_VERSION});
    for part in [serde_json::to_value(config).unwrap_or_default(), rest] {
        if let (Value::Object(all), Value::Object(part)) = (&mut all, part) {
            all.extend(part);
        }
    }
    all
}

/// Qwen3's config in the spelling of transformers 4.
fn text_encoder(config: &TextEncoderConfig) -> Value {
    let mut written: Map<String, Value> = Map::new();
    if let Ok(Value::Object(typed)) = serde_json::to_value(config) {
        written.extend(typed);
    }
    // The one spelling that differs from the typed config, and the one float that is written as an integer.
    let dtype = written.remove("dtype").unwrap_or_default();
    written.insert("torch_dtype".to_owned(), dtype);
    if let Ok(base) = format!("{:.0}", config.rope_theta).parse::<u64>() {
        written.insert("rope_theta".to_owned(), base.into());
    }
    let rest = json!({
        "architectures": ["Qwen3ForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": 151_643,
        "eos_token_id": 151_645,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "max_window_layers": config.num_hidden_layers,
        "model_type": "qwen3",
        "rope_scaling": null,
        "sliding_window": null,
        "transformers_version": "4.51.0",
        "use_cache": true,
        "use_sliding_window": false,
    });
    if let Value::Object(rest) = rest {
        written.extend(rest);
    }
    Value::Object(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_their_published_sizes() {
        let documents = documents(&Dims::true_size());
        let sizes: Vec<_> = documents.iter().map(|(path, bytes)| (path.as_str(), bytes.len())).collect();
        let published = [
            ("model_index.json", 467),
            ("scheduler/scheduler_config.json", 173),
            ("text_encoder/config.json", 726),
            ("transformer/config.json", 473),
            ("vae/config.json", 805),
        ];
        assert_eq!(sizes, published);
    }
}
