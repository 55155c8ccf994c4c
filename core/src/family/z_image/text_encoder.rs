//! The text encoder's tensors (transformers' `Qwen3Model`, without a head: it is tied to the embedding).

use super::{Blueprint, Class, LAYERS_MAX, TextEncoderConfig, WIDTH_MAX, within};
use crate::{
    catalogue::{Builder, Catalogue},
    pattern::Pattern,
};

/// A model that was saved with its head has one that the pipeline does not use.
const HEAD: [Pattern; 1] = [Pattern("lm_head.weight")];

impl Blueprint for TextEncoderConfig {
    const CLASS: Class = Class { key: "model_type", name: "qwen3" };

    fn check(&self) -> Result<(), String> {
        within(&[
            ("head_dim", self.head_dim, WIDTH_MAX),
            ("hidden_size", self.hidden_size, WIDTH_MAX),
            ("intermediate_size", self.intermediate_size, WIDTH_MAX),
            ("num_attention_heads", self.num_attention_heads, WIDTH_MAX),
            ("num_hidden_layers", self.num_hidden_layers, LAYERS_MAX),
            ("num_key_value_heads", self.num_key_value_heads, WIDTH_MAX),
            ("vocab_size", self.vocab_size, 1 << 32),
        ])
    }

    fn catalogue(&self) -> Catalogue {
        let mut tensors = Builder::default();
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        let queries = self.num_attention_heads * self.head_dim;
        let keys = self.num_key_value_heads * self.head_dim;
        tensors.plain("model.embed_tokens.weight", &[self.vocab_size, hidden]);
        for layer in 0..self.num_hidden_layers {
            let base = format!("model.layers.{layer}");
            let projections = [
                ("q_proj", queries, hidden),
                ("k_proj", keys, hidden),
                ("v_proj", keys, hidden),
                ("o_proj", hidden, queries),
            ];
            for (name, output, input) in projections {
                let name = format!("{base}.self_attn.{name}");
                if self.attention_bias {
                    tensors.linear_with_bias(&name, output, input);
                } else {
                    tensors.linear(&name, output, input);
                }
            }
            tensors.norm(&format!("{base}.self_attn.q_norm"), self.head_dim);
            tensors.norm(&format!("{base}.self_attn.k_norm"), self.head_dim);
            tensors.linear(&format!("{base}.mlp.gate_proj"), inner, hidden);
            tensors.linear(&format!("{base}.mlp.up_proj"), inner, hidden);
            tensors.linear(&format!("{base}.mlp.down_proj"), hidden, inner);
            tensors.norm(&format!("{base}.input_layernorm"), hidden);
            tensors.norm(&format!("{base}.post_attention_layernorm"), hidden);
        }
        tensors.norm("model.norm", hidden);
        tensors.finish().tolerating(&HEAD)
    }
}
