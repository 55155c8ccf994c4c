//! `adapter_config.json`, which PEFT and mlx-lm write beside an adapter: what its matrices are scaled by.

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};

use crate::{
    explain::{Explain, Explanation, Reason},
    json::parse_object,
    shown::shown,
};

/// Its name.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";

/// What the config says.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterConfig {
    path: String,
    decomposition: Decomposition,
    scaling: Scaling,
}

/// Whether the adapter is DoRA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decomposition {
    None,
    /// In the words of the config.
    Dora(&'static str),
}

/// How the factor of a layer follows.
#[derive(Debug, Clone, PartialEq)]
enum Scaling {
    Peft(Box<Peft>),
    /// The factor itself.
    MlxLm {
        rank: Option<u64>,
        scale: f64,
    },
}

#[derive(Debug, Clone, PartialEq)]
struct Peft {
    method: Method,
    rank: Option<u64>,
    alpha: Option<f64>,
    divisor: Divisor,
    ranks: Patterns<u64>,
    alphas: Patterns<f64>,
}

/// PEFT's name for the kind of matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Lora,
    Lokr,
    Loha,
}

/// By what alpha is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Divisor {
    Rank,
    /// rsLoRA.
    Root,
}

/// The factor of a layer as the config gives it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Factor {
    pub(super) alpha: f64,
    pub(super) divisor: f64,
}

/// Why a config cannot be used. Scales in doubt are refused: a wrong one is another picture.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdapterConfigError {
    /// Not JSON of that form.
    #[error("`{path}` cannot be read: {problem}")]
    Malformed {
        /// The file.
        path: String,
        /// The parser's words.
        problem: String,
    },
    /// Another method.
    #[error("`{path}`: `peft_type` is `{found}`, expected LORA, LOKR or LOHA")]
    Method {
        /// The file.
        path: String,
        /// What it says.
        found: String,
    },
    /// A pattern that is more than the end of a name.
    #[error("`{path}`: `{field}` has the regular expression `{pattern}`, expected names of modules only")]
    Pattern {
        /// The file.
        path: String,
        /// `alpha_pattern` or `rank_pattern`.
        field: &'static str,
        /// The pattern.
        pattern: String,
    },
}

impl Explain for AdapterConfigError {
    fn explain(&self) -> Explanation {
        let hint = "an adapter's config says how strong it is: fetch it again, or remove it where the tensors say that";
        Explanation::new(Reason::InvalidAdapter, "", hint)
    }
}

#[derive(Deserialize)]
struct Written {
    peft_type: Option<String>,
    r: Option<u64>,
    lora_alpha: Option<f64>,
    /// LoKr's and LoHa's.
    alpha: Option<f64>,
    use_rslora: Option<bool>,
    use_dora: Option<bool>,
    rank_pattern: Option<Patterns<u64>>,
    alpha_pattern: Option<Patterns<f64>>,
    fine_tune_type: Option<String>,
    lora_parameters: Option<WrittenMlx>,
}

#[derive(Deserialize)]
struct WrittenMlx {
    rank: Option<u64>,
    scale: f64,
}

impl AdapterConfig {
    /// Reads a config; `path` is shown in errors.
    ///
    /// # Errors
    /// [`AdapterConfigError`].
    pub fn parse(path: &str, json: &[u8]) -> Result<Self, AdapterConfigError> {
        let malformed = |problem| AdapterConfigError::Malformed { path: shown(path), problem };
        let written: Written = parse_object(json).map_err(malformed)?;
        let decomposition = match (written.use_dora, written.fine_tune_type.as_deref()) {
            (Some(true), _) => Decomposition::Dora("`use_dora` is true"),
            (_, Some("dora")) => Decomposition::Dora("`fine_tune_type` is `dora`"),
            _ => Decomposition::None,
        };
        let scaling = match written.lora_parameters {
            Some(WrittenMlx { rank, scale }) => Scaling::MlxLm { rank, scale },
            None => Scaling::Peft(Box::new(Peft::new(path, written)?)),
        };
        Ok(Self { path: shown(path), decomposition, scaling })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// How the config says that the adapter is DoRA, when it does.
    #[must_use]
    pub fn dora(&self) -> Option<String> {
        match self.decomposition {
            Decomposition::None => None,
            Decomposition::Dora(says) => Some(format!("{says} in `{}`", self.path)),
        }
    }

    /// The rank of a module, when the config gives one.
    #[must_use]
    pub fn rank_of(&self, module: &str) -> Option<u64> {
        match &self.scaling {
            Scaling::MlxLm { rank, .. } => *rank,
            Scaling::Peft(peft) => peft.ranks.get(module).or(peft.rank),
        }
    }

    /// By what a module's product of this rank is multiplied, when the config gives it.
    pub(super) fn factor_of(&self, module: &str, rank: u64) -> Option<Factor> {
        match &self.scaling {
            Scaling::MlxLm { scale, .. } => Some(Factor { alpha: *scale, divisor: 1.0 }),
            Scaling::Peft(peft) => {
                let alpha = peft.alphas.get(module).or(peft.alpha)?;
                let rank = rank as f64;
                Some(Factor { alpha, divisor: if peft.divisor == Divisor::Root { rank.sqrt() } else { rank } })
            }
        }
    }

    /// The same for a Kronecker product of two whole factors. LyCORIS scales it by nothing, and PEFT as any other one.
    pub(super) fn factor_of_whole(&self, module: &str) -> Option<Factor> {
        let is_peft = matches!(&self.scaling, Scaling::Peft(peft) if peft.method == Method::Lokr);
        self.factor_of(module, self.rank_of(module).filter(|_| is_peft)?)
    }
}

impl Peft {
    fn new(path: &str, written: Written) -> Result<Self, AdapterConfigError> {
        let method = match written.peft_type.as_deref() {
            None | Some("LORA") => Method::Lora,
            Some("LOKR") => Method::Lokr,
            Some("LOHA") => Method::Loha,
            Some(found) => return Err(AdapterConfigError::Method { path: shown(path), found: shown(found) }),
        };
        let (ranks, alphas) = (written.rank_pattern.unwrap_or_default(), written.alpha_pattern.unwrap_or_default());
        let expressions = [("rank_pattern", ranks.expression()), ("alpha_pattern", alphas.expression())];
        if let Some((field, Some(pattern))) = expressions.into_iter().find(|(_, pattern)| pattern.is_some()) {
            return Err(AdapterConfigError::Pattern { path: shown(path), field, pattern: shown(pattern) });
        }
        let mut all = ranks.0.values().map(|(_, rank)| *rank).chain(written.r);
        if all.any(|rank| rank == 0) {
            let problem = "a rank is 0".to_owned();
            return Err(AdapterConfigError::Malformed { path: shown(path), problem });
        }
        let alpha = if method == Method::Lora { written.lora_alpha } else { written.alpha.or(written.lora_alpha) };
        let divisor = if written.use_rslora == Some(true) { Divisor::Root } else { Divisor::Rank };
        Ok(Self { method, rank: written.r, alpha, divisor, ranks, alphas })
    }
}

/// Values by the ends of modules' names, numbered in the order of the file: the first one that fits is meant.
#[derive(Debug, Clone, PartialEq)]
struct Patterns<T>(BTreeMap<String, (usize, T)>);

impl<T> Default for Patterns<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: Copy> Patterns<T> {
    fn get(&self, module: &str) -> Option<T> {
        let ends = module.match_indices('.').map(|(at, _)| &module[at + 1..]);
        let fitting = std::iter::once(module).chain(ends).filter_map(|end| self.0.get(end));
        fitting.min_by_key(|(order, _)| *order).map(|(_, value)| *value)
    }

    /// One that is more than a name. PEFT takes all of them for regular expressions, where a name's dots do no harm.
    fn expression(&self) -> Option<&str> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        self.0.keys().find(|pattern| pattern.is_empty() || !pattern.bytes().all(is_plain)).map(String::as_str)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Patterns<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for InOrder<T> {
            type Value = Patterns<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of names and numbers")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut patterns = BTreeMap::new();
                while let Some((pattern, value)) = map.next_entry()? {
                    patterns.insert(pattern, (patterns.len(), value));
                }
                Ok(Patterns(patterns))
            }
        }

        deserializer.deserialize_map(InOrder(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parse(json: &Value) -> Result<AdapterConfig, AdapterConfigError> {
        AdapterConfig::parse(ADAPTER_CONFIG, json.to_string().as_bytes())
    }

    fn factor(json: &Value, module: &str, rank: u64) -> Option<f64> {
        parse(json).unwrap().factor_of(module, rank).map(|Factor { alpha, divisor }| alpha / divisor)
    }

    #[test]
    fn factors_follow_from_the_config() {
        let pattern = json!({"peft_type": "LORA", "r": 16, "lora_alpha": 16, "alpha_pattern": {"to_q": 8, "0.to_k": 4},
            "rank_pattern": {"to_q": 4}, "task_type": null, "target_modules": ["to_q"]});
        let cases = [
            (json!({}), "a", 4, None),
            (json!({"r": 4}), "a", 4, None),
            (json!({"r": 4, "lora_alpha": 8}), "a", 4, Some(2.0)),
            (json!({"r": 4, "lora_alpha": 0.5, "use_rslora": false, "use_dora": false}), "a", 4, Some(0.125)),
            (json!({"r": 16, "lora_alpha": 8, "use_rslora": true}), "a", 16, Some(2.0)),
            (json!({"peft_type": "LOHA", "r": 8, "alpha": 4}), "a", 8, Some(0.5)),
            (
                json!({"lora_parameters": {"rank": 8, "scale": 20.0, "dropout": 0.0}, "num_layers": 16}),
                "a",
                8,
                Some(20.0),
            ),
            (pattern.clone(), "layers.0.to_q", 4, Some(2.0)),
            (pattern.clone(), "layers.0.to_k", 16, Some(0.25)),
            (pattern.clone(), "layers.1.to_k", 16, Some(1.0)),
            (pattern.clone(), "layers.10.to_k", 16, Some(1.0)),
            (pattern, "layers.0.into_q", 16, Some(1.0)),
        ];
        for (json, module, rank, expected) in cases {
            assert_eq!(factor(&json, module, rank), expected, "{json} {module}");
        }
    }

    #[test]
    fn the_first_pattern_that_fits_is_meant() {
        let json = br#"{"r": 4, "alpha_pattern": {"b.x": 8, "x": 4, "a.b.x": 2}, "rank_pattern": {"x": 2}}"#;
        let config = AdapterConfig::parse(ADAPTER_CONFIG, json).unwrap();
        assert_eq!(config.factor_of("a.b.x", 1), Some(Factor { alpha: 8.0, divisor: 1.0 }));
        assert_eq!(config.factor_of("a.c.x", 1), Some(Factor { alpha: 4.0, divisor: 1.0 }));
        assert_eq!(config.factor_of("a.c.y", 1), None);
        assert_eq!((config.rank_of("a.x"), config.rank_of("a.y")), (Some(2), Some(4)));
    }

    #[test]
    fn whole_kronecker_factors_are_scaled_by_peft_only() {
        let whole = |json: Value| parse(&json).unwrap().factor_of_whole("a");
        let scaled = Some(Factor { alpha: 4.0, divisor: 8.0 });
        assert_eq!(whole(json!({"peft_type": "LOKR", "r": 8, "alpha": 4})), scaled);
        assert_eq!(whole(json!({"r": 8, "lora_alpha": 4})), None);
    }

    #[test]
    fn dora_is_told() {
        for (json, expected) in [
            (json!({"use_dora": true}), Some("use_dora")),
            (json!({"fine_tune_type": "dora", "lora_parameters": {"scale": 1.0}}), Some("fine_tune_type")),
            (json!({"fine_tune_type": "lora", "use_dora": null}), None),
        ] {
            let said = parse(&json).unwrap().dora();
            assert_eq!(said.is_some(), expected.is_some(), "{json}");
            assert!(said.unwrap_or_default().contains(expected.unwrap_or_default()), "{json}");
        }
    }

    #[test]
    fn what_is_in_doubt_is_refused_with_the_file() {
        let cases = [
            ("[null,null,null,null,null,null,null,null,null,null]", "not a JSON object"),
            ("[]", "cannot be read"),
            ("{", "EOF"),
            ("{} {}", "trailing"),
            (r#"{"r": "four"}"#, "r: invalid type"),
            (r#"{"r": -1}"#, "r: invalid value"),
            (r#"{"r": 0}"#, "a rank is 0"),
            (r#"{"lora_alpha": 1e999}"#, "out of range"),
            (r#"{"alpha_pattern": {"a": "b"}}"#, "alpha_pattern"),
            (r#"{"alpha_pattern": {"layers\\.\\d+\\.to_q": 1}}"#, "regular expression `layers"),
            (r#"{"rank_pattern": {"^a": 1}}"#, "`rank_pattern` has"),
            (r#"{"rank_pattern": {"": 1}}"#, "regular expression ``"),
            (r#"{"peft_type": "PROMPT_TUNING"}"#, "expected LORA, LOKR or LOHA"),
            (r#"{"lora_parameters": {"rank": 8}}"#, "missing field `scale`"),
        ];
        for (json, expected) in cases {
            let said = AdapterConfig::parse(ADAPTER_CONFIG, json.as_bytes()).unwrap_err().to_string();
            assert!(said.contains(expected) && said.contains(ADAPTER_CONFIG), "{json}: {said}");
        }
    }
}
