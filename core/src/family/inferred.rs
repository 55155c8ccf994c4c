//! What weights without a config tell of themselves.

use std::fmt;

use super::Description;

/// Something that weights do not tell, and what was taken for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assumption {
    /// What.
    pub what: String,
    /// What it was taken for.
    pub value: String,
    /// On what ground.
    pub why: String,
}

impl fmt::Display for Assumption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.what, self.value, self.why)
    }
}

/// A component described by its own tensors.
#[derive(Debug, Clone)]
pub struct Inferred {
    /// What it is.
    pub description: Description,
    /// What was assumed.
    pub assumptions: Vec<Assumption>,
    /// What else a person should know.
    pub remarks: Vec<String>,
}

/// Why weights do not describe themselves.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InferError {
    /// The tensor that would tell is not there.
    #[error("there is no config, and `{name}`, which would tell {tells}, is not there")]
    Absent {
        /// The tensor.
        name: String,
        /// What it tells.
        tells: &'static str,
    },
    /// They are of no model that is known.
    #[error("there is no config, and {problem}")]
    Unknown {
        /// Why not.
        problem: String,
    },
}
