//! A component of which some or all tensors are taken from another file.

use crate::table::Table;

/// Endings of the tensors that only quantised layers have.
const PACKED_ONLY: [&str; 2] = [".scales", ".biases"];
/// Ending of the tensor that both kinds of layer have.
const WEIGHT: &str = ".weight";

/// A component and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    /// All tensors.
    pub table: Table,
    /// Names of tensors that were there and are the other file's now.
    pub replaced: Vec<String>,
    /// Names that were not there.
    pub added: Vec<String>,
    /// How many stayed.
    pub kept: usize,
}

/// Why a file cannot take the place of a component's tensors.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OverlayError {
    /// It is about something else.
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
    /// The reverse.
    #[error("{count} of its weights, such as `{sample}`, are quantised, and the component's are plain")]
    QuantisedOverPlain {
        /// How many.
        count: usize,
        /// One of them.
        sample: String,
    },
}

/// Lays `other` over `base`, both under the names of the catalogue.
///
/// # Errors
/// [`OverlayError`].
pub fn overlay(base: &Table, other: &Table) -> Result<Overlay, OverlayError> {
    let (mut replaced, mut added) = (Vec::new(), Vec::new());
    for tensor in other.tensors() {
        let list = if base.get(&tensor.info.name).is_some() { &mut replaced } else { &mut added };
        list.push(tensor.info.name.to_string());
    }
    if let (true, Some(sample)) = (replaced.is_empty() && !base.tensors().is_empty(), added.first()) {
        return Err(OverlayError::NothingReplaced { found: added.len(), sample: sample.clone() });
    }
    let scales = |table: &Table, name: &str| {
        name.strip_suffix(WEIGHT).is_some_and(|layer| table.get(&format!("{layer}{}", PACKED_ONLY[0])).is_some())
    };
    let differing = |here: &Table, there: &Table| -> Vec<&String> {
        replaced.iter().filter(|name| scales(here, name) && !scales(there, name)).collect()
    };
    let plain = differing(base, other);
    if let Some(&sample) = plain.first() {
        return Err(OverlayError::PlainOverQuantised { count: plain.len(), sample: sample.clone() });
    }
    let packed = differing(other, base);
    if let Some(&sample) = packed.first() {
        return Err(OverlayError::QuantisedOverPlain { count: packed.len(), sample: sample.clone() });
    }
    let kept = base.tensors().len() - replaced.len();
    let table = Table::of_latest(base.tensors().iter().chain(other.tensors()).cloned().collect());
    Ok(Overlay { table, replaced, added, kept })
}
