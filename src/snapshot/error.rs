//! Why a model's files cannot be used.

use std::{
    io,
    path::{Path, PathBuf},
};

use weightsd_core::{
    explain::{Explain, Explanation, Reason},
    index::IndexError,
    listing::BlobName,
    preferred::PreferredError,
    resemblance::Resemblance,
    select::SelectError,
};

use super::{COMPONENTS_MAX, DOCUMENTS_BYTES_MAX, ENTRIES_MAX};
use crate::disk;

/// Why a model's files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// More entries than a model has.
    #[error("`{}` holds more than {ENTRIES_MAX} files, which is not a model", path.display())]
    TooManyFiles {
        /// The directory.
        path: PathBuf,
    },
    /// More folders with weights than a model has components.
    #[error("`{}` holds more than {COMPONENTS_MAX} folders with weights, which is not a model", path.display())]
    TooManyComponents {
        /// The directory.
        path: PathBuf,
    },
    /// More JSON than a model has.
    #[error("the configurations below `{}` have more than {DOCUMENTS_BYTES_MAX} bytes together", path.display())]
    TooManyDocuments {
        /// The directory.
        path: PathBuf,
    },
    /// A small file that is not what its name, or the commit's listing, says.
    #[error("`{}` is damaged: its hash is {found}, expected {expected}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// By its name or the listing.
        expected: BlobName,
        /// By its content.
        found: String,
    },
    /// A config of megabytes.
    #[error("`{}` has {found} bytes, at most {max} are read", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its length.
        found: u64,
        /// The limit.
        max: u64,
    },
    /// A component that the model does not have.
    #[error("`{model}` has no component `{component}`; it has {}{}", known.join(", "), looks(model, resemblance.as_deref()))]
    NoSuchComponent {
        /// The model.
        model: String,
        /// What was asked for.
        component: String,
        /// The components that it has.
        known: Vec<String>,
        /// What the weights look like, where no family takes them.
        resemblance: Option<Box<Resemblance>>,
    },
    /// Shards that are not on disk.
    #[error(
        "`{component}` is incomplete: {} of {total} shards are missing: {}{}", missing.len(), missing.join(", "),
        beside(unlisted)
    )]
    Incomplete {
        /// The component.
        component: String,
        /// Missing files, below the model's directory.
        missing: Vec<String>,
        /// How many there should be.
        total: usize,
        /// Files of complete sets that are there and that the index does not list.
        unlisted: Vec<String>,
        /// What lacks the missing files.
        lacking: Lacking,
    },
    /// A malformed pattern.
    #[error("`{pattern}` is not a pattern: {problem}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Several weight files, and nothing says which is meant.
    #[error("`{}` holds several files of weights and says nothing about them", path.display())]
    Preferred {
        /// The directory.
        path: PathBuf,
        /// Which.
        #[source]
        source: PreferredError,
    },
    /// No weights, or more than one set.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// An index that cannot be used.
    #[error("`{}` cannot be used", path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// Why.
        #[source]
        source: IndexError,
    },
    /// The system refused.
    #[error("cannot read `{}`", path.display())]
    Io {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Where the files of an incomplete component are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lacking {
    /// This machine; the commit may have them.
    Cache,
    /// The commit itself, by its listing.
    Commit,
    /// A folder that nobody fetches.
    Folder,
}

fn beside(unlisted: &[String]) -> String {
    if unlisted.is_empty() {
        return String::new();
    }
    format!("; beside them are complete weights that the index does not list: {}", unlisted.join(", "))
}

fn looks(model: &str, resemblance: Option<&Resemblance>) -> String {
    resemblance.map(|resemblance| format!("; {}", resemblance.told(model))).unwrap_or_default()
}

impl Lacking {
    /// What can help.
    fn hint(self, has_unlisted: bool) -> &'static str {
        match (self, has_unlisted) {
            (Self::Cache, false) => "`weightsd pull` fetches what is missing",
            (Self::Folder, false) => {
                "`weightsd pull` fetches what is missing; a directory of your own has to be copied again"
            }
            (Self::Commit, false) => {
                "the repository itself lacks them, so fetching again cannot help: name another revision, or tell its \
                 owner"
            }
            (Self::Cache | Self::Folder, true) => {
                "the index is another set's: if the files beside it are the model, move the index away, and they are \
                 loaded; otherwise fetch what it lists"
            }
            (Self::Commit, true) => {
                "the repository's index is another set's, so fetching again cannot help: name another revision, tell \
                 its owner, or load a copy of the folder without the index"
            }
        }
    }
}

impl Explain for SnapshotError {
    fn explain(&self) -> Explanation {
        let of_path =
            |reason, path: &Path, hint: &'static str| Explanation::new(reason, path.display().to_string(), hint);
        match self {
            Self::TooManyFiles { path } | Self::TooManyComponents { path } | Self::TooManyDocuments { path } => {
                of_path(Reason::NotAModel, path, "name the model's own directory")
            }
            Self::Damaged { path, .. } => of_path(
                Reason::Corrupt,
                path,
                "it is fetched again when its source may be asked; if it happens again, look at the disk",
            ),
            Self::TooLarge { path, .. } => of_path(
                Reason::InvalidConfig,
                path,
                "no model has such a config: the file is damaged or another one, fetch it again",
            ),
            Self::NoSuchComponent { component, resemblance, .. } => {
                let hint = resemblance.as_deref().map_or("ask for one of the components listed", Resemblance::hint);
                Explanation::new(Reason::ComponentNotFound, component, hint)
            }
            Self::Incomplete { component, unlisted, lacking, .. } => {
                Explanation::new(Reason::SnapshotIncomplete, component, lacking.hint(!unlisted.is_empty()))
            }
            Self::Preferred { path, source } => {
                Explanation { resource: path.display().to_string(), ..source.explain() }
            }
            Self::Pattern { pattern, .. } => {
                let hint = "a pattern is a glob such as `transformer/*` or `*.{json,safetensors}`";
                Explanation::new(Reason::InvalidRequest, pattern, hint)
            }
            Self::Select(error) => error.explain(),
            Self::Index { path, .. } => of_path(Reason::IndexMismatch, path, "the index is damaged: fetch it again"),
            Self::Io { path, source } => disk::explain(path, source),
        }
    }
}
