//! In what the architectures differ. Transformers' `modeling_*.py` decide: a key that such a file does not read changes
//! no tensor, whatever a config says.

/// Which projections of attention have biases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Biases {
    /// None, whatever the config says.
    None,
    /// Those of the config's `attention_bias`, on all four.
    AsConfigured,
    /// Always, on queries, keys and values.
    OnInputs,
}

/// Whether the feed-forward layers have biases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FeedForwardBiases {
    /// None, whatever the config says.
    None,
    /// Those of the config's `mlp_bias`.
    AsConfigured,
}

/// An architecture.
#[derive(Debug)]
pub(super) struct Architecture {
    /// `model_type` in the config.
    pub(super) model_type: &'static str,
    /// Transformers' class with a head for text.
    pub(super) with_head: &'static str,
    /// Transformers' class without one.
    pub(super) bare: &'static str,
    /// Biases of attention.
    pub(super) biases: Biases,
    /// Biases of the feed-forward layers.
    pub(super) feed_forward: FeedForwardBiases,
    /// Whether queries and keys are normed, head by head.
    pub(super) has_head_norms: bool,
    /// Norms of a layer.
    pub(super) norms: &'static [&'static str],
    /// Whether the head is the embedding where the config does not say.
    pub(super) is_tied: bool,
    /// Width of a head where the config does not say; `None` divides the width by the heads.
    pub(super) head: Option<u64>,
}

const TWO: &[&str] = &["input_layernorm", "post_attention_layernorm"];
const FOUR: &[&str] =
    &["input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"];

const LLAMA: Architecture = Architecture {
    model_type: "llama",
    with_head: "LlamaForCausalLM",
    bare: "LlamaModel",
    biases: Biases::AsConfigured,
    feed_forward: FeedForwardBiases::AsConfigured,
    has_head_norms: false,
    norms: TWO,
    is_tied: false,
    head: None,
};

/// Llama without biases of feed-forward layers.
const PLAIN: Architecture = Architecture { feed_forward: FeedForwardBiases::None, ..LLAMA };

/// What the Gemma architectures share.
const GEMMA: Architecture = Architecture {
    model_type: "gemma",
    with_head: "GemmaForCausalLM",
    bare: "GemmaModel",
    is_tied: true,
    head: Some(256),
    ..PLAIN
};

/// All of them.
pub(super) static ALL: [Architecture; 7] = [
    LLAMA,
    Architecture {
        model_type: "mistral",
        with_head: "MistralForCausalLM",
        bare: "MistralModel",
        biases: Biases::None,
        ..PLAIN
    },
    Architecture {
        model_type: "qwen2",
        with_head: "Qwen2ForCausalLM",
        bare: "Qwen2Model",
        biases: Biases::OnInputs,
        ..PLAIN
    },
    Architecture {
        model_type: "qwen3",
        with_head: "Qwen3ForCausalLM",
        bare: "Qwen3Model",
        has_head_norms: true,
        head: Some(128),
        ..PLAIN
    },
    GEMMA,
    Architecture { model_type: "gemma2", with_head: "Gemma2ForCausalLM", bare: "Gemma2Model", norms: FOUR, ..GEMMA },
    Architecture {
        model_type: "gemma3_text",
        with_head: "Gemma3ForCausalLM",
        bare: "Gemma3TextModel",
        norms: FOUR,
        has_head_norms: true,
        ..GEMMA
    },
];
