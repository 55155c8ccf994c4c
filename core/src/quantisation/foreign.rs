//! What a `config.json` says of a format of another library.

use std::fmt;

use serde_json::Value;

use crate::shown::shown;

/// Settings by which the stored weights are others than codes and scales make, and what they do.
const CHANGING: [(&str, &str); 2] = [
    ("transform_config", "the weights were rotated"),
    ("sparsity_config", "the weights are stored without their zeros"),
];
/// Rows and columns that share a scale.
const BLOCK_SIZE: &str = "weight_block_size";

/// A format of another library, as a checkpoint declares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreign {
    /// The library's word for it, such as `gptq`.
    pub method: String,
    /// Where the word stands: `` `quant_method` in `config.json` ``.
    pub place: String,
    /// Why nothing is computed from layers that are stored so, where a setting beside the word forbids it.
    pub doubt: Option<String>,
    /// Rows and columns that share a scale, and the setting in words.
    pub block: Option<(Vec<u64>, String)>,
}

impl Foreign {
    /// Reads the `quantization_config` in the file `path`; `None` when it has no `quant_method`.
    pub(super) fn of(path: &str, settings: &Value) -> Option<Self> {
        let method = settings.get("quant_method")?;
        let said = |key: &str| settings.get(key).filter(|value| !is_unset(value));
        let words = |key: &str, value: &Value| format!("`{key}` in `{path}` is {}", shown(&value.to_string()));
        let changing = CHANGING.iter().find_map(|(key, does)| Some((said(key)?, *key, *does)));
        let doubt = changing.map(|(value, key, does)| format!("{}: {does}", words(key, value)));
        let block = said(BLOCK_SIZE);
        let sides = |value: &Value| -> Option<Vec<u64>> { value.as_array()?.iter().map(Value::as_u64).collect() };
        Some(Self {
            method: method.as_str().map_or_else(|| shown(&method.to_string()), shown),
            place: format!("`quant_method` in `{path}`"),
            doubt,
            block: block.map(|value| (sides(value).unwrap_or_default(), words(BLOCK_SIZE, value))),
        })
    }

    /// A format without a name; `place` says what stands in its place.
    pub(super) fn unnamed(place: String) -> Self {
        Self { method: "unknown".to_owned(), place, doubt: None, block: None }
    }
}

/// Whether a setting says nothing. compressed-tensors writes `"format": "dense"` where nothing is left out.
fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(values) => values.is_empty(),
        Value::Object(values) => {
            values.is_empty()
                || values.get("format").and_then(Value::as_str) == Some("dense")
                || values.get("config_groups").is_some_and(is_unset)
        }
        _ => false,
    }
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is `{}`", self.place, self.method)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(key: &str, value: Value) -> Foreign {
        let mut settings = json!({"quant_method": "compressed-tensors", "config_groups": {"group_0": {}}});
        settings[key] = value;
        Foreign::of("config.json", &settings).unwrap()
    }

    #[test]
    fn a_setting_that_changes_the_weights_is_a_doubt() {
        let rotations = json!({"config_groups": {"R1": {"type": "hadamard"}}});
        for (key, value) in
            [("transform_config", rotations), ("sparsity_config", json!({"format": "sparse-24-bitmask"}))]
        {
            let doubt = of(key, value).doubt.unwrap();
            assert!(doubt.contains(&format!("`{key}` in `config.json`")), "{doubt}");
        }
        for (key, value) in [
            ("transform_config", json!({})),
            ("transform_config", json!({"config_groups": {}})),
            ("transform_config", json!(null)),
            ("sparsity_config", json!({"format": "dense"})),
            ("ignore", json!(["lm_head"])),
        ] {
            assert_eq!(of(key, value.clone()).doubt, None, "{key} {value}");
        }
    }

    #[test]
    fn the_size_of_blocks_is_read() {
        assert_eq!(of("weight_block_size", json!([64, 128])).block.unwrap().0, [64, 128]);
        assert_eq!(of("weight_block_size", json!("all")).block.unwrap().0, [] as [u64; 0]);
        assert_eq!(of("weight_block_size", json!(null)).block, None);
    }
}
