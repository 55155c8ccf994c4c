//! The architectures, as data: which tensors each has, in which sizes, and under which condition. Transformers'
//! `modeling_*.py` decide: a key that such a file does not read changes no tensor, whatever a config says. Where several
//! programs save the same weights otherwise, there are several forms; the tensors tell which one it is.

mod experts;
mod rows;
mod table;

use self::rows::{EMBEDDING, HEAD, NORM};
pub(super) use self::table::ALL;

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
    /// What is before the blocks.
    pub(super) start: Rows,
    /// The beginning of the names of blocks, before their numbers.
    pub(super) blocks: &'static str,
    /// What the blocks have, part by part.
    pub(super) block: &'static [Part],
    /// Which blocks have experts.
    pub(super) sparse: SparseBlocks,
    /// Which blocks have linear attention.
    pub(super) linear: LinearBlocks,
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
    /// The same under other names, each with the beginning of a name that only it has.
    pub(super) others: &'static [(&'static str, &'static Architecture)],
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
    /// Whether a block of that kind has it.
    pub(super) fn is_in(&self, block: BlockKind) -> bool {
        match self.blocks {
            Blocks::All => true,
            Blocks::Dense => !block.is_sparse,
            Blocks::Sparse => block.is_sparse,
            Blocks::Linear => block.is_linear,
            Blocks::Full => !block.is_linear,
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
    /// Those with linear attention.
    Linear,
    /// Those with attention to all words.
    Full,
}

/// What a block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlockKind {
    /// Whether it has experts.
    pub(super) is_sparse: bool,
    /// Whether its attention is linear.
    pub(super) is_linear: bool,
}

/// One way to save a part.
#[derive(Debug)]
pub(super) struct Form {
    /// The beginning of a name, behind that of the block. Of forms with one sign the shapes of their tensors tell which it is.
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
    /// The config has a number under this key that is not 0.
    Counts(&'static str),
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
    /// Every `moe_layer_interval`th from `moe_layer_start_index` to `moe_layer_end_index`.
    Interval,
}

/// Which blocks have linear attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinearBlocks {
    None,
    /// Those that `layer_types` lists as such; without it all but every `full_attention_interval`th, or fourth.
    Listed,
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
    /// Queries, and a gate for each of them.
    TwoQueries,
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
    /// `moe_intermediate_size` for each of `moe_num_shared_experts`.
    CountedSharedInner,
    /// Three times the width of the model.
    ThreeHidden,
    /// `n_inner`; where the config has none, four times the width of the model.
    InnerOrFourHidden,
    /// How many words the model can tell the place of.
    Positions,
    /// `linear_num_value_heads`.
    LinearHeads,
    /// Twice that.
    TwoLinearHeads,
    /// Width of a value in linear attention.
    LinearValue,
    /// Of all of them.
    LinearValues,
    /// Queries, keys and values of linear attention.
    LinearMixed,
    /// The same, and a gate for each value.
    LinearMixedAndGates,
    /// `linear_conv_kernel_dim`.
    LinearKernel,
}

const fn all(rows: &'static [Rows]) -> Part {
    Part { blocks: Blocks::All, rows, forms: &[] }
}

const fn dense(rows: &'static [Rows]) -> Part {
    Part { blocks: Blocks::Dense, rows, forms: &[] }
}

const fn linear(rows: &'static [Rows], forms: &'static [Form]) -> Part {
    Part { blocks: Blocks::Linear, rows, forms }
}

const fn full(rows: &'static [Rows]) -> Part {
    Part { blocks: Blocks::Full, rows, forms: &[] }
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
        start: EMBEDDING,
        blocks: "model.layers.",
        block,
        sparse: SparseBlocks::None,
        linear: LinearBlocks::None,
        end: NORM,
        head_bias: &[],
        is_tied: false,
        head_width: None,
        unknown: &[],
        others: &[],
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

/// The matrix of the head for text, where it is not the embedding.
pub(super) const HEAD_MATRIX: Rows = HEAD;
