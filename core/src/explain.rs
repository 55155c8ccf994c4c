//! What an error means to its reader: why it happened, what it is about, what to do, and who has to act.
//!
//! Each error implements [`Explain`] beside its definition, so its sentence and its hint are read together. The service
//! turns an [`Explanation`] into a gRPC status; the command line prints it and takes its exit code from the [`Tier`].

use std::{borrow::Cow, error::Error, time::Duration};

/// An error that says more than its sentence.
pub trait Explain: Error {
    /// Why it happened, what it is about, and what to do.
    fn explain(&self) -> Explanation;
}

/// What an error says besides its sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// Why it happened.
    pub reason: Reason,
    /// What it is about: a path, a spec, a component, a tensor, a field. May be empty.
    pub resource: String,
    /// A step that can help.
    pub hint: Cow<'static, str>,
    /// When the same request may be made again; `None` when nobody said.
    pub retry_after: Option<Duration>,
}

impl Explanation {
    /// An explanation without a time.
    pub fn new(reason: Reason, resource: impl Into<String>, hint: impl Into<Cow<'static, str>>) -> Self {
        Self { reason, resource: resource.into(), hint: hint.into(), retry_after: None }
    }
}

/// An error and its causes in one sentence.
#[must_use]
pub fn sentence(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Who has to act, and so how an error is logged and which exit code it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tier {
    /// The request cannot be met as it is written. Its author has to change it.
    Request,
    /// What the request names is not as it must be: a file, a config, an account, a setting, a disk.
    Condition,
    /// Something is away, busy or changing. The same request may succeed later.
    Unavailable,
    /// A fault of weightsd itself.
    Bug,
}

/// Why something failed. Finer than the reasons on the wire where two cases of one reason differ in their gRPC code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A field of the request cannot be used.
    InvalidRequest,
    /// The spec is neither a path nor a Hugging Face id.
    InvalidSpec,
    /// The path does not exist.
    PathNotFound,
    /// The path is neither a model directory nor a `.safetensors` file.
    NotAModel,
    /// The model has no component of that name.
    ComponentNotFound,
    /// The component has no weights of that variant.
    VariantNotFound,
    /// No component of that id is loaded.
    NotLoaded,
    /// What was asked for cannot be computed from a component like this one.
    CannotConvert,
    /// The hub has no such repository.
    RepoNotFound,
    /// The repository has no such revision.
    RevisionNotFound,
    /// The commit has no such file, or nothing matches the patterns.
    FileNotFound,

    /// No Hugging Face cache is known.
    NoHubCache,
    /// The repository is not in the cache.
    RepoNotCached,
    /// The repository is cached, and the revision is not.
    RevisionNotCached,
    /// The cache does not say which commit the revision is.
    BadRef,
    /// Files of the snapshot are missing.
    SnapshotIncomplete,
    /// Several sets of weights may be meant.
    AmbiguousWeights,
    /// A configuration file cannot be read as its family's.
    InvalidConfig,
    /// A weight file is damaged or breaks the safetensors format.
    InvalidCheckpoint,
    /// The index and the shards contradict each other.
    IndexMismatch,
    /// The audit refused the component.
    AuditFailed,
    /// An adapter cannot be applied.
    InvalidAdapter,
    /// A slot of a quantised layer is missing, so nothing can be computed from it.
    TornLayer,
    /// Something must be computed, and this machine lacks MLX.
    NoMlx,
    /// The component is held by leases.
    InUse,
    /// A content is not what its hash says.
    Corrupt,
    /// The disk has no room.
    NoSpace,
    /// There is no such card, or no driver for it.
    NoCard,
    /// The memory of the card has no room.
    NoVram,
    /// The file is gone.
    FileVanished,
    /// The system refuses access to the file, or it is of a kind that cannot be read.
    FileRefused,
    /// The daemon's own files cannot be read or written.
    OwnFiles,
    /// Something is missing, and the hub may not be asked for it.
    Offline,
    /// The hub cannot be asked as it is configured.
    HubUnusable,
    /// The repository is private or does not exist, and there is no token.
    TokenMissing,
    /// The hub does not accept the token.
    TokenRefused,
    /// The owner of the repository must let the account in.
    Gated,
    /// The hub forbids access.
    Forbidden,
    /// The daemon's settings do not allow that model.
    NotAllowed,

    /// Reading or writing failed for a reason that may pass.
    Io,
    /// A file changed while it was being used.
    FileChanged,
    /// There are as many of these as there may be.
    Busy,
    /// The operation took longer than it may.
    Deadline,
    /// Nobody waited for the work any more, so it was given up.
    Abandoned,
    /// The daemon is stopping.
    ShuttingDown,
    /// The hub, or the host to which it redirects, cannot be reached.
    HubUnreachable,
    /// The hub answers with a failure of its own.
    HubFailing,
    /// The hub wants fewer requests.
    RateLimited,
    /// An answer of the hub cannot be used.
    HubMalformed,
    /// The hub sends another file, or another length, than it announced.
    HubInconsistent,
    /// The process that computes was ended from outside.
    ComputingDied,
    /// A card, its driver, or the process that fills it failed.
    CardFailed,

    /// The process that computes failed.
    ComputingFailed,
    /// A fault of the daemon.
    Internal,
}

impl Reason {
    /// Who has to act.
    #[must_use]
    pub fn tier(self) -> Tier {
        match self {
            Self::InvalidRequest
            | Self::InvalidSpec
            | Self::PathNotFound
            | Self::NotAModel
            | Self::ComponentNotFound
            | Self::VariantNotFound
            | Self::NotLoaded
            | Self::CannotConvert
            | Self::RepoNotFound
            | Self::RevisionNotFound
            | Self::FileNotFound => Tier::Request,
            Self::NoHubCache
            | Self::RepoNotCached
            | Self::RevisionNotCached
            | Self::BadRef
            | Self::SnapshotIncomplete
            | Self::AmbiguousWeights
            | Self::InvalidConfig
            | Self::InvalidCheckpoint
            | Self::IndexMismatch
            | Self::AuditFailed
            | Self::InvalidAdapter
            | Self::TornLayer
            | Self::NoMlx
            | Self::InUse
            | Self::Corrupt
            | Self::NoSpace
            | Self::NoCard
            | Self::NoVram
            | Self::FileVanished
            | Self::FileRefused
            | Self::OwnFiles
            | Self::Offline
            | Self::HubUnusable
            | Self::TokenMissing
            | Self::TokenRefused
            | Self::Gated
            | Self::Forbidden
            | Self::NotAllowed => Tier::Condition,
            Self::Io
            | Self::FileChanged
            | Self::Busy
            | Self::Deadline
            | Self::Abandoned
            | Self::ShuttingDown
            | Self::HubUnreachable
            | Self::HubFailing
            | Self::RateLimited
            | Self::HubMalformed
            | Self::HubInconsistent
            | Self::ComputingDied
            | Self::CardFailed => Tier::Unavailable,
            Self::ComputingFailed | Self::Internal => Tier::Bug,
        }
    }

    /// Whether the same request may succeed later without a change.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        self.tier() == Tier::Unavailable
    }
}
