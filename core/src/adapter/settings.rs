//! The keys of a PEFT config, and which of them change what an adapter adds.

use serde_json::Value;

/// Keys that say how an adapter was trained, or for what: the tensors do not depend on them.
const HARMLESS: [&str; 32] = [
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "corda_config",
    "decompose_both",
    "decompose_factor",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "init_weights",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_config",
    "megatron_core",
    "module_dropout",
    "peft_version",
    // Of use only with `use_qalora`.
    "qalora_group_size",
    "rank_dropout",
    "rank_dropout_scale",
    "revision",
    // PEFT never reads it from a file.
    "runtime_config",
    "target_modules",
    "task_type",
    "use_effective_conv2d",
    // Training only: how activations are kept for the backward pass.
    "velora_config",
    // What PEFT's hub integration and other trainers write beside.
    "_commit_hash",
    "library_name",
    "trainer",
    "unsloth_version",
];

/// Keys that change what is added, with what they do; unset, false or empty they do nothing.
const CHANGING: [(&str, &str); 13] = [
    ("alora_invocation_tokens", "the adapter counts only after certain tokens (aLoRA)"),
    ("arrow_config", "several adapters are mixed for each token (Arrow)"),
    ("ensure_weight_tying", "tied layers share what is added"),
    ("fan_in_fan_out", "weights are stored `[input, output]`"),
    ("kasa_config", "singular values of the base are cut off (KaSA)"),
    ("layer_replication", "layers are stacked anew"),
    ("lora_bias", "pairs have biases"),
    ("monteclora_config", "the pairs are sampled (MonteCLoRA)"),
    ("target_parameters", "parameters inside of a module are changed"),
    ("trainable_token_indices", "rows of an embedding were trained alone"),
    ("use_bdlora", "the pairs are block-diagonal (BD-LoRA)"),
    ("use_qalora", "inputs are pooled in groups (QALoRA)"),
    ("megatron_sequence_parallel", "the pairs are split over processes"),
];

/// Values of `init_lora_weights` that leave the base model as it was.
const HARMLESS_INITS: [&str; 4] = ["gaussian", "eva", "orthogonal", "true"];

/// Why a setting refuses an adapter, `None` when it does not.
pub(super) fn problem(key: &str, value: &Value) -> Option<String> {
    if HARMLESS.contains(&key) || is_unset(value) {
        return None;
    }
    if key == "init_lora_weights" {
        return initialised(value);
    }
    Some(match CHANGING.iter().find(|(name, _)| *name == key) {
        Some((_, does)) => (*does).to_owned(),
        None => "it is not known whether this changes what is added".to_owned(),
    })
}

/// PiSSA and its kin take a part out of the base model before training, and the adapter holds it.
fn initialised(value: &Value) -> Option<String> {
    match value {
        Value::Bool(_) => None,
        Value::String(text) if HARMLESS_INITS.contains(&text.to_lowercase().as_str()) => None,
        _ => Some("the adapter is relative to a base model that was changed before training".to_owned()),
    }
}

fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(values) => values.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_key_that_changes_numbers_refuses_where_it_is_set() {
        for (key, _) in CHANGING {
            assert!(problem(key, &json!(true)).is_some(), "{key}");
            for unset in [json!(null), json!(false), json!([]), json!({})] {
                assert_eq!(problem(key, &unset), None, "{key} {unset}");
            }
        }
        for key in HARMLESS {
            assert_eq!(problem(key, &json!("anything")), None, "{key}");
        }
        assert!(problem("use_something_new", &json!(true)).unwrap().contains("not known"));
    }

    #[test]
    fn an_init_that_changes_the_base_refuses() {
        for init in [
            json!("pissa"),
            json!("pissa_niter_16"),
            json!("olora"),
            json!("corda"),
            json!("loftq"),
            json!("lora_ga"),
            json!("mica"),
            json!("new"),
            json!(7),
        ] {
            assert!(problem("init_lora_weights", &init).unwrap().contains("base model"), "{init}");
        }
        for init in [json!(true), json!(false), json!("gaussian"), json!("Gaussian"), json!("eva"), json!(null)] {
            assert_eq!(problem("init_lora_weights", &init), None, "{init}");
        }
    }
}
