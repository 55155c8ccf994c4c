//! Layers of a language model that adapters change, under the names of trainers: of causal language models, and of text
//! encoders that are one without its head.

use crate::adapter::Targets;

/// Seven layers of each block, and the head. Embeddings are not among them: their pairs are looked up, not multiplied.
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
    layers: &[
        ("self_attn.q_proj", &["self_attn.q_proj"]),
        ("self_attn.k_proj", &["self_attn.k_proj"]),
        ("self_attn.v_proj", &["self_attn.v_proj"]),
        ("self_attn.o_proj", &["self_attn.o_proj"]),
        ("mlp.gate_proj", &["mlp.gate_proj"]),
        ("mlp.up_proj", &["mlp.up_proj"]),
        ("mlp.down_proj", &["mlp.down_proj"]),
    ],
    singles: &[("lm_head", "lm_head")],
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::recognise;

    fn blocks_of(list: &str) -> u64 {
        if list == "model.layers" { 36 } else { 0 }
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
        ];
        for (base, expected) in cases {
            let found = TARGETS.find(base, blocks_of);
            assert_eq!(found.iter().map(|target| &*target.layer).collect::<Vec<_>>(), [expected], "{base}");
            assert!(!TARGETS.is_of_another(base), "{base}");
        }
        for base in ["model.embed_tokens", "model.layers.36.mlp.up_proj", "layers.0.attention.to_q", "model.norm"] {
            assert_eq!(TARGETS.find(base, blocks_of), [], "{base}");
        }
    }

    #[test]
    fn keys_of_the_transformer_are_not_taken_for_its_own() {
        let keys = [
            "text_encoder.model.layers.0.self_attn.q_proj.lora_A.weight",
            "text_encoder.model.layers.0.self_attn.q_proj.lora_B.weight",
            "model.embed_tokens.lora_a",
            "model.embed_tokens.lora_b",
            "base_model.model.transformer.layers.0.self_attn.k_proj.lora_A.weight",
            "diffusion_model.layers.0.self_attn.k_proj.lora_A.weight",
            "lora_unet_layers_0_self_attn_k_proj.lora_down.weight",
        ];
        let found = recognise(keys, &TARGETS, blocks_of).unwrap();
        assert_eq!(found.layers.len(), 1);
        assert_eq!(found.without_target, ["embed_tokens"]);
        assert_eq!(found.other_component, keys[4..]);
        assert!(found.without_partner.is_empty() && found.unknown.is_empty());
    }
}
