//! The part of a language model's `config.json` that determines its tensors.

use serde::Deserialize;

use super::architecture::{Architecture, Biases, FeedForwardBiases};
use crate::family::within;

/// Widths above this are refused.
const WIDTH_MAX: u64 = 1 << 20;
/// Layer counts above this are refused.
const LAYERS_MAX: u64 = 1024;
/// Vocabularies above this are refused.
const VOCABULARY_MAX: u64 = 1 << 32;

/// As written. Keys that no architecture reads for its tensors are ignored.
#[derive(Debug, Deserialize)]
pub(super) struct LanguageConfig {
    hidden_size: u64,
    intermediate_size: u64,
    num_attention_heads: u64,
    num_hidden_layers: u64,
    num_key_value_heads: Option<u64>,
    head_dim: Option<u64>,
    vocab_size: u64,
    tie_word_embeddings: Option<bool>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
}

/// Sizes of tensors.
#[derive(Debug)]
pub(super) struct Dimensions {
    pub(super) hidden: u64,
    pub(super) inner: u64,
    pub(super) layers: u64,
    pub(super) vocabulary: u64,
    /// Width of a head.
    pub(super) head: u64,
    /// Width of all query heads.
    pub(super) queries: u64,
    /// Width of all key heads.
    pub(super) keys: u64,
    pub(super) has_input_bias: bool,
    pub(super) has_output_bias: bool,
    pub(super) has_mlp_bias: bool,
    /// Whether the head is the embedding.
    pub(super) is_tied: bool,
}

impl LanguageConfig {
    /// The sizes, or why no model can have them.
    pub(super) fn dimensions(&self, architecture: &Architecture) -> Result<Dimensions, String> {
        let heads = self.num_attention_heads;
        let key_heads = self.num_key_value_heads.unwrap_or(heads);
        within(&[
            ("hidden_size", self.hidden_size, WIDTH_MAX),
            ("intermediate_size", self.intermediate_size, WIDTH_MAX),
            ("num_attention_heads", heads, WIDTH_MAX),
            ("num_key_value_heads", key_heads, WIDTH_MAX),
            ("num_hidden_layers", self.num_hidden_layers, LAYERS_MAX),
            ("vocab_size", self.vocab_size, VOCABULARY_MAX),
        ])?;
        let head = match self.head_dim.or(architecture.head) {
            Some(head) => head,
            None if self.hidden_size.is_multiple_of(heads) => self.hidden_size / heads,
            None => {
                return Err(format!(
                    "`head_dim` is absent, and `hidden_size` {} is no multiple of {heads} heads",
                    self.hidden_size
                ));
            }
        };
        within(&[("head_dim", head, WIDTH_MAX)])?;
        Ok(Dimensions {
            hidden: self.hidden_size,
            inner: self.intermediate_size,
            layers: self.num_hidden_layers,
            vocabulary: self.vocab_size,
            head,
            queries: heads * head,
            keys: key_heads * head,
            has_input_bias: match architecture.biases {
                Biases::None => false,
                Biases::AsConfigured => self.attention_bias,
                Biases::OnInputs => true,
            },
            has_output_bias: self.attention_bias && architecture.biases == Biases::AsConfigured,
            has_mlp_bias: self.mlp_bias && architecture.feed_forward == FeedForwardBiases::AsConfigured,
            is_tied: self.tie_word_embeddings.unwrap_or(architecture.is_tied),
        })
    }
}
