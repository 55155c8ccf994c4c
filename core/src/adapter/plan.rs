//! From an adapter's tensors to what it adds to each layer of a component.

use std::{collections::BTreeMap, ops::Range};

use super::{
    AdapterConfig, AdapterError, AdapterRefused, AdapterReport, Change, LayerKeys, Targets, Written,
    error::sample,
    fit::{Frame, Tensors},
    recognise,
};
use crate::{
    derive::{Alpha, Delta},
    plan::Table,
    shown::shown,
};

/// An adapter that somebody wants to be applied.
#[derive(Debug, Clone, Copy)]
pub struct AdapterInput<'a> {
    /// Its name in errors and reports.
    pub name: &'a str,
    /// The tensors of its files, whose shards count from 0.
    pub tensors: &'a Table,
    /// Number of its first file among all files of the derivation.
    pub first_file: u32,
    /// Its config, when there is one.
    pub config: Option<&'a AdapterConfig>,
    /// How much of it is wanted: 1 for all, negative for the opposite.
    pub scale: f64,
}

/// What an adapter adds, and what of it is left out.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterPlan {
    /// By layer: the name of its weight in the catalogue, without `.weight`.
    pub deltas: BTreeMap<String, Delta>,
    /// What was done.
    pub report: AdapterReport,
}

/// Plans an adapter for a component, whose layers have the names of `targets`. `blocks_of` gives the number of blocks
/// in a list, `shape_of` the shape `[output, input]` of a layer of the catalogue, unpacked where it is quantised.
///
/// A change of several layers at once is as high as all of them, and each takes its rows.
///
/// # Errors
/// [`AdapterRefused`].
pub fn plan(
    input: &AdapterInput<'_>,
    component: &str,
    targets: &Targets,
    blocks_of: impl Fn(&str) -> u64,
    shape_of: impl Fn(&str) -> Option<Vec<u64>>,
) -> Result<AdapterPlan, AdapterRefused> {
    deltas(input, component, targets, blocks_of, shape_of)
        .map_err(|problem| AdapterRefused { adapter: shown(input.name), problem })
}

fn deltas(
    input: &AdapterInput<'_>,
    component: &str,
    targets: &Targets,
    blocks_of: impl Fn(&str) -> u64,
    shape_of: impl Fn(&str) -> Option<Vec<u64>>,
) -> Result<AdapterPlan, AdapterError> {
    if !input.scale.is_finite() || input.scale == 0.0 {
        return Err(AdapterError::Scale { found: input.scale });
    }
    if let Some(sign) = input.config.and_then(AdapterConfig::dora) {
        return Err(AdapterError::Dora { sign });
    }
    let names = input.tensors.tensors().iter().map(|tensor| &*tensor.info.name);
    let found = recognise(names, targets, blocks_of)?;
    let tensors = Tensors { table: input.tensors, first_file: input.first_file };
    let mut deltas = BTreeMap::new();
    let mut without_target = found.without_target;
    let mut remarks = Remarks::default();
    for keys in found.layers {
        let Some(place) = Place::of(&keys, &shape_of) else {
            without_target.push(targets.stripped(&keys.base).to_owned());
            continue;
        };
        let frame = Frame { layer: &keys.fused[0], output: place.output, input: place.input };
        let (product, rank) = tensors.product(&keys.change, frame)?;
        let (alpha, divisor) = factor(&keys, rank, tensors, input.config)?;
        remarks.note(&keys, rank, input.config);
        deltas.insert(keys.target.layer, Delta { product, scale: input.scale, alpha, divisor, rows: place.rows });
    }
    without_target.sort_unstable();
    without_target.dedup();
    if deltas.is_empty() {
        return Err(AdapterError::no_targets(without_target, found.other_component.len()));
    }
    let report = AdapterReport {
        adapter: shown(input.name),
        component: component.to_owned(),
        applied: deltas.keys().cloned().collect(),
        without_target,
        without_partner: found.without_partner,
        other_component: found.other_component,
        unsupported: found.unsupported.into_iter().map(|(kind, keys)| (kind.to_string(), keys)).collect(),
        unknown: found.unknown,
        remarks: remarks.said(input.config),
    };
    Ok(AdapterPlan { deltas, report })
}

/// Where in a change a layer is.
struct Place {
    /// Rows of the change.
    output: u64,
    /// Columns of the change.
    input: u64,
    /// Rows of the layer.
    rows: Range<u64>,
}

impl Place {
    /// `None` when one of the layers is not there, or no matrix.
    fn of(keys: &LayerKeys, shape_of: impl Fn(&str) -> Option<Vec<u64>>) -> Option<Self> {
        let (mut output, mut input, mut rows) = (0u64, None, None);
        for (part, layer) in (0..).zip(&keys.fused) {
            let [height, width] = shape_of(layer)?[..] else { return None };
            if *input.get_or_insert(width) != width {
                return None;
            }
            let begin = output;
            output = output.checked_add(height)?;
            if part == keys.target.part.0 {
                rows = Some(begin..output);
            }
        }
        Some(Self { output, input: input?, rows: rows? })
    }
}

/// By what a product is multiplied and divided: the layer's own alpha, else the config's, else nothing.
fn factor(
    keys: &LayerKeys,
    rank: Option<u64>,
    tensors: Tensors<'_>,
    config: Option<&AdapterConfig>,
) -> Result<(Alpha, f64), AdapterError> {
    let stored = keys.alpha.as_deref().map(|key| tensors.scalar(key)).transpose()?;
    let configured = match (rank, &keys.change) {
        (Some(rank), _) => config.and_then(|config| config.factor_of(module(keys), rank)),
        // An alpha beside whole factors says nothing, and that it is there says that LyCORIS wrote them.
        (None, Change::Kronecker { .. }) if stored.is_none() => {
            config.and_then(|config| config.factor_of_whole(module(keys)))
        }
        (None, _) => None,
    };
    Ok(match (stored, rank, configured) {
        (Some(alpha), Some(rank), _) => (Alpha::Stored(alpha), rank as f64),
        (_, _, Some(factor)) => (Alpha::Value(factor.alpha), factor.divisor),
        _ => (Alpha::One, 1.0),
    })
}

/// The name of the module in the trainer's words.
fn module(keys: &LayerKeys) -> &str {
    keys.base.strip_suffix(".weight").unwrap_or(&keys.base)
}

/// What is noticed on the way.
#[derive(Default)]
struct Remarks {
    other_ranks: Vec<String>,
    has_mlx: bool,
}

impl Remarks {
    fn note(&mut self, keys: &LayerKeys, rank: Option<u64>, config: Option<&AdapterConfig>) {
        let told = config.and_then(|config| config.rank_of(module(keys)));
        if rank.is_some() && told.is_some() && rank != told {
            self.other_ranks.push(keys.target.layer.clone());
        }
        self.has_mlx |= matches!(&keys.change, Change::LowRank(pair) if pair.written == Written::Mlx);
    }

    fn said(self, config: Option<&AdapterConfig>) -> Vec<String> {
        let mut said = Vec::new();
        match config {
            Some(config) if !self.other_ranks.is_empty() => said.push(format!(
                "`{}` gives another rank than the matrices have, whose is taken ({})",
                config.path(),
                sample(&self.other_ranks)
            )),
            None if self.has_mlx => {
                said.push(
                    "mlx-lm writes the scale of an adapter into its config, which is not there: 1 is taken".to_owned(),
                );
            }
            _ => {}
        }
        said
    }
}
