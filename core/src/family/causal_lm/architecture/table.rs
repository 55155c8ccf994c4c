//! The table of architectures.

use super::{
    Architecture, Blocks, LinearBlocks, Part, Rows, SparseBlocks, all, dense, experts,
    experts::{
        BIASED_EXPERTS, BIASED_ROUTER, CORRECTION, ERNIE_EXPERTS, ERNIE_SHARED_EXPERTS, EXPERTS, GRANITE_EXPERTS,
        HUNYUAN_SHARED_EXPERT, MIXTRAL_EXPERTS, PHIMOE_EXPERTS, ROUTER, SHARED_BIASES_IF, SHARED_EXPERT,
        SHARED_EXPERTS, WIDE_EXPERTS,
    },
    full, linear, named,
    rows::{
        BIASED_NORM, COHERE_HEAD_NORMS, ERNIE_ATTENTION_BIASES, ERNIE_GATED_BIASES, ERNIE_HEAD_BIAS, FOUR_NORMS,
        FUSED_GATED, FUSED_PROJECTIONS, GATED, GATED_BIASES_IF, GATED_PROJECTIONS, GLM4_NORMS, GPT2_BLOCK,
        GPT2_BLOCK_OF_MLX_LM, GPT2_END, GPT2_END_OF_MLX_LM, GPT2_END_OF_TRANSFORMERS, GPT2_START, GPT2_START_OF_MLX_LM,
        GPT2_START_OF_TRANSFORMERS, HEAD_NORMS, HEAD_NORMS_IF, HUNYUAN_HEAD_NORMS, INPUT_BIASES, INPUT_BIASES_IF,
        INPUT_BIASES_UNLESS, INPUT_NORMS, LATENT_ATTENTION, LATENT_KEYS, LINEAR_ATTENTION, LINEAR_KERNELS, ONE_NORM,
        OUTPUT_BIAS_IF, OUTPUT_BIAS_UNLESS, OUTPUT_NORMS, PHI_BLOCK, PHI_END, PHI_HEAD_BIAS, PHIMOE_HEAD_BIAS,
        PROJECTIONS, QKV_BIASES, SEED_OUTPUT_BIAS, SINKS, SQUARE_PROJECTIONS, STABLELM_NORMS, STARCODER_BLOCK,
        TWO_BIASED_NORMS, TWO_NORMS, UNGATED, USE_QKV_BIASES, WHOLE_NORMS,
    },
};

/// Llama's block.
const LLAMA: &[Part] = &[all(&[PROJECTIONS, INPUT_BIASES_IF, OUTPUT_BIAS_IF, GATED, GATED_BIASES_IF, TWO_NORMS])];
/// Without biases of feed-forward layers.
const CONFIGURED: &[Part] = &[all(&[PROJECTIONS, INPUT_BIASES_IF, OUTPUT_BIAS_IF, GATED, TWO_NORMS])];
/// Without any.
const UNBIASED: &[Part] = &[all(&[PROJECTIONS, GATED, TWO_NORMS])];
const LATENT: Part = Part { blocks: Blocks::All, rows: &[LATENT_ATTENTION, TWO_NORMS], forms: LATENT_KEYS };
const DENSE_FIRST: SparseBlocks = SparseBlocks::From("first_k_dense_replace");

/// All of them: first those whose blocks are all alike, then those with experts.
pub(in super::super) static ALL: &[Architecture] = &[
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
    named(
        "ernie4_5",
        "Ernie4_5ForCausalLM",
        "Ernie4_5Model",
        &[all(&[PROJECTIONS, GATED, ERNIE_ATTENTION_BIASES, ERNIE_GATED_BIASES, TWO_NORMS])],
    )
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
    named(
        "granitemoe",
        "GraniteMoeForCausalLM",
        "GraniteMoeModel",
        &[all(&[PROJECTIONS, INPUT_BIASES_IF, OUTPUT_BIAS_IF, TWO_NORMS]), experts(&[], GRANITE_EXPERTS)],
    )
    .sparse(SparseBlocks::All),
    Architecture {
        head_bias: PHIMOE_HEAD_BIAS,
        ..named(
            "phimoe",
            "PhimoeForCausalLM",
            "PhimoeModel",
            &[all(&[PROJECTIONS, INPUT_BIASES_IF, OUTPUT_BIAS_IF, TWO_BIASED_NORMS]), experts(&[], PHIMOE_EXPERTS)],
        )
        .sparse(SparseBlocks::All)
        .end(BIASED_NORM)
    },
    Architecture {
        head_bias: ERNIE_HEAD_BIAS,
        ..named(
            "ernie4_5_moe",
            "Ernie4_5_MoeForCausalLM",
            "Ernie4_5_MoeModel",
            &[
                all(&[PROJECTIONS, ERNIE_ATTENTION_BIASES, TWO_NORMS]),
                dense(&[GATED, ERNIE_GATED_BIASES]),
                experts(&[ROUTER, ERNIE_SHARED_EXPERTS], ERNIE_EXPERTS),
            ],
        )
        .sparse(SparseBlocks::Interval)
        .tied()
    },
    named(
        "hunyuan_v1_moe",
        "HunYuanMoEV1ForCausalLM",
        "HunYuanMoEV1Model",
        &[
            all(&[PROJECTIONS, INPUT_BIASES_IF, OUTPUT_BIAS_IF, HUNYUAN_HEAD_NORMS, TWO_NORMS]),
            experts(&[HUNYUAN_SHARED_EXPERT], WIDE_EXPERTS),
        ],
    )
    .sparse(SparseBlocks::All),
    Architecture {
        linear: LinearBlocks::Listed,
        ..named(
            "qwen3_next",
            "Qwen3NextForCausalLM",
            "Qwen3NextModel",
            &[
                all(&[TWO_NORMS]),
                full(&[GATED_PROJECTIONS, HEAD_NORMS]),
                linear(&[LINEAR_ATTENTION], LINEAR_KERNELS),
                dense(&[GATED]),
                experts(&[ROUTER, SHARED_EXPERT], EXPERTS),
            ],
        )
        .sparse(SparseBlocks::Steps)
        .head_width(256)
    },
    Architecture {
        others: &[("transformer.", &GPT2_OF_TRANSFORMERS), ("model.", &GPT2_OF_MLX_LM)],
        ..gpt2(GPT2_START, "h.", &[all(&[GPT2_BLOCK])], GPT2_END)
    },
];

/// GPT-2 as it was published has no name around its modules. Its matrices are `[input, output]`.
const fn gpt2(start: Rows, blocks: &'static str, block: &'static [Part], end: Rows) -> Architecture {
    let named = named("gpt2", "GPT2LMHeadModel", "GPT2Model", block);
    Architecture { start, blocks, end, ..named }.tied()
}

static GPT2_OF_TRANSFORMERS: Architecture =
    gpt2(GPT2_START_OF_TRANSFORMERS, "transformer.h.", &[all(&[GPT2_BLOCK])], GPT2_END_OF_TRANSFORMERS);
static GPT2_OF_MLX_LM: Architecture =
    gpt2(GPT2_START_OF_MLX_LM, "model.h.", &[all(&[GPT2_BLOCK_OF_MLX_LM])], GPT2_END_OF_MLX_LM);

const OLMO2: &[Part] = &[all(&[PROJECTIONS, INPUT_BIASES_IF, OUTPUT_BIAS_IF, WHOLE_NORMS, GATED, OUTPUT_NORMS])];
