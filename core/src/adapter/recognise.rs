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
    /// Key of the core between the two.
    pub core: Option<String>,
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
    /// It is made of a core, whose first two dimensions two matrices `[rank, rows]` and `[rank, columns]` take to size.
    Cored {
        /// Key of the core, `[rank, rank, kernel]`.
        core: String,
        /// Key of the matrix of the rows.
        left: String,
        /// Key of the matrix of the columns.
        right: String,
    },
}

/// The key of DoRA's magnitudes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MagnitudeKey {
    /// The key.
    pub key: String,
    /// What a magnitude is the length of.
    pub along: Along,
}

/// What a magnitude is the length of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Along {
    /// A row of the weight.
    Rows,
    /// A row or a column, as the shape of the magnitudes says.
    AsShaped,
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
        w1: FactorKeys,
        /// Keys of the second product.
        w2: FactorKeys,
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
    /// DoRA: the lengths that the rows or columns of the changed weight get.
    pub magnitude: Option<MagnitudeKey>,
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
    /// Whether there is a core that is not applied, without which the matrices mean something else.
    has_core: bool,
}

type Kinds<'a> = BTreeMap<Kind, &'a str>;

/// A change whose tensors are all there.
struct Complete {
    change: Change,
    magnitude: Option<MagnitudeKey>,
}

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
    Change(Box<LayerChange>),
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
                    Unmarked::Change(change) => self.unmarked.push((key.to_owned(), Some(*change))),
                    Unmarked::Lacking => self.unmarked.push((key.to_owned(), None)),
                    Unmarked::NoLayer => out.unknown.push(key.to_owned()),
                }
            }
            return Ok(());
        };
        let AdapterKey { base, kind, .. } = parsed;
        if self.targets.is_of_another(base) {
            out.other_component.push(key.to_owned());
            return Ok(());
        }
        let kind = match kind {
            Ok(kind) => kind,
            Err(unsupported) => {
                if unsupported == Unsupported::FirstCore {
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
        Unmarked::Change(Box::new(LayerChange { base, layers, side, change, magnitude: None, alphas: Vec::new() }))
    }
}

impl Group<'_> {
    /// Puts the complete changes of a group into `out`, and what is left over. Counts them.
    fn complete(self, out: &mut Recognised) -> usize {
        let owned = |key: &&str| (*key).to_owned();
        let all_keys = || self.matrices.values().flat_map(BTreeMap::values).chain(&self.alphas).map(owned);
        if self.has_core {
            out.unsupported.entry(Unsupported::FirstCore).or_default().extend(all_keys());
            return 0;
        }
        let (found, mut spare) = self.found();
        // Without its core or its magnitudes a change would be another one.
        if spare.iter().any(|key| AdapterKey::parse(key).is_some_and(|key| key.kind.is_ok_and(Kind::completes))) {
            out.without_partner.extend(all_keys());
            return 0;
        }
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
        for Complete { change, magnitude } in found {
            let (change, side) = sided(change);
            let base = AdapterKey::parse(change.keys()[0]).map_or_else(String::new, |key| key.base.to_owned());
            let (layers, alphas) = (self.layers.clone(), alphas.clone());
            out.changes.push(LayerChange { base, layers, side, change, magnitude, alphas });
        }
        count
    }

    /// The complete changes, and the keys of none. Where no kind is there twice, all keys of the group belong together,
    /// however they are spelt.
    fn found(&self) -> (Vec<Complete>, Vec<String>) {
        let mut union = Kinds::new();
        let all = self.matrices.values().flatten();
        // Each is inserted, so that nothing ends the count early.
        let twice = all.filter_map(|(&kind, &key)| union.insert(kind, key)).count();
        if twice == 0 {
            let found = changes(&union);
            let spare = unused(&union, &found).map(|(_, key)| key.to_owned()).collect();
            return (found, spare);
        }
        // First what is complete under one name, and then what is under several.
        let (mut found, mut rest, mut spare) = (Vec::new(), Kinds::new(), Vec::new());
        for kinds in self.matrices.values() {
            let all = changes(kinds);
            for (kind, key) in unused(kinds, &all) {
                if rest.insert(kind, key).is_some() {
                    spare.push(key.to_owned());
                }
            }
            found.extend(all);
        }
        let several = changes(&rest);
        spare.extend(unused(&rest, &several).map(|(_, key)| key.to_owned()));
        found.extend(several);
        (found, spare)
    }
}

/// Those of `keys` that belong to none of `found`.
fn unused<'a, 'b>(keys: &'b Kinds<'a>, found: &'b [Complete]) -> impl Iterator<Item = (Kind, &'a str)> + 'b {
    let is_used = move |key: &str| found.iter().any(|change| change.keys().any(|used| used == key));
    keys.iter().map(|(&kind, &key)| (kind, key)).filter(move |(_, key)| !is_used(key))
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

/// The complete changes among matrices of one layer. Magnitudes are of a change that has factors.
fn changes(keys: &Kinds<'_>) -> Vec<Complete> {
    let key = |kind| keys.get(&kind).map(|&key| key.to_owned());
    let pair = |first, second| Some((key(first)?, key(second)?));
    let low_rank = |down, up, core: Option<Kind>, tool| {
        let core = core.and_then(key);
        pair(down, up).map(|(down, up)| Change::LowRank(LowRank { down, up, core, tool }))
    };
    let factors = |left, right, core| {
        let (left, right) = pair(left, right)?;
        Some(match key(core) {
            Some(core) => FactorKeys::Cored { core, left, right },
            None => FactorKeys::Product(left, right),
        })
    };
    let kronecker = || {
        let product = || pair(Kind::LokrW1A, Kind::LokrW1B).map(|(left, right)| FactorKeys::Product(left, right));
        let w1 = key(Kind::LokrW1).map(FactorKeys::Whole).or_else(product)?;
        let product = || factors(Kind::LokrW2A, Kind::LokrW2B, Kind::LokrCore);
        let w2 = key(Kind::LokrW2).map(FactorKeys::Whole).or_else(product)?;
        Some(Change::Kronecker { w1, w2 })
    };
    let hadamard = || {
        let w1 = factors(Kind::HadaW1A, Kind::HadaW1B, Kind::HadaCore1)?;
        let w2 = factors(Kind::HadaW2A, Kind::HadaW2B, Kind::HadaCore2)?;
        Some(Change::Hadamard { w1, w2 })
    };
    let magnitude = [(Kind::RowMagnitude, Along::Rows), (Kind::Magnitude, Along::AsShaped)]
        .into_iter()
        .find_map(|(kind, along)| Some(MagnitudeKey { key: key(kind)?, along }));
    let products = [
        low_rank(Kind::Down, Kind::Up, Some(Kind::Core), Tool::Unknown),
        low_rank(Kind::MlxDown, Kind::MlxUp, None, Tool::MlxLm),
        kronecker(),
        hadamard(),
    ];
    let whole = [Kind::Difference, Kind::BiasDifference].map(|kind| key(kind).map(Change::Full));
    let products = products.into_iter().flatten().map(|change| Complete { change, magnitude: magnitude.clone() });
    products.chain(whole.into_iter().flatten().map(|change| Complete { change, magnitude: None })).collect()
}

impl Complete {
    fn keys(&self) -> impl Iterator<Item = &str> {
        self.change.keys().into_iter().chain(self.magnitude.as_ref().map(|magnitude| magnitude.key.as_str()))
    }
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
            Self::LowRank(LowRank { down, up, core, .. }) => {
                [down, up].into_iter().chain(core).map(String::as_str).collect()
            }
            Self::Kronecker { w1, w2 } | Self::Hadamard { w1, w2 } => w1.keys().chain(w2.keys()).collect(),
            Self::Full(key) | Self::Whole(key) => vec![key],
        }
    }
}

impl FactorKeys {
    fn keys(&self) -> impl Iterator<Item = &str> {
        let keys = match self {
            Self::Whole(key) => [Some(key), None, None],
            Self::Product(left, right) => [Some(left), Some(right), None],
            Self::Cored { core, left, right } => [Some(left), Some(right), Some(core)],
        };
        keys.into_iter().flatten().map(String::as_str)
    }
}
