//! The keys of an adapter's file, sorted by the layers that they change.

use std::collections::BTreeMap;

use super::{AdapterKey, Kind, Target, Targets, Unsupported};
use crate::shown::shown;

/// Names that an error shows.
const SAMPLE: usize = 4;

/// The keys of a low-rank pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LowRank {
    /// Key of the matrix to the rank.
    pub down: String,
    /// Key of the matrix from the rank.
    pub up: String,
}

/// How a layer is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// By the product of two matrices.
    LowRank(LowRank),
    /// By the Kronecker product of two matrices, whose keys these are.
    Kronecker {
        /// Key of the first factor.
        w1: String,
        /// Key of the second factor.
        w2: String,
    },
}

/// The keys for one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerKeys {
    /// The layer, and which rows of the change are its own.
    pub target: Target,
    /// The matrices.
    pub change: Change,
    /// Key of the layer's own alpha.
    pub alpha: Option<String>,
}

/// What a file's keys tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recognised {
    /// Changes of layers, sorted by layer.
    pub layers: Vec<LayerKeys>,
    /// Bases whose tensors are complete and that mean no layer which adapters may change.
    pub without_target: Vec<String>,
    /// Keys whose partner is not there.
    pub without_partner: Vec<String>,
    /// Keys of kinds that are not applied.
    pub unsupported: BTreeMap<Unsupported, Vec<String>>,
    /// Keys that are no adapter's.
    pub unknown: Vec<String>,
}

/// Why a file is no adapter for the model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdapterError {
    /// No complete change.
    #[error("the file has no adapter matrices in a form that is applied ({found} keys{})", list(unsupported))]
    NoPairs {
        /// Keys in the file.
        found: usize,
        /// Kinds that are there instead.
        unsupported: Vec<Unsupported>,
    },
    /// Changes for another model.
    #[error("zero valid target layers: {found} changes, and none is for a layer of this model, such as {}", sample.join(", "))]
    NoTargets {
        /// How many there are.
        found: usize,
        /// Some of them, without their prefixes.
        sample: Vec<String>,
    },
    /// Two changes for one layer.
    #[error("layer `{layer}` is changed twice, by `{first}` and by `{second}`")]
    Twice {
        /// The layer.
        layer: String,
        /// A base.
        first: String,
        /// Another one.
        second: String,
    },
}

fn list(unsupported: &[Unsupported]) -> String {
    let names: Vec<String> = unsupported.iter().map(ToString::to_string).collect();
    if names.is_empty() { String::new() } else { format!("; not applied: {}", names.join(", ")) }
}

/// Sorts the keys of a file. `blocks_of` gives the number of blocks in a list of the model.
///
/// # Errors
/// [`AdapterError`].
pub fn recognise<'a>(
    keys: impl IntoIterator<Item = &'a str>,
    targets: &Targets,
    blocks_of: impl Fn(&str) -> u64,
) -> Result<Recognised, AdapterError> {
    let mut out = Recognised::default();
    let mut found = 0;
    // By base and ending: what is equal in both of a pair.
    let mut groups: BTreeMap<(&str, &str), BTreeMap<Kind, &str>> = BTreeMap::new();
    let mut alphas: BTreeMap<&str, &str> = BTreeMap::new();
    for key in keys {
        found += 1;
        match AdapterKey::parse(key) {
            None => out.unknown.push(key.to_owned()),
            Some(AdapterKey { kind: Err(kind), .. }) => out.unsupported.entry(kind).or_default().push(key.to_owned()),
            // A pair's bias ends so, after the same marker as its matrix.
            Some(AdapterKey { kind: Ok(_), ending, .. }) if ending.split('.').next_back() == Some("bias") => {
                out.unsupported.entry(Unsupported::Bias).or_default().push(key.to_owned());
            }
            Some(AdapterKey { base, kind: Ok(Kind::Alpha), .. }) => drop(alphas.insert(base, key)),
            Some(AdapterKey { base, kind: Ok(kind), ending }) => {
                groups.entry((base, ending)).or_default().insert(kind, key);
            }
        }
    }
    let mut by_layer: BTreeMap<String, (&str, LayerKeys)> = BTreeMap::new();
    let mut complete = 0;
    for ((base, _), keys) in groups {
        let Some(change) = change(&keys) else {
            out.without_partner.extend(keys.values().map(|&key| key.to_owned()));
            continue;
        };
        complete += 1;
        let layers = targets.find(base, &blocks_of);
        if layers.is_empty() {
            out.without_target.push(targets.stripped(base).to_owned());
        }
        for target in layers {
            let alpha = alphas.get(base).map(|&alpha| alpha.to_owned());
            let layer = target.layer.clone();
            let keys = LayerKeys { target, change: change.clone(), alpha };
            if let Some((first, _)) = by_layer.insert(layer.clone(), (base, keys)) {
                return Err(AdapterError::Twice { layer, first: shown(first), second: shown(base) });
            }
        }
    }
    if complete == 0 {
        return Err(AdapterError::NoPairs { found, unsupported: out.unsupported.keys().copied().collect() });
    }
    if by_layer.is_empty() {
        let sample = out.without_target.iter().take(SAMPLE).map(|base| shown(base)).collect();
        return Err(AdapterError::NoTargets { found: complete, sample });
    }
    out.without_partner.sort_unstable();
    out.layers = by_layer.into_values().map(|(_, keys)| keys).collect();
    Ok(out)
}

fn change(keys: &BTreeMap<Kind, &str>) -> Option<Change> {
    let key = |kind| keys.get(&kind).map(|&key| key.to_owned());
    match (key(Kind::Down), key(Kind::Up), key(Kind::LokrW1), key(Kind::LokrW2)) {
        (Some(down), Some(up), None, None) => Some(Change::LowRank(LowRank { down, up })),
        (None, None, Some(w1), Some(w2)) => Some(Change::Kronecker { w1, w2 }),
        _ => None,
    }
}
