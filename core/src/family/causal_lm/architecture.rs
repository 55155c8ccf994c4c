//! The architectures, as data: which tensors each has, in which sizes, and under which condition. Transformers'
//! `modeling_*.py` decide: a key that such a file does not read changes no tensor, whatever a config says. Where several
//! programs save the same weights otherwise, there are several forms; the tensors tell which one it is.

mod rows;

use self::rows::{
    BIASED_EXPERTS, BIASED_NORM, BIASED_ROUTER, COHERE_HEAD_NORMS, CORRECTION, EMBEDDING, ERNIE_BIASES, EXPERTS,
    FOUR_NORMS, FUSED_GATED, FUSED_PROJECTIONS, GATED, GATED_BIASES_IF, GLM4_NORMS, HEAD, HEAD_NORMS, HEAD_NORMS_IF,
    HUNYUAN_HEAD_NORMS, INPUT_BIASES, INPUT_BIASES_IF, INPUT_BIASES_UNLESS, INPUT_NORMS, LATENT_ATTENTION, LATENT_KEYS,
    MIXTRAL_EXPERTS, NORM, ONE_NORM, OUTPUT_BIAS_IF, OUTPUT_BIAS_UNLESS, OUTPUT_NORMS, PHI_BLOCK, PHI_END,
    PHI_HEAD_BIAS, PROJECTIONS, QKV_BIASES, ROUTER, SEED_OUTPUT_BIAS, SHARED_BIASES_IF, SHARED_EXPERT, SHARED_EXPERTS,
    SINKS, SQUARE_PROJECTIONS, STABLELM_NORMS, STARCODER_BLOCK, TWO_BIASED_NORMS, TWO_NORMS, UNGATED, USE_QKV_BIASES,
    WHOLE_NORMS, WIDE_EXPERTS,
};

/// Tensors.
pub(super) type Rows = &'static [Row];

/// An architecture.
#[derive(Debug)]
pub(super) struct Architecture {
    /// `model_type` in the config.
    pub(super) model_type: &'static str,
    /// Transformers' class with a head for text.
    pub(super) with_head: &'static str,
    /// Transformers' class without one.
    pub(super) bare: &'static str,
    /// What the blocks have, part by part.
    pub(super) block: &'static [Part],
    /// Which blocks have experts.
    pub(super) sparse: SparseBlocks,
    /// What is behind the blocks.
    pub(super) end: Rows,
    /// What the head for text has beside its matrix, also where that is the embedding.
    pub(super) head_bias: Rows,
    /// Whether the head is the embedding where the config does not say.
    pub(super) is_tied: bool,
    /// Width of a head where the config does not say; `None` divides the width by the heads.
    pub(super) head_width: Option<u64>,
    /// Switches whose tensors are not known here.
    pub(super) unknown: &'static [&'static str],
}

/// What some blocks have.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) blocks: Blocks,
    /// What they have however they are saved.
    pub(super) rows: &'static [Rows],
    /// What they have in one of several forms; the first is the published one. None where there is nothing to choose.
    pub(super) forms: &'static [Form],
}

impl Part {
    /// Whether a block has it, which has experts or none.
    pub(super) fn is_in(&self, is_sparse: bool) -> bool {
        match self.blocks {
            Blocks::All => true,
            Blocks::Dense => !is_sparse,
            Blocks::Sparse => is_sparse,
        }
    }
}

/// Which blocks have a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blocks {
    All,
    /// Those without experts.
    Dense,
    /// Those with experts.
    Sparse,
}

/// One way to save a part.
#[derive(Debug)]
pub(super) struct Form {
    /// The beginning of a name, behind that of the block, which no other form of the part has.
    pub(super) sign: &'static str,
    pub(super) rows: Rows,
}

/// A tensor, or one for each expert where `#` stands in its name.
#[derive(Debug)]
pub(super) struct Row {
    /// Name behind that of the block.
    pub(super) name: &'static str,
    pub(super) shape: &'static [Size],
    pub(super) when: When,
}

/// Under which condition there is a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    Always,
    /// The config says so under this key; where it says nothing, this counts.
    Is(&'static str, bool),
    /// The config does not say so under this key; where it says nothing, this counts.
    IsNot(&'static str, bool),
    /// The config has a value under this key.
    Has(&'static str),
    /// The config has none.
    Lacks(&'static str),
    Both(&'static When, &'static When),
}

/// Which blocks have experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SparseBlocks {
    None,
    All,
    /// From the one on whose number is under this key.
    From(&'static str),
    /// Every `decoder_sparse_step`th, without those in `mlp_only_layers`.
    Steps,
}

/// A size of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    One,
    Hidden,
    Vocabulary,
    /// `intermediate_size`.
    Inner,
    /// Twice that.
    TwoInner,
    /// Width of a head.
    Head,
    /// How many query heads.
    Heads,
    /// How many key heads.
    KeyHeads,
    /// Width of all query heads.
    Queries,
    /// Width of all key heads.
    Keys,
    /// Of queries, keys and values.
    QueriesKeysValues,
    Experts,
    /// `moe_intermediate_size`.
    ExpertInner,
    /// Twice that.
    TwoExpertInner,
    /// `shared_expert_intermediate_size`.
    SharedInner,
    /// `moe_intermediate_size` for each of `n_shared_experts`.
    SharedExpertsInner,
    /// `q_lora_rank`.
    QueryRank,
    /// `kv_lora_rank`.
    KeyRank,
    /// That, and the rotated part of a head.
    KeyRankAndRotated,
    /// Both parts of all query heads.
    LatentQueries,
    /// The parts of all key heads that are not rotated, and all values.
    LatentKeysValues,
    /// All values.
    LatentValues,
    /// The part of a head that is not rotated.
    Unrotated,
    /// Width of a value.
    Value,
}

const fn all(rows: &'static [Rows]) -> Part {
    Part { blocks: Blocks::All, rows, forms: &[] }
}

const fn dense(rows: &'static [Rows]) -> Part {
    Part { blocks: Blocks::Dense, rows, forms: &[] }
}

const fn experts(rows: &'static [Rows], forms: &'static [Form]) -> Part {
    Part { blocks: Blocks::Sparse, rows, forms }
}

const fn named(
    model_type: &'static str,
    with_head: &'static str,
    bare: &'static str,
    block: &'static [Part],
) -> Architecture {
    Architecture {
        model_type,
        with_head,
        bare,
        block,
        sparse: SparseBlocks::None,
        end: NORM,
        head_bias: &[],
        is_tied: false,
        head_width: None,
        unknown: &[],
    }
}

impl Architecture {
    const fn tied(self) -> Self {
        Self { is_tied: true, ..self }
    }

    const fn head_width(self, width: u64) -> Self {
        Self { head_width: Some(width), ..self }
    }

    const fn end(self, end: Rows) -> Self {
        Self { end, ..self }
    }

    const fn sparse(self, sparse: SparseBlocks) -> Self {
        Self { sparse, ..self }
    }
}

/// Llama's block.
const LLAMA: &[Part] = &[all(&[PROJECTIONS, INPUT_BIASES_IF, OUTPUT_BIAS_IF, GATED, GATED_BIASES_IF, TWO_NORMS])];
/// Without biases of feed-forward layers.
const CONFIGURED: &[Part] = &[all(&[PROJECTIONS, INPUT_BIASES_IF, OUTPUT_BIAS_IF, GATED, TWO_NORMS])];
/// Without any.
const UNBIASED: &[Part] = &[all(&[PROJECTIONS, GATED, TWO_NORMS])];
const LATENT: Part = Part { blocks: Blocks::All, rows: &[LATENT_ATTENTION, TWO_NORMS], forms: LATENT_KEYS };
const DENSE_FIRST: SparseBlocks = SparseBlocks::From("first_k_dense_replace");

/// All of them: first those whose blocks are all alike, then those with experts.
pub(super) static ALL: &[Architecture] = &[
    named("llama", "LlamaForCausalLM", "LlamaModel", LLAMA),
    named("mistral", "MistralForCausalLM", "MistralModel", UNBIASED),
    named("ministral", "MinistralForCausalLM", "MinistralModel", UNBIASED),
    named("qwen2", "Qwen2ForCausalLM", "Qwen2Model", &[all(&[PROJECTIONS, INPUT_BIASES, GATED, TWO_NORMS])]),
    named(
        "qwen3",
        "Qwen3ForCausalLM",
        "Qwen3Model",
        &[all(&[PROJECTIONS, INPUT_BIASES_IF, OUTPUT_BIAS_IF, HEAD_NORMS, GATED, TWO_NORMS])],
    )
    .head_width(128),
    named("gemma", "GemmaForCausalLM", "GemmaModel", CONFIGURED).tied().head_width(256),
    named(
        "gemma2",
        "Gemma2ForCausalLM",
        "Gemma2Model",
        &[all(&[PROJECTIONS, INPUT_BIASES_IF, OUTPUT_BIAS_IF, GATED, FOUR_NORMS])],
    )
    .tied()
    .head_width(256),
    named(
        "gemma3_text",
        "Gemma3ForCausalLM",
        "Gemma3TextModel",
        &[all(&[PROJECTIONS, INPUT_BIASES_IF, OUTPUT_BIAS_IF, HEAD_NORMS, GATED, FOUR_NORMS])],
    )
    .tied()
    .head_width(256),
    named(
        "vaultgemma",
        "VaultGemmaForCausalLM",
        "VaultGemmaModel",
        &[all(&[PROJECTIONS, INPUT_BIASES_IF, OUTPUT_BIAS_IF, GATED, INPUT_NORMS])],
    )
    .tied()
    .head_width(256),
    named("granite", "GraniteForCausalLM", "GraniteModel", LLAMA),
    named("smollm3", "SmolLM3ForCausalLM", "SmolLM3Model", LLAMA).tied(),
    named(
        "helium",
        "HeliumForCausalLM",
        "HeliumModel",
        &[all(&[SQUARE_PROJECTIONS, INPUT_BIASES_IF, GATED, GATED_BIASES_IF, TWO_NORMS])],
    )
    .head_width(128),
    named(
        "seed_oss",
        "SeedOssForCausalLM",
        "SeedOssModel",
        &[all(&[PROJECTIONS, INPUT_BIASES_UNLESS, SEED_OUTPUT_BIAS, GATED, GATED_BIASES_IF, TWO_NORMS])],
    )
    .head_width(128),
    named(
        "arcee",
        "ArceeForCausalLM",
        "ArceeModel",
        &[all(&[PROJECTIONS, INPUT_BIASES_IF, OUTPUT_BIAS_IF, UNGATED, TWO_NORMS])],
    ),
    named("ernie4_5", "Ernie4_5ForCausalLM", "Ernie4_5Model", &[all(&[PROJECTIONS, GATED, ERNIE_BIASES, TWO_NORMS])])
        .tied()
        .head_width(128),
    named(
        "hunyuan_v1_dense",
        "HunYuanDenseV1ForCausalLM",
        "HunYuanDenseV1Model",
        &[all(&[PROJECTIONS, INPUT_BIASES_IF, OUTPUT_BIAS_IF, HUNYUAN_HEAD_NORMS, GATED, TWO_NORMS])],
    ),
    named("phi3", "Phi3ForCausalLM", "Phi3Model", &[all(&[FUSED_PROJECTIONS, FUSED_GATED, TWO_NORMS])]),
    named("glm", "GlmForCausalLM", "GlmModel", &[all(&[PROJECTIONS, INPUT_BIASES_UNLESS, FUSED_GATED, TWO_NORMS])])
        .head_width(128),
    named(
        "glm4",
        "Glm4ForCausalLM",
        "Glm4Model",
        &[all(&[PROJECTIONS, INPUT_BIASES_UNLESS, FUSED_GATED, TWO_NORMS, GLM4_NORMS])],
    )
    .head_width(128),
    named(
        "cohere",
        "CohereForCausalLM",
        "CohereModel",
        &[all(&[PROJECTIONS, INPUT_BIASES_IF, OUTPUT_BIAS_IF, COHERE_HEAD_NORMS, GATED, ONE_NORM])],
    )
    .tied(),
    named(
        "cohere2",
        "Cohere2ForCausalLM",
        "Cohere2Model",
        &[all(&[PROJECTIONS, INPUT_BIASES_IF, OUTPUT_BIAS_IF, GATED, ONE_NORM])],
    )
    .tied()
    .head_width(128),
    named("olmo", "OlmoForCausalLM", "OlmoModel", &[all(&[PROJECTIONS, INPUT_BIASES_IF, OUTPUT_BIAS_IF, GATED])])
        .end(&[]),
    named("olmo2", "Olmo2ForCausalLM", "Olmo2Model", OLMO2),
    named("olmo3", "Olmo3ForCausalLM", "Olmo3Model", OLMO2),
    named("exaone4", "Exaone4ForCausalLM", "Exaone4Model", &[all(&[PROJECTIONS, HEAD_NORMS, GATED, OUTPUT_NORMS])]),
    Architecture {
        unknown: &["qk_layernorm"],
        ..named(
            "stablelm",
            "StableLmForCausalLM",
            "StableLmModel",
            &[all(&[PROJECTIONS, USE_QKV_BIASES, GATED, STABLELM_NORMS])],
        )
        .end(BIASED_NORM)
    },
    named(
        "starcoder2",
        "Starcoder2ForCausalLM",
        "Starcoder2Model",
        &[all(&[PROJECTIONS, STARCODER_BLOCK, TWO_BIASED_NORMS])],
    )
    .tied()
    .end(BIASED_NORM),
    named(
        "nemotron",
        "NemotronForCausalLM",
        "NemotronModel",
        &[all(&[PROJECTIONS, INPUT_BIASES_IF, OUTPUT_BIAS_IF, UNGATED, TWO_BIASED_NORMS])],
    )
    .end(BIASED_NORM)
    .head_width(128),
    Architecture {
        head_bias: PHI_HEAD_BIAS,
        unknown: &["qk_layernorm"],
        ..named("phi", "PhiForCausalLM", "PhiModel", &[all(&[PHI_BLOCK, INPUT_BIASES])]).end(PHI_END)
    },
    named(
        "mixtral",
        "MixtralForCausalLM",
        "MixtralModel",
        &[all(&[PROJECTIONS, TWO_NORMS]), experts(&[], MIXTRAL_EXPERTS)],
    )
    .sparse(SparseBlocks::All),
    named(
        "qwen2_moe",
        "Qwen2MoeForCausalLM",
        "Qwen2MoeModel",
        &[all(&[PROJECTIONS, QKV_BIASES, TWO_NORMS]), dense(&[GATED]), experts(&[ROUTER, SHARED_EXPERT], EXPERTS)],
    )
    .sparse(SparseBlocks::Steps),
    named(
        "qwen3_moe",
        "Qwen3MoeForCausalLM",
        "Qwen3MoeModel",
        &[
            all(&[PROJECTIONS, INPUT_BIASES_IF, OUTPUT_BIAS_IF, HEAD_NORMS, TWO_NORMS]),
            dense(&[GATED]),
            experts(&[ROUTER], EXPERTS),
        ],
    )
    .sparse(SparseBlocks::Steps),
    named(
        "olmoe",
        "OlmoeForCausalLM",
        "OlmoeModel",
        &[
            all(&[PROJECTIONS, INPUT_BIASES_IF, OUTPUT_BIAS_IF, WHOLE_NORMS, TWO_NORMS]),
            experts(&[ROUTER], WIDE_EXPERTS),
        ],
    )
    .sparse(SparseBlocks::All),
    named(
        "gpt_oss",
        "GptOssForCausalLM",
        "GptOssModel",
        &[
            all(&[PROJECTIONS, INPUT_BIASES_UNLESS, OUTPUT_BIAS_UNLESS, SINKS, TWO_NORMS]),
            experts(&[BIASED_ROUTER], BIASED_EXPERTS),
        ],
    )
    .sparse(SparseBlocks::All)
    .head_width(64),
    named(
        "deepseek_v2",
        "DeepseekV2ForCausalLM",
        "DeepseekV2Model",
        &[LATENT, dense(&[GATED, GATED_BIASES_IF]), experts(&[ROUTER, SHARED_EXPERTS, SHARED_BIASES_IF], EXPERTS)],
    )
    .sparse(DENSE_FIRST),
    named(
        "deepseek_v3",
        "DeepseekV3ForCausalLM",
        "DeepseekV3Model",
        &[LATENT, dense(&[GATED]), experts(&[ROUTER, CORRECTION, SHARED_EXPERTS], EXPERTS)],
    )
    .sparse(DENSE_FIRST),
    named(
        "glm4_moe",
        "Glm4MoeForCausalLM",
        "Glm4MoeModel",
        &[
            all(&[PROJECTIONS, INPUT_BIASES_IF, HEAD_NORMS_IF, TWO_NORMS]),
            dense(&[GATED]),
            experts(&[ROUTER, CORRECTION, SHARED_EXPERTS], EXPERTS),
        ],
    )
    .sparse(DENSE_FIRST),
    named(
        "dots1",
        "Dots1ForCausalLM",
        "Dots1Model",
        &[
            all(&[PROJECTIONS, INPUT_BIASES_IF, OUTPUT_BIAS_IF, HEAD_NORMS, TWO_NORMS]),
            dense(&[GATED]),
            experts(&[ROUTER, CORRECTION, SHARED_EXPERTS], EXPERTS),
        ],
    )
    .sparse(DENSE_FIRST),
];

const OLMO2: &[Part] = &[all(&[PROJECTIONS, INPUT_BIASES_IF, OUTPUT_BIAS_IF, WHOLE_NORMS, GATED, OUTPUT_NORMS])];

/// What is before the blocks of all of them.
pub(super) const START: Rows = EMBEDDING;

/// The matrix of the head for text, where it is not the embedding.
pub(super) const HEAD_MATRIX: Rows = HEAD;
