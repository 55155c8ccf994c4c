//! `adapter_config.json`, which PEFT and mlx-lm write beside an adapter: how strong its pairs are, and what else it holds.
//! diffusers writes the same keys into the file's own metadata.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, Visitor},
};
use serde_json::Value;

use super::{
    pattern::Patterns,
    settings,
    strength::{Strength, StrengthSource},
};
use crate::{
    explain::{Explain, Explanation, Reason},
    json::parse_object,
    shown::shown,
};

/// Its name.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";

/// What a config says.
#[derive(Debug, Clone)]
pub struct AdapterConfig {
    /// Where it stands, as errors and reports call it.
    place: String,
    source: StrengthSource,
    decomposition: Decomposition,
    scaling: Scaling,
    saved: Saved,
}

/// Whether the adapter is DoRA, in the words of the config.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decomposition {
    Unsaid,
    Dora(&'static str),
    NotDora(&'static str),
}

/// Which whole weights the adapter holds beside its pairs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Saved {
    /// Those of these modules.
    Modules(Vec<String>),
    /// Nothing but whole weights: mlx-lm's full fine-tuning.
    Everything,
}

/// How the strength of a layer is found; mlx-lm's scale is the strength itself. `Nothing`: there are no pairs.
#[derive(Debug, Clone)]
enum Scaling {
    Peft(Box<Peft>),
    MlxLm { rank: Option<u64>, scale: f64 },
    Nothing,
}

#[derive(Debug, Clone)]
struct Peft {
    /// `peft_type`.
    stated: Option<Method>,
    rank: Option<u64>,
    alpha: Option<f64>,
    divisor: Divisor,
    ranks: Patterns<u64>,
    alphas: Patterns<f64>,
}

/// PEFT's name for the kind of matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Lora,
    Lokr,
    Loha,
}

impl Method {
    fn name(self) -> &'static str {
        match self {
            Self::Lora => "LORA",
            Self::Lokr => "LOKR",
            Self::Loha => "LOHA",
        }
    }
}

/// The divisor of an alpha.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Divisor {
    Rank,
    /// rsLoRA.
    Root,
}

/// Why a config cannot be used. What is in doubt is refused: a wrong strength is another model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdapterConfigError {
    /// Not JSON of that form.
    #[error("{place} cannot be read: {problem}")]
    Malformed {
        /// Where the config stands.
        place: String,
        /// The parser's words.
        problem: String,
    },
    /// A method whose tensors are not read.
    #[error("{place}: `peft_type` is `{found}`, expected LORA, LOKR or LOHA")]
    Method {
        /// Where the config stands.
        place: String,
        /// What it says.
        found: String,
    },
    /// A setting that changes what is added.
    #[error("{place}: `{key}` is {found}: {problem}, and that is not applied")]
    Setting {
        /// Where the config stands.
        place: String,
        /// The key.
        key: String,
        /// Its value.
        found: String,
        /// What it means.
        problem: String,
    },
}

/// Settings of PEFT that stand in strings of their own.
#[derive(Debug, Default)]
pub(super) struct Stated<'a> {
    pub(super) rank: Option<u64>,
    pub(super) alpha: Option<f64>,
    pub(super) use_rslora: bool,
    pub(super) use_dora: Option<bool>,
    /// `rank_pattern` and `alpha_pattern` as JSON.
    pub(super) ranks: Option<&'a [u8]>,
    pub(super) alphas: Option<&'a [u8]>,
}

/// A prefix of keys, and what they say of the component of that name.
pub(super) type Section = (String, Result<AdapterConfig, AdapterConfigError>);

impl AdapterConfigError {
    pub(super) fn hint(&self) -> &'static str {
        match self {
            Self::Malformed { .. } => "the config says how strong the adapter is: mend it, or fetch the adapter again",
            Self::Method { .. } => "convert the adapter to LoRA, or merge it with the library that made it",
            Self::Setting { .. } => "merge the adapter with the library that made it, or save it without this setting",
        }
    }
}

impl Explain for AdapterConfigError {
    fn explain(&self) -> Explanation {
        let (Self::Malformed { place, .. } | Self::Method { place, .. } | Self::Setting { place, .. }) = self;
        Explanation::new(Reason::InvalidAdapter, place.trim_matches('`'), self.hint())
    }
}

/// The keys that are read, of PEFT and of mlx-lm.
#[derive(Default)]
struct Fields {
    peft_type: Option<String>,
    r: Option<u64>,
    lora_alpha: Option<f64>,
    /// LoKr's and LoHa's.
    alpha: Option<f64>,
    use_rslora: Option<bool>,
    use_dora: Option<bool>,
    rank_pattern: Option<Patterns<u64>>,
    alpha_pattern: Option<Patterns<f64>>,
    modules_to_save: Option<Vec<String>>,
    fine_tune_type: Option<String>,
    lora_parameters: Option<MlxParameters>,
    rest: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct MlxParameters {
    rank: Option<u64>,
    scale: Option<f64>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

impl Fields {
    /// Reads the value of one key.
    fn read<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            "peft_type" => self.peft_type = map.next_value()?,
            "r" => self.r = map.next_value()?,
            "lora_alpha" => self.lora_alpha = map.next_value()?,
            "alpha" => self.alpha = map.next_value()?,
            "use_rslora" => self.use_rslora = map.next_value()?,
            "use_dora" => self.use_dora = map.next_value()?,
            "rank_pattern" => self.rank_pattern = map.next_value()?,
            "alpha_pattern" => self.alpha_pattern = map.next_value()?,
            "modules_to_save" => self.modules_to_save = map.next_value()?,
            "fine_tune_type" => self.fine_tune_type = map.next_value()?,
            "lora_parameters" => self.lora_parameters = map.next_value()?,
            _ => drop(self.rest.insert(key.to_owned(), map.next_value()?)),
        }
        Ok(())
    }
}

/// Configs by the prefix of their keys: `transformer.r` is `r` of the config `transformer`. In order of their first keys.
#[derive(Default)]
struct Sections(Vec<(String, Fields)>);

/// Whether keys have prefixes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keys {
    Plain,
    Prefixed,
}

struct ReadSections(Keys);

impl<'de> Visitor<'de> for ReadSections {
    type Value = Sections;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of settings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Sections, A::Error> {
        let mut sections = Sections::default();
        let mut seen = std::collections::BTreeSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if !seen.insert(key.clone()) {
                map.next_value::<IgnoredAny>()?;
                return Err(A::Error::custom(format!("duplicate field `{}`", shown(&key))));
            }
            let (prefix, field) = match key.rsplit_once('.') {
                Some((prefix, field)) if self.0 == Keys::Prefixed => (prefix, field),
                _ => ("", key.as_str()),
            };
            let at = sections.0.iter().position(|(found, _)| found == prefix).unwrap_or_else(|| {
                sections.0.push((prefix.to_owned(), Fields::default()));
                sections.0.len() - 1
            });
            sections.0[at].1.read(field, &mut map)?;
        }
        Ok(sections)
    }
}

struct PlainConfig(Sections);
struct PrefixedConfig(Sections);

impl<'de> Deserialize<'de> for PlainConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ReadSections(Keys::Plain)).map(Self)
    }
}

impl<'de> Deserialize<'de> for PrefixedConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ReadSections(Keys::Prefixed)).map(Self)
    }
}

impl AdapterConfig {
    /// Reads the config in the file `path`.
    ///
    /// # Errors
    /// When it is not an object of settings, when it is of another method, or when it says something of what is added that
    /// is not applied.
    pub fn parse(path: &str, json: &[u8]) -> Result<Self, AdapterConfigError> {
        let place = format!("`{}`", shown(path));
        let PlainConfig(mut sections) =
            parse_object(json).map_err(|problem| AdapterConfigError::Malformed { place: place.clone(), problem })?;
        let fields = sections.0.pop().map(|(_, fields)| fields).unwrap_or_default();
        Self::new(place, StrengthSource::Config, fields)
    }

    /// Reads configs whose keys have a component's prefix, from the metadata of a file: each with its prefix, which may be
    /// empty.
    pub(super) fn parse_sections(place: &str, json: &[u8]) -> Result<Vec<Section>, AdapterConfigError> {
        let PrefixedConfig(sections) =
            parse_object(json).map_err(|problem| AdapterConfigError::Malformed { place: place.to_owned(), problem })?;
        let config = |(prefix, fields): (String, Fields)| {
            let place = if prefix.is_empty() { place.to_owned() } else { format!("{place} for `{}`", shown(&prefix)) };
            (prefix, Self::new(place, StrengthSource::Metadata, fields))
        };
        Ok(sections.0.into_iter().map(config).collect())
    }

    /// A config whose settings stand in strings of their own.
    pub(super) fn of_strings(place: String, stated: Stated<'_>) -> Result<Self, AdapterConfigError> {
        let Stated { rank, alpha, use_rslora, use_dora, ranks, alphas } = stated;
        let malformed = |problem| AdapterConfigError::Malformed { place: place.clone(), problem };
        let fields = Fields {
            r: rank,
            lora_alpha: alpha,
            use_rslora: Some(use_rslora),
            use_dora,
            rank_pattern: ranks.map(parse_object).transpose().map_err(malformed)?,
            alpha_pattern: alphas.map(parse_object).transpose().map_err(malformed)?,
            ..Fields::default()
        };
        Self::new(place, StrengthSource::Metadata, fields)
    }

    fn new(place: String, source: StrengthSource, fields: Fields) -> Result<Self, AdapterConfigError> {
        if fields.lora_parameters.is_some() || fields.fine_tune_type.is_some() {
            return Self::of_mlx(place, source, fields);
        }
        for (key, value) in &fields.rest {
            if let Some(problem) = settings::problem(key, value) {
                let (key, found) = (shown(key), shown(&value.to_string()));
                return Err(AdapterConfigError::Setting { place, key, found, problem });
            }
        }
        let decomposition = Decomposition::of(fields.use_dora);
        let saved = Saved::Modules(fields.modules_to_save.clone().unwrap_or_default());
        let scaling = Scaling::Peft(Box::new(Peft::new(&place, fields)?));
        Ok(Self { place, source, decomposition, scaling, saved })
    }

    /// mlx-lm writes the arguments of a training run beside what counts, so that other keys mean nothing here.
    fn of_mlx(place: String, source: StrengthSource, fields: Fields) -> Result<Self, AdapterConfigError> {
        let malformed =
            |problem: &str| AdapterConfigError::Malformed { place: place.clone(), problem: problem.to_owned() };
        if fields.r.is_some() || fields.lora_alpha.is_some() || fields.use_rslora == Some(true) {
            return Err(malformed("it has the settings of both PEFT and mlx-lm"));
        }
        let kind = fields.fine_tune_type.as_deref();
        let decomposition = match (kind, fields.use_dora) {
            (Some("dora"), _) => Decomposition::Dora("`fine_tune_type` is `dora`"),
            (Some("lora"), None) => Decomposition::NotDora("`fine_tune_type` is `lora`"),
            (_, use_dora) => Decomposition::of(use_dora),
        };
        let (scaling, saved) = match kind {
            Some("full") => (Scaling::Nothing, Saved::Everything),
            None | Some("lora" | "dora") => {
                let parameters = fields.lora_parameters.ok_or_else(|| malformed("missing field `lora_parameters`"))?;
                (parameters.scaling().map_err(|problem| malformed(&problem))?, Saved::Modules(Vec::new()))
            }
            Some(other) => {
                let problem = format!("`fine_tune_type` is `{}`, expected lora, dora or full", shown(other));
                return Err(malformed(&problem));
            }
        };
        Ok(Self { place, source, decomposition, scaling, saved })
    }

    /// Where the config stands, for errors and reports.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    pub(super) fn source(&self) -> StrengthSource {
        self.source
    }

    pub(super) fn saved(&self) -> &Saved {
        &self.saved
    }

    /// How the config says that the adapter is DoRA (`Ok`), or that it is not (`Err`), when it says either.
    pub(super) fn dora(&self) -> Option<Result<String, String>> {
        match self.decomposition {
            Decomposition::Unsaid => None,
            Decomposition::Dora(says) => Some(Ok(format!("{says} in {}", self.place))),
            Decomposition::NotDora(says) => Some(Err(format!("{says} in {}", self.place))),
        }
    }

    /// Whether the config says that the adapter has pairs, or factors of another method, or neither: the words in which
    /// it contradicts a change whose matrices are those of `method`.
    pub(super) fn contradicts(&self, found: Method) -> Option<String> {
        match &self.scaling {
            Scaling::Peft(peft) => {
                let stated = peft.stated.filter(|stated| *stated != found)?;
                Some(format!("`peft_type` is `{}`, and the matrices are those of {}", stated.name(), found.name()))
            }
            Scaling::MlxLm { .. } if found != Method::Lora => {
                Some(format!("it is mlx-lm's, and the matrices are those of {}", found.name()))
            }
            Scaling::MlxLm { .. } => None,
            Scaling::Nothing => Some("`fine_tune_type` is `full`, and there are low-rank matrices".to_owned()),
        }
    }

    /// The rank of a module, when the config gives one.
    #[must_use]
    pub fn rank_of(&self, module: &str) -> Option<u64> {
        match &self.scaling {
            Scaling::MlxLm { rank, .. } => *rank,
            Scaling::Peft(peft) => peft.ranks.get(module).or(peft.rank),
            Scaling::Nothing => None,
        }
    }

    /// The strength of a module's product of this rank, when the config gives it.
    pub(super) fn strength_of(&self, module: &str, rank: u64) -> Option<Strength> {
        match &self.scaling {
            Scaling::MlxLm { scale, .. } => Some(Strength { alpha: *scale, divisor: 1.0 }),
            Scaling::Peft(peft) => {
                let alpha = peft.alphas.get(module).or(peft.alpha)?;
                let rank = rank as f64;
                Some(Strength { alpha, divisor: if peft.divisor == Divisor::Root { rank.sqrt() } else { rank } })
            }
            Scaling::Nothing => None,
        }
    }

    /// The same for a Kronecker product of two whole factors. LyCORIS scales it by nothing, and PEFT as any other one.
    pub(super) fn strength_of_whole(&self, module: &str) -> Option<Strength> {
        let is_peft = matches!(&self.scaling, Scaling::Peft(peft) if peft.stated == Some(Method::Lokr));
        self.strength_of(module, self.rank_of(module).filter(|_| is_peft)?)
    }
}

impl Decomposition {
    fn of(use_dora: Option<bool>) -> Self {
        match use_dora {
            None => Self::Unsaid,
            Some(true) => Self::Dora("`use_dora` is true"),
            Some(false) => Self::NotDora("`use_dora` is false"),
        }
    }
}

impl MlxParameters {
    /// `scale` is the strength. Early versions of mlx-lm multiplied it by `alpha / rank`, so that a config with both
    /// says two things.
    fn scaling(&self) -> Result<Scaling, String> {
        let scale = self.scale.ok_or("lora_parameters: missing field `scale`")?;
        if !scale.is_finite() {
            return Err(format!("lora_parameters: `scale` is {scale}"));
        }
        for (key, value) in &self.rest {
            let is_known = matches!(key.as_str(), "dropout" | "keys") || value.is_null();
            let is_neutral = key == "alpha" && value.as_f64() == self.rank.map(|rank| rank as f64);
            if !is_known && !is_neutral {
                let problem = "versions of mlx-lm differ on what it changes";
                return Err(format!("lora_parameters: `{}` is {}: {problem}", shown(key), shown(&value.to_string())));
            }
        }
        Ok(Scaling::MlxLm { rank: self.rank, scale })
    }
}

impl Peft {
    fn new(place: &str, fields: Fields) -> Result<Self, AdapterConfigError> {
        let method = match fields.peft_type.as_deref() {
            None => None,
            Some("LORA") => Some(Method::Lora),
            Some("LOKR") => Some(Method::Lokr),
            Some("LOHA") => Some(Method::Loha),
            Some(found) => return Err(AdapterConfigError::Method { place: place.to_owned(), found: shown(found) }),
        };
        let (stated, method) = (method, method.unwrap_or(Method::Lora));
        let (ranks, alphas) = (fields.rank_pattern.unwrap_or_default(), fields.alpha_pattern.unwrap_or_default());
        let malformed =
            |problem: &str| Err(AdapterConfigError::Malformed { place: place.to_owned(), problem: problem.into() });
        if ranks.values().chain(fields.r).any(|rank| rank == 0) {
            return malformed("a rank is 0");
        }
        let alpha = if method == Method::Lora { fields.lora_alpha } else { fields.alpha.or(fields.lora_alpha) };
        if let (Some(alpha), Some(lora_alpha)) = (fields.alpha, fields.lora_alpha)
            && alpha.to_bits() != lora_alpha.to_bits()
        {
            return malformed(&format!("`alpha` is {alpha}, and `lora_alpha` is {lora_alpha}"));
        }
        if alphas.values().chain(alpha).any(|alpha| !alpha.is_finite()) {
            return malformed("an alpha is not finite");
        }
        // PEFT writes every setting. Where one that counts is missing, today's default need not be the one of the training.
        if fields.peft_type.is_some() && alpha.is_none() {
            return malformed(if method == Method::Lora {
                "missing field `lora_alpha`"
            } else {
                "missing field `alpha`"
            });
        }
        if alpha.is_none() && !alphas.is_empty() {
            return malformed("`alpha_pattern` without `lora_alpha`");
        }
        if alpha.is_none() && fields.use_rslora == Some(true) {
            return malformed("`use_rslora` without `lora_alpha`");
        }
        let divisor = if fields.use_rslora == Some(true) { Divisor::Root } else { Divisor::Rank };
        Ok(Self { stated, rank: fields.r, alpha, divisor, ranks, alphas })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parse(json: &Value) -> Result<AdapterConfig, AdapterConfigError> {
        AdapterConfig::parse(ADAPTER_CONFIG, json.to_string().as_bytes())
    }

    fn strength(json: &Value, module: &str, rank: u64) -> Option<f64> {
        parse(json).unwrap().strength_of(module, rank).map(Strength::value)
    }

    #[test]
    fn strengths_follow_from_the_config() {
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
            assert_eq!(strength(&json, module, rank), expected, "{json} {module}");
        }
    }

    #[test]
    fn the_first_pattern_that_fits_is_meant() {
        let json =
            br#"{"r": 4, "lora_alpha": 1, "alpha_pattern": {"b.x": 8, "x": 4, "a.b.x": 2}, "rank_pattern": {"x": 2}}"#;
        let config = AdapterConfig::parse(ADAPTER_CONFIG, json).unwrap();
        assert_eq!(config.strength_of("a.b.x", 1), Some(Strength { alpha: 8.0, divisor: 1.0 }));
        assert_eq!(config.strength_of("a.c.x", 1), Some(Strength { alpha: 4.0, divisor: 1.0 }));
        assert_eq!(config.strength_of("a.c.y", 1), Some(Strength { alpha: 1.0, divisor: 1.0 }));
        assert_eq!((config.rank_of("a.x"), config.rank_of("a.y")), (Some(2), Some(4)));
    }

    #[test]
    fn whole_kronecker_factors_are_scaled_by_peft_only() {
        let whole = |json: Value| parse(&json).unwrap().strength_of_whole("a");
        let scaled = Some(Strength { alpha: 4.0, divisor: 8.0 });
        assert_eq!(whole(json!({"peft_type": "LOKR", "r": 8, "alpha": 4})), scaled);
        assert_eq!(whole(json!({"r": 8, "lora_alpha": 4})), None);
    }

    #[test]
    fn dora_is_told() {
        let of = |json: Value| parse(&json).unwrap().dora();
        let is = |json, words| assert!(of(json).unwrap().unwrap().contains(words), "{words}");
        let is_not = |json, words| assert!(of(json).unwrap().unwrap_err().contains(words), "{words}");
        is(json!({"use_dora": true}), "use_dora");
        is(json!({"fine_tune_type": "dora", "lora_parameters": {"scale": 1.0}}), "fine_tune_type");
        is(json!({"lora_parameters": {"scale": 1.0}, "use_dora": true}), "use_dora");
        is_not(json!({"use_dora": false}), "use_dora");
        is_not(json!({"fine_tune_type": "lora", "lora_parameters": {"scale": 1.0}}), "fine_tune_type");
        for unsaid in [json!({"r": 4}), json!({"use_dora": null}), json!({"lora_parameters": {"scale": 1.0}})] {
            assert_eq!(of(unsaid), None);
        }
    }

    #[test]
    fn what_is_in_doubt_is_refused_with_the_file() {
        let cases = [
            ("[null,null]", "expected an object of settings"),
            ("[]", "cannot be read"),
            (r#"{"r": 4, "r": 4}"#, "duplicate field `r`"),
            ("{", "EOF"),
            ("{} {}", "trailing"),
            (r#"{"r": "four"}"#, "r: invalid type"),
            (r#"{"r": -1}"#, "r: invalid value"),
            (r#"{"r": 0}"#, "a rank is 0"),
            (r#"{"lora_alpha": 1e999}"#, "out of range"),
            (r#"{"alpha_pattern": {"a": "b"}}"#, "alpha_pattern"),
            (r#"{"lora_alpha": 1, "alpha_pattern": {"(?=a)b": 1}}"#, "regular expression `(?=a)b`"),
            (r#"{"rank_pattern": {"a": 0}}"#, "a rank is 0"),
            (r#"{"alpha_pattern": {"a": 1}}"#, "`alpha_pattern` without `lora_alpha`"),
            (r#"{"peft_type": "LORA", "r": 4}"#, "missing field `lora_alpha`"),
            (r#"{"peft_type": "LOKR", "r": 4}"#, "missing field `alpha`"),
            (r#"{"use_qalora": true}"#, "`use_qalora` is true: inputs are pooled"),
            (r#"{"init_lora_weights": "pissa"}"#, "`init_lora_weights` is \"pissa\": the adapter is relative to"),
            (r#"{"layer_replication": [[0, 4], [2, 5]]}"#, "layers are stacked anew"),
            (r#"{"use_novelty": 1}"#, "`use_novelty` is 1: it is not known"),
            (r#"{"fine_tune_type": "other"}"#, "expected lora, dora or full"),
            (r#"{"fine_tune_type": "lora"}"#, "missing field `lora_parameters`"),
            (r#"{"lora_parameters": {"scale": 2.0}, "r": 4}"#, "both PEFT and mlx-lm"),
            (r#"{"lora_parameters": {"scale": 2.0}, "use_rslora": true}"#, "both PEFT and mlx-lm"),
            (r#"{"r": 4, "lora_alpha": 8, "alpha": 4}"#, "`alpha` is 4, and `lora_alpha` is 8"),
            (r#"{"peft_type": "LOKR", "r": 4, "lora_alpha": 8, "alpha": 4}"#, "`alpha` is 4, and `lora_alpha` is 8"),
            (r#"{"r": 4, "use_rslora": true}"#, "`use_rslora` without `lora_alpha`"),
            (
                r#"{"lora_parameters": {"rank": 8, "scale": 2.0, "alpha": 16}}"#,
                "`alpha` is 16: versions of mlx-lm differ",
            ),
            (r#"{"lora_parameters": {"rank": 8, "scale": 2.0, "bias": true}}"#, "`bias` is true"),
            (r#"{"peft_type": "PROMPT_TUNING"}"#, "expected LORA, LOKR or LOHA"),
            (r#"{"lora_parameters": {"rank": 8}}"#, "missing field `scale`"),
        ];
        for (json, expected) in cases {
            let said = AdapterConfig::parse(ADAPTER_CONFIG, json.as_bytes()).unwrap_err().to_string();
            assert!(said.contains(expected) && said.contains(ADAPTER_CONFIG), "{json}: {said}");
        }
    }

    #[test]
    fn whole_configs_of_peft_and_mlx_lm_are_taken() {
        let peft = json!({"alora_invocation_tokens": null, "alpha_pattern": {}, "arrow_config": null,
            "auto_mapping": null, "base_model_name_or_path": "org/model", "bias": "none", "corda_config": null,
            "ensure_weight_tying": false, "eva_config": null, "exclude_modules": null, "fan_in_fan_out": false,
            "inference_mode": true, "init_lora_weights": true, "layer_replication": null, "layers_pattern": null,
            "layers_to_transform": null, "loftq_config": {}, "lora_alpha": 32, "lora_bias": false, "lora_dropout": 0.1,
            "megatron_config": null, "megatron_core": "megatron.core", "modules_to_save": null, "peft_type": "LORA",
            "peft_version": "0.18.0", "qalora_group_size": 16, "r": 16, "rank_pattern": {}, "revision": null,
            "target_modules": ["to_q"], "target_parameters": null, "task_type": "CAUSAL_LM",
            "trainable_token_indices": null, "use_dora": false, "use_qalora": false, "use_rslora": false});
        assert_eq!(strength(&peft, "a", 16), Some(2.0));
        let mlx = json!({"adapter_path": "adapters", "batch_size": 4, "fine_tune_type": "lora", "iters": 600,
            "learning_rate": 1e-5, "lora_parameters": {"rank": 8, "dropout": 0.0, "scale": 20.0, "alpha": 8},
            "lr_schedule": null, "model": "org/model", "num_layers": 16, "optimizer_config": {"adam": {}}, "seed": 0});
        assert_eq!(strength(&mlx, "a", 8), Some(20.0));
        let full = parse(&json!({"fine_tune_type": "full", "num_layers": -1, "lora_parameters": {"rank": 8}})).unwrap();
        assert_eq!((full.saved(), full.strength_of("a", 8)), (&Saved::Everything, None));
    }
}
