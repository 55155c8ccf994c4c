//! The tensors that make an architecture, in groups.

use super::{
    Form, Row, Rows,
    Size::{
        self, Head, Heads, Hidden, Inner, InnerOrFourHidden, KeyHeads, KeyRank, KeyRankAndRotated, Keys,
        LatentKeysValues, LatentQueries, LatentValues, LinearHeads, LinearKernel, LinearMixed, LinearMixedAndGates,
        LinearValue, LinearValues, One, Positions, Queries, QueriesKeysValues, QueryRank, ThreeHidden, TwoInner,
        TwoLinearHeads, TwoQueries, Unrotated, Value, Vocabulary,
    },
    When,
};

pub(super) const fn row(name: &'static str, shape: &'static [Size]) -> Row {
    Row { name, shape, when: When::Always }
}

/// A tensor that is there if the config says so under this key; where it says nothing it is not.
pub(super) const fn if_so(key: &'static str, name: &'static str, shape: &'static [Size]) -> Row {
    Row { name, shape, when: When::Is(key, false) }
}

/// The same; where the config says nothing it is there.
const fn unless_denied(key: &'static str, name: &'static str, shape: &'static [Size]) -> Row {
    Row { name, shape, when: When::Is(key, true) }
}

/// A tensor that is there if the config has a value under this key.
pub(super) const fn if_set(key: &'static str, name: &'static str, shape: &'static [Size]) -> Row {
    Row { name, shape, when: When::Has(key) }
}

const ATTENTION_BIAS: &str = "attention_bias";
pub(super) const MLP_BIAS: &str = "mlp_bias";
pub(super) const USE_BIAS: &str = "use_bias";

pub(super) const EMBEDDING: Rows = &[row("model.embed_tokens.weight", &[Vocabulary, Hidden])];
pub(super) const NORM: Rows = &[row("model.norm.weight", &[Hidden])];
pub(super) const BIASED_NORM: Rows = &[row("model.norm.weight", &[Hidden]), row("model.norm.bias", &[Hidden])];
pub(super) const HEAD: Rows = &[row("lm_head.weight", &[Vocabulary, Hidden])];

/// Attention.
pub(super) const PROJECTIONS: Rows = &[
    row("self_attn.q_proj.weight", &[Queries, Hidden]),
    row("self_attn.k_proj.weight", &[Keys, Hidden]),
    row("self_attn.v_proj.weight", &[Keys, Hidden]),
    row("self_attn.o_proj.weight", &[Hidden, Queries]),
];
/// With an output as wide as the model, whatever its heads are.
pub(super) const SQUARE_PROJECTIONS: Rows = &[
    row("self_attn.q_proj.weight", &[Queries, Hidden]),
    row("self_attn.k_proj.weight", &[Keys, Hidden]),
    row("self_attn.v_proj.weight", &[Keys, Hidden]),
    row("self_attn.o_proj.weight", &[Hidden, Hidden]),
];
pub(super) const INPUT_BIASES: Rows = &[
    row("self_attn.q_proj.bias", &[Queries]),
    row("self_attn.k_proj.bias", &[Keys]),
    row("self_attn.v_proj.bias", &[Keys]),
];
pub(super) const INPUT_BIASES_IF: Rows = &[
    if_so(ATTENTION_BIAS, "self_attn.q_proj.bias", &[Queries]),
    if_so(ATTENTION_BIAS, "self_attn.k_proj.bias", &[Keys]),
    if_so(ATTENTION_BIAS, "self_attn.v_proj.bias", &[Keys]),
];
pub(super) const INPUT_BIASES_UNLESS: Rows = &[
    unless_denied(ATTENTION_BIAS, "self_attn.q_proj.bias", &[Queries]),
    unless_denied(ATTENTION_BIAS, "self_attn.k_proj.bias", &[Keys]),
    unless_denied(ATTENTION_BIAS, "self_attn.v_proj.bias", &[Keys]),
];
pub(super) const OUTPUT_BIAS_IF: Rows = &[if_so(ATTENTION_BIAS, "self_attn.o_proj.bias", &[Hidden])];
pub(super) const OUTPUT_BIAS_UNLESS: Rows = &[unless_denied(ATTENTION_BIAS, "self_attn.o_proj.bias", &[Hidden])];
pub(super) const SEED_OUTPUT_BIAS: Rows = &[if_so("attention_out_bias", "self_attn.o_proj.bias", &[Hidden])];
pub(super) const QKV_BIASES: Rows = &[
    unless_denied("qkv_bias", "self_attn.q_proj.bias", &[Queries]),
    unless_denied("qkv_bias", "self_attn.k_proj.bias", &[Keys]),
    unless_denied("qkv_bias", "self_attn.v_proj.bias", &[Keys]),
];
pub(super) const USE_QKV_BIASES: Rows = &[
    if_so("use_qkv_bias", "self_attn.q_proj.bias", &[Queries]),
    if_so("use_qkv_bias", "self_attn.k_proj.bias", &[Keys]),
    if_so("use_qkv_bias", "self_attn.v_proj.bias", &[Keys]),
];
/// One key for all biases of a block.
pub(super) const ERNIE_ATTENTION_BIASES: Rows = &[
    if_so(USE_BIAS, "self_attn.q_proj.bias", &[Queries]),
    if_so(USE_BIAS, "self_attn.k_proj.bias", &[Keys]),
    if_so(USE_BIAS, "self_attn.v_proj.bias", &[Keys]),
    if_so(USE_BIAS, "self_attn.o_proj.bias", &[Hidden]),
];
pub(super) const ERNIE_GATED_BIASES: Rows = &[
    if_so(USE_BIAS, "mlp.gate_proj.bias", &[Inner]),
    if_so(USE_BIAS, "mlp.up_proj.bias", &[Inner]),
    if_so(USE_BIAS, "mlp.down_proj.bias", &[Hidden]),
];
pub(super) const ERNIE_HEAD_BIAS: Rows = &[if_so(USE_BIAS, "lm_head.bias", &[Vocabulary])];
pub(super) const FUSED_PROJECTIONS: Rows = &[
    row("self_attn.qkv_proj.weight", &[QueriesKeysValues, Hidden]),
    row("self_attn.o_proj.weight", &[Hidden, Queries]),
];
/// Queries with a gate each.
pub(super) const GATED_PROJECTIONS: Rows = &[
    row("self_attn.q_proj.weight", &[TwoQueries, Hidden]),
    row("self_attn.k_proj.weight", &[Keys, Hidden]),
    row("self_attn.v_proj.weight", &[Keys, Hidden]),
    row("self_attn.o_proj.weight", &[Hidden, Queries]),
    if_so(ATTENTION_BIAS, "self_attn.q_proj.bias", &[TwoQueries]),
    if_so(ATTENTION_BIAS, "self_attn.k_proj.bias", &[Keys]),
    if_so(ATTENTION_BIAS, "self_attn.v_proj.bias", &[Keys]),
    if_so(ATTENTION_BIAS, "self_attn.o_proj.bias", &[Hidden]),
];
/// Linear attention of Qwen3-Next.
pub(super) const LINEAR_ATTENTION: Rows = &[
    row("linear_attn.in_proj_qkvz.weight", &[LinearMixedAndGates, Hidden]),
    row("linear_attn.in_proj_ba.weight", &[TwoLinearHeads, Hidden]),
    row("linear_attn.dt_bias", &[LinearHeads]),
    row("linear_attn.A_log", &[LinearHeads]),
    row("linear_attn.norm.weight", &[LinearValue]),
    row("linear_attn.out_proj.weight", &[Hidden, LinearValues]),
];
/// Its kernels, one for each channel: as torch has them, and as MLX.
pub(super) const LINEAR_KERNELS: &[Form] = &[
    Form { sign: "linear_attn.conv1d.", rows: &[row("linear_attn.conv1d.weight", &[LinearMixed, One, LinearKernel])] },
    Form { sign: "linear_attn.conv1d.", rows: &[row("linear_attn.conv1d.weight", &[LinearMixed, LinearKernel, One])] },
];
pub(super) const SINKS: Rows = &[row("self_attn.sinks", &[Heads])];

/// Norms of queries and keys, head by head.
pub(super) const HEAD_NORMS: Rows = &[row("self_attn.q_norm.weight", &[Head]), row("self_attn.k_norm.weight", &[Head])];
pub(super) const HEAD_NORMS_IF: Rows = &[
    if_so("use_qk_norm", "self_attn.q_norm.weight", &[Head]),
    if_so("use_qk_norm", "self_attn.k_norm.weight", &[Head]),
];
pub(super) const HUNYUAN_HEAD_NORMS: Rows =
    &[row("self_attn.query_layernorm.weight", &[Head]), row("self_attn.key_layernorm.weight", &[Head])];
/// One norm for each head.
pub(super) const COHERE_HEAD_NORMS: Rows = &[
    if_so("use_qk_norm", "self_attn.q_norm.weight", &[Heads, Head]),
    if_so("use_qk_norm", "self_attn.k_norm.weight", &[KeyHeads, Head]),
];
/// Norms of all queries and of all keys.
pub(super) const WHOLE_NORMS: Rows =
    &[row("self_attn.q_norm.weight", &[Queries]), row("self_attn.k_norm.weight", &[Keys])];

/// Attention with compressed queries, keys and values.
pub(super) const LATENT_ATTENTION: Rows = &[
    Row { name: "self_attn.q_proj.weight", shape: &[LatentQueries, Hidden], when: When::Lacks("q_lora_rank") },
    if_set("q_lora_rank", "self_attn.q_a_proj.weight", &[QueryRank, Hidden]),
    Row {
        name: "self_attn.q_a_proj.bias",
        shape: &[QueryRank],
        when: When::Both(&When::Has("q_lora_rank"), &When::Is(ATTENTION_BIAS, false)),
    },
    if_set("q_lora_rank", "self_attn.q_a_layernorm.weight", &[QueryRank]),
    if_set("q_lora_rank", "self_attn.q_b_proj.weight", &[LatentQueries, QueryRank]),
    row("self_attn.kv_a_proj_with_mqa.weight", &[KeyRankAndRotated, Hidden]),
    if_so(ATTENTION_BIAS, "self_attn.kv_a_proj_with_mqa.bias", &[KeyRankAndRotated]),
    row("self_attn.kv_a_layernorm.weight", &[KeyRank]),
    row("self_attn.o_proj.weight", &[Hidden, LatentValues]),
    if_so(ATTENTION_BIAS, "self_attn.o_proj.bias", &[Hidden]),
];
/// Its keys and values: as published, and taken apart by mlx-lm.
pub(super) const LATENT_KEYS: &[Form] = &[
    Form { sign: "self_attn.kv_b_proj.", rows: &[row("self_attn.kv_b_proj.weight", &[LatentKeysValues, KeyRank])] },
    Form {
        sign: "self_attn.embed_q.",
        rows: &[
            row("self_attn.embed_q.weight", &[Heads, KeyRank, Unrotated]),
            row("self_attn.unembed_out.weight", &[Heads, Value, KeyRank]),
        ],
    },
];

/// Feed-forward layers.
pub(super) const GATED: Rows = &[
    row("mlp.gate_proj.weight", &[Inner, Hidden]),
    row("mlp.up_proj.weight", &[Inner, Hidden]),
    row("mlp.down_proj.weight", &[Hidden, Inner]),
];
pub(super) const GATED_BIASES_IF: Rows = &[
    if_so(MLP_BIAS, "mlp.gate_proj.bias", &[Inner]),
    if_so(MLP_BIAS, "mlp.up_proj.bias", &[Inner]),
    if_so(MLP_BIAS, "mlp.down_proj.bias", &[Hidden]),
];
pub(super) const UNGATED: Rows = &[
    row("mlp.up_proj.weight", &[Inner, Hidden]),
    row("mlp.down_proj.weight", &[Hidden, Inner]),
    if_so(MLP_BIAS, "mlp.up_proj.bias", &[Inner]),
    if_so(MLP_BIAS, "mlp.down_proj.bias", &[Hidden]),
];
pub(super) const FUSED_GATED: Rows =
    &[row("mlp.gate_up_proj.weight", &[TwoInner, Hidden]), row("mlp.down_proj.weight", &[Hidden, Inner])];

/// Norms of a block.
pub(super) const ONE_NORM: Rows = &[row("input_layernorm.weight", &[Hidden])];
pub(super) const TWO_NORMS: Rows =
    &[row("input_layernorm.weight", &[Hidden]), row("post_attention_layernorm.weight", &[Hidden])];
pub(super) const FOUR_NORMS: Rows = &[
    row("input_layernorm.weight", &[Hidden]),
    row("post_attention_layernorm.weight", &[Hidden]),
    row("pre_feedforward_layernorm.weight", &[Hidden]),
    row("post_feedforward_layernorm.weight", &[Hidden]),
];
pub(super) const INPUT_NORMS: Rows =
    &[row("input_layernorm.weight", &[Hidden]), row("pre_feedforward_layernorm.weight", &[Hidden])];
pub(super) const OUTPUT_NORMS: Rows =
    &[row("post_attention_layernorm.weight", &[Hidden]), row("post_feedforward_layernorm.weight", &[Hidden])];
pub(super) const GLM4_NORMS: Rows =
    &[row("post_self_attn_layernorm.weight", &[Hidden]), row("post_mlp_layernorm.weight", &[Hidden])];
pub(super) const TWO_BIASED_NORMS: Rows = &[
    row("input_layernorm.weight", &[Hidden]),
    row("input_layernorm.bias", &[Hidden]),
    row("post_attention_layernorm.weight", &[Hidden]),
    row("post_attention_layernorm.bias", &[Hidden]),
];
const SERIAL: When = When::IsNot("use_parallel_residual", false);
pub(super) const STABLELM_NORMS: Rows = &[
    row("input_layernorm.weight", &[Hidden]),
    row("input_layernorm.bias", &[Hidden]),
    Row { name: "post_attention_layernorm.weight", shape: &[Hidden], when: SERIAL },
    Row { name: "post_attention_layernorm.bias", shape: &[Hidden], when: SERIAL },
];

/// Blocks of their own.
pub(super) const STARCODER_BLOCK: Rows = &[
    unless_denied(USE_BIAS, "self_attn.q_proj.bias", &[Queries]),
    unless_denied(USE_BIAS, "self_attn.k_proj.bias", &[Keys]),
    unless_denied(USE_BIAS, "self_attn.v_proj.bias", &[Keys]),
    unless_denied(USE_BIAS, "self_attn.o_proj.bias", &[Hidden]),
    row("mlp.c_fc.weight", &[Inner, Hidden]),
    unless_denied(USE_BIAS, "mlp.c_fc.bias", &[Inner]),
    row("mlp.c_proj.weight", &[Hidden, Inner]),
    unless_denied(USE_BIAS, "mlp.c_proj.bias", &[Hidden]),
];
pub(super) const PHI_BLOCK: Rows = &[
    row("self_attn.q_proj.weight", &[Queries, Hidden]),
    row("self_attn.k_proj.weight", &[Keys, Hidden]),
    row("self_attn.v_proj.weight", &[Keys, Hidden]),
    row("self_attn.dense.weight", &[Hidden, Queries]),
    row("self_attn.dense.bias", &[Hidden]),
    row("mlp.fc1.weight", &[Inner, Hidden]),
    row("mlp.fc1.bias", &[Inner]),
    row("mlp.fc2.weight", &[Hidden, Inner]),
    row("mlp.fc2.bias", &[Hidden]),
    row("input_layernorm.weight", &[Hidden]),
    row("input_layernorm.bias", &[Hidden]),
];
pub(super) const PHI_END: Rows =
    &[row("model.final_layernorm.weight", &[Hidden]), row("model.final_layernorm.bias", &[Hidden])];
pub(super) const PHI_HEAD_BIAS: Rows = &[row("lm_head.bias", &[Vocabulary])];
pub(super) const PHIMOE_HEAD_BIAS: Rows = &[if_so("lm_head_bias", "lm_head.bias", &[Vocabulary])];

/// GPT-2: the same names behind three beginnings, and matrices in two orders.
pub(super) const GPT2_START: Rows =
    &[row("wte.weight", &[Vocabulary, Hidden]), row("wpe.weight", &[Positions, Hidden])];
pub(super) const GPT2_END: Rows = &[row("ln_f.weight", &[Hidden]), row("ln_f.bias", &[Hidden])];
pub(super) const GPT2_START_OF_TRANSFORMERS: Rows =
    &[row("transformer.wte.weight", &[Vocabulary, Hidden]), row("transformer.wpe.weight", &[Positions, Hidden])];
pub(super) const GPT2_END_OF_TRANSFORMERS: Rows =
    &[row("transformer.ln_f.weight", &[Hidden]), row("transformer.ln_f.bias", &[Hidden])];
pub(super) const GPT2_START_OF_MLX_LM: Rows =
    &[row("model.wte.weight", &[Vocabulary, Hidden]), row("model.wpe.weight", &[Positions, Hidden])];
pub(super) const GPT2_END_OF_MLX_LM: Rows = &[row("model.ln_f.weight", &[Hidden]), row("model.ln_f.bias", &[Hidden])];
pub(super) const GPT2_BLOCK: Rows = &[
    row("ln_1.weight", &[Hidden]),
    row("ln_1.bias", &[Hidden]),
    row("attn.c_attn.weight", &[Hidden, ThreeHidden]),
    row("attn.c_attn.bias", &[ThreeHidden]),
    row("attn.c_proj.weight", &[Hidden, Hidden]),
    row("attn.c_proj.bias", &[Hidden]),
    row("ln_2.weight", &[Hidden]),
    row("ln_2.bias", &[Hidden]),
    row("mlp.c_fc.weight", &[Hidden, InnerOrFourHidden]),
    row("mlp.c_fc.bias", &[InnerOrFourHidden]),
    row("mlp.c_proj.weight", &[InnerOrFourHidden, Hidden]),
    row("mlp.c_proj.bias", &[Hidden]),
];
pub(super) const GPT2_BLOCK_OF_MLX_LM: Rows = &[
    row("ln_1.weight", &[Hidden]),
    row("ln_1.bias", &[Hidden]),
    row("attn.c_attn.weight", &[ThreeHidden, Hidden]),
    row("attn.c_attn.bias", &[ThreeHidden]),
    row("attn.c_proj.weight", &[Hidden, Hidden]),
    row("attn.c_proj.bias", &[Hidden]),
    row("ln_2.weight", &[Hidden]),
    row("ln_2.bias", &[Hidden]),
    row("mlp.c_fc.weight", &[InnerOrFourHidden, Hidden]),
    row("mlp.c_fc.bias", &[InnerOrFourHidden]),
    row("mlp.c_proj.weight", &[Hidden, InnerOrFourHidden]),
    row("mlp.c_proj.bias", &[Hidden]),
];
