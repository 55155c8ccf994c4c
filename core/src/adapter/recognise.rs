//! The keys of an adapter's file, put together by the layers that they mean.
//!
//! What a key means is decided once, by [`Targets::find`]: an alpha belongs to the matrices of the layers that it means,
//! whatever the two are called.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    AdapterError, AdapterKey, Kind, Side, TargetLayer, Targets, Unsupported, Weights,
    targets::{joined, stem},
};
use crate::{shown::shown, tool::Tool};

/// The keys of a low-rank pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LowRank {
    /// Key of the factor to the rank.
    pub down: String,
    /// Key of the factor from the rank.
    pub up: String,
    /// Who wrote it, which tells in which order dimensions are meant where shapes allow several.
    pub tool: Tool,
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
    /// By a difference, which is added.
    Full(String),
    /// By a weight that takes the place of the layer's own.
    Whole(String),
}

/// A complete change of a layer, or of all layers of a fused one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerChange {
    /// What stands before the markers.
    pub base: String,
    /// The layers, in the order of their rows; at least one.
    pub layers: Vec<TargetLayer>,
    /// Which of their tensors is changed.
    pub side: Side,
    /// The keys.
    pub change: Change,
    /// Keys of alphas that mean these layers.
    pub alphas: Vec<String>,
}

/// What a file's keys tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recognised {
    /// Changes, sorted by layers.
    pub changes: Vec<LayerChange>,
    /// Bases of complete changes that mean no layer of the component, and whole weights that it does not have.
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

/// The layers that bases mean: the component's, or none, by the parts of the name without prefixes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Meaning {
    Layers(Vec<String>),
    Nowhere(String),
}

/// Keys that mean the same layers.
#[derive(Default)]
struct Group<'a> {
    layers: Vec<TargetLayer>,
    /// The name without prefixes, as the first base has it.
    name: &'a str,
    /// Matrices by base and kind. Bases of one meaning may be spelt differently.
    matrices: BTreeMap<&'a str, Kinds<'a>>,
    alphas: Vec<&'a str>,
    /// Whether there is a core, without which the matrices mean something else.
    has_core: bool,
}

type Kinds<'a> = BTreeMap<Kind, &'a str>;

/// The keys without a marker that a file may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WholeWeights {
    /// Whole weights, as a config says.
    Expected,
    /// Whole weights only beside changes: alone they are a model.
    BesideChanges,
}

/// Sorts the keys of a file for the component that has `weights`.
///
/// # Errors
/// When no change of the component is complete, when the file holds several adapters, and when its tensors mean more than
/// what is added.
pub fn recognise<'a>(
    keys: impl IntoIterator<Item = &'a str>,
    targets: &Targets,
    weights: &Weights,
    whole: WholeWeights,
) -> Result<Recognised, AdapterError> {
    let mut out = Recognised::default();
    let mut sorting =
        Sorting { targets, weights, groups: BTreeMap::new(), names: BTreeSet::new(), unmarked: Vec::new() };
    let mut found = 0;
    for key in keys {
        found += 1;
        sorting.add(key, &mut out)?;
    }
    if let Some(keys) = out.unsupported.get(&Unsupported::Dora) {
        return Err(AdapterError::dora(keys));
    }
    if sorting.names.len() > 1 {
        let name = |name: &&str| if name.is_empty() { "`default`".to_owned() } else { format!("`{}`", shown(name)) };
        return Err(AdapterError::SeveralAdapters { names: sorting.names.iter().map(name).collect() });
    }
    let mut complete = 0;
    let has_marked = !sorting.groups.is_empty() || !out.unsupported.is_empty();
    for group in sorting.groups.into_values() {
        complete += group.complete(&mut out);
    }
    let whole_weights = sorting.unmarked.len();
    for (key, change) in sorting.unmarked {
        match change {
            Some(change) => out.changes.push(change),
            None => out.without_target.push(targets.stripped(stem(&key).0).to_owned()),
        }
    }
    if !has_marked && whole == WholeWeights::BesideChanges && whole_weights > 0 {
        let sample = out.changes.first().map_or_else(String::new, |change| shown(&change.base));
        return Err(AdapterError::WholeWeights { count: whole_weights, sample });
    }
    if complete + whole_weights == 0 && out.other_component.is_empty() {
        return Err(AdapterError::NoPairs { found, unsupported: out.unsupported.keys().copied().collect() });
    }
    out.finish()
}

/// What a key without a mark of adapters means.
enum Unmarked {
    /// A whole tensor of a layer.
    Change(LayerChange),
    /// A tensor that the layer does not have.
    Lacking,
    /// No layer of the component.
    NoLayer,
}

struct Sorting<'a, 't> {
    targets: &'t Targets,
    weights: &'t Weights,
    groups: BTreeMap<Meaning, Group<'a>>,
    /// PEFT's names of adapters.
    names: BTreeSet<&'a str>,
    /// Whole tensors: their changes, or `None` where the component lacks the tensor.
    unmarked: Vec<(String, Option<LayerChange>)>,
}

impl<'a> Sorting<'a, '_> {
    fn add(&mut self, key: &'a str, out: &mut Recognised) -> Result<(), AdapterError> {
        let Some(parsed) = AdapterKey::parse(key) else {
            if self.targets.is_of_another(key) {
                out.other_component.push(key.to_owned());
            } else {
                match self.unmarked(key) {
                    Unmarked::Change(change) => self.unmarked.push((key.to_owned(), Some(change))),
                    Unmarked::Lacking => self.unmarked.push((key.to_owned(), None)),
                    Unmarked::NoLayer => out.unknown.push(key.to_owned()),
                }
            }
            return Ok(());
        };
        let AdapterKey { base, kind, .. } = parsed;
        // Magnitudes refuse an adapter wherever they are.
        if self.targets.is_of_another(base) && kind != Err(Unsupported::Dora) {
            out.other_component.push(key.to_owned());
            return Ok(());
        }
        let kind = match kind {
            Ok(kind) => kind,
            Err(unsupported) => {
                if unsupported == Unsupported::Tucker {
                    self.group(base).has_core = true;
                }
                out.unsupported.entry(unsupported).or_default().push(key.to_owned());
                return Ok(());
            }
        };
        if !matches!(kind, Kind::Alpha | Kind::Difference | Kind::BiasDifference) {
            self.names.insert(parsed.adapter_name());
        }
        let several_names = self.names.len() > 1;
        let group = self.group(base);
        if kind == Kind::Alpha {
            group.alphas.push(key);
        } else if let Some(first) = group.matrices.entry(base).or_default().insert(kind, key) {
            // Several names of PEFT's adapters refuse the file later on, with all of them.
            if !several_names {
                return Err(AdapterError::Twice { layer: shown(base), first: shown(first), second: shown(key) });
            }
        }
        Ok(())
    }

    fn group(&mut self, base: &'a str) -> &mut Group<'a> {
        let layers = self.targets.find(base, self.weights);
        let name = self.targets.stripped(base);
        let meaning = if layers.is_empty() {
            Meaning::Nowhere(joined(name))
        } else {
            Meaning::Layers(layers.iter().map(|target| target.layer.clone()).collect())
        };
        self.groups.entry(meaning).or_insert_with(|| Group { layers, name, ..Group::default() })
    }

    /// A whole tensor under its own name, as PEFT saves `modules_to_save` and biases: inside of the module's wrappers, or
    /// without them.
    fn unmarked(&self, key: &str) -> Unmarked {
        let (module, side) = stem(key);
        let saved = module.rsplit_once(".modules_to_save").filter(|(_, name)| name.is_empty() || name.starts_with('.'));
        let base = saved.map_or(module, |(base, _)| base);
        let base = base.strip_suffix(".base_layer").unwrap_or(base);
        let layers = self.targets.find(base, self.weights);
        if layers.is_empty() {
            return Unmarked::NoLayer;
        }
        if layers.iter().any(|target| self.weights.tensor(&target.layer, side).is_none()) {
            return Unmarked::Lacking;
        }
        let change = Change::Whole(key.to_owned());
        let base = base.to_owned();
        Unmarked::Change(LayerChange { base, layers, side, change, alphas: Vec::new() })
    }
}

impl Group<'_> {
    /// Puts the complete changes of a group into `out`, and what is left over. Counts them.
    fn complete(self, out: &mut Recognised) -> usize {
        let owned = |key: &&str| (*key).to_owned();
        if self.has_core {
            let keys = self.matrices.values().flat_map(BTreeMap::values).chain(&self.alphas);
            out.unsupported.entry(Unsupported::Tucker).or_default().extend(keys.map(owned));
            return 0;
        }
        let mut found: Vec<(&str, Change)> = Vec::new();
        // First what is complete under one name, and then what is under several.
        let mut rest = Kinds::new();
        let mut spare = Vec::new();
        for (&base, kinds) in &self.matrices {
            let all = changes(kinds);
            for (&kind, &key) in kinds {
                if !all.iter().any(|change| change.keys().contains(&key)) && rest.insert(kind, key).is_some() {
                    spare.push(key.to_owned());
                }
            }
            found.extend(all.into_iter().map(|change| (base, change)));
        }
        let several = changes(&rest);
        let is_used = |key: &str| several.iter().any(|change| change.keys().contains(&key));
        spare.extend(rest.values().filter(|key| !is_used(key)).map(owned));
        let first = self.matrices.keys().next().copied().unwrap_or_default();
        found.extend(several.into_iter().map(|change| (first, change)));
        out.without_partner.append(&mut spare);
        if found.is_empty() {
            out.without_partner.extend(self.alphas.iter().map(owned));
        }
        let count = found.len();
        if self.layers.is_empty() {
            if count > 0 {
                out.without_target.push(self.name.to_owned());
            }
            return count;
        }
        let alphas: Vec<String> = self.alphas.iter().map(owned).collect();
        for (base, (change, side)) in found.into_iter().map(|(base, change)| (base, sided(change))) {
            let (layers, alphas) = (self.layers.clone(), alphas.clone());
            out.changes.push(LayerChange { base: base.to_owned(), layers, side, change, alphas });
        }
        count
    }
}

/// Which tensor a change is of: that of a bias has a kind of its own, which its key tells.
fn sided(change: Change) -> (Change, Side) {
    let side = match &change {
        Change::Full(key) if AdapterKey::parse(key).is_some_and(|key| key.kind == Ok(Kind::BiasDifference)) => {
            Side::Bias
        }
        _ => Side::Weight,
    };
    (change, side)
}

/// The complete changes among matrices of one layer.
fn changes(keys: &Kinds<'_>) -> Vec<Change> {
    let key = |kind| keys.get(&kind).map(|&key| key.to_owned());
    let pair = |first, second| Some((key(first)?, key(second)?));
    let low_rank = |down, up, tool| pair(down, up).map(|(down, up)| Change::LowRank(LowRank { down, up, tool }));
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
        low_rank(Kind::Down, Kind::Up, Tool::Unknown),
        low_rank(Kind::MlxDown, Kind::MlxUp, Tool::MlxLm),
        kronecker(),
        hadamard(),
        key(Kind::Difference).map(Change::Full),
        key(Kind::BiasDifference).map(Change::Full),
    ];
    all.into_iter().flatten().collect()
}

impl Recognised {
    fn finish(mut self) -> Result<Self, AdapterError> {
        if self.changes.is_empty() {
            return Err(AdapterError::no_targets(self.without_target, self.other_component.len()));
        }
        let order = |change: &LayerChange| (change.layers[0].layer.clone(), change.layers.len(), change.base.clone());
        self.changes.sort_by_cached_key(order);
        self.without_partner.sort_unstable();
        self.without_target.sort_unstable();
        self.without_target.dedup();
        Ok(self)
    }
}

impl Change {
    /// The keys of its matrices; at least one.
    #[must_use]
    pub fn keys(&self) -> Vec<&str> {
        match self {
            Self::LowRank(LowRank { down, up, .. }) => vec![down, up],
            Self::Kronecker { w1, w2 } => w1.keys().chain(w2.keys()).collect(),
            Self::Hadamard { w1, w2 } => vec![&w1.0, &w1.1, &w2.0, &w2.1],
            Self::Full(key) | Self::Whole(key) => vec![key],
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
