//! Lays a file over a component: its tensors replace those of the same name.

use std::collections::BTreeMap;

use crate::{
    header::FLOATS,
    layer_name::layer_of,
    quantisation::{FORMATS, Recognised, recognise},
    table::{Sourced, Table},
};

/// A component with a file laid over it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    /// All tensors.
    pub table: Table,
    /// Names of tensors that the file replaced.
    pub replaced: Vec<String>,
    /// Names of tensors that the file added.
    pub added: Vec<String>,
    /// Names of tensors of quantised layers that went with the codes that the file replaced.
    pub dropped: Vec<String>,
    /// Number of tensors that stayed.
    pub kept: usize,
}

/// Why a file cannot be laid over a component.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OverlayError {
    /// The file is about something else.
    #[error("none of its {found} tensors, such as `{sample}`, has a place among those of the component")]
    NothingReplaced {
        /// How many it has.
        found: usize,
        /// One of them.
        sample: String,
    },
    /// Plain weights in place of packed ones, whose scales would then belong to nothing.
    #[error("{count} of its weights, such as `{sample}`, are plain, and the component's are quantised")]
    PlainOverQuantised {
        /// How many.
        count: usize,
        /// One of them.
        sample: String,
    },
    /// Some tensors of quantised layers, which mean nothing beside the others of the component.
    #[error("it has `{sample}` and not all of its layer, which is quantised; {count} such tensors")]
    PartOfQuantised {
        /// How many.
        count: usize,
        /// One of them.
        sample: String,
    },
    /// Packed weights in place of plain ones.
    #[error("{count} of its weights, such as `{sample}`, are quantised, and the component's are plain")]
    QuantisedOverPlain {
        /// How many.
        count: usize,
        /// One of them.
        sample: String,
    },
}

/// Layers whose weights mean nothing without the tensors beside them.
fn quantised(table: &Table) -> BTreeMap<&str, Recognised<'_>> {
    let mut layers = recognise(table.tensors().iter().map(|tensor| (&*tensor.info.name, &tensor.info)), None);
    layers.retain(|_, layer| layer.slots.len() > 1);
    layers
}

/// Lays `other` over `base`, both under the names of the catalogue.
///
/// # Errors
/// When the file replaces nothing, when only one of the two is quantised, or when it has only a part of a quantised layer.
pub fn overlay(base: &Table, other: &Table) -> Result<Overlay, OverlayError> {
    let (mut replaced, mut added) = (Vec::new(), Vec::new());
    for tensor in other.tensors() {
        let list = if base.get(&tensor.info.name).is_some() { &mut replaced } else { &mut added };
        list.push(tensor.info.name.to_string());
    }
    if let (true, Some(sample)) = (replaced.is_empty() && !base.tensors().is_empty(), added.first()) {
        return Err(OverlayError::NothingReplaced { found: added.len(), sample: sample.clone() });
    }
    let (ours, theirs) = (quantised(base), quantised(other));
    let differing = |here: &BTreeMap<&str, Recognised<'_>>, there: &BTreeMap<&str, Recognised<'_>>| -> Vec<&String> {
        let differs = |layer: &str| here.contains_key(layer) && !there.contains_key(layer);
        replaced.iter().filter(|name| layer_of(name).is_some_and(differs)).collect()
    };
    let is_plain = |name: &&String| other.get(name).is_some_and(|tensor| FLOATS.contains(&tensor.info.dtype));
    let plain: Vec<&String> = differing(&ours, &theirs).into_iter().filter(is_plain).collect();
    if let Some(&sample) = plain.first() {
        return Err(OverlayError::PlainOverQuantised { count: plain.len(), sample: sample.clone() });
    }
    let parts = parts(base, &ours, &theirs, other);
    if let Some(&sample) = parts.first() {
        return Err(OverlayError::PartOfQuantised { count: parts.len(), sample: sample.to_owned() });
    }
    let dropped = left_behind(base, &ours, &theirs, other);
    let theirs = theirs.into_iter().filter(|(_, layer)| layer.format.computed().is_some()).collect();
    let packed = differing(&theirs, &ours);
    if let Some(&sample) = packed.first() {
        return Err(OverlayError::QuantisedOverPlain { count: packed.len(), sample: sample.clone() });
    }
    let kept = base.tensors().len() - replaced.len() - dropped.len();
    let stays = |tensor: &&Sourced| !dropped.iter().any(|name| **name == *tensor.info.name);
    let table = Table::of_latest(base.tensors().iter().filter(stays).chain(other.tensors()).cloned().collect());
    Ok(Overlay { table, replaced, added, dropped, kept })
}

/// Tensors that replace one of a quantised layer of the component, in whose place the file has no whole layer.
fn parts<'a>(
    base: &'a Table,
    ours: &BTreeMap<&str, Recognised<'_>>,
    theirs: &BTreeMap<&str, Recognised<'_>>,
    other: &Table,
) -> Vec<&'a str> {
    let torn = ours.keys().filter(|layer| !theirs.contains_key(*layer));
    torn.flat_map(|layer| of_codes(base, layer)).filter(|name| other.get(name).is_some()).collect()
}

/// Tensors of the component's quantised layers that belong to the codes which the file replaces: scales, marks and the like.
fn left_behind(
    base: &Table,
    ours: &BTreeMap<&str, Recognised<'_>>,
    theirs: &BTreeMap<&str, Recognised<'_>>,
    other: &Table,
) -> Vec<String> {
    let replaced = ours.keys().filter(|layer| theirs.contains_key(*layer));
    let names = replaced.flat_map(|layer| of_codes(base, layer)).filter(|name| other.get(name).is_none());
    names.map(str::to_owned).collect()
}

/// The tensors that layers have beside each other in any format, of one layer.
fn of_codes<'a>(table: &'a Table, layer: &str) -> impl Iterator<Item = &'a str> {
    let length = layer.len();
    let names = table.under(&format!("{layer}.")).iter().map(|tensor| &*tensor.info.name);
    names.filter(move |name| {
        let mut slots = FORMATS.iter().flat_map(|format| format.slots);
        slots.any(|slot| slot.suffix == &name[length..])
    })
}
