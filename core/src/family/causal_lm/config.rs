//! The part of a language model's `config.json` that determines its tensors.

use serde_json::{Map, Value};

use super::architecture::{Architecture, Size, SparseBlocks, When};
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
const EXPERTS: [&str; 3] = ["num_experts", "num_local_experts", "n_routed_experts"];

/// As written. A key that no architecture reads for its tensors is not looked at; one that is `null` counts as absent, since
/// the libraries that write configs write `null` for what is not set.
#[derive(Debug, Clone, Copy)]
pub(super) struct LanguageConfig<'a>(pub(super) &'a Map<String, Value>);

impl LanguageConfig<'_> {
    fn value(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
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
            When::Both(one, other) => self.holds(*one)? && self.holds(*other)?,
        })
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

    /// For each block whether it has experts.
    pub(super) fn sparse(&self, rule: SparseBlocks) -> Result<Vec<bool>, String> {
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
        })
    }
}
