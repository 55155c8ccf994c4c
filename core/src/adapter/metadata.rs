//! How strong an adapter is according to its file's own metadata, the strings in the header.
//!
//! diffusers writes PEFT's whole config as JSON under `lora_adapter_metadata`, with the component before each key
//! (`transformer.lora_alpha`); mflux reads it as it is read here. Others write `lora_alpha` and `r` as strings of their
//! own: SimpleTuner with the component before them, LightX2V without, and SGLang knows `network_alpha` and `alpha` too.
//! No program takes kohya's `ss_network_alpha` for a strength: what kohya trains has tensors that say it.
//! A key that seems to say a strength, and that nothing reads, refuses an adapter without alpha tensors.

use std::collections::{BTreeMap, BTreeSet};

use super::{AdapterConfig, AdapterConfigError, Targets, config::Stated};
use crate::shown::shown;

/// Where diffusers writes, and where others put the same config.
const CONFIGS: [&str; 5] =
    ["lora_adapter_metadata", "adapter_config", "adapter_config.json", "lora_config", "peft_config"];
/// Keys of an alpha, and of a rank.
const ALPHAS: [&str; 3] = ["lora_alpha", "network_alpha", "alpha"];
const RANKS: [&str; 4] = ["r", "rank", "lora_rank", "network_dim"];
/// Keys of switches, and of exceptions by module.
const RSLORA: [&str; 2] = ["use_rslora", "rslora"];
const DORA: [&str; 2] = ["use_dora", "dora"];
const ALPHA_PATTERN: [&str; 1] = ["alpha_pattern"];
const RANK_PATTERN: [&str; 1] = ["rank_pattern"];
/// Settings of the training, which the alpha tensors repeat.
const TOLD: [&str; 2] = ["ss_network_alpha", "ss_network_dim"];
/// Beginnings of keys that tell of a training run, or of the picture on a model's page.
const OF_TRAINING: [&str; 3] = ["ss_", "sshs_", "modelspec."];
/// Keys, without case and separators, that would say how strong an adapter is if somebody read them. So does every key
/// with one of [`STRONG_PARTS`] in it.
const STRONG: [&str; 14] = [
    "adapterscale",
    "adapterweight",
    "loraparameters",
    "lorascale",
    "lorascaling",
    "lorastrength",
    "loraweight",
    "multiplier",
    "networkmultiplier",
    "networkscale",
    "scale",
    "scaling",
    "scalingfactor",
    "strength",
];
const STRONG_PARTS: [&str; 3] = ["alpha", "rslora", "dora"];
/// Values that change nothing.
const NEUTRAL: [&str; 8] = ["", "1", "1.0", "none", "null", "false", "{}", "[]"];

/// Configs by the component that their keys name, without its dot; empty where they name none. One that cannot be used
/// refuses an adapter only where it counts: it may be another component's.
type Sections = Vec<(String, Result<AdapterConfig, AdapterConfigError>)>;

/// What the metadata says.
#[derive(Debug, Clone, Default)]
pub struct FileStrengths {
    /// Configs as JSON, and the strings beside them.
    written: Vec<Sections>,
    /// Settings of the training run.
    told: Vec<String>,
    /// Alpha through rank of the training run.
    trained: Option<f64>,
    /// Keys that seem to say how strong the adapter is, and that no program is known to read: key and value.
    unread: Vec<(String, String)>,
}

impl FileStrengths {
    /// Reads the metadata of an adapter's file.
    ///
    /// # Errors
    /// When a config is no object of settings.
    pub fn parse(metadata: &BTreeMap<String, String>) -> Result<Self, AdapterConfigError> {
        let mut written = vec![flat(metadata)];
        for key in CONFIGS {
            if let Some(json) = metadata.get(key).filter(|json| !json.trim().is_empty()) {
                written.push(AdapterConfig::parse_sections(&place(key), json.as_bytes())?);
            }
        }
        let told = TOLD.iter().filter_map(|key| Some(format!("{key} {}", shown(metadata.get(*key)?))));
        let [alpha, dim] = TOLD.map(|key| metadata.get(key)?.trim().parse::<f64>().ok());
        let trained = alpha.zip(dim).map(|(alpha, dim)| alpha / dim).filter(|strength| strength.is_finite());
        Ok(Self { written, told: told.collect(), trained, unread: unread(metadata) })
    }

    /// The configs that count for a base, each with the name of the module in its words.
    pub(super) fn of_base<'a>(
        &self,
        base: &'a str,
        targets: &Targets,
    ) -> Result<Vec<(&AdapterConfig, &'a str)>, AdapterConfigError> {
        let found = self.written.iter().filter_map(|sections| of_base(sections, base, targets));
        found.map(|(config, module)| Ok((config.as_ref().map_err(Clone::clone)?, module))).collect()
    }

    /// The settings of the training, which no program takes for a strength.
    pub(super) fn told(&self) -> &[String] {
        &self.told
    }

    /// The strength that follows from what the file says of its training.
    pub(super) fn trained(&self) -> Option<f64> {
        self.trained
    }

    /// Refuses an adapter whose file says something about its strength that no program is known to read. Alpha tensors
    /// overrule it: all programs go by them.
    pub(super) fn unread(&self, targets: &Targets) -> Option<AdapterConfigError> {
        let is_ours = |(key, _): &&(String, String)| !targets.is_of_another(key);
        self.unread.iter().find(is_ours).map(|(key, found)| AdapterConfigError::Setting {
            place: "the file's metadata".to_owned(),
            key: shown(key),
            found: shown(found),
            problem: "it may say how strong the adapter is, and no program is known that reads it".to_owned(),
        })
    }
}

fn place(key: &str) -> String {
    format!("`{}` in the file's metadata", shown(key))
}

/// Keys that nothing here reads and that seem to say how strong the adapter is.
fn unread(metadata: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let is_read = |field: &str| {
        let read: [&[&str]; 7] = [&ALPHAS, &RANKS, &RSLORA, &DORA, &ALPHA_PATTERN, &RANK_PATTERN, &CONFIGS];
        read.iter().any(|names| names.contains(&field))
    };
    let seems_strong = |key: &str| {
        let field = key.rsplit_once('.').map_or(key, |(_, field)| field);
        let bare: String = field.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
        let strong = STRONG.contains(&&*bare) || STRONG_PARTS.iter().any(|part| bare.contains(part));
        strong && !is_read(field) && !OF_TRAINING.iter().any(|start| key.starts_with(start))
    };
    let is_neutral = |value: &str| NEUTRAL.contains(&&*value.trim().to_ascii_lowercase());
    let found = metadata.iter().filter(|(key, value)| seems_strong(key) && !is_neutral(value));
    found.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Like mflux: the config of the base's own prefix; else the one without a component; else the only one, unless it is
/// another component's.
fn of_base<'s, 'b>(
    sections: &'s Sections,
    base: &'b str,
    targets: &Targets,
) -> Option<(&'s Result<AdapterConfig, AdapterConfigError>, &'b str)> {
    let own = sections.iter().find_map(|(prefix, config)| {
        let module = base.strip_prefix(prefix.as_str())?.strip_prefix('.')?;
        (!prefix.is_empty()).then_some((config, module))
    });
    let plain = || sections.iter().find(|(prefix, _)| prefix.is_empty()).map(|(_, config)| (config, base));
    let is_of_another = |prefix: &str| targets.others.contains(&format!("{prefix}.").as_str());
    let only = || {
        let mut ours = sections.iter().filter(|(prefix, _)| !is_of_another(prefix));
        let (_, config) = ours.next()?;
        ours.next().is_none().then_some((config, base))
    };
    own.or_else(plain).or_else(only)
}

/// Settings in strings of their own.
fn flat(metadata: &BTreeMap<String, String>) -> Sections {
    let stated = [&ALPHAS[..], &RSLORA, &DORA, &ALPHA_PATTERN];
    let prefixes = stated.iter().flat_map(|names| fields(metadata, names)).map(|(prefix, ..)| prefix);
    let prefixes: BTreeSet<&str> = prefixes.collect();
    let section = |prefix: &str| -> Result<AdapterConfig, AdapterConfigError> {
        let of = |names| fields(metadata, names).filter(|(found, ..)| *found == prefix);
        let alpha = agreed(of(&ALPHAS))?;
        let rank = agreed(of(&RANKS))?.map(|(place, rank)| whole(place, rank)).transpose()?;
        let first = stated.iter().find_map(|names| of(names).next()).map_or("", |(_, key, _)| key);
        let place = alpha.as_ref().map_or_else(|| place(first), |(place, _)| place.clone());
        let pattern = |names| of(names).map(|(.., text)| text.trim()).find(|text| !is_unset(text)).map(str::as_bytes);
        let stated = Stated {
            rank,
            alpha: alpha.map(|(_, alpha)| alpha),
            use_rslora: switch(of(&RSLORA))?.unwrap_or(false),
            use_dora: switch(of(&DORA))?,
            ranks: pattern(&RANK_PATTERN),
            alphas: pattern(&ALPHA_PATTERN),
        };
        AdapterConfig::of_strings(place, stated)
    };
    prefixes.into_iter().map(|prefix| (prefix.to_owned(), section(prefix))).collect()
}

fn is_unset(text: &str) -> bool {
    matches!(text.to_ascii_lowercase().as_str(), "" | "none" | "null" | "{}")
}

/// Whether a switch is on, as Python and others write it; `None` where it is not there.
fn switch<'a>(mut keys: impl Iterator<Item = (&'a str, &'a str, &'a str)>) -> Result<Option<bool>, AdapterConfigError> {
    let Some((_, key, text)) = keys.next() else { return Ok(None) };
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(Some(true)),
        "false" | "0" | "no" | "off" => Ok(Some(false)),
        "" | "none" | "null" => Ok(None),
        _ => {
            let problem = format!("it is `{}`, expected true or false", shown(text));
            Err(AdapterConfigError::Malformed { place: place(key), problem })
        }
    }
}

/// The entries of these names: prefix, key and value.
fn fields<'a>(
    metadata: &'a BTreeMap<String, String>,
    names: &'static [&str],
) -> impl Iterator<Item = (&'a str, &'a str, &'a str)> {
    metadata.iter().filter_map(move |(key, text)| {
        let (prefix, field) = key.rsplit_once('.').unwrap_or(("", key));
        names.contains(&field).then_some((prefix, key.as_str(), text.as_str()))
    })
}

/// The one number of several keys, with the place of the first.
fn agreed<'a>(
    keys: impl Iterator<Item = (&'a str, &'a str, &'a str)>,
) -> Result<Option<(String, f64)>, AdapterConfigError> {
    let mut agreed: Option<(String, f64)> = None;
    for (_, key, text) in keys {
        let place = place(key);
        let number = text.trim().parse::<f64>().ok().filter(|number| number.is_finite());
        let problem = match (number, &agreed) {
            (None, _) => format!("it is `{}`, expected a number", shown(text)),
            (Some(number), Some((other, found))) if number != *found => {
                format!("it is {number}, and {other} is {found}")
            }
            (Some(number), None) => {
                agreed = Some((place, number));
                continue;
            }
            _ => continue,
        };
        return Err(AdapterConfigError::Malformed { place, problem });
    }
    Ok(agreed)
}

fn whole(place: String, rank: f64) -> Result<u64, AdapterConfigError> {
    if !(1.0..=1e9).contains(&rank) || rank.fract() != 0.0 {
        let problem = format!("it is {rank}, expected a rank");
        return Err(AdapterConfigError::Malformed { place, problem });
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is a whole number of that range")]
    let rank = rank as u64;
    Ok(rank)
}

#[cfg(test)]
mod tests {
    use super::*;

    static TARGETS: Targets =
        Targets { prefixes: &["transformer."], others: &["text_encoder."], blocks: &[], layers: &[], singles: &[] };

    fn strengths(pairs: &[(&str, &str)]) -> Result<FileStrengths, AdapterConfigError> {
        FileStrengths::parse(&pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect())
    }

    /// The strengths of a base with rank 4.
    fn of(pairs: &[(&str, &str)], base: &str) -> Result<Vec<f64>, AdapterConfigError> {
        let all = strengths(pairs)?;
        let found = all.of_base(base, &TARGETS)?;
        Ok(found.into_iter().filter_map(|(config, module)| Some(config.strength_of(module, 4)?.value())).collect())
    }

    #[test]
    fn strengths_are_those_of_the_bases_component() {
        let json = r#"{"transformer.r": 4, "transformer.lora_alpha": 16, "text_encoder.lora_alpha": 2,
            "text_encoder.r": 4, "text_encoder.init_lora_weights": "pissa",
            "transformer.alpha_pattern": {"^b": 8, "c": 2}, "transformer.use_rslora": false}"#;
        for (base, expected) in [
            ("transformer.a", vec![4.0]),
            ("transformer.b", vec![2.0]),
            ("transformer.b.c", vec![0.5]),
            ("a", vec![4.0]),
        ] {
            assert_eq!(of(&[("lora_adapter_metadata", json)], base).unwrap(), expected, "{base}");
        }
        let said = of(&[("lora_adapter_metadata", json)], "text_encoder.a").unwrap_err().to_string();
        assert!(said.contains("`lora_adapter_metadata` in the file's metadata for `text_encoder`"), "{said}");
        let plain = r#"{"r": 4, "lora_alpha": 8, "use_rslora": true}"#;
        assert_eq!(of(&[("lora_adapter_metadata", plain)], "transformer.a").unwrap(), [4.0]);
        assert_eq!(of(&[("lora_adapter_metadata", "")], "a").unwrap(), Vec::<f64>::new());
    }

    #[test]
    fn strings_of_their_own_are_read() {
        for (pairs, expected) in [
            (&[("lora_alpha", "16"), ("r", "4")][..], vec![4.0]),
            (&[("lora_alpha", " 16.0 ")], vec![4.0]),
            (&[("network_alpha", "2"), ("network_dim", "4")], vec![0.5]),
            (&[("alpha", "8"), ("rank", "4"), ("lora_alpha", "8")], vec![2.0]),
            (&[("transformer.lora_alpha", "64"), ("transformer.r", "4"), ("text_encoder.lora_alpha", "x")], vec![16.0]),
            (&[("r", "4"), ("rank", "high"), ("ss_network_alpha", "2"), ("ss_network_dim", "4")], vec![]),
            (&[("lora_alpha", "16"), ("lora_adapter_metadata", r#"{"r": 4, "lora_alpha": 8}"#)], vec![4.0, 2.0]),
            (&[("lora_alpha", "16"), ("r", "4"), ("use_rslora", "True")], vec![8.0]),
            (&[("lora_alpha", "16"), ("use_rslora", "false"), ("alpha_pattern", "{}")], vec![4.0]),
            (&[("lora_alpha", "16"), ("r", "8"), ("alpha_pattern", r#"{"a": 2}"#)], vec![0.5]),
            (&[("peft_config", r#"{"peft_type": "LORA", "r": 4, "lora_alpha": 8}"#)], vec![2.0]),
        ] {
            assert_eq!(of(pairs, "transformer.a").unwrap(), expected, "{pairs:?}");
        }
        let told = strengths(&[("ss_network_alpha", "2"), ("ss_network_dim", "4")]).unwrap();
        assert_eq!(told.told(), ["ss_network_alpha 2", "ss_network_dim 4"]);
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_its_key() {
        for (pairs, expected) in [
            (&[("lora_alpha", "sixteen")][..], "`lora_alpha` in the file's metadata cannot be read: it is `sixteen`"),
            (&[("lora_alpha", "NaN")], "expected a number"),
            (&[("lora_alpha", "8"), ("network_alpha", "4")], "it is 4, and `lora_alpha` in the file's metadata is 8"),
            (&[("lora_alpha", "8"), ("r", "0")], "it is 0, expected a rank"),
            (&[("lora_alpha", "8"), ("r", "4.5")], "expected a rank"),
            (&[("lora_alpha", "8"), ("use_rslora", "perhaps")], "it is `perhaps`, expected true or false"),
            (&[("alpha_pattern", r#"{"a": 2}"#)], "`alpha_pattern` without `lora_alpha`"),
            (&[("use_rslora", "true")], "`use_rslora` without `lora_alpha`"),
            (&[("lora_alpha", "8"), ("alpha_pattern", "{'a': 2}")], "cannot be read"),
            (&[("lora_adapter_metadata", "{")], "`lora_adapter_metadata` in the file's metadata cannot be read"),
            (&[("lora_adapter_metadata", r#"{"r": "four"}"#)], "invalid type"),
        ] {
            let said = of(pairs, "transformer.a").unwrap_err().to_string();
            assert!(said.contains(expected), "{said}");
        }
    }

    #[test]
    fn a_strength_that_nothing_reads_is_no_secret() {
        for (key, value) in [
            ("lora_scale", "0.5"),
            ("transformer.scale", "2"),
            ("LORA_ALPHA", "16"),
            ("loraAlpha", "16"),
            ("alpha_over_rank", "0.5"),
            ("lora_parameters", r#"{"scale": 2}"#),
            ("multiplier", "0"),
        ] {
            let said = strengths(&[(key, value)]).unwrap().unread(&TARGETS).map(|error| error.to_string());
            assert!(
                said.as_ref().is_some_and(|said| said.contains(key) && said.contains("no program")),
                "{key}: {said:?}"
            );
        }
        for (key, value) in [
            ("lora_scale", "1.0"),
            ("text_encoder.scale", "2"),
            ("ss_scale_weight_norms", "1.5"),
            ("modelspec.usage_hint", "strength 0.8"),
            ("description", "alpha"),
            ("lora_alpha", "16"),
            ("format", "pt"),
        ] {
            assert!(strengths(&[(key, value)]).unwrap().unread(&TARGETS).is_none(), "{key}");
        }
        let trained = strengths(&[("ss_network_alpha", "16"), ("ss_network_dim", "32")]).unwrap();
        assert_eq!(trained.trained(), Some(0.5));
        assert_eq!(strengths(&[("ss_network_alpha", "16"), ("ss_network_dim", "Dynamic")]).unwrap().trained(), None);
    }
}
