//! The part of a language model's `config.json` that determines its tensors.

use serde_json::{Map, Value};

use super::architecture::{Architecture, BlockKind, LinearBlocks, Size, SparseBlocks, When};
use crate::{family::within, shown::shown};

/// Widths above this are refused.
const WIDTH_MAX: u64 = 1 << 20;
/// Layer counts above this are refused.
const LAYERS_MAX: u64 = 1024;
/// Experts of a block above this are refused, and experts of all blocks above that.
const EXPERTS_MAX: u64 = 4096;
const ALL_EXPERTS_MAX: u64 = 1 << 17;
/// Vocabularies above this are refused.
const VOCABULARY_MAX: u64 = 1 << 32;
/// Keys of the number of experts. Transformers writes them under each other's names.
const EXPERTS: [&str; 4] = ["num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"];
/// Keys that GPT-2 has under other names.
const OLD_KEYS: [(&str, &str); 4] = [
    ("hidden_size", "n_embd"),
    ("num_hidden_layers", "n_layer"),
    ("num_attention_heads", "n_head"),
    ("max_position_embeddings", "n_positions"),
];
/// Without a list of attentions: one block in so many has attention to all words.
const FULL_ATTENTION_INTERVAL: u64 = 4;
/// The word for linear attention in the list.
const LINEAR: &str = "linear_attention";

/// As written. A key that no architecture reads for its tensors is not looked at; one that is `null` counts as absent, since
/// the libraries that write configs write `null` for what is not set.
#[derive(Debug, Clone, Copy)]
pub(super) struct LanguageConfig<'a>(pub(super) &'a Map<String, Value>);

impl LanguageConfig<'_> {
    fn value(&self, key: &str) -> Option<&Value> {
        let old = || OLD_KEYS.iter().find(|(new, _)| *new == key).and_then(|(_, old)| self.0.get(*old));
        self.0.get(key).filter(|value| !value.is_null()).or_else(old).filter(|value| !value.is_null())
    }

    /// A number that need not be there.
    fn optional(&self, key: &str, max: u64) -> Result<Option<u64>, String> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let found = || format!("`{key}` is {}, expected a whole number", shown(&value.to_string()));
        let number = value.as_u64().ok_or_else(found)?;
        within(&[(key, number, max)])?;
        Ok(Some(number))
    }

    fn number(&self, key: &str, max: u64) -> Result<u64, String> {
        self.optional(key, max)?.ok_or_else(|| format!("missing field `{key}`"))
    }

    fn width(&self, key: &str) -> Result<u64, String> {
        self.number(key, WIDTH_MAX)
    }

    /// A switch; `default` where the config says nothing.
    pub(super) fn switch(&self, key: &str, default: bool) -> Result<bool, String> {
        let Some(value) = self.value(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| format!("`{key}` is {}, expected true or false", shown(&value.to_string())))
    }

    /// Whether there is a tensor.
    pub(super) fn holds(&self, when: When) -> Result<bool, String> {
        Ok(match when {
            When::Always => true,
            When::Is(key, default) => self.switch(key, default)?,
            When::IsNot(key, default) => !self.switch(key, default)?,
            When::Has(key) => self.value(key).is_some(),
            When::Lacks(key) => self.value(key).is_none(),
            When::Counts(key) => self.count(key)?.is_some_and(|number| number > 0),
            When::Both(one, other) => self.holds(*one)? && self.holds(*other)?,
        })
    }

    /// A number that need not be there and may be 0.
    fn count(&self, key: &str) -> Result<Option<u64>, String> {
        let found = |value: &Value| format!("`{key}` is {}, expected a whole number", shown(&value.to_string()));
        self.value(key).map(|value| value.as_u64().ok_or_else(|| found(value))).transpose()
    }

    /// How many blocks there are.
    pub(super) fn layers(&self) -> Result<u64, String> {
        self.number("num_hidden_layers", LAYERS_MAX)
    }

    /// How many experts a block has that has experts.
    pub(super) fn experts(&self) -> Result<u64, String> {
        let mut found: Option<(&str, u64)> = None;
        for key in EXPERTS {
            let Some(number) = self.optional(key, EXPERTS_MAX)? else { continue };
            match found {
                Some((other, before)) if before != number => {
                    return Err(format!("`{other}` is {before}, and `{key}` is {number}"));
                }
                Some(_) => {}
                None => found = Some((key, number)),
            }
        }
        let (_, number) = found.ok_or_else(|| format!("missing field `{}`", EXPERTS[0]))?;
        within(&[("experts of all layers", number * self.layers()?, ALL_EXPERTS_MAX)])?;
        Ok(number)
    }

    /// What each block is.
    pub(super) fn blocks(&self, architecture: &Architecture) -> Result<Vec<BlockKind>, String> {
        let sparse = self.sparse(architecture.sparse)?;
        let linear = self.linear(architecture.linear)?;
        let kinds = sparse.into_iter().zip(linear);
        Ok(kinds.map(|(is_sparse, is_linear)| BlockKind { is_sparse, is_linear }).collect())
    }

    /// For each block whether its attention is linear.
    fn linear(&self, rule: LinearBlocks) -> Result<Vec<bool>, String> {
        let layers = self.layers()?;
        match (rule, self.value("layer_types")) {
            (LinearBlocks::None, _) => Ok((0..layers).map(|_| false).collect()),
            (LinearBlocks::Listed, Some(listed)) => {
                let listed = listed.as_array().ok_or("`layer_types` is no list")?;
                if listed.len() as u64 != layers {
                    return Err(format!(
                        "`layer_types` has {} blocks, and `num_hidden_layers` is {layers}",
                        listed.len()
                    ));
                }
                Ok(listed.iter().map(|kind| kind == LINEAR).collect())
            }
            (LinearBlocks::Listed, None) => {
                let interval = self.optional("full_attention_interval", LAYERS_MAX)?;
                let interval = interval.unwrap_or(FULL_ATTENTION_INTERVAL);
                Ok((1..=layers).map(|block| !block.is_multiple_of(interval)).collect())
            }
        }
    }

    /// For each block whether it has experts.
    fn sparse(&self, rule: SparseBlocks) -> Result<Vec<bool>, String> {
        let layers = self.layers()?;
        let of = |is_sparse: &dyn Fn(u64) -> bool| (0..layers).map(is_sparse).collect();
        Ok(match rule {
            SparseBlocks::None => of(&|_| false),
            SparseBlocks::All => of(&|_| true),
            SparseBlocks::From(key) => {
                let first = match self.value(key).map(Value::as_u64) {
                    Some(Some(first)) => first,
                    Some(None) => return Err(format!("`{key}` is no whole number")),
                    None => return Err(format!("missing field `{key}`")),
                };
                of(&|layer| layer >= first)
            }
            SparseBlocks::Steps => {
                let step = self.optional("decoder_sparse_step", LAYERS_MAX)?.unwrap_or(1);
                let plain = self.value("mlp_only_layers").and_then(Value::as_array);
                let is_plain =
                    |layer: u64| plain.is_some_and(|plain| plain.iter().any(|it| it.as_u64() == Some(layer)));
                of(&|layer| (layer + 1).is_multiple_of(step) && !is_plain(layer))
            }
            SparseBlocks::Interval => {
                let step = self.optional("moe_layer_interval", LAYERS_MAX)?.unwrap_or(1);
                let first = self.count("moe_layer_start_index")?.unwrap_or(1);
                // -1 is the last block.
                let is_open = self.value("moe_layer_end_index").is_none_or(|last| last.as_i64() == Some(-1));
                let last = if is_open { None } else { self.count("moe_layer_end_index")? };
                of(&|layer| (layer + 1).is_multiple_of(step) && layer >= first && last.is_none_or(|last| layer <= last))
            }
        })
    }

    /// Width of a head.
    fn head(&self, architecture: &Architecture) -> Result<u64, String> {
        if let Some(head) = self.optional("head_dim", WIDTH_MAX)?.or(architecture.head_width) {
            return Ok(head);
        }
        let (hidden, heads) = (self.width("hidden_size")?, self.width("num_attention_heads")?);
        if hidden.is_multiple_of(heads) {
            Ok(hidden / heads)
        } else {
            Err(format!("`head_dim` is absent, and `hidden_size` {hidden} is no multiple of {heads} heads"))
        }
    }

    /// A size, or why no model can have it.
    pub(super) fn size(&self, size: Size, architecture: &Architecture) -> Result<u64, String> {
        let of = |size| self.size(size, architecture);
        let heads = || self.width("num_attention_heads");
        let rotated = || self.width("qk_rope_head_dim");
        Ok(match size {
            Size::One => 1,
            Size::Hidden => self.width("hidden_size")?,
            Size::Vocabulary => self.number("vocab_size", VOCABULARY_MAX)?,
            Size::Inner => self.width("intermediate_size")?,
            Size::TwoInner => 2 * of(Size::Inner)?,
            Size::Head => self.head(architecture)?,
            Size::Heads => heads()?,
            Size::KeyHeads => self.optional("num_key_value_heads", WIDTH_MAX)?.map_or_else(heads, Ok)?,
            Size::Queries => heads()? * of(Size::Head)?,
            Size::Keys => of(Size::KeyHeads)? * of(Size::Head)?,
            Size::QueriesKeysValues => of(Size::Queries)? + 2 * of(Size::Keys)?,
            Size::Experts => self.experts()?,
            Size::ExpertInner => self.width("moe_intermediate_size")?,
            Size::TwoExpertInner => 2 * of(Size::ExpertInner)?,
            Size::SharedInner => self.width("shared_expert_intermediate_size")?,
            Size::SharedExpertsInner => of(Size::ExpertInner)? * self.number("n_shared_experts", EXPERTS_MAX)?,
            Size::QueryRank => self.width("q_lora_rank")?,
            Size::KeyRank => self.width("kv_lora_rank")?,
            Size::KeyRankAndRotated => of(Size::KeyRank)? + rotated()?,
            Size::LatentQueries => heads()? * (of(Size::Unrotated)? + rotated()?),
            Size::LatentKeysValues => heads()? * (of(Size::Unrotated)? + of(Size::Value)?),
            Size::LatentValues => heads()? * of(Size::Value)?,
            Size::Unrotated => self.width("qk_nope_head_dim")?,
            Size::Value => self.width("v_head_dim")?,
            Size::TwoQueries => 2 * of(Size::Queries)?,
            Size::CountedSharedInner => of(Size::ExpertInner)? * self.number("moe_num_shared_experts", EXPERTS_MAX)?,
            Size::ThreeHidden => 3 * of(Size::Hidden)?,
            Size::InnerOrFourHidden => match self.optional("n_inner", WIDTH_MAX)? {
                Some(inner) => inner,
                None => 4 * of(Size::Hidden)?,
            },
            Size::Positions => self.number("max_position_embeddings", VOCABULARY_MAX)?,
            Size::LinearHeads => self.width("linear_num_value_heads")?,
            Size::TwoLinearHeads => 2 * of(Size::LinearHeads)?,
            Size::LinearValue => self.width("linear_value_head_dim")?,
            Size::LinearValues => of(Size::LinearHeads)? * of(Size::LinearValue)?,
            Size::LinearMixed => {
                let keys = self.width("linear_num_key_heads")? * self.width("linear_key_head_dim")?;
                2 * keys + of(Size::LinearValues)?
            }
            Size::LinearMixedAndGates => of(Size::LinearMixed)? + of(Size::LinearValues)?,
            Size::LinearKernel => self.width("linear_conv_kernel_dim")?,
        })
    }
}
