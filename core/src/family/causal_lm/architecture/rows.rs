//! The tensors that make an architecture, in groups.

use super::{
    Form, Row, Rows,
    Size::{
        self, ExpertInner, Experts, Head, Heads, Hidden, Inner, KeyHeads, KeyRank, KeyRankAndRotated, Keys,
        LatentKeysValues, LatentQueries, LatentValues, One, Queries, QueriesKeysValues, QueryRank, SharedExpertsInner,
        SharedInner, TwoExpertInner, TwoInner, Unrotated, Value, Vocabulary,
    },
    When,
};

const fn row(name: &'static str, shape: &'static [Size]) -> Row {
    Row { name, shape, when: When::Always }
}

/// A tensor that is there if the config says so under this key; where it says nothing it is not.
const fn if_so(key: &'static str, name: &'static str, shape: &'static [Size]) -> Row {
    Row { name, shape, when: When::Is(key, false) }
}

/// The same; where the config says nothing it is there.
const fn unless_denied(key: &'static str, name: &'static str, shape: &'static [Size]) -> Row {
    Row { name, shape, when: When::Is(key, true) }
}

/// A tensor that is there if the config has a value under this key.
const fn if_set(key: &'static str, name: &'static str, shape: &'static [Size]) -> Row {
    Row { name, shape, when: When::Has(key) }
}

const ATTENTION_BIAS: &str = "attention_bias";
const MLP_BIAS: &str = "mlp_bias";
const USE_BIAS: &str = "use_bias";

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
pub(super) const ERNIE_BIASES: Rows = &[
    if_so(USE_BIAS, "self_attn.q_proj.bias", &[Queries]),
    if_so(USE_BIAS, "self_attn.k_proj.bias", &[Keys]),
    if_so(USE_BIAS, "self_attn.v_proj.bias", &[Keys]),
    if_so(USE_BIAS, "self_attn.o_proj.bias", &[Hidden]),
    if_so(USE_BIAS, "mlp.gate_proj.bias", &[Inner]),
    if_so(USE_BIAS, "mlp.up_proj.bias", &[Inner]),
    if_so(USE_BIAS, "mlp.down_proj.bias", &[Hidden]),
];
pub(super) const FUSED_PROJECTIONS: Rows = &[
    row("self_attn.qkv_proj.weight", &[QueriesKeysValues, Hidden]),
    row("self_attn.o_proj.weight", &[Hidden, Queries]),
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

/// What chooses among experts.
pub(super) const ROUTER: Rows = &[row("mlp.gate.weight", &[Experts, Hidden])];
pub(super) const CORRECTION: Rows = &[row("mlp.gate.e_score_correction_bias", &[Experts])];
pub(super) const BIASED_ROUTER: Rows =
    &[row("mlp.router.weight", &[Experts, Hidden]), row("mlp.router.bias", &[Experts])];

/// Experts beside those that are chosen.
pub(super) const SHARED_EXPERT: Rows = &[
    row("mlp.shared_expert.gate_proj.weight", &[SharedInner, Hidden]),
    row("mlp.shared_expert.up_proj.weight", &[SharedInner, Hidden]),
    row("mlp.shared_expert.down_proj.weight", &[Hidden, SharedInner]),
    row("mlp.shared_expert_gate.weight", &[One, Hidden]),
];
pub(super) const SHARED_EXPERTS: Rows = &[
    if_set("n_shared_experts", "mlp.shared_experts.gate_proj.weight", &[SharedExpertsInner, Hidden]),
    if_set("n_shared_experts", "mlp.shared_experts.up_proj.weight", &[SharedExpertsInner, Hidden]),
    if_set("n_shared_experts", "mlp.shared_experts.down_proj.weight", &[Hidden, SharedExpertsInner]),
];

const SHARED_BIAS: When = When::Both(&When::Has("n_shared_experts"), &When::Is(MLP_BIAS, false));
pub(super) const SHARED_BIASES_IF: Rows = &[
    Row { name: "mlp.shared_experts.gate_proj.bias", shape: &[SharedExpertsInner], when: SHARED_BIAS },
    Row { name: "mlp.shared_experts.up_proj.bias", shape: &[SharedExpertsInner], when: SHARED_BIAS },
    Row { name: "mlp.shared_experts.down_proj.bias", shape: &[Hidden], when: SHARED_BIAS },
];

/// Experts: as published, one by one; as transformers 5 has them in memory; as mlx-lm stacks
/// them, under two names.
pub(super) const EXPERTS: &[Form] = &[
    Form {
        sign: "mlp.experts.0.",
        rows: &[
            row("mlp.experts.#.gate_proj.weight", &[ExpertInner, Hidden]),
            row("mlp.experts.#.up_proj.weight", &[ExpertInner, Hidden]),
            row("mlp.experts.#.down_proj.weight", &[Hidden, ExpertInner]),
        ],
    },
    Form {
        sign: "mlp.experts.gate_up_proj",
        rows: &[
            row("mlp.experts.gate_up_proj", &[Experts, TwoExpertInner, Hidden]),
            row("mlp.experts.down_proj", &[Experts, Hidden, ExpertInner]),
        ],
    },
    Form {
        sign: "mlp.switch_mlp.",
        rows: &[
            row("mlp.switch_mlp.gate_proj.weight", &[Experts, ExpertInner, Hidden]),
            row("mlp.switch_mlp.up_proj.weight", &[Experts, ExpertInner, Hidden]),
            row("mlp.switch_mlp.down_proj.weight", &[Experts, Hidden, ExpertInner]),
        ],
    },
    Form {
        sign: "mlp.experts.gate_proj.",
        rows: &[
            row("mlp.experts.gate_proj.weight", &[Experts, ExpertInner, Hidden]),
            row("mlp.experts.up_proj.weight", &[Experts, ExpertInner, Hidden]),
            row("mlp.experts.down_proj.weight", &[Experts, Hidden, ExpertInner]),
        ],
    },
];
/// The same, of the width of feed-forward layers.
pub(super) const WIDE_EXPERTS: &[Form] = &[
    Form {
        sign: "mlp.experts.0.",
        rows: &[
            row("mlp.experts.#.gate_proj.weight", &[Inner, Hidden]),
            row("mlp.experts.#.up_proj.weight", &[Inner, Hidden]),
            row("mlp.experts.#.down_proj.weight", &[Hidden, Inner]),
        ],
    },
    Form {
        sign: "mlp.experts.gate_up_proj",
        rows: &[
            row("mlp.experts.gate_up_proj", &[Experts, TwoInner, Hidden]),
            row("mlp.experts.down_proj", &[Experts, Hidden, Inner]),
        ],
    },
    Form {
        sign: "mlp.switch_mlp.",
        rows: &[
            row("mlp.switch_mlp.gate_proj.weight", &[Experts, Inner, Hidden]),
            row("mlp.switch_mlp.up_proj.weight", &[Experts, Inner, Hidden]),
            row("mlp.switch_mlp.down_proj.weight", &[Experts, Hidden, Inner]),
        ],
    },
];
pub(super) const MIXTRAL_EXPERTS: &[Form] = &[
    Form {
        sign: "block_sparse_moe.experts.",
        rows: &[
            row("block_sparse_moe.gate.weight", &[Experts, Hidden]),
            row("block_sparse_moe.experts.#.w1.weight", &[Inner, Hidden]),
            row("block_sparse_moe.experts.#.w2.weight", &[Hidden, Inner]),
            row("block_sparse_moe.experts.#.w3.weight", &[Inner, Hidden]),
        ],
    },
    Form {
        sign: "mlp.experts.",
        rows: &[
            row("mlp.gate.weight", &[Experts, Hidden]),
            row("mlp.experts.gate_up_proj", &[Experts, TwoInner, Hidden]),
            row("mlp.experts.down_proj", &[Experts, Hidden, Inner]),
        ],
    },
    Form {
        sign: "block_sparse_moe.switch_mlp.",
        rows: &[
            row("block_sparse_moe.gate.weight", &[Experts, Hidden]),
            row("block_sparse_moe.switch_mlp.gate_proj.weight", &[Experts, Inner, Hidden]),
            row("block_sparse_moe.switch_mlp.up_proj.weight", &[Experts, Inner, Hidden]),
            row("block_sparse_moe.switch_mlp.down_proj.weight", &[Experts, Hidden, Inner]),
        ],
    },
];
/// Experts of GPT-OSS, whose matrices transformers writes `[input, output]`.
pub(super) const BIASED_EXPERTS: &[Form] = &[
    Form {
        sign: "mlp.experts.gate_up_proj",
        rows: &[
            row("mlp.experts.gate_up_proj", &[Experts, Hidden, TwoInner]),
            row("mlp.experts.gate_up_proj_bias", &[Experts, TwoInner]),
            row("mlp.experts.down_proj", &[Experts, Inner, Hidden]),
            row("mlp.experts.down_proj_bias", &[Experts, Hidden]),
        ],
    },
    Form {
        sign: "mlp.experts.gate_proj.",
        rows: &[
            row("mlp.experts.gate_proj.weight", &[Experts, Inner, Hidden]),
            row("mlp.experts.gate_proj.bias", &[Experts, Inner]),
            row("mlp.experts.up_proj.weight", &[Experts, Inner, Hidden]),
            row("mlp.experts.up_proj.bias", &[Experts, Inner]),
            row("mlp.experts.down_proj.weight", &[Experts, Hidden, Inner]),
            row("mlp.experts.down_proj.bias", &[Experts, Hidden]),
        ],
    },
];
