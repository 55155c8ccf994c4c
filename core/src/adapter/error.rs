//! Why an adapter is not applied.

use super::{AdapterConfigError, Unsupported};
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

/// Why a file cannot be applied to the component as an adapter.
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
    /// Whole weights of the component and no changes.
    #[error("the file has whole weights of the component ({count}, such as `{sample}`) and no changes of them")]
    WholeWeights {
        /// How many tensors.
        count: usize,
        /// One of them.
        sample: String,
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
    /// Only a part of it can be applied.
    #[error("{changed} of its changes can be applied, and not all of it: {}", left_out.join(", "))]
    Incomplete {
        /// Layers that would be changed.
        changed: usize,
        /// What would be left out, with names.
        left_out: Vec<String>,
    },
    /// Two different changes of one tensor.
    #[error("layer `{layer}` is changed twice, by `{first}` and by `{second}`, and the two are not the same")]
    Twice {
        /// The layer.
        layer: String,
        /// A base.
        first: String,
        /// Another one.
        second: String,
    },
    /// Several adapters of PEFT in one file.
    #[error("the file holds several adapters: {}", names.join(", "))]
    SeveralAdapters {
        /// Their names.
        names: Vec<String>,
    },
    /// DoRA without its magnitudes.
    #[error(
        "layer `{layer}`: {sign}, and the file has no magnitudes of it: the low-rank half alone would make another model"
    )]
    NoMagnitude {
        /// The layer.
        layer: String,
        /// Who says that it is DoRA.
        sign: String,
    },
    /// Magnitudes of what is not DoRA.
    #[error("layer `{layer}`: `{key}` holds magnitudes of DoRA, and {sign}")]
    UnsaidMagnitude {
        /// The layer.
        layer: String,
        /// The magnitudes.
        key: String,
        /// Who says that it is not DoRA.
        sign: String,
    },
    /// What says how strong it is cannot be used.
    #[error(transparent)]
    Config(#[from] AdapterConfigError),
    /// Two different strengths.
    #[error("layer `{layer}`: {first}, and {second}")]
    Strengths {
        /// The layer.
        layer: String,
        /// Who says what.
        first: String,
        /// Who says something else.
        second: String,
    },
    /// A rank that the matrices do not have.
    #[error("layer `{layer}`: {place} says rank {said}, and the matrices have rank {found}")]
    Rank {
        /// The layer.
        layer: String,
        /// Where the config stands.
        place: String,
        /// The config's rank.
        said: u64,
        /// That of the matrices.
        found: u64,
    },
    /// Whole weights that a config promises.
    #[error("{place} says that the adapter holds the whole weights of `{module}`, and the file does not")]
    NotSaved {
        /// Where the config stands.
        place: String,
        /// The module.
        module: String,
    },
    /// A scale for what replaces a weight.
    #[error("`{key}` takes the place of a weight, which cannot be scaled: the scale is {scale}, expected 1")]
    ScaledReplacement {
        /// The tensor.
        key: String,
        /// What was asked for.
        scale: f64,
    },
    /// A weight that one adapter replaces and another one changes.
    #[error("`{layer}` is replaced by one adapter of the request and changed by another one")]
    ReplacedAndChanged {
        /// The tensor of the component.
        layer: String,
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
    /// An alpha that means nothing, or two things.
    #[error("`{key}` is {found}: {problem}")]
    AlphaValue {
        /// The tensor.
        key: String,
        /// Its value.
        found: f64,
        /// Why it is of no use.
        problem: &'static str,
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
    pub problem: Box<AdapterError>,
}

impl Explain for AdapterRefused {
    fn explain(&self) -> Explanation {
        Explanation::new(Reason::InvalidAdapter, &self.adapter, self.problem.hint())
    }
}

impl AdapterError {
    fn hint(&self) -> &'static str {
        match self {
            Self::NoPairs { .. } => {
                "`weightsd inspect <file>` shows what the file is; another kind of adapter must be merged by its own library"
            }
            Self::WholeWeights { .. } => "load the file as a model of its own, or lay it over the model: `--overlay`",
            Self::NoTargets { other_component: 0, .. } => {
                "the adapter is for another model: name the model that it was trained on"
            }
            Self::NoTargets { .. } => "the adapter is for another component: load that one with it",
            Self::Incomplete { .. } => {
                "half an adapter is another model: use the library that made it, or take what can be applied with the audit policy report-only"
            }
            Self::Twice { .. } => "keep one of the two in the file: a layer has one change",
            Self::SeveralAdapters { .. } => {
                "save one of them alone: `save_pretrained(folder, selected_adapters=[name])`"
            }
            Self::NoMagnitude { .. } => "fetch the whole adapter: magnitudes are tensors of its file",
            Self::UnsaidMagnitude { .. } => {
                "config and tensors are of two adapters: fetch the adapter again, with its own config"
            }
            Self::Config(error) => error.hint(),
            Self::Strengths { .. } => {
                "only its maker knows which one is meant: remove the other from the file or its folder"
            }
            Self::Rank { .. } => "config and tensors are of two adapters: fetch the adapter again, with its own config",
            Self::NotSaved { .. } => {
                "fetch the whole adapter: without these weights it is not the one that was trained"
            }
            Self::ScaledReplacement { .. } => "load the adapter with scale 1",
            Self::ReplacedAndChanged { .. } => "load the two adapters one at a time",
            Self::Shape { .. } => "the adapter was trained on a model of other dimensions: name that model",
            Self::Missing { .. } | Self::Dtype { .. } => "save the adapter in F32, F16 or BF16",
            Self::Alpha { .. } | Self::AlphaValue { .. } => {
                "an alpha is one finite number other than 0: save the adapter anew"
            }
            Self::Scale { .. } => "give a number other than 0, or leave the adapter out",
        }
    }

    /// It changes these layers, and none of them is there.
    pub(super) fn no_targets(mut names: Vec<String>, other_component: usize) -> Self {
        names.sort_unstable();
        Self::NoTargets { found: names.len(), names, other_component }
    }
}

/// The first names of a list, for a message.
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
