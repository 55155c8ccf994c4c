//! How strong an adapter is according to its file's own metadata, the strings in the header.
//!
//! diffusers writes PEFT's whole config as JSON under `lora_adapter_metadata`, with the component before each key
//! (`transformer.lora_alpha`); mflux reads it as it is read here. Others write `lora_alpha` and `r` as strings of their
//! own: SimpleTuner with the component before them, LightX2V without, and SGLang knows `network_alpha` and `alpha` too.
//! No program takes kohya's `ss_network_alpha` for a strength: what kohya trains has tensors that say it.

use std::collections::BTreeMap;

use super::{AdapterConfig, AdapterConfigError, Targets};
use crate::shown::shown;

/// Where diffusers writes.
const DIFFUSERS: &str = "lora_adapter_metadata";
/// Keys of an alpha, and of a rank.
const ALPHAS: [&str; 3] = ["lora_alpha", "network_alpha", "alpha"];
const RANKS: [&str; 4] = ["r", "rank", "lora_rank", "network_dim"];
/// What a trainer was told, which the tensors repeat.
const TOLD: [&str; 2] = ["ss_network_alpha", "ss_network_dim"];

/// Configs by the component that their keys name, without its dot; empty where they name none. One that cannot be used
/// refuses an adapter only where it counts: it may be another component's.
type Sections = Vec<(String, Result<AdapterConfig, AdapterConfigError>)>;

/// What the metadata says.
#[derive(Debug, Clone, Default)]
pub struct FileStrengths {
    /// diffusers' config, and the strings beside it.
    written: [Sections; 2],
    /// Settings of the training run.
    told: Vec<String>,
}

impl FileStrengths {
    /// Reads the metadata of an adapter's file.
    ///
    /// # Errors
    /// When diffusers' config is no object of settings.
    pub fn parse(metadata: &BTreeMap<String, String>) -> Result<Self, AdapterConfigError> {
        let place = format!("`{DIFFUSERS}` in the file's metadata");
        let sections = match metadata.get(DIFFUSERS).filter(|json| !json.trim().is_empty()) {
            Some(json) => AdapterConfig::parse_sections(&place, json.as_bytes())?,
            None => Vec::new(),
        };
        let told = TOLD.iter().filter_map(|key| Some(format!("{key} {}", shown(metadata.get(*key)?))));
        Ok(Self { written: [sections, flat(metadata)], told: told.collect() })
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

    /// What the file says of its training and nobody takes for a strength.
    pub(super) fn told(&self) -> &[String] {
        &self.told
    }
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

/// Strengths in strings of their own.
fn flat(metadata: &BTreeMap<String, String>) -> Sections {
    let mut prefixes: Vec<&str> = fields(metadata, &ALPHAS).map(|(prefix, ..)| prefix).collect();
    prefixes.dedup();
    let section = |prefix: &str| -> Result<AdapterConfig, AdapterConfigError> {
        let alphas = fields(metadata, &ALPHAS).filter(|(found, ..)| *found == prefix);
        let (place, alpha) = agreed(alphas)?.unwrap_or_default();
        let rank = agreed(fields(metadata, &RANKS).filter(|(found, ..)| *found == prefix))?;
        let rank = rank.map(|(place, rank)| whole(place, rank)).transpose()?;
        Ok(AdapterConfig::of_alpha(place, rank, alpha))
    };
    prefixes.into_iter().map(|prefix| (prefix.to_owned(), section(prefix))).collect()
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
        let place = format!("`{}` in the file's metadata", shown(key));
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
            (&[("lora_alpha", "16"), ("lora_adapter_metadata", r#"{"r": 4, "lora_alpha": 8}"#)], vec![2.0, 4.0]),
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
            (&[("lora_adapter_metadata", "{")], "`lora_adapter_metadata` in the file's metadata cannot be read"),
            (&[("lora_adapter_metadata", r#"{"r": "four"}"#)], "invalid type"),
        ] {
            let said = of(pairs, "transformer.a").unwrap_err().to_string();
            assert!(said.contains(expected), "{said}");
        }
    }
}
