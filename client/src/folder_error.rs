//! Why a model cannot be a folder, and for which programs it would have been.

use std::{io, path::PathBuf};

use thiserror::Error;
use weightsd_core::explain::Tier;

/// The programs that a folder is for, by whose rules its files are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FolderFormat {
    /// diffusers: a pipeline, each component in a folder of its own.
    Diffusers,
    /// transformers, sentence-transformers: one component, in the root.
    Transformers,
    /// mlx-lm: as transformers, and quantised layers are declared in the config.
    Mlx,
    /// mflux: as diffusers; it reads every safetensors file of a component's folder.
    Mflux,
}

impl FolderFormat {
    /// The name in requests.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            FolderFormat::Diffusers => "diffusers",
            FolderFormat::Transformers => "transformers",
            FolderFormat::Mlx => "mlx",
            FolderFormat::Mflux => "mflux",
        }
    }

    /// The format of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<FolderFormat> {
        let all = [FolderFormat::Diffusers, FolderFormat::Transformers, FolderFormat::Mlx, FolderFormat::Mflux];
        all.into_iter().find(|format| format.name() == name)
    }

    pub(crate) fn is_pipeline(self) -> bool {
        matches!(self, FolderFormat::Diffusers | FolderFormat::Mflux)
    }
}

/// Why a model cannot be a folder.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FolderError {
    /// The model is one file, so there are no configs or tokenizers to put beside it.
    #[error("{} is one file; a folder also needs configs and tokenizers", path.display())]
    NoFolder {
        /// The file.
        path: PathBuf,
    },
    /// The model has no weights where the format has them.
    #[error("the model has no weights where {} expects them; its components: {}", format.name(), names.join(", "))]
    NoComponent {
        /// The format.
        format: FolderFormat,
        /// The components that it has.
        names: Vec<String>,
    },
    /// The format cannot say what is asked for.
    #[error("format {} cannot be had {problem}", format.name())]
    Format {
        /// The format.
        format: FolderFormat,
        /// What it cannot express.
        problem: &'static str,
        /// What can help.
        hint: &'static str,
    },
    /// Nothing says where caches are.
    #[error("no folder for caches: neither XDG_CACHE_HOME nor HOME is set")]
    NoCache,
    /// A config is no JSON object.
    #[error("{} cannot be read as a config", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The parser's words.
        #[source]
        source: serde_json::Error,
    },
    /// Two files of one name.
    #[error("two files would be called {}", path.display())]
    Collision {
        /// Below the folder.
        path: PathBuf,
    },
    /// The path of a lent file names another file by now.
    #[error("{} is not the file that was lent", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The quantised layers contradict themselves.
    #[error("the layers of {component} cannot be declared: {problem}")]
    Layers {
        /// The component.
        component: String,
        /// Why not.
        problem: String,
    },
    /// The system refuses to read or write.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

impl FolderError {
    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> FolderError {
        move |source| FolderError::Io { what, path: path.into(), source }
    }

    /// A step that can help.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            FolderError::NoFolder { .. } => Some("name the model whose configs it has as `base`"),
            FolderError::Format { hint, .. } => Some(hint),
            FolderError::NoCache => Some("set HOME, or name a folder for the links"),
            FolderError::Changed { .. } => Some("ask again: the daemon opens the file that is there now"),
            _ => None,
        }
    }

    pub(crate) fn tier(&self) -> Tier {
        match self {
            FolderError::NoFolder { .. } | FolderError::NoComponent { .. } | FolderError::Format { .. } => {
                Tier::Request
            }
            FolderError::Layers { .. } => Tier::Bug,
            _ => Tier::Condition,
        }
    }
}
