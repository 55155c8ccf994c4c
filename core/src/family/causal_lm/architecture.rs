//! In what the architectures differ (transformers' `modeling_*.py`).

/// Which projections of attention have biases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Biases {
    /// Those of the config's `attention_bias`, on all four.
    AsConfigured,
    /// Always, on queries, keys and values.
    OnInputs,
}

/// An architecture.
#[derive(Debug)]
pub(super) struct Architecture {
    /// `model_type` in the config.
    pub(super) model_type: &'static str,
    /// Biases of attention.
    pub(super) biases: Biases,
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
    biases: Biases::AsConfigured,
    has_head_norms: false,
    norms: TWO,
    is_tied: false,
    head: None,
};

/// All of them.
pub(super) static ALL: [Architecture; 7] = [
    LLAMA,
    Architecture { model_type: "mistral", ..LLAMA },
    Architecture { model_type: "qwen2", biases: Biases::OnInputs, ..LLAMA },
    Architecture { model_type: "qwen3", has_head_norms: true, head: Some(128), ..LLAMA },
    Architecture { model_type: "gemma", is_tied: true, head: Some(256), ..LLAMA },
    Architecture { model_type: "gemma2", is_tied: true, head: Some(256), norms: FOUR, ..LLAMA },
    Architecture {
        model_type: "gemma3_text",
        is_tied: true,
        head: Some(256),
        norms: FOUR,
        has_head_norms: true,
        ..LLAMA
    },
];
