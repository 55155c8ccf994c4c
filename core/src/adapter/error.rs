//! Why an adapter is not applied.

use super::Unsupported;
use crate::{
    audit::Sample,
    explain::{Explain, Explanation, Reason},
    header::Dtype,
    shown::shown_up_to,
};

/// Names that an error shows.
const NAMES_SHOWN: usize = 8;
/// Bytes that an error shows of each of several names.
const NAME_BYTES_MAX: usize = 80;

/// Why a file is no adapter for the component.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
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
    #[error(
        "zero valid target layers: {found} changes, and none is for a layer of this model{}",
        beside(names, *other_component)
    )]
    NoTargets {
        /// How many there are.
        found: usize,
        /// What they change, without prefixes, sorted.
        names: Vec<String>,
        /// Keys for another component beside them.
        other_component: usize,
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
    /// It rescales rows, which is more than adding to them.
    #[error(
        "it is a DoRA adapter ({sign}): its magnitudes rescale each output row by the norm of the merged weight, and the \
         low-rank half alone would give another picture, so that none of it is applied"
    )]
    Dora {
        /// What shows it, with some of the keys.
        sign: String,
    },
    /// Matrices that do not make a change of the layer's shape.
    #[error("layer `{layer}`: `{key}`: expected {expected}, found {found}")]
    Shape {
        /// The layer; of a fused one the first.
        layer: String,
        /// Key of the matrix that does not fit.
        key: String,
        /// The shapes that would fit.
        expected: String,
        /// The shapes that are there.
        found: String,
    },
    /// A key without its tensor.
    #[error("there is no tensor `{key}`")]
    Missing {
        /// The key.
        key: String,
    },
    /// A matrix whose numbers are not read.
    #[error("`{key}` is {found}, expected {expected}")]
    Dtype {
        /// The tensor.
        key: String,
        /// Its dtype.
        found: Dtype,
        /// Those that are read.
        expected: &'static str,
    },
    /// An alpha that is no number.
    #[error("`{key}` has shape {found:?}, expected one element")]
    Alpha {
        /// The tensor.
        key: String,
        /// Its shape.
        found: Vec<u64>,
    },
    /// A scale that changes nothing or everything.
    #[error("the scale is {found}, expected a finite number other than 0")]
    Scale {
        /// What was asked for.
        found: f64,
    },
}

/// An adapter that is refused, and why.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("adapter `{adapter}`: {problem}")]
pub struct AdapterRefused {
    /// The adapter, as its user named it.
    pub adapter: String,
    /// Why.
    pub problem: AdapterError,
}

impl Explain for AdapterRefused {
    fn explain(&self) -> Explanation {
        let hint = "`weightsd inspect <adapter>` shows its keys; it must be made for this model and this component";
        Explanation::new(Reason::InvalidAdapter, &self.adapter, hint)
    }
}

impl AdapterError {
    /// Changes of these layers, none of which is there.
    pub(super) fn no_targets(mut names: Vec<String>, other_component: usize) -> Self {
        names.sort_unstable();
        Self::NoTargets { found: names.len(), names, other_component }
    }

    /// A DoRA adapter with these magnitudes.
    pub(super) fn dora(keys: &[String]) -> Self {
        Self::Dora { sign: format!("{} magnitudes: {}", keys.len(), sample(keys)) }
    }
}

/// The first of many names, for a message.
pub(super) fn sample(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(NAMES_SHOWN).map(|name| shown_up_to(name, NAME_BYTES_MAX)).collect();
    Sample { names: &shown, more: names.len() - shown.len() }.to_string()
}

fn list(unsupported: &[Unsupported]) -> String {
    let names: Vec<String> = unsupported.iter().map(ToString::to_string).collect();
    if names.is_empty() { String::new() } else { format!("; not applied: {}", names.join(", ")) }
}

fn beside(names: &[String], other_component: usize) -> String {
    let mut said = String::new();
    if !names.is_empty() {
        said = format!(": {}", sample(names));
    }
    if other_component > 0 {
        said.push_str(&format!("; {other_component} keys are for another component"));
    }
    said
}
