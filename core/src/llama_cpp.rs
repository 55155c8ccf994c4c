//! Language models as llama.cpp names and stores them in GGUF files: from its names to those of transformers, and from
//! the file's metadata to a `config.json`.
//!
//! An architecture is a row of `ARCHITECTURES`. The tensors of one that is not there keep the file's names, and so do
//! tensors that no name of the row is for: an audit lists them.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::{
    ggml::{BlockType, Encoding, Shift},
    header::Dtype,
    origin::{Operation, Origin},
    pattern::Pattern,
    shown::shown,
    table::{Sourced, Table},
};

/// The key by which a file names its architecture.
const ARCHITECTURE: &str = "general.architecture";
/// The beginning of the names of blocks, by which files of llama.cpp are told from others.
const BLOCKS: &str = "blk.";

/// A line of names: llama.cpp's pattern, and transformers'.
type Name = (&'static str, &'static str);

/// How llama.cpp stores an architecture.
#[derive(Debug)]
struct Architecture {
    /// `general.architecture`.
    name: &'static str,
    /// `model_type` in a `config.json`.
    model_type: &'static str,
    /// Transformers' class.
    class: &'static str,
    /// Names that other architectures have otherwise or not at all.
    names: &'static [Name],
    /// Whether the halves of each head of queries and keys are interleaved.
    interleaves: bool,
    /// Whether norms are stored as what they multiply by, where transformers has the difference from 1.
    shifts_norms: bool,
}

/// The names that all of them have.
const COMMON: &[Name] = &[
    ("token_embd.weight", "model.embed_tokens.weight"),
    ("output_norm.weight", "model.norm.weight"),
    ("output.*", "lm_head.*"),
    ("blk.#.attn_norm.weight", "model.layers.#.input_layernorm.weight"),
    ("blk.#.attn_q.*", "model.layers.#.self_attn.q_proj.*"),
    ("blk.#.attn_k.*", "model.layers.#.self_attn.k_proj.*"),
    ("blk.#.attn_v.*", "model.layers.#.self_attn.v_proj.*"),
    ("blk.#.attn_output.*", "model.layers.#.self_attn.o_proj.*"),
    ("blk.#.attn_q_norm.weight", "model.layers.#.self_attn.q_norm.weight"),
    ("blk.#.attn_k_norm.weight", "model.layers.#.self_attn.k_norm.weight"),
    ("blk.#.ffn_gate.*", "model.layers.#.mlp.gate_proj.*"),
    ("blk.#.ffn_up.*", "model.layers.#.mlp.up_proj.*"),
    ("blk.#.ffn_down.*", "model.layers.#.mlp.down_proj.*"),
];
/// The norms of a block with two.
const TWO: &[Name] = &[("blk.#.ffn_norm.weight", "model.layers.#.post_attention_layernorm.weight")];
/// The norms of a block with four.
const FOUR: &[Name] = &[
    ("blk.#.post_attention_norm.weight", "model.layers.#.post_attention_layernorm.weight"),
    ("blk.#.ffn_norm.weight", "model.layers.#.pre_feedforward_layernorm.weight"),
    ("blk.#.post_ffw_norm.weight", "model.layers.#.post_feedforward_layernorm.weight"),
];

const QWEN3: Architecture = Architecture {
    name: "qwen3",
    model_type: "qwen3",
    class: "Qwen3ForCausalLM",
    names: TWO,
    interleaves: false,
    shifts_norms: false,
};

const GEMMA: Architecture = Architecture {
    name: "gemma",
    model_type: "gemma",
    class: "GemmaForCausalLM",
    names: TWO,
    interleaves: false,
    shifts_norms: true,
};

/// All of them. llama.cpp has Mistral's models as `llama`, which they are but for their attention's window.
static ARCHITECTURES: [Architecture; 6] = [
    Architecture {
        name: "llama",
        model_type: "llama",
        class: "LlamaForCausalLM",
        names: TWO,
        interleaves: true,
        shifts_norms: false,
    },
    Architecture { name: "qwen2", model_type: "qwen2", class: "Qwen2ForCausalLM", ..QWEN3 },
    QWEN3,
    GEMMA,
    Architecture { name: "gemma2", model_type: "gemma2", class: "Gemma2ForCausalLM", names: FOUR, ..GEMMA },
    Architecture { name: "gemma3", model_type: "gemma3_text", class: "Gemma3ForCausalLM", names: FOUR, ..GEMMA },
];

/// A number of `config.json`, by the end of llama.cpp's key, after the architecture.
const NUMBERS: [(&str, &str); 11] = [
    ("block_count", "num_hidden_layers"),
    ("embedding_length", "hidden_size"),
    ("feed_forward_length", "intermediate_size"),
    ("attention.head_count", "num_attention_heads"),
    ("attention.head_count_kv", "num_key_value_heads"),
    ("attention.key_length", "head_dim"),
    ("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
    ("attention.sliding_window", "sliding_window"),
    ("rope.freq_base", "rope_theta"),
    ("rope.freq_base_swa", "rope_local_base_freq"),
    ("context_length", "max_position_embeddings"),
];
/// Those of them without which nothing can be said.
const NEEDED: [&str; 4] = ["num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads"];

/// What the metadata of a file say of its model.
#[derive(Debug)]
struct Model<'a> {
    architecture: &'static Architecture,
    metadata: &'a BTreeMap<String, String>,
}

impl<'a> Model<'a> {
    /// The model of a file whose names are known; `None` for any other. Experts have other tensors, and other configs.
    fn of(table: &Table, metadata: &'a BTreeMap<String, String>) -> Option<Self> {
        let name = metadata.get(ARCHITECTURE)?;
        let architecture = ARCHITECTURES.iter().find(|known| known.name == name)?;
        let model = Self { architecture, metadata };
        let has_experts = model.number("expert_count").is_some_and(|count| count != json!(0));
        (!table.under(BLOCKS).is_empty() && !has_experts).then_some(model)
    }

    /// A number of the metadata, by the end of its key.
    fn number(&self, key: &str) -> Option<Value> {
        let text = self.metadata.get(&format!("{}.{key}", self.architecture.name))?;
        serde_json::from_str(text).ok().filter(Value::is_number)
    }

    fn whole(&self, key: &str) -> Option<u64> {
        self.number(key)?.as_u64().filter(|&number| number > 0)
    }

    /// transformers' name of a tensor.
    fn name(&self, stored: &str) -> Option<String> {
        COMMON.iter().chain(self.architecture.names).find_map(|&(from, to)| {
            let from = Pattern(from);
            Pattern(to).fill(&from.matches(stored)?, from, 0)
        })
    }

    /// Rows of a head of a tensor of queries or keys; `None` where rows lie in order.
    ///
    /// # Errors
    /// When the metadata do not say how many heads there are, or the rows are no whole heads of two halves.
    fn head(&self, name: &str, shape: &[u64]) -> Result<Option<u64>, String> {
        let key = match name.rsplit('.').nth(1) {
            Some("q_proj") if self.architecture.interleaves => "attention.head_count",
            Some("k_proj") if self.architecture.interleaves => "attention.head_count_kv",
            _ => return Ok(None),
        };
        // Without groups, all heads have keys of their own.
        let heads = self.whole(key).or_else(|| self.whole("attention.head_count"));
        let heads = heads.ok_or_else(|| format!("its metadata lack `{}.{key}`", self.architecture.name))?;
        let rows = shape.first().copied().unwrap_or(0);
        match rows.is_multiple_of(2 * heads) && rows > 0 {
            true => Ok(Some(rows / heads)),
            false => Err(format!("`{}` has {rows} rows, which are no {heads} heads of two halves", shown(name))),
        }
    }
}

/// The tensors under the names of transformers, and in its form, if the file is one of llama.cpp whose names are known;
/// beside them what a person should know.
#[must_use]
pub fn translated(table: Table, metadata: &BTreeMap<String, String>) -> (Table, Vec<String>) {
    let Some(model) = Model::of(&table, metadata) else {
        let is_foreign = !table.under(BLOCKS).is_empty();
        let named = metadata.get(ARCHITECTURE).filter(|_| is_foreign);
        let remark = named.map(|name| {
            format!(
                "the names are those of llama.cpp for `{}`, which are not translated: they stay as they are",
                shown(name)
            )
        });
        return (table, remark.into_iter().collect());
    };
    match model.translate(&table) {
        Ok((translated, remarks)) => (translated, remarks),
        Err(problem) => (table, vec![format!("the names of llama.cpp are not translated, since {problem}")]),
    }
}

impl Model<'_> {
    fn translate(&self, table: &Table) -> Result<(Table, Vec<String>), String> {
        let Architecture { name, interleaves, shifts_norms, .. } = self.architecture;
        let mut tensors = Vec::with_capacity(table.tensors().len());
        for tensor in table.tensors() {
            tensors.push(match self.name(&tensor.info.name) {
                Some(name) => self.renamed(tensor, name)?,
                None => tensor.clone(),
            });
        }
        let translated = Table::of(tensors).map_err(|twice| {
            format!(
                "`{}` and `{}` both become `{}`",
                twice.first.source_name(),
                twice.second.source_name(),
                twice.first.info.name
            )
        })?;
        let mut remarks =
            vec![format!("the names are those of llama.cpp for `{name}`, told under those of transformers")];
        if *interleaves {
            remarks.push(
                "rows of queries and keys lie interleaved in the file, and are put in transformers' order".to_owned(),
            );
        }
        if *shifts_norms {
            remarks.push("norms are stored as 1 + w, and come as w, as in transformers".to_owned());
        }
        if table.get("rope_freqs.weight").is_some() {
            remarks.push(
                "the file scales its rotary frequencies (`rope_freqs.weight`), which its metadata do not explain: take the \
                 config of the published model with `--base`"
                    .to_owned(),
            );
        }
        Ok((translated, remarks))
    }

    fn renamed(&self, tensor: &Sourced, name: String) -> Result<Sourced, String> {
        let mut out = tensor.clone();
        let interleaved = self.head(&name, &tensor.info.shape)?;
        let is_shifted = self.architecture.shifts_norms && name.ends_with("norm.weight");
        let stored = tensor.info.encoding.or_else(|| plain(tensor.info.dtype).map(Encoding::of));
        if interleaved.is_some() || is_shifted {
            let stored = stored.ok_or_else(|| format!("`{}` is {}", shown(&name), tensor.info.dtype))?;
            if interleaved.is_some() && stored.rows_together(&tensor.info.shape).is_none() {
                return Err(format!("the rows of `{}` are no whole blocks", shown(&name)));
            }
            let shift = if is_shifted { Shift::MinusOne } else { Shift::None };
            out.info.encoding = Some(Encoding { interleaved, shift, ..stored });
        }
        let origin = Origin { name: tensor.source_name().into(), operation: Operation::Renamed };
        out.origin = Some(Box::new(origin));
        out.info.name = name.into();
        Ok(out)
    }
}

/// The type of plain elements.
fn plain(dtype: Dtype) -> Option<BlockType> {
    match dtype {
        Dtype::F32 => Some(BlockType::F32),
        Dtype::F16 => Some(BlockType::F16),
        Dtype::BF16 => Some(BlockType::BF16),
        _ => None,
    }
}

/// The `config.json` that the metadata of a file make, with its tensors, which are translated. `None` when they make none.
#[must_use]
pub fn config(table: &Table, metadata: &BTreeMap<String, String>) -> Option<Value> {
    let name = metadata.get(ARCHITECTURE)?;
    let architecture = ARCHITECTURES.iter().find(|known| known.name == name)?;
    let model = Model { architecture, metadata };
    let embedding = table.get("model.embed_tokens.weight")?;
    let mut config = Map::new();
    config.insert("model_type".to_owned(), json!(architecture.model_type));
    config.insert("architectures".to_owned(), json!([architecture.class]));
    for (key, named) in NUMBERS {
        if let Some(number) = model.number(key) {
            config.insert(named.to_owned(), number);
        }
    }
    config.insert("vocab_size".to_owned(), json!(embedding.info.shape.first()?));
    config.insert("tie_word_embeddings".to_owned(), json!(table.get("lm_head.weight").is_none()));
    let has_bias = table.get("model.layers.0.self_attn.o_proj.bias").is_some();
    config.insert("attention_bias".to_owned(), json!(has_bias));
    NEEDED.iter().all(|needed| config.contains_key(*needed)).then_some(Value::Object(config))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::tests::header;

    fn metadata(architecture: &str, more: &[(&str, &str)]) -> BTreeMap<String, String> {
        let own = more.iter().map(|(key, value)| (format!("{architecture}.{key}"), (*value).to_owned()));
        own.chain([(ARCHITECTURE.to_owned(), architecture.to_owned())]).collect()
    }

    fn table(tensors: &[(&str, &[u64])]) -> Table {
        let mut header = header(tensors);
        header.tensors.iter_mut().for_each(|tensor| tensor.dtype = Dtype::F32);
        Table::of_file(header)
    }

    const BLOCK: [(&str, &[u64]); 4] = [
        ("blk.0.attn_k.weight", &[4, 8]),
        ("blk.0.attn_q.weight", &[8, 8]),
        ("blk.0.ffn_norm.weight", &[8]),
        ("token_embd.weight", &[16, 8]),
    ];
    const HEADS: [(&str, &str); 5] = [
        ("attention.head_count", "2"),
        ("attention.head_count_kv", "1"),
        ("block_count", "1"),
        ("embedding_length", "8"),
        ("feed_forward_length", "16"),
    ];

    #[test]
    fn queries_and_keys_of_llama_are_put_in_order_by_their_own_heads() {
        let (found, remarks) = translated(table(&BLOCK), &metadata("llama", &HEADS));
        let rows = |name: &str| found.get(name).unwrap().info.encoding.and_then(|encoding| encoding.interleaved);
        assert_eq!(rows("model.layers.0.self_attn.q_proj.weight"), Some(4));
        assert_eq!(rows("model.layers.0.self_attn.k_proj.weight"), Some(4));
        let norm = found.get("model.layers.0.post_attention_layernorm.weight").unwrap();
        assert_eq!((norm.info.encoding, norm.source_name()), (None, "blk.0.ffn_norm.weight"));
        assert!(remarks.iter().any(|remark| remark.contains("interleaved")), "{remarks:?}");
    }

    #[test]
    fn norms_of_gemma_lose_their_one_and_have_the_names_of_their_place() {
        let (found, remarks) = translated(table(&BLOCK), &metadata("gemma3", &HEADS));
        let norm = found.get("model.layers.0.pre_feedforward_layernorm.weight").unwrap();
        assert_eq!(norm.info.encoding.map(|encoding| encoding.shift), Some(Shift::MinusOne));
        assert!(found.get("model.layers.0.self_attn.q_proj.weight").unwrap().info.encoding.is_none());
        assert!(remarks.iter().any(|remark| remark.contains("1 + w")), "{remarks:?}");
    }

    #[test]
    fn what_is_not_known_keeps_its_names_and_says_so() {
        let kept = |architecture: &str, more: &[(&str, &str)], word: &str| {
            let (found, remarks) = translated(table(&BLOCK), &metadata(architecture, more));
            assert!(found.get("blk.0.attn_q.weight").is_some() && found == table(&BLOCK), "{architecture}");
            assert!(remarks.iter().any(|remark| remark.contains(word)), "{remarks:?}");
        };
        kept("mamba", &HEADS, "mamba");
        kept("llama", &[], "head_count");
        kept("llama", &[("attention.head_count", "3")], "3 heads");
        kept("llama", &[("expert_count", "8"), ("attention.head_count", "2")], "llama");
        let other = table(&[("a.weight", &[2])]);
        assert_eq!(translated(other.clone(), &metadata("lumina2", &[])), (other, Vec::new()));
    }

    #[test]
    fn metadata_and_tensors_make_a_config() {
        let all = metadata("llama", &[&HEADS[..], &[("rope.freq_base", "500000.5")]].concat());
        let (found, _) = translated(table(&BLOCK), &all);
        let made = config(&found, &all).unwrap();
        let expected = json!({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 1,
            "hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1,
            "rope_theta": 500000.5, "vocab_size": 16, "tie_word_embeddings": true, "attention_bias": false});
        assert_eq!(made, expected);
        assert_eq!(config(&found, &metadata("llama", &HEADS[..3])), None);
        assert_eq!(config(&table(&BLOCK), &all), None, "its names are not translated");
    }
}
