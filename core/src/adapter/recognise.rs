//! The keys of an adapter's file, sorted by the layers that they change.

use std::collections::{BTreeMap, BTreeSet};

use super::{AdapterError, AdapterKey, Kind, Target, Targets, Unsupported};
use crate::shown::shown;

/// In which order a trainer writes the dimensions of a pair. Where shapes allow several, the trainer's own is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// `[rank, input]` and `[output, rank]`.
    Torch,
    /// `[input, rank]` and `[rank, output]`.
    Mlx,
}

/// The keys of a low-rank pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LowRank {
    /// Key of the matrix to the rank.
    pub down: String,
    /// Key of the matrix from the rank.
    pub up: String,
    /// Who wrote it.
    pub written: Written,
}

/// The keys of a factor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FactorKeys {
    /// It is a matrix.
    Whole(String),
    /// It is the product of two.
    Product(String, String),
}

/// How a layer is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// By the product of two matrices.
    LowRank(LowRank),
    /// By the Kronecker product of two factors.
    Kronecker {
        /// The first factor.
        w1: FactorKeys,
        /// The second factor.
        w2: FactorKeys,
    },
    /// By the product, element by element, of two products.
    Hadamard {
        /// Keys of the first product.
        w1: (String, String),
        /// Keys of the second product.
        w2: (String, String),
    },
    /// By a matrix.
    Full(String),
}

/// The keys for one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerKeys {
    /// The layer, and which part of the change is its own.
    pub target: Target,
    /// All layers of the change, in the order of their rows: one, unless it is fused.
    pub fused: Vec<String>,
    /// What stands before the markers.
    pub base: String,
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
    /// Keys that say that they are for another component.
    pub other_component: Vec<String>,
    /// Keys of kinds that are not applied.
    pub unsupported: BTreeMap<Unsupported, Vec<String>>,
    /// Keys that are no adapter's.
    pub unknown: Vec<String>,
}

/// The tensors of one change by kind: of one base and ending.
type Group<'a> = BTreeMap<Kind, &'a str>;

/// Keys, grouped by what belongs together.
#[derive(Default)]
struct Groups<'a> {
    matrices: BTreeMap<(&'a str, &'a str), Group<'a>>,
    alphas: BTreeMap<&'a str, &'a str>,
    /// Bases whose matrices mean something else, because of a core.
    with_core: BTreeSet<&'a str>,
}

/// Sorts the keys of a file. `blocks_of` gives the number of blocks in a list of the component.
///
/// # Errors
/// [`AdapterError`].
pub fn recognise<'a>(
    keys: impl IntoIterator<Item = &'a str>,
    targets: &Targets,
    blocks_of: impl Fn(&str) -> u64,
) -> Result<Recognised, AdapterError> {
    let mut out = Recognised::default();
    let (groups, found) = group(keys, targets, &mut out);
    if let Some(keys) = out.unsupported.get(&Unsupported::Dora) {
        return Err(AdapterError::dora(keys));
    }
    let mut by_layer: BTreeMap<String, LayerKeys> = BTreeMap::new();
    let mut complete = 0;
    for (&(base, _), keys) in &groups.matrices {
        if groups.with_core.contains(base) {
            out.unsupported.entry(Unsupported::Tucker).or_default().extend(keys.values().map(|&key| key.to_owned()));
            continue;
        }
        let changes = changes(keys);
        let used: BTreeSet<&str> = changes.iter().flat_map(Change::keys).collect();
        out.without_partner.extend(keys.values().filter(|&&key| !used.contains(key)).map(|&key| key.to_owned()));
        for change in changes {
            complete += 1;
            let layers = targets.find(base, &blocks_of);
            if layers.is_empty() {
                out.without_target.push(targets.stripped(base).to_owned());
            }
            let fused: Vec<String> = layers.iter().map(|target| target.layer.clone()).collect();
            for target in layers {
                let alpha = groups.alphas.get(base).map(|&alpha| alpha.to_owned());
                let (layer, fused, change) = (target.layer.clone(), fused.clone(), change.clone());
                let keys = LayerKeys { target, fused, base: base.to_owned(), change, alpha };
                if let Some(first) = by_layer.insert(layer.clone(), keys) {
                    return Err(AdapterError::Twice { layer, first: shown(&first.base), second: shown(base) });
                }
            }
        }
    }
    let with_matrices: BTreeSet<&str> = groups.matrices.keys().map(|&(base, _)| base).collect();
    let alone = groups.alphas.iter().filter(|(base, _)| !with_matrices.contains(*base));
    out.without_partner.extend(alone.map(|(_, &key)| key.to_owned()));
    if complete == 0 && out.other_component.is_empty() {
        return Err(AdapterError::NoPairs { found, unsupported: out.unsupported.keys().copied().collect() });
    }
    if by_layer.is_empty() {
        return Err(AdapterError::no_targets(out.without_target, out.other_component.len()));
    }
    out.without_partner.sort_unstable();
    out.without_target.sort_unstable();
    out.layers = by_layer.into_values().collect();
    Ok(out)
}

/// Puts keys together by base and ending: what is equal in both of a pair. The others go to the report. Counts them all.
fn group<'a>(keys: impl IntoIterator<Item = &'a str>, targets: &Targets, out: &mut Recognised) -> (Groups<'a>, usize) {
    let mut groups = Groups::default();
    let mut found = 0;
    for key in keys {
        found += 1;
        let Some(AdapterKey { base, kind, ending }) = AdapterKey::parse(key) else {
            out.unknown.push(key.to_owned());
            continue;
        };
        // Magnitudes refuse an adapter wherever they are.
        if targets.is_of_another(base) && kind != Err(Unsupported::Dora) {
            out.other_component.push(key.to_owned());
            continue;
        }
        match kind {
            Ok(Kind::Alpha) => drop(groups.alphas.insert(base, key)),
            Ok(kind) => drop(groups.matrices.entry((base, ending)).or_default().insert(kind, key)),
            Err(kind) => {
                if kind == Unsupported::Tucker {
                    groups.with_core.insert(base);
                }
                out.unsupported.entry(kind).or_default().push(key.to_owned());
            }
        }
    }
    (groups, found)
}

/// The complete changes of a group: one, unless somebody wrote the layer twice.
fn changes(keys: &Group) -> Vec<Change> {
    let key = |kind| keys.get(&kind).map(|&key| key.to_owned());
    let pair = |first, second| Some((key(first)?, key(second)?));
    let low_rank = |down, up, written| pair(down, up).map(|(down, up)| Change::LowRank(LowRank { down, up, written }));
    let factor = |whole, left, right| {
        let product = || pair(left, right).map(|(left, right)| FactorKeys::Product(left, right));
        key(whole).map(FactorKeys::Whole).or_else(product)
    };
    let kronecker = || {
        let w1 = factor(Kind::LokrW1, Kind::LokrW1A, Kind::LokrW1B)?;
        let w2 = factor(Kind::LokrW2, Kind::LokrW2A, Kind::LokrW2B)?;
        Some(Change::Kronecker { w1, w2 })
    };
    let hadamard = || {
        let (w1, w2) = (pair(Kind::HadaW1A, Kind::HadaW1B)?, pair(Kind::HadaW2A, Kind::HadaW2B)?);
        Some(Change::Hadamard { w1, w2 })
    };
    let all = [
        low_rank(Kind::Down, Kind::Up, Written::Torch),
        low_rank(Kind::MlxDown, Kind::MlxUp, Written::Mlx),
        kronecker(),
        hadamard(),
        key(Kind::Difference).map(Change::Full),
    ];
    all.into_iter().flatten().collect()
}

impl Change {
    /// The keys of its matrices.
    #[must_use]
    pub fn keys(&self) -> Vec<&str> {
        match self {
            Self::LowRank(LowRank { down, up, .. }) => vec![down, up],
            Self::Kronecker { w1, w2 } => w1.keys().chain(w2.keys()).collect(),
            Self::Hadamard { w1, w2 } => vec![&w1.0, &w1.1, &w2.0, &w2.1],
            Self::Full(key) => vec![key],
        }
    }
}

impl FactorKeys {
    fn keys(&self) -> impl Iterator<Item = &str> {
        let (first, second) = match self {
            Self::Whole(key) => (key, None),
            Self::Product(left, right) => (left, Some(right)),
        };
        std::iter::once(first).chain(second).map(String::as_str)
    }
}
