//! Lays a file over a component: its tensors replace those of the same name.

use std::collections::BTreeMap;

use crate::{
    layer_name::layer_of,
    quantisation::{Recognised, recognise},
    table::Table,
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
/// When the file replaces nothing, or only one of the two is quantised.
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
    let plain = differing(&ours, &theirs);
    if let Some(&sample) = plain.first() {
        return Err(OverlayError::PlainOverQuantised { count: plain.len(), sample: sample.clone() });
    }
    let theirs = theirs.into_iter().filter(|(_, layer)| layer.format.computed().is_some()).collect();
    let packed = differing(&theirs, &ours);
    if let Some(&sample) = packed.first() {
        return Err(OverlayError::QuantisedOverPlain { count: packed.len(), sample: sample.clone() });
    }
    let kept = base.tensors().len() - replaced.len();
    let table = Table::of_latest(base.tensors().iter().chain(other.tensors()).cloned().collect());
    Ok(Overlay { table, replaced, added, kept })
}
