//! The tensors of experts, of what chooses among them, and of those that all words go through.

use super::{
    Form, Row, Rows,
    Size::{
        CountedSharedInner, ExpertInner, Experts, Hidden, Inner, One, SharedExpertsInner, SharedInner, TwoExpertInner,
        TwoInner,
    },
    When,
    rows::{MLP_BIAS, USE_BIAS, if_set, if_so, row},
};

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

const ERNIE_SHARED: When = When::Counts("moe_num_shared_experts");
const ERNIE_SHARED_BIAS: When = When::Both(&ERNIE_SHARED, &When::Is(USE_BIAS, false));
pub(super) const ERNIE_SHARED_EXPERTS: Rows = &[
    Row { name: "mlp.shared_experts.gate_proj.weight", shape: &[CountedSharedInner, Hidden], when: ERNIE_SHARED },
    Row { name: "mlp.shared_experts.up_proj.weight", shape: &[CountedSharedInner, Hidden], when: ERNIE_SHARED },
    Row { name: "mlp.shared_experts.down_proj.weight", shape: &[Hidden, CountedSharedInner], when: ERNIE_SHARED },
    Row { name: "mlp.shared_experts.gate_proj.bias", shape: &[CountedSharedInner], when: ERNIE_SHARED_BIAS },
    Row { name: "mlp.shared_experts.up_proj.bias", shape: &[CountedSharedInner], when: ERNIE_SHARED_BIAS },
    Row { name: "mlp.shared_experts.down_proj.bias", shape: &[Hidden], when: ERNIE_SHARED_BIAS },
];
/// One expert for all words, and what chooses among the others.
pub(super) const HUNYUAN_SHARED_EXPERT: Rows = &[
    row("mlp.shared_mlp.gate_proj.weight", &[Inner, Hidden]),
    row("mlp.shared_mlp.up_proj.weight", &[Inner, Hidden]),
    row("mlp.shared_mlp.down_proj.weight", &[Hidden, Inner]),
    row("mlp.gate.wg.weight", &[Experts, Hidden]),
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
/// Mixtral's, as transformers calls them otherwise in memory.
pub(super) const PHIMOE_EXPERTS: &[Form] = &[
    Form { sign: "block_sparse_moe.experts.", rows: MIXTRAL_EXPERTS[0].rows },
    Form {
        sign: "mlp.experts.",
        rows: &[
            row("mlp.router.weight", &[Experts, Hidden]),
            row("mlp.experts.gate_up_proj", &[Experts, TwoInner, Hidden]),
            row("mlp.experts.down_proj", &[Experts, Hidden, Inner]),
        ],
    },
    Form { sign: "block_sparse_moe.switch_mlp.", rows: MIXTRAL_EXPERTS[2].rows },
];
/// Experts of Granite, published in one tensor for all; as transformers 5 has them in memory; and as mlx-lm stacks them.
pub(super) const GRANITE_EXPERTS: &[Form] = &[
    Form {
        sign: "block_sparse_moe.input_linear.",
        rows: &[
            row("block_sparse_moe.router.layer.weight", &[Experts, Hidden]),
            row("block_sparse_moe.input_linear.weight", &[Experts, TwoInner, Hidden]),
            row("block_sparse_moe.output_linear.weight", &[Experts, Hidden, Inner]),
        ],
    },
    Form {
        sign: "block_sparse_moe.experts.",
        rows: &[
            row("block_sparse_moe.router.weight", &[Experts, Hidden]),
            row("block_sparse_moe.experts.gate_up_proj", &[Experts, TwoInner, Hidden]),
            row("block_sparse_moe.experts.down_proj", &[Experts, Hidden, Inner]),
        ],
    },
    Form {
        sign: "block_sparse_moe.switch_mlp.",
        rows: &[
            row("block_sparse_moe.router.layer.weight", &[Experts, Hidden]),
            row("block_sparse_moe.switch_mlp.gate_proj.weight", &[Experts, Inner, Hidden]),
            row("block_sparse_moe.switch_mlp.up_proj.weight", &[Experts, Inner, Hidden]),
            row("block_sparse_moe.switch_mlp.down_proj.weight", &[Experts, Hidden, Inner]),
        ],
    },
];
/// Experts of ERNIE, which have biases in mlx-lm alone, and no correction there.
pub(super) const ERNIE_EXPERTS: &[Form] = &[
    Form {
        sign: "mlp.experts.0.",
        rows: &[
            row("mlp.experts.#.gate_proj.weight", &[ExpertInner, Hidden]),
            row("mlp.experts.#.up_proj.weight", &[ExpertInner, Hidden]),
            row("mlp.experts.#.down_proj.weight", &[Hidden, ExpertInner]),
            row("mlp.moe_statics.e_score_correction_bias", &[One, Experts]),
        ],
    },
    Form {
        sign: "mlp.experts.gate_up_proj",
        rows: &[
            row("mlp.experts.gate_up_proj", &[Experts, TwoExpertInner, Hidden]),
            row("mlp.experts.down_proj", &[Experts, Hidden, ExpertInner]),
            row("mlp.gate.moe_statics.e_score_correction_bias", &[One, Experts]),
        ],
    },
    Form {
        sign: "mlp.switch_mlp.",
        rows: &[
            row("mlp.switch_mlp.gate_proj.weight", &[Experts, ExpertInner, Hidden]),
            row("mlp.switch_mlp.up_proj.weight", &[Experts, ExpertInner, Hidden]),
            row("mlp.switch_mlp.down_proj.weight", &[Experts, Hidden, ExpertInner]),
            if_so(USE_BIAS, "mlp.switch_mlp.gate_proj.bias", &[Experts, ExpertInner]),
            if_so(USE_BIAS, "mlp.switch_mlp.up_proj.bias", &[Experts, ExpertInner]),
            if_so(USE_BIAS, "mlp.switch_mlp.down_proj.bias", &[Experts, Hidden]),
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
