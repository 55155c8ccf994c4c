//! Layers of a language model that adapters change, under the names of trainers: of causal language models, and of text
//! encoders that are one without its head.

use crate::adapter::Targets;

/// The prefixes and lists of trainers. Behind them layers have the model's own names.
pub(super) static TARGETS: Targets = Targets {
    prefixes: &[
        "base_model.model.",
        "text_encoders.qwen3_4b.transformer.",
        "text_encoder.",
        "lora_te_",
        "lora_te1_",
        "model.",
    ],
    others: &[
        "model.diffusion_model.",
        "diffusion_model.",
        "lora_unet_",
        "lora_transformer_",
        "transformer.",
        "lora_te2_",
        "lora_te3_",
        "text_encoder_2.",
    ],
    blocks: &[("model.layers", "model.layers"), ("layers", "model.layers")],
    layers: &[],
    singles: &[("embed_tokens", "model.embed_tokens"), ("norm", "model.norm")],
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::{Weights, WholeWeights, recognise};

    /// Those of 36 blocks, with a head.
    fn weights() -> Weights {
        let layers = [
            "self_attn.q_proj",
            "self_attn.k_proj",
            "self_attn.v_proj",
            "self_attn.o_proj",
            "mlp.gate_proj",
            "mlp.up_proj",
            "mlp.down_proj",
            "self_attn.q_norm",
            "input_layernorm",
        ];
        let in_blocks = (0..36).flat_map(|index| layers.map(|layer| format!("model.layers.{index}.{layer}.weight")));
        let outside = ["lm_head.weight", "model.norm.weight", "model.embed_tokens.weight"].map(str::to_owned);
        Weights::new(in_blocks.chain(outside).map(|name| (name, vec![8, 8])))
    }

    #[test]
    fn every_name_of_a_layer_is_known() {
        let cases = [
            ("model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.q_proj"),
            ("layers.0.self_attn.k_proj", "model.layers.0.self_attn.k_proj"),
            ("text_encoder.model.layers.1.self_attn.v_proj", "model.layers.1.self_attn.v_proj"),
            ("text_encoder.layers.1.mlp.up_proj", "model.layers.1.mlp.up_proj"),
            ("lora_te_model_layers_35_self_attn_o_proj", "model.layers.35.self_attn.o_proj"),
            ("lora_te1_layers_2_mlp_down_proj", "model.layers.2.mlp.down_proj"),
            ("base_model.model.model.layers.0.mlp.gate_proj", "model.layers.0.mlp.gate_proj"),
            ("base_model.model.layers.0.mlp.gate_proj", "model.layers.0.mlp.gate_proj"),
            ("base_model.model.text_encoder.model.layers.3.self_attn.q_proj", "model.layers.3.self_attn.q_proj"),
            ("text_encoders.qwen3_4b.transformer.model.layers.3.self_attn.q_proj", "model.layers.3.self_attn.q_proj"),
            ("base_model.model.lm_head", "lm_head"),
            ("layers.3.input_layernorm", "model.layers.3.input_layernorm"),
            ("text_encoder.layers.3.self_attn.q_norm", "model.layers.3.self_attn.q_norm"),
            ("base_model.model.model.embed_tokens", "model.embed_tokens"),
            ("text_encoder.norm", "model.norm"),
        ];
        for (base, expected) in cases {
            let found = TARGETS.find(base, &weights());
            assert_eq!(found.iter().map(|target| &*target.layer).collect::<Vec<_>>(), [expected], "{base}");
            assert!(!TARGETS.is_of_another(base), "{base}");
        }
        for base in ["model.layers.36.mlp.up_proj", "layers.0.attention.to_q", "embed", "model.layers.0"] {
            assert_eq!(TARGETS.find(base, &weights()), [], "{base}");
        }
    }

    #[test]
    fn keys_of_the_transformer_are_not_taken_for_its_own() {
        let keys = [
            "text_encoder.model.layers.0.self_attn.q_proj.lora_A.weight",
            "text_encoder.model.layers.0.self_attn.q_proj.lora_B.weight",
            "model.layers.40.mlp.up_proj.lora_a",
            "model.layers.40.mlp.up_proj.lora_b",
            "base_model.model.transformer.layers.0.self_attn.k_proj.lora_A.weight",
            "diffusion_model.layers.0.self_attn.k_proj.lora_A.weight",
            "lora_unet_layers_0_self_attn_k_proj.lora_down.weight",
        ];
        let found = recognise(keys, &TARGETS, &weights(), WholeWeights::BesideChanges).unwrap();
        assert_eq!(found.changes.len(), 1);
        assert_eq!(found.without_target, ["layers.40.mlp.up_proj"]);
        assert_eq!(found.other_component, keys[4..]);
        assert!(found.without_partner.is_empty() && found.unknown.is_empty());
    }
}
