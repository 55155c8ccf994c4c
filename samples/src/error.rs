//! Why a fixture could not be made.

use std::{io, path::Path, path::PathBuf};

use weightsd_core::family::ConfigError;

/// Why a fixture could not be made.
#[derive(Debug, thiserror::Error)]
pub enum FixtureError {
    /// Dimensions that the family refuses.
    #[error("no model of the family has these dimensions: {0}")]
    Dims(#[from] ConfigError),
    /// A repository name that is not `name` or `owner/name`.
    #[error("{found:?} is no repository name, expected `owner/name`")]
    RepoName {
        /// What was given.
        found: String,
    },
    /// A call to the file system.
    #[error("cannot {action} {path:?}")]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl FixtureError {
    /// For `map_err`: adds what was tried, and on what.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}
