//! Which layers are quantised.

use std::collections::BTreeSet;

use globset::{Glob, GlobSet, GlobSetBuilder};

use super::{CannotConvert, LayerFilter, error::Wish, unit::Unit};
use crate::{header::FLOATS, quantisation::Scheme, shown::shown};

/// Names that an error shows.
const SAMPLE: usize = 4;

/// The layers that `filter`, or else `quantises`, names.
///
/// # Errors
/// When a pattern is malformed or matches nothing, when a pattern names a layer that cannot be packed, when no layer is
/// left, and when the numbers of a layer that is meant are not known.
pub(super) fn choose(
    units: &[Unit<'_>],
    scheme: Scheme,
    filter: &LayerFilter,
    quantises: &dyn Fn(&str) -> bool,
) -> Result<BTreeSet<String>, CannotConvert> {
    let is_matrix = |unit: &&Unit<'_>| match unit {
        Unit::Plain(placed) => placed.shape.len() == 2 && FLOATS.contains(&placed.dtype),
        Unit::Packed(_) => true,
        Unit::Coded(unit) => unit.logical.len() == 2,
        // Where nothing tells its shape, it may be a matrix.
        Unit::Opaque(unit) => unit.opaque.logical.as_ref().is_none_or(|logical| logical.len() == 2),
    };
    let matrices: Vec<(&str, &Unit<'_>)> =
        units.iter().filter(is_matrix).filter_map(|unit| Some((unit.layer()?, unit))).collect();
    let names: Vec<&str> = matrices.iter().map(|(layer, _)| *layer).collect();
    let (only, except) = (globs(&filter.only, &names)?, globs(&filter.except, &names)?);
    let mut chosen = BTreeSet::new();
    let mut opaque = Vec::new();
    for &(layer, unit) in &matrices {
        let is_named = only.as_ref().is_some_and(|only| only.is_match(layer));
        let is_meant = if only.is_some() { is_named } else { quantises(layer) };
        if !is_meant || except.as_ref().is_some_and(|except| except.is_match(layer)) {
            continue;
        }
        let shape = unit.logical();
        if let Unit::Opaque(unit) = unit {
            opaque.push((layer, unit.opaque));
        } else if scheme.packs(shape) {
            chosen.insert(layer.to_owned());
        } else if is_named {
            let scheme = scheme.to_string();
            return Err(CannotConvert::Ragged { layer: layer.to_owned(), shape: shape.to_vec(), scheme });
        }
    }
    if let Some(&(layer, first)) = opaque.first() {
        let (layer, why) = (layer.to_owned(), first.why.clone());
        return Err(CannotConvert::Opaque { wish: Wish::Quantise, count: opaque.len(), layer, why });
    }
    if chosen.is_empty() {
        return Err(CannotConvert::NothingToQuantise { scheme: scheme.to_string(), found: matrices.len() });
    }
    Ok(chosen)
}

/// The patterns; `None` when there are none. Each must match a layer.
fn globs(patterns: &[String], layers: &[&str]) -> Result<Option<GlobSet>, CannotConvert> {
    if patterns.is_empty() {
        return Ok(None);
    }
    let bad = |pattern: &str, error: &globset::Error| CannotConvert::Pattern {
        pattern: shown(pattern),
        problem: error.kind().to_string(),
    };
    let mut all = GlobSetBuilder::new();
    for pattern in patterns {
        let glob = Glob::new(pattern).map_err(|error| bad(pattern, &error))?;
        let one = glob.compile_matcher();
        if !layers.iter().any(|layer| one.is_match(layer)) {
            let sample = layers.iter().take(SAMPLE).map(|layer| shown(layer)).collect();
            return Err(CannotConvert::NothingMatches { pattern: shown(pattern), layers: layers.len(), sample });
        }
        all.add(glob);
    }
    all.build().map(Some).map_err(|error| bad("all of them", &error))
}
