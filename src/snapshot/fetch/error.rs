//! Why files did not come.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use weightsd_core::{
    explain::{Explain, Explanation, Reason},
    listing::{BlobName, HashKind},
};

use crate::{
    disk,
    lanes::LaneError,
    snapshot::SnapshotError,
    source::{self, SourceError, SourceProblem, Store},
};

/// Why files did not come. Cheap to clone, because each request that waits for a file gets one.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FetchError {
    /// The source gave no answer, or none that can be used.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The source did not give this file.
    #[error("cannot download `{file}`")]
    File {
        /// The file.
        file: String,
        /// Why.
        #[source]
        source: SourceError,
    },
    /// The content has another length than the listing says.
    #[error("`{file}` has {expected} bytes by the listing, and {found} are sent")]
    WrongLength {
        /// The file.
        file: String,
        /// By the listing.
        expected: u64,
        /// By the answer, or by counting.
        found: u64,
    },
    /// The source says that the file is another one than its listing says.
    #[error("`{file}` is {expected} by the listing, and {found} by the answer")]
    OtherBlob {
        /// The file.
        file: String,
        /// By the listing.
        expected: BlobName,
        /// By the answer.
        found: BlobName,
    },
    /// The source answers with a file of another commit.
    #[error("`{file}` was asked for at commit {expected}, and it is sent from {found}")]
    OtherCommit {
        /// The file.
        file: String,
        /// What was asked for.
        expected: String,
        /// What the answer says.
        found: String,
    },
    /// The content is not what its name says, twice.
    #[error("the content of `{file}` is not what was announced: its {kind} is {found}, expected {expected}")]
    Corrupt {
        /// The file.
        file: String,
        /// Which hash.
        kind: HashKind,
        /// Its name.
        expected: BlobName,
        /// Its content.
        found: String,
    },
    /// Not enough space, found before anything was written.
    #[error("`{}` has no space for the download: {needed} bytes are needed, {free} are free{}", path.display(), if *floor > 0 { format!(", and {floor} are to stay free") } else { String::new() })]
    NoSpace {
        /// The cache.
        path: PathBuf,
        /// Still to come, in bytes.
        needed: u64,
        /// Free, in bytes.
        free: u64,
        /// What is to stay free, in bytes.
        floor: u64,
        /// How another cache is named ([`Store::setting`]).
        setting: &'static str,
    },
    /// The disk, or what this user may have of it, became full while a file was written.
    #[error("`{}` has no space for the download: {needed} bytes are still to come", path.display())]
    DiskFull {
        /// The cache.
        path: PathBuf,
        /// What the file still needs, in bytes.
        needed: u64,
        /// How another cache is named ([`Store::setting`]).
        setting: &'static str,
        /// What the system said.
        #[source]
        source: Arc<io::Error>,
    },
    /// The patterns leave nothing.
    #[error("no file of `{repo}` matches {}", patterns.join(", "))]
    NothingMatches {
        /// The repository.
        repo: String,
        /// The patterns.
        patterns: Vec<String>,
    },
    /// What came cannot be used.
    #[error(transparent)]
    Snapshot(Arc<SnapshotError>),
    /// The system refused.
    #[error("cannot write `{}`", path.display())]
    Io {
        /// What.
        path: PathBuf,
        /// How another cache is named ([`Store::setting`]).
        setting: &'static str,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
    /// The lock of a blob cannot be had.
    #[error("cannot lock `{}`, which keeps two programs from writing one file", path.display())]
    Lock {
        /// The lock.
        path: PathBuf,
        /// How another cache is named ([`Store::setting`]).
        setting: &'static str,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
    /// The disk does not answer, or the daemon stops.
    #[error(transparent)]
    Disk(#[from] LaneError),
    /// Nobody waits any more.
    #[error("the download was given up, because nobody waits for it")]
    Abandoned,
    /// A task of the daemon died.
    #[error("the download died: this is a fault of weightsd, and its log says more")]
    Died,
}

impl Explain for FetchError {
    fn explain(&self) -> Explanation {
        match self {
            Self::Source(error) | Self::File { source: error, .. } => error.explain(),
            Self::WrongLength { file, .. } | Self::OtherBlob { file, .. } | Self::OtherCommit { file, .. } => {
                Explanation::new(
                    Reason::HubInconsistent,
                    file,
                    "the source contradicts itself: try again; if it stays so, the mirror or proxy in between is at fault",
                )
            }
            Self::Corrupt { file, .. } => Explanation::new(
                Reason::Corrupt,
                file,
                "it came twice like this and was thrown away: the mirror, proxy or disk in between is at fault",
            ),
            Self::NoSpace { path, setting, .. } | Self::DiskFull { path, setting, .. } => Explanation::new(
                Reason::NoSpace,
                path.display().to_string(),
                format!("make room, or name a cache on another disk with {setting}; what has come already is kept"),
            ),
            Self::NothingMatches { repo, .. } => {
                Explanation::new(Reason::FileNotFound, repo, "`weightsd resolve` lists the files")
            }
            Self::Snapshot(error) => error.explain(),
            Self::Lock { path, setting, source } if source::has_no_locks(source) => Explanation::new(
                Reason::FileRefused,
                path.display().to_string(),
                format!(
                    "its file system has no locks (flock): mount it with locks (NFS: `local_lock=flock`), or name a cache on \
                     another one with {setting}"
                ),
            ),
            Self::Lock { path, setting, source } | Self::Io { path, setting, source } => {
                disk::explain_write(path, source, &format!("name a cache of your own with {setting}"))
            }
            Self::Disk(error) => error.explain(),
            Self::Abandoned => Explanation::new(Reason::Abandoned, "", "ask again"),
            Self::Died => Explanation::new(Reason::Internal, "", "report it with the daemon's log"),
        }
    }
}

impl From<SnapshotError> for FetchError {
    fn from(error: SnapshotError) -> Self {
        Self::Snapshot(Arc::new(error))
    }
}

impl FetchError {
    /// Whether the listing and what the source sends do not fit together, so that one of them must be asked for again.
    #[must_use]
    pub fn is_contradiction(&self) -> bool {
        match self {
            Self::WrongLength { .. } | Self::OtherBlob { .. } | Self::OtherCommit { .. } | Self::Corrupt { .. } => true,
            Self::File { source, .. } => matches!(*source.problem, SourceProblem::NoFile { .. }),
            _ => false,
        }
    }

    /// The error of a file of this store.
    pub(super) fn io(store: &dyn Store, path: &Path) -> impl Fn(io::Error) -> Self + use<> {
        let (path, setting) = (path.to_owned(), store.setting());
        move |source| Self::Io { path: path.clone(), setting, source: Arc::new(source) }
    }
}
