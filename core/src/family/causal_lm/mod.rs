//! Language models as transformers saves them: `config.json` beside the weights, in the root. [`mod@architecture`] has their
//! tensors as data.

mod architecture;
mod config;

use std::collections::BTreeMap;

use serde_json::Value;

use self::{
    architecture::{Architecture, Form, HEAD_MATRIX, Part, Row, Rows},
    config::LanguageConfig,
};
use super::{
    ComponentSite, ConfigError, Description, Family, Membership, ModelFacts, Sample, language_adapter, read_json,
};
use crate::{
    adapter::Targets,
    catalogue::{Builder, Catalogue},
    header::FLOATS,
    layer_name::layer_of,
    pattern::Pattern,
    rewrite::{Rule, Rules, Ruleset},
    shown::shown,
    table::Table,
    tool::Tool,
};

/// The config of a model.
const CONFIG: &str = "config.json";

/// Tensors that some writers save and no module has: the head of a model whose head is its embedding or that has none,
/// and tables that are the same in every model.
const WITHOUT_HEAD: [Pattern; 6] = [Pattern(HEAD), TABLES[0], TABLES[1], TABLES[2], TABLES[3], TABLES[4]];
const WITH_HEAD: [Pattern; 5] = TABLES;
const TABLES: [Pattern; 5] = [
    Pattern("model.layers.#.self_attn.rotary_emb.inv_freq"),
    // Causal masks of GPT-2.
    Pattern("h.#.attn.bias"),
    Pattern("h.#.attn.masked_bias"),
    Pattern("transformer.h.#.attn.bias"),
    Pattern("transformer.h.#.attn.masked_bias"),
];

/// Embedding models are saved without the language model around them, and keep its config.
static BARE: Ruleset = Ruleset {
    strip: &[],
    rules: &[
        Rule::rename("layers.**", "model.layers.**"),
        Rule::rename("embed_tokens.*", "model.embed_tokens.*"),
        Rule::rename("norm.*", "model.norm.*"),
        Rule::rename("final_layernorm.*", "model.final_layernorm.*"),
    ],
    counted: &[],
};

/// The family of language models.
#[derive(Debug)]
pub(super) struct CausalLm;

/// A small model of the family: two blocks of Qwen3.
const SAMPLE: Sample = &[(
    CONFIG,
    r#"{
        "model_type": "qwen3", "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4,
        "num_hidden_layers": 2, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 256,
        "tie_word_embeddings": true
    }"#,
)];

impl Family for CausalLm {
    fn id(&self) -> &'static str {
        "causal-lm"
    }

    fn sample(&self) -> Option<Sample> {
        Some(SAMPLE)
    }

    fn detects(&self, facts: &ModelFacts) -> bool {
        architecture(facts).is_some()
    }

    fn components(&self, _: &ModelFacts) -> Vec<ComponentSite> {
        vec![ComponentSite {
            name: "model".to_owned(),
            folder: String::new(),
            stem: "model".to_owned(),
            config: Some(CONFIG.to_owned()),
            membership: Membership::Member,
        }]
    }

    fn describe(&self, site: &ComponentSite, facts: &ModelFacts) -> Result<Description, ConfigError> {
        let path = site.config.as_deref().unwrap_or(CONFIG);
        let impossible = |problem| ConfigError::Impossible { path: path.to_owned(), problem };
        let written = read_json(facts, path)?;
        let architecture = architecture(facts).ok_or_else(|| impossible("`model_type` is not known".to_owned()))?;
        let head = match Head::of(&written, architecture) {
            Ok(head) => head,
            Err(reason) => {
                return Ok(Description::uncatalogued(written.into(), Some(format!("`{path}`: {reason}"))));
            }
        };
        let config = LanguageConfig(&written);
        for key in architecture.unknown {
            if config.switch(key, false).map_err(impossible)? {
                let reason = format!("`{path}`: `{key}` is true, and the tensors of that are not known");
                return Ok(Description::uncatalogued(written.into(), Some(reason)));
            }
        }
        let published = |part: &Part, _: u64| part.forms.first();
        let catalogue = Some(catalogue(config, architecture, head, &published).map_err(impossible)?);
        let rules = self.rules(&site.name, Tool::Unknown);
        Ok(Description { catalogue, rules, ..Description::uncatalogued(written.into(), None) })
    }

    /// Two things that only tensors tell. Programs save experts in forms of their own: the catalogue takes the one that is
    /// there. And embedding models keep the config of the language model that they were, and are saved without its head:
    /// their names say so, since the module around them is gone too.
    fn refine(&self, _: &str, description: &mut Description, table: &Table) -> Option<String> {
        reform(description, table);
        let has_own_code = description.config.as_object().is_some_and(|written| own_code(written).is_some());
        if has_own_code && description.catalogue.take_if(|catalogue| !fits(catalogue, table)).is_some() {
            description.unchecked = Some(format!("`{CONFIG}`: {OWN_CODE}"));
            return None;
        }
        let is_bare =
            table.get("model.embed_tokens.weight").is_some_and(|found| found.source_name() == "embed_tokens.weight");
        let catalogue = description
            .catalogue
            .take_if(|catalogue| is_bare && catalogue.contains(HEAD) && table.get(HEAD).is_none())?;
        description.catalogue = Some(catalogue.only(|expected| expected.name != HEAD));
        Some(format!("the names are those of a model saved without its head, so no `{HEAD}` is expected"))
    }

    fn rules(&self, _: &str, _: Tool) -> Rules {
        Rules { set: &BARE, count: None }
    }

    fn adapter_targets(&self, component: &str) -> Option<&'static Targets> {
        (component == "model").then_some(&language_adapter::TARGETS)
    }

    /// As mlx-lm does: the embedding and the head too. It gives what chooses among experts 8 bits, whatever the others
    /// have; here that stays as it is.
    fn quantises(&self, _: &str, layer: &str) -> bool {
        let chooses = [".gate", ".gate.wg", ".router", ".router.layer", ".shared_expert_gate"];
        // GPT-2's matrices have their inputs in rows, which MLX's layers do not.
        let is_transposed = ["h.", "transformer.h."].iter().any(|blocks| layer.starts_with(blocks));
        !layer.contains("norm") && !is_transposed && !chooses.iter().any(|end| layer.ends_with(end))
    }

    fn configs(&self, facts: &ModelFacts) -> BTreeMap<String, serde_json::Value> {
        let config = read_json(facts, CONFIG).ok();
        config.map(|config| ("model".to_owned(), config.into())).into_iter().collect()
    }
}

/// Gives a description the catalogue of the forms in which its tensors are saved.
fn reform(description: &mut Description, table: &Table) {
    if description.catalogue.is_none() {
        return;
    }
    let Some((written, architecture)) = description.config.as_object().zip(architecture_of(&description.config)) else {
        return;
    };
    if architecture.others.is_empty() && architecture.block.iter().all(|part| part.forms.is_empty()) {
        return;
    }
    let is_there = |(sign, _): &&(&str, _)| !table.under(sign).is_empty();
    let architecture = architecture.others.iter().find(is_there).map_or(architecture, |(_, other)| *other);
    let head = Head::of(written, architecture).unwrap_or(Head::ForText);
    let config = LanguageConfig(written);
    let has_shape = |row: &Row, found: &[u64]| {
        let expected = row.shape.iter().map(|&size| config.size(size, architecture));
        expected.collect::<Result<Vec<_>, _>>().is_ok_and(|expected| expected == found)
    };
    let form = |part: &Part, layer| form_of(part, &block(architecture, layer), table, &has_shape);
    let found = catalogue(config, architecture, head, &form);
    description.catalogue =
        Some(found.expect("every form of a part has the sizes of the first, which was made before"));
}

/// The head of a language model.
const HEAD: &str = "lm_head.weight";

/// Whether a model is saved with a head for text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Head {
    ForText,
    None,
}

impl Head {
    /// By the class that the config names; else why the tensors of that class are not known.
    fn of(written: &serde_json::Map<String, Value>, architecture: &Architecture) -> Result<Self, String> {
        if own_code(written).is_some_and(|code| !is_namesake(code, architecture)) {
            return Err(OWN_CODE.to_owned());
        }
        let classes: Vec<&str> = written
            .get("architectures")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let Architecture { with_head, bare, .. } = architecture;
        match classes.as_slice() {
            [] => Ok(Self::ForText),
            classes if classes.contains(with_head) => Ok(Self::ForText),
            classes if classes.contains(bare) => Ok(Self::None),
            [first, ..] => Err(format!("`architectures` has \"{}\", expected {with_head} or {bare}", shown(first))),
        }
    }
}

/// Why nothing is checked where a repository brings code.
const OWN_CODE: &str = "`auto_map` names code of the repository's own, which may have other tensors";

/// The code that a config says is in the repository.
fn own_code(written: &serde_json::Map<String, Value>) -> Option<&Value> {
    written.get("auto_map").filter(|code| !code.is_null())
}

/// Whether the code of a repository has models of the names of transformers' own: most often it is what transformers took them
/// from. Then the tensors decide.
fn is_namesake(code: &Value, architecture: &Architecture) -> bool {
    let Some(code) = code.as_object() else { return false };
    let of_models = code.iter().filter(|(of, _)| of.starts_with("AutoModel"));
    let mut classes = of_models.map(|(_, class)| class.as_str().and_then(|class| class.rsplit('.').next())).peekable();
    classes.peek().is_some()
        && classes.all(|class| class == Some(architecture.with_head) || class == Some(architecture.bare))
}

/// Whether there is something for each tensor of a catalogue, and nothing of another shape: a quantised layer has tensors of
/// other names and shapes below its own name.
fn fits(catalogue: &Catalogue, table: &Table) -> bool {
    catalogue.tensors().iter().all(|expected| match table.get(&expected.name) {
        Some(found) => found.info.shape == expected.shape || !FLOATS.contains(&found.info.dtype),
        None => {
            let layer = layer_of(&expected.name).unwrap_or(&expected.name);
            table.under(layer).iter().any(|found| found.info.name[layer.len()..].starts_with(['.', '_']))
        }
    })
}

/// The architecture that the config names, when it is one of those, with a head for text or none.
fn architecture(facts: &ModelFacts) -> Option<&'static Architecture> {
    let config: Value = read_json(facts, CONFIG).ok()?.into();
    let is_text =
        |class: &Value| class.as_str().is_some_and(|class| class.ends_with("ForCausalLM") || class.ends_with("Model"));
    let classes = config["architectures"].as_array();
    if !classes.is_none_or(|classes| classes.is_empty() || classes.iter().any(is_text)) {
        return None;
    }
    architecture_of(&config)
}

/// The architecture that a config names.
fn architecture_of(config: &Value) -> Option<&'static Architecture> {
    let model_type = config["model_type"].as_str()?;
    architecture::ALL.iter().find(|architecture| architecture.model_type == model_type)
}

/// The tensors that a config asks for, each part in the form that `form` chooses.
fn catalogue(
    config: LanguageConfig<'_>,
    architecture: &Architecture,
    head: Head,
    form: &dyn Fn(&Part, u64) -> Option<&'static Form>,
) -> Result<Catalogue, String> {
    let mut tensors = Builder::default();
    let mut add = |base: &str, rows: Rows| -> Result<(), String> {
        for Row { name, shape, when } in rows {
            if !config.holds(*when)? {
                continue;
            }
            let shape: Vec<u64> =
                shape.iter().map(|&size| config.size(size, architecture)).collect::<Result<_, _>>()?;
            match name.split_once('#') {
                None => tensors.plain(format!("{base}{name}"), &shape),
                Some((start, end)) => {
                    (0..config.experts()?)
                        .for_each(|expert| tensors.plain(format!("{base}{start}{expert}{end}"), &shape));
                }
            }
        }
        Ok(())
    };
    add("", architecture.start)?;
    for (layer, kind) in (0..).zip(config.blocks(architecture)?) {
        let base = block(architecture, layer);
        for part in architecture.block.iter().filter(|part| part.is_in(kind)) {
            let rows = part.rows.iter().copied().chain(form(part, layer).map(|form| form.rows));
            rows.into_iter().try_for_each(|rows| add(&base, rows))?;
        }
    }
    add("", architecture.end)?;
    let is_tied = config.switch("tie_word_embeddings", architecture.is_tied)?;
    let has_head = !is_tied && head == Head::ForText;
    if has_head {
        add("", HEAD_MATRIX)?;
    }
    if head == Head::ForText {
        add("", architecture.head_bias)?;
    }
    Ok(tensors.finish().tolerating(if has_head { &WITH_HEAD } else { &WITHOUT_HEAD }))
}

/// The beginning of names of a block's tensors.
fn block(architecture: &Architecture, layer: u64) -> String {
    format!("{}{layer}.", architecture.blocks)
}

/// The form that the tensors of a part have; the published one where none of them is there. Of several forms with the same
/// names it is the one whose tensors have their shapes.
fn form_of(part: &Part, base: &str, table: &Table, has_shape: &dyn Fn(&Row, &[u64]) -> bool) -> Option<&'static Form> {
    let is_there = |form: &&Form| !table.under(&format!("{base}{}", form.sign)).is_empty();
    let fits = |form: &&Form| {
        let found = |row: &Row| table.get(&format!("{base}{}", row.name)).map(|found| found.info.shape.as_slice());
        form.rows.iter().all(|row| found(row).is_none_or(|found| has_shape(row, found)))
    };
    let first = part.forms.iter().find(is_there).or_else(|| part.forms.first())?;
    let mut namesakes = part.forms.iter().filter(|form| form.sign == first.sign);
    namesakes.find(fits).or(Some(first))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::{
        adapter::Weights,
        family::detect,
        header::{Dtype, Header, TensorInfo},
        rewrite::canonical,
        table::Table,
    };

    fn facts(config: &Value) -> ModelFacts {
        let documents = [(CONFIG.to_owned(), config.to_string().into_bytes())].into();
        ModelFacts { files: vec!["model.safetensors".to_owned()], documents }
    }

    fn describe(config: &Value) -> Result<Catalogue, ConfigError> {
        let facts = facts(config);
        let family = detect(&facts);
        assert_eq!(family.id(), "causal-lm");
        let site = family.components(&facts).remove(0);
        Ok(family.describe(&site, &facts)?.catalogue.unwrap())
    }

    fn config(model_type: &str, rest: &Value) -> Value {
        let mut all = json!({"model_type": model_type, "hidden_size": 64, "intermediate_size": 96, "vocab_size": 50,
            "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2});
        all.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        all
    }

    #[test]
    fn adapters_change_every_layer_of_a_catalogue() {
        let catalogue = describe(&config("qwen3", &json!({"tie_word_embeddings": false}))).unwrap();
        let targets = CausalLm.adapter_targets("model").unwrap();
        let weights =
            catalogue.tensors().iter().filter_map(|tensor| Some((tensor.name.strip_suffix(".weight")?, tensor)));
        let tensors = catalogue.tensors().iter().map(|tensor| (tensor.name.clone(), tensor.shape.clone()));
        let of_model = Weights::new(tensors);
        for (layer, _) in weights {
            let found = targets.find(&format!("base_model.model.{layer}"), &of_model);
            assert_eq!(found.iter().map(|target| &*target.layer).collect::<Vec<_>>(), [layer]);
        }
        assert!(CausalLm.adapter_targets("vision").is_none());
    }

    #[test]
    fn published_models_have_their_published_parameters() {
        let cases: [(&str, Value, usize, u64); 6] = [
            // Llama 3.2 1B, its head tied to the embedding.
            (
                "llama",
                json!({"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "vocab_size": 128256,
                    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "tie_word_embeddings": true}),
                146,
                1_235_814_400,
            ),
            // Mistral 7B.
            (
                "mistral",
                json!({"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "vocab_size": 32000,
                    "num_attention_heads": 32, "num_key_value_heads": 8}),
                291,
                7_241_732_096,
            ),
            // Qwen2.5 0.5B.
            (
                "qwen2",
                json!({"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "vocab_size": 151936,
                    "num_attention_heads": 14, "num_key_value_heads": 2, "tie_word_embeddings": true}),
                290,
                494_032_768,
            ),
            // Qwen3 4B.
            (
                "qwen3",
                json!({"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "vocab_size": 151936,
                    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": true}),
                398,
                4_022_468_096,
            ),
            // Gemma 2B.
            (
                "gemma",
                json!({"hidden_size": 2048, "intermediate_size": 16384, "num_hidden_layers": 18, "vocab_size": 256000,
                    "num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 256}),
                164,
                2_506_172_416,
            ),
            // Gemma 2 2B.
            (
                "gemma2",
                json!({"hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "vocab_size": 256000,
                    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256}),
                288,
                2_614_341_888,
            ),
        ];
        for (model_type, rest, tensors, parameters) in cases {
            let found = describe(&config(model_type, &rest)).unwrap();
            assert_eq!((found.tensors().len(), found.parameters()), (tensors, parameters), "{model_type}");
        }
    }

    #[test]
    fn models_with_experts_have_their_published_parameters() {
        let latent = json!({"first_k_dense_replace": 1, "q_lora_rank": null, "kv_lora_rank": 512, "qk_rope_head_dim": 64,
            "qk_nope_head_dim": 128, "v_head_dim": 128});
        let cases: [(&str, Value, usize, u64); 6] = [
            // Mixtral 8x7B.
            (
                "mixtral",
                json!({"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "vocab_size": 32000,
                    "num_attention_heads": 32, "num_key_value_heads": 8, "num_local_experts": 8}),
                995,
                46_702_792_704,
            ),
            // Qwen1.5 MoE A2.7B.
            (
                "qwen2_moe",
                json!({"hidden_size": 2048, "moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632,
                    "num_hidden_layers": 24, "vocab_size": 151936, "num_attention_heads": 16, "num_key_value_heads": 16,
                    "num_experts": 60}),
                4659,
                14_315_784_192,
            ),
            // Qwen3 30B A3B.
            (
                "qwen3_moe",
                json!({"hidden_size": 2048, "moe_intermediate_size": 768, "num_hidden_layers": 48, "vocab_size": 151936,
                    "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "num_experts": 128}),
                18867,
                30_532_122_624,
            ),
            // GPT-OSS 20B.
            (
                "gpt_oss",
                json!({"hidden_size": 2880, "intermediate_size": 2880, "num_hidden_layers": 24, "vocab_size": 201088,
                    "num_attention_heads": 64, "num_key_value_heads": 8, "num_local_experts": 32}),
                411,
                20_914_757_184,
            ),
            // DeepSeek V2 Lite.
            (
                "deepseek_v2",
                json!({"hidden_size": 2048, "intermediate_size": 10944, "moe_intermediate_size": 1408,
                    "num_hidden_layers": 27, "vocab_size": 102400, "num_attention_heads": 16, "n_routed_experts": 64,
                    "n_shared_experts": 2}),
                5291,
                15_706_484_224,
            ),
            // DeepSeek V3, without the block that predicts a second word.
            (
                "deepseek_v3",
                json!({"hidden_size": 7168, "intermediate_size": 18432, "moe_intermediate_size": 2048,
                    "num_hidden_layers": 61, "vocab_size": 129280, "num_attention_heads": 128, "n_routed_experts": 256,
                    "n_shared_experts": 1, "first_k_dense_replace": 3, "q_lora_rank": 1536}),
                45395,
                671_026_419_200,
            ),
        ];
        for (model_type, rest, tensors, parameters) in cases {
            let mut all = latent.clone();
            all.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
            let found = describe(&config(model_type, &all)).unwrap();
            assert_eq!((found.tensors().len(), found.parameters()), (tensors, parameters), "{model_type}");
        }
        let two = json!({"num_experts": 4, "num_local_experts": 5, "moe_intermediate_size": 8});
        let said = describe(&config("qwen3_moe", &two)).unwrap_err().to_string();
        assert!(said.contains("`num_experts` is 4, and `num_local_experts` is 5"), "{said}");
        let many = json!({"num_experts": 4096, "num_hidden_layers": 1024, "moe_intermediate_size": 8});
        assert!(describe(&config("qwen3_moe", &many)).unwrap_err().to_string().contains("experts of all layers"));
    }

    #[test]
    fn models_of_other_kinds_have_their_published_parameters() {
        let cases: [(&str, Value, usize, u64); 6] = [
            // Granite 3.0 1B A400M.
            (
                "granitemoe",
                json!({"hidden_size": 1024, "intermediate_size": 512, "num_hidden_layers": 24, "vocab_size": 49155,
                    "num_attention_heads": 16, "num_key_value_heads": 8, "num_local_experts": 32,
                    "tie_word_embeddings": true}),
                218,
                1_334_628_352,
            ),
            // Phi 3.5 MoE.
            (
                "phimoe",
                json!({"hidden_size": 4096, "intermediate_size": 6400, "num_hidden_layers": 32, "vocab_size": 32064,
                    "num_attention_heads": 32, "num_key_value_heads": 8, "num_local_experts": 16,
                    "attention_bias": true, "lm_head_bias": true}),
                1957,
                41_873_153_344,
            ),
            // ERNIE 4.5 21B A3B.
            (
                "ernie4_5_moe",
                json!({"hidden_size": 2560, "intermediate_size": 12288, "num_hidden_layers": 28, "vocab_size": 103_424,
                    "num_attention_heads": 20, "num_key_value_heads": 4, "head_dim": 128, "moe_num_experts": 64,
                    "moe_intermediate_size": 1536, "moe_num_shared_experts": 2, "moe_layer_end_index": -1}),
                5492,
                21_825_437_888,
            ),
            // Hunyuan A13B.
            (
                "hunyuan_v1_moe",
                json!({"hidden_size": 4096, "intermediate_size": 3072, "num_hidden_layers": 32, "vocab_size": 128_167,
                    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "num_experts": 64,
                    "tie_word_embeddings": true}),
                6530,
                80_393_183_232,
            ),
            // Qwen3 Next 80B A3B, without the block that predicts a second word.
            (
                "qwen3_next",
                json!({"hidden_size": 2048, "num_hidden_layers": 48, "vocab_size": 151_936, "num_attention_heads": 16,
                    "num_key_value_heads": 2, "head_dim": 256, "num_experts": 512, "moe_intermediate_size": 512,
                    "shared_expert_intermediate_size": 512, "linear_num_key_heads": 16, "linear_num_value_heads": 32,
                    "linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4,
                    "full_attention_interval": 4}),
                74_391,
                79_674_391_296,
            ),
            // GPT-2, without its causal masks.
            (
                "gpt2",
                json!({"hidden_size": null, "num_hidden_layers": null, "num_attention_heads": null, "n_embd": 768,
                    "n_layer": 12, "n_head": 12, "n_positions": 1024, "vocab_size": 50_257}),
                148,
                124_439_808,
            ),
        ];
        for (model_type, rest, tensors, parameters) in cases {
            let found = describe(&config(model_type, &rest)).unwrap();
            assert_eq!((found.tensors().len(), found.parameters()), (tensors, parameters), "{model_type}");
        }
    }

    #[test]
    fn every_block_has_its_attention_in_the_list() {
        let short = json!({"layer_types": ["linear_attention"], "num_experts": 4});
        let said = describe(&config("qwen3_next", &short)).unwrap_err().to_string();
        assert!(said.contains("`layer_types` has 1 blocks, and `num_hidden_layers` is 2"), "{said}");
    }

    #[test]
    fn what_chooses_and_what_is_transposed_is_not_quantised() {
        assert!(
            !CausalLm.quantises("model", "h.0.attn.c_attn") && CausalLm.quantises("model", "model.h.0.attn.c_attn")
        );
        assert!(!CausalLm.quantises("model", "model.layers.0.mlp.gate.wg"));
    }

    /// As DeepSeek's and Microsoft's repositories do it, whose code became transformers'.
    #[test]
    fn code_of_the_same_name_is_believed_as_far_as_tensors_agree() {
        let named =
            |class: &str| config("phi3", &json!({"auto_map": {"AutoConfig": "c.C", "AutoModelForCausalLM": class}}));
        assert!(describe(&named("modeling_phi3.Phi3ForCausalLM")).is_ok());
        assert!(unchecked(&named("modeling_phi3.Phi4ForCausalLM")).contains("auto_map"));
        let facts = facts(&named("modeling_phi3.Phi3ForCausalLM"));
        let mut description = CausalLm.describe(&CausalLm.components(&facts).remove(0), &facts).unwrap();
        let header = Header { data_start: 8, file_length: 8, tensors: Vec::new(), metadata: BTreeMap::new() };
        CausalLm.refine("model", &mut description, &Table::of_file(header));
        assert!(description.catalogue.is_none() && description.unchecked.unwrap().contains("auto_map"));
    }

    #[test]
    fn tied_embeddings_need_no_head_and_tolerate_one() {
        let tied = describe(&config("llama", &json!({"tie_word_embeddings": true}))).unwrap();
        assert!(!tied.contains("lm_head.weight") && tied.tolerates("lm_head.weight"));
        let untied = describe(&config("llama", &json!({}))).unwrap();
        assert!(untied.contains("lm_head.weight") && !untied.tolerates("lm_head.weight"));
        assert!(untied.tolerates("model.layers.3.self_attn.rotary_emb.inv_freq"));
        assert!(!describe(&config("gemma", &json!({"head_dim": 16}))).unwrap().contains("lm_head.weight"));
    }

    #[test]
    fn biases_and_norms_are_those_of_the_architecture() {
        let has = |model_type: &str, rest: Value, name: &str| {
            describe(&config(model_type, &rest)).unwrap().contains(&format!("model.layers.1.{name}"))
        };
        assert!(has("qwen2", json!({}), "self_attn.q_proj.bias") && !has("qwen2", json!({}), "self_attn.o_proj.bias"));
        assert!(has("llama", json!({"attention_bias": true}), "self_attn.o_proj.bias"));
        assert!(has("llama", json!({"mlp_bias": true}), "mlp.up_proj.bias"));
        let reads = ["llama", "granite", "smollm3", "helium", "seed_oss", "arcee", "nemotron"];
        let dense = architecture::ALL.iter().filter(|it| it.sparse == architecture::SparseBlocks::None);
        for architecture in dense.filter(|architecture| !reads.contains(&architecture.model_type)) {
            let both = json!({"attention_bias": true, "mlp_bias": true, "head_dim": 16, "max_position_embeddings": 64});
            assert!(!has(architecture.model_type, both, "mlp.up_proj.bias"), "{architecture:?}");
        }
        for (model_type, is_read) in [("mistral", false), ("qwen2", false), ("qwen3", true), ("gemma2", true)] {
            let asked = json!({"attention_bias": true, "head_dim": 16});
            assert_eq!(has(model_type, asked, "self_attn.o_proj.bias"), is_read, "{model_type}");
        }
        assert!(!has("mistral", json!({"attention_bias": true}), "self_attn.q_proj.bias"));
        assert!(
            !has("llama", json!({}), "self_attn.q_norm.weight") && has("qwen3", json!({}), "self_attn.q_norm.weight")
        );
        assert!(has("gemma2", json!({"head_dim": 16}), "post_feedforward_layernorm.weight"));
        assert!(has("gemma3_text", json!({"head_dim": 16}), "self_attn.k_norm.weight"));
    }

    #[test]
    fn models_saved_without_their_head_have_the_same_names() {
        let facts = facts(&config("qwen3", &json!({"tie_word_embeddings": true})));
        let rules = CausalLm.describe(&CausalLm.components(&facts).remove(0), &facts).unwrap().rules;
        let names = ["layers.1.mlp.up_proj.weight", "lm_head.weight", "norm.weight"];
        let info = |name: &str| TensorInfo {
            name: name.into(),
            dtype: Dtype::BF16,
            shape: vec![0],
            range: 8..8,
            encoding: None,
        };
        let tensors = names.map(info).into();
        let header = Header { data_start: 8, file_length: 8, tensors, metadata: BTreeMap::new() };
        let file = Table::of_file(header);
        let found = canonical(file.tensors().iter().map(|tensor| (&*tensor.info.name, tensor)), &rules).unwrap();
        let found: Vec<&str> = found.table.tensors().iter().map(|tensor| &*tensor.info.name).collect();
        assert_eq!(found, ["lm_head.weight", "model.layers.1.mlp.up_proj.weight", "model.norm.weight"]);
    }

    #[test]
    fn configs_that_no_model_has_are_refused() {
        for (rest, word) in [
            (json!({"num_attention_heads": 0}), "num_attention_heads"),
            (json!({"num_hidden_layers": 1_000_000}), "num_hidden_layers"),
            (json!({"num_attention_heads": 3}), "head_dim"),
            (json!({"hidden_size": "x"}), "hidden_size"),
        ] {
            let error = describe(&config("llama", &rest)).unwrap_err().to_string();
            assert!(error.contains(word), "{error} should name {word}");
        }
    }

    #[test]
    fn keys_that_are_null_have_their_defaults() {
        let nulls = json!({"num_key_value_heads": null, "head_dim": null, "attention_bias": null, "mlp_bias": null,
            "tie_word_embeddings": null, "architectures": null, "auto_map": null});
        let found = describe(&config("llama", &nulls)).unwrap();
        let mut plain = config("llama", &json!({}));
        plain.as_object_mut().unwrap().remove("num_key_value_heads");
        assert_eq!(found.tensors(), describe(&plain).unwrap().tensors());
        let error = describe(&config("llama", &json!({"hidden_size": null}))).unwrap_err().to_string();
        assert!(error.contains("missing field `hidden_size`"), "{error}");
    }

    fn unchecked(config: &Value) -> String {
        let facts = facts(config);
        let found = CausalLm.describe(&CausalLm.components(&facts).remove(0), &facts).unwrap();
        assert!(found.catalogue.is_none() && found.rules == Rules::NONE);
        found.unchecked.unwrap()
    }

    #[test]
    fn what_other_code_reads_makes_no_catalogue_and_says_why() {
        let class = unchecked(&config("llama", &json!({"architectures": ["LlamaSwiftKVForCausalLM"]})));
        assert!(class.contains("config.json") && class.contains("LlamaSwiftKVForCausalLM"), "{class}");
        let code = unchecked(&config("llama", &json!({"auto_map": {"AutoModelForCausalLM": "x--modeling.X"}})));
        assert!(code.contains("auto_map"), "{code}");
    }

    /// As Qwen3-Embedding-8B is: the config of the language model, untied, and the names of the model inside it.
    #[test]
    fn a_head_is_not_expected_of_what_is_saved_without_one() {
        let by_class = describe(&config("qwen3", &json!({"architectures": ["Qwen3Model"]}))).unwrap();
        assert!(!by_class.contains(HEAD) && by_class.tolerates(HEAD));

        let facts = facts(&config("qwen3", &json!({"architectures": ["Qwen3ForCausalLM"]})));
        let refined = |names: &[&str]| {
            let mut description = CausalLm.describe(&CausalLm.components(&facts).remove(0), &facts).unwrap();
            let tensors = names.iter().map(|&name| crate::header::TensorInfo {
                name: name.into(),
                dtype: crate::header::Dtype::BF16,
                shape: vec![50, 64],
                range: 8..8 + 6400,
                encoding: None,
            });
            let mut tensors: Vec<_> = tensors.collect();
            tensors.sort_by(|a, b| a.name.cmp(&b.name));
            let header = crate::header::Header { data_start: 8, file_length: 6408, tensors, metadata: BTreeMap::new() };
            let table =
                Table::merge(vec![crate::table::Shard { source: crate::source::SourceId(0), name: "x", header }])
                    .unwrap();
            let raw = table.tensors().iter().map(|tensor| (&*tensor.info.name, tensor));
            let table = crate::rewrite::canonical(raw, &description.rules).unwrap().table;
            let said = CausalLm.refine("model", &mut description, &table);
            (description.catalogue.unwrap().contains(HEAD), said.is_some())
        };
        assert_eq!(refined(&["embed_tokens.weight"]), (false, true));
        assert_eq!(refined(&["embed_tokens.weight", "lm_head.weight"]), (true, false));
        assert_eq!(refined(&["model.embed_tokens.weight"]), (true, false));
    }

    #[test]
    fn other_heads_and_architectures_stay_generic() {
        for other in [
            config("bert", &json!({})),
            config("llama", &json!({"architectures": ["LlamaForSequenceClassification"]})),
            json!({"hidden_size": 64}),
        ] {
            assert_eq!(detect(&facts(&other)).id(), "generic");
        }
    }
}
