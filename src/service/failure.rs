//! One table from errors to what a caller gets: gRPC code, reason, resource, hint, and whether trying again may help.

use std::{error::Error, io, time::Duration};

use tonic::{Code, Status};
use weightsd_core::{
    assemble::AssembleError, derive::DeriveError, place::PlanError, select::SelectError, spec::SpecError,
};
use weightsd_proto::{
    rich_error,
    v1::{self, ErrorDetail, ErrorReason},
};

use super::convert;
use crate::{
    assembly::RecipeError,
    cache::AcquireError,
    checkpoint::CheckpointError,
    derive::{DeriveFailure, FailureKind},
    disk::is_full,
    hub::HubError,
    pipeline::LoadError,
    resolve::ResolveError,
    snapshot::{FetchError, RemoteError, SnapshotError, VerifyError},
};

/// What a caller gets instead of an answer.
#[derive(Debug, Clone)]
pub struct Failure {
    code: Code,
    reason: ErrorReason,
    message: String,
    resource: String,
    hint: String,
    retryable: bool,
    retry_after: Option<Duration>,
    audit: Option<Box<v1::AuditReport>>, // A failure is moved about more often than it has a report.
}

const SHORT_OF_SPACE: &str = "see the daemon's log, and whether the disk or the limit of open files is exhausted";
const PULL: &str = "it would be downloaded if the hub could be asked: `weightsd pull";

impl Failure {
    /// A failure of the request itself.
    #[must_use]
    pub fn invalid(field: &str, problem: &str, hint: &str) -> Self {
        let message = format!("`{field}` {problem}");
        Self::new(Code::InvalidArgument, ErrorReason::InvalidRequest, message, field, hint)
    }

    /// A failure with a code and a reason of its own.
    #[must_use]
    pub fn new(
        code: Code,
        reason: ErrorReason,
        message: impl Into<String>,
        resource: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            resource: resource.into(),
            hint: hint.into(),
            retryable: matches!(code, Code::Unavailable | Code::Aborted | Code::DeadlineExceeded),
            retry_after: None,
            audit: None,
        }
    }

    /// The sentence.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to do.
    #[must_use]
    pub fn hint(&self) -> &str {
        &self.hint
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        let detail = ErrorDetail {
            retry_after: failure.retry_after.and_then(convert::duration),
            reason: failure.reason.into(),
            resource: failure.resource,
            hint: failure.hint,
            retryable: failure.retryable,
            audit: failure.audit.map(|report| *report),
        };
        rich_error::encode(failure.code, failure.message, detail)
    }
}

/// An error and its causes in one sentence.
fn sentence(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

impl From<&AcquireError> for Failure {
    fn from(error: &AcquireError) -> Self {
        match error {
            AcquireError::Load(error) => Self::from(&**error),
            AcquireError::Deadline { operation, .. } => Self::new(
                Code::DeadlineExceeded,
                ErrorReason::Deadline,
                error.to_string(),
                *operation,
                "the disk or network file system is slow: try again, or raise `load_deadline` in the configuration file",
            ),
            AcquireError::Died { operation } => Self::new(
                Code::Internal,
                ErrorReason::Internal,
                error.to_string(),
                *operation,
                "report it with the log",
            ),
            AcquireError::Stopping => Self::new(
                Code::Unavailable,
                ErrorReason::ShuttingDown,
                error.to_string(),
                "",
                "connect again once the daemon is back",
            ),
        }
    }
}

impl From<&LoadError> for Failure {
    fn from(error: &LoadError) -> Self {
        let message = sentence(error);
        let new = |code, reason, resource: String, hint: &str| Self::new(code, reason, message.clone(), resource, hint);
        match error {
            LoadError::Resolve(error) => resolve(error, message),
            LoadError::Snapshot(error) => snapshot(error, message),
            LoadError::Hub(error) => hub(error, message),
            LoadError::Fetch(error) => fetch(error, message),
            LoadError::Verify(error) => match error {
                VerifyError::Abandoned => new(Code::Aborted, ErrorReason::Internal, String::new(), "ask again"),
                VerifyError::Changed { path } => new(
                    Code::Aborted,
                    ErrorReason::FileChanged,
                    path.display().to_string(),
                    "somebody writes to it; try again later",
                ),
                VerifyError::Io { path, source } => io_failure(path.display().to_string(), source, message),
            },
            LoadError::Remote(error) => match error {
                RemoteError::Fetch(error) => fetch(error, message),
                RemoteError::Header { file, source, .. } => {
                    new(Code::FailedPrecondition, ErrorReason::InvalidCheckpoint, file.clone(), source.hint())
                }
            },
            LoadError::Corrupt { name, .. } => new(
                Code::DataLoss,
                ErrorReason::Corrupt,
                name.clone(),
                "it is fetched again when the hub may be asked; if it happens again, look at the disk",
            ),
            LoadError::Recipe(error) => match error {
                RecipeError::Config(_) => new(
                    Code::FailedPrecondition,
                    ErrorReason::InvalidConfig,
                    String::new(),
                    "the configuration is damaged or of another kind of model: fetch it again, or name a `base`",
                ),
                RecipeError::Snapshot(error) => snapshot(error, message),
                RecipeError::OtherFamily { .. } => new(
                    Code::InvalidArgument,
                    ErrorReason::InvalidRequest,
                    "base".to_owned(),
                    "name a base model of the same kind",
                ),
            },
            LoadError::Assemble { component, source, .. } => {
                let (code, reason) = match **source {
                    AssembleError::NoPart { .. } => (Code::NotFound, ErrorReason::ComponentNotFound),
                    AssembleError::Config(_) | AssembleError::Infer(_) | AssembleError::Declaration(_) => {
                        (Code::FailedPrecondition, ErrorReason::InvalidConfig)
                    }
                    AssembleError::Rewrite(_) | AssembleError::Overlay(_) | AssembleError::OtherModel { .. } => {
                        (Code::FailedPrecondition, ErrorReason::InvalidCheckpoint)
                    }
                };
                new(code, reason, component.clone(), source.hint())
            }
            LoadError::Checkpoint(error) => checkpoint(error, message),
            LoadError::Audit(report) => Self {
                audit: Some(Box::new(convert::audit_report(report))),
                ..new(
                    Code::FailedPrecondition,
                    ErrorReason::AuditFailed,
                    report.component.clone(),
                    "`weightsd audit` lists the names; `audit_policy = REPORT_ONLY` lends it all the same",
                )
            },
            LoadError::Plan(error) => match error {
                PlanError::NameCollision { name, .. } => new(
                    Code::FailedPrecondition,
                    ErrorReason::InvalidCheckpoint,
                    name.clone(),
                    "the checkpoint mixes two naming schemes; ask for `layout = LAYOUT_SOURCE`",
                ),
            },
            LoadError::AdapterConfig(_) => new(
                Code::FailedPrecondition,
                ErrorReason::InvalidAdapter,
                String::new(),
                "an adapter's config says how strong it is: fetch it again, or remove it where the tensors say that",
            ),
            LoadError::Adapter(refused) => new(
                Code::FailedPrecondition,
                ErrorReason::InvalidAdapter,
                refused.adapter.clone(),
                "`weightsd inspect <adapter>` shows its keys; it must be made for this model and this component",
            ),
            LoadError::NoAdapterTargets { component, .. } => new(
                Code::FailedPrecondition,
                ErrorReason::InvalidAdapter,
                component.clone(),
                "adapters are known for Z-Image's transformer and text encoder, and for language models",
            ),
            LoadError::Derive { component, source } => new(
                match source {
                    DeriveError::Torn { .. } => Code::FailedPrecondition,
                    _ => Code::InvalidArgument,
                },
                ErrorReason::CannotConvert,
                component.clone(),
                match source {
                    DeriveError::Pattern { .. } | DeriveError::NothingMatches { .. } => {
                        "patterns match names of layers without `.weight`; `weightsd inspect` lists them"
                    }
                    DeriveError::NothingToQuantise { .. } => "name the layers: `quantise.only`, or `--only`",
                    DeriveError::Ragged { .. } => "choose a smaller group size, or except the layer",
                    DeriveError::ReservedName { .. } | DeriveError::NameCollision { .. } => {
                        "ask for the weights as they are stored, or rename the tensor"
                    }
                    DeriveError::Torn { .. } | DeriveError::NoLayer { .. } | DeriveError::NoFloats { .. } => {
                        "the checkpoint lacks it: `weightsd audit` says what it has"
                    }
                },
            ),
            LoadError::Derivation { component, source } => derivation(source, message.clone(), component),
        }
    }
}

fn derivation(failure: &DeriveFailure, message: String, component: &str) -> Failure {
    use ErrorReason as Reason;
    let new = |code, reason, hint: &str| Failure::new(code, reason, message.clone(), component, hint);
    if failure.is_full() {
        let hint = "free some space, or have images deleted with `weightsd evict --images`; \
            `image_budget` and `image_folder` say how much and where";
        return new(Code::ResourceExhausted, Reason::NoSpace, hint);
    }
    match failure {
        DeriveFailure::Changed { .. } | DeriveFailure::Failed { kind: FailureKind::Changed, .. } => new(
            Code::Aborted,
            Reason::FileChanged,
            "somebody writes to the model's files: try again when they are done",
        ),
        DeriveFailure::Stopping => {
            new(Code::Unavailable, Reason::ShuttingDown, "connect again once the daemon is back")
        }
        DeriveFailure::Image(_) | DeriveFailure::NoRoom(_) | DeriveFailure::Failed { kind: FailureKind::Io, .. } => {
            new(Code::Internal, Reason::Io, "see the daemon's log, and who may write to its cache")
        }
        DeriveFailure::Failed { .. } | DeriveFailure::Start(_) | DeriveFailure::Silent => {
            new(Code::Internal, Reason::DerivationFailed, "report it with the log")
        }
        DeriveFailure::Died { .. } => Failure {
            retryable: true,
            ..new(
                Code::Internal,
                Reason::DerivationFailed,
                "it may have been killed for want of memory: see the system's log, and try again",
            )
        },
    }
}

fn resolve(error: &ResolveError, message: String) -> Failure {
    use ErrorReason as Reason;
    let new = |code, reason, resource: String, hint: &str| Failure::new(code, reason, message.clone(), resource, hint);
    match error {
        ResolveError::Spec(error) => {
            let reason = match error {
                SpecError::TwoRevisions { .. } | SpecError::RevisionOfPath { .. } => Reason::InvalidRequest,
                _ => Reason::InvalidSpec,
            };
            new(Code::InvalidArgument, reason, "model.spec".to_owned(), error.hint())
        }
        ResolveError::RelativePath { path } => new(
            Code::InvalidArgument,
            Reason::InvalidSpec,
            path.clone(),
            "give an absolute path, or set `working_directory`",
        ),
        ResolveError::NotAbsolute { field, .. } => {
            new(Code::InvalidArgument, Reason::InvalidRequest, format!("model.{field}"), "give an absolute path")
        }
        ResolveError::Home { path, .. } => {
            new(Code::InvalidArgument, Reason::InvalidSpec, path.clone(), "give an absolute path")
        }
        ResolveError::PathNotFound { path } => new(
            Code::NotFound,
            Reason::PathNotFound,
            path.display().to_string(),
            "check the spelling; the daemon sees the same file system as you do, but not your shell's variables",
        ),
        ResolveError::NotAModel { path, .. } => new(
            Code::InvalidArgument,
            Reason::NotAModel,
            path.display().to_string(),
            "give a model's directory or one `.safetensors` file",
        ),
        ResolveError::NoHubCache => new(
            Code::FailedPrecondition,
            Reason::RepoNotCached,
            String::new(),
            "set `hub_cache` in the request or in the configuration file",
        ),
        ResolveError::RepoNotCached { repo, .. } => new(
            Code::NotFound,
            Reason::RepoNotCached,
            repo.to_string(),
            &format!("{PULL} {repo}`; if it lies in another cache, name that cache in `hub_cache`"),
        ),
        ResolveError::RevisionNotCached { repo, revision, .. } => new(
            Code::NotFound,
            Reason::RevisionNotCached,
            format!("{repo}@{revision}"),
            &format!("{PULL} {repo} --revision {revision}`; or ask for one that is cached"),
        ),
        ResolveError::BadRef { path, .. } => new(
            Code::FailedPrecondition,
            Reason::RevisionNotCached,
            path.display().to_string(),
            "the cache is damaged: remove the file and fetch the revision again",
        ),
        ResolveError::Io { path, source } => io_failure(path.display().to_string(), source, message.clone()),
    }
}

fn snapshot(error: &SnapshotError, message: String) -> Failure {
    use ErrorReason as Reason;
    let new = |code, reason, resource: String, hint: &str| Failure::new(code, reason, message.clone(), resource, hint);
    match error {
        SnapshotError::TooManyFiles { path }
        | SnapshotError::TooManyComponents { path }
        | SnapshotError::TooManyDocuments { path } => {
            new(Code::InvalidArgument, Reason::NotAModel, path.display().to_string(), "name the model's own directory")
        }
        SnapshotError::TooLarge { path, .. } => new(
            Code::FailedPrecondition,
            Reason::InvalidConfig,
            path.display().to_string(),
            "the file is damaged or was swapped: fetch it again",
        ),
        SnapshotError::NoSuchComponent { component, .. } => {
            new(Code::NotFound, Reason::ComponentNotFound, component.clone(), "ask for one of the components listed")
        }
        SnapshotError::Incomplete { component, .. } => new(
            Code::FailedPrecondition,
            Reason::SnapshotIncomplete,
            component.clone(),
            "fetch the missing files again",
        ),
        SnapshotError::Preferred { path, source } => {
            new(Code::FailedPrecondition, Reason::AmbiguousWeights, path.display().to_string(), source.hint())
        }
        SnapshotError::Pattern { pattern, .. } => new(
            Code::InvalidArgument,
            Reason::InvalidRequest,
            pattern.clone(),
            "a pattern is a glob such as `transformer/*` or `*.{json,safetensors}`",
        ),
        SnapshotError::Select(error) => match error {
            SelectError::NoVariant { folder, .. } => new(
                Code::NotFound,
                Reason::SnapshotIncomplete,
                folder.clone(),
                "leave the variant out, or name one that is listed",
            ),
            SelectError::Nothing { folder } => new(
                Code::FailedPrecondition,
                Reason::SnapshotIncomplete,
                folder.clone(),
                "the component's weights were not fetched, or lie elsewhere",
            ),
            SelectError::MissingShards { folder, .. } => new(
                Code::FailedPrecondition,
                Reason::SnapshotIncomplete,
                folder.clone(),
                "fetch the missing files again",
            ),
            SelectError::Ambiguous { folder, .. } => new(
                Code::FailedPrecondition,
                Reason::AmbiguousWeights,
                folder.clone(),
                "choose with `patterns` or `variant`, or name the file that you mean by its path",
            ),
        },
        SnapshotError::Index { path, .. } => new(
            Code::FailedPrecondition,
            Reason::IndexMismatch,
            path.display().to_string(),
            "the index is damaged: fetch it again",
        ),
        SnapshotError::Io { path, source } => io_failure(path.display().to_string(), source, message.clone()),
    }
}

fn checkpoint(error: &CheckpointError, message: String) -> Failure {
    use ErrorReason as Reason;
    let new = |code, reason, resource: String, hint: &str| Failure::new(code, reason, message.clone(), resource, hint);
    match error {
        CheckpointError::Header { path, source } => {
            new(Code::FailedPrecondition, Reason::InvalidCheckpoint, path.display().to_string(), source.hint())
        }
        CheckpointError::Table { component, .. } => new(
            Code::FailedPrecondition,
            Reason::IndexMismatch,
            component.clone(),
            "files of different downloads were mixed: fetch the component again",
        ),
        CheckpointError::Changed { path } => new(
            Code::Aborted,
            Reason::FileChanged,
            path.display().to_string(),
            "somebody writes to it; try again later",
        ),
        CheckpointError::Abandoned => new(Code::Aborted, Reason::Internal, String::new(), "ask again"),
        CheckpointError::Io { path, source } => io_failure(path.display().to_string(), source, message.clone()),
    }
}

fn hub(error: &HubError, message: String) -> Failure {
    use ErrorReason as Reason;
    let new = |code, reason, resource: &str, hint: &str| Failure::new(code, reason, message.clone(), resource, hint);
    let failure = match error {
        HubError::Offline { .. } => new(
            Code::FailedPrecondition,
            Reason::Offline,
            "",
            "allow it (`offline` in the request or configuration, HF_HUB_OFFLINE), or ask for what is cached",
        ),
        HubError::Unreachable { host, .. } => new(
            Code::Unavailable,
            Reason::HubUnreachable,
            host,
            "check the network and `hub_endpoint`; what has come already is kept, and the rest follows at the next try",
        ),
        HubError::Failing { host, .. } => new(
            Code::Unavailable,
            Reason::HubFailing,
            host,
            "the fault is on the other side: try again later; what has come already is kept",
        ),
        HubError::StorageRefused { host, .. } => new(
            Code::Unavailable,
            Reason::HubFailing,
            host,
            "the address that the hub gave may have expired: try again",
        ),
        HubError::NoSuchPart { host } => {
            new(Code::Unavailable, Reason::HubFailing, host, "the host, or a proxy in between, is at fault: try again")
        }
        HubError::RateLimited { .. } => {
            let hint = "wait, or log in: the hub grants more to accounts (`hf auth login`)";
            new(Code::ResourceExhausted, Reason::RateLimited, "", hint)
        }
        HubError::TokenMissing { repo } => new(
            Code::Unauthenticated,
            Reason::TokenMissing,
            repo,
            "check the spelling; for a private repository log in with `hf auth login`, or set HF_TOKEN for the daemon",
        ),
        HubError::TokenRefused { .. } => new(
            Code::Unauthenticated,
            Reason::TokenRefused,
            "",
            "the token may be expired or revoked: log in again with `hf auth login`",
        ),
        HubError::Gated { page, .. } => {
            let hint = format!("visit {page} to ask for access, with the account of the token");
            new(Code::PermissionDenied, Reason::Gated, page, &hint)
        }
        HubError::Forbidden { repo, .. } => {
            new(Code::PermissionDenied, Reason::Forbidden, repo, "the token's account needs the right to read it")
        }
        HubError::NoRepo { repo } => {
            new(Code::NotFound, Reason::RepoNotFound, repo, "check the spelling; it may be private: log in to see it")
        }
        HubError::NoRevision { repo, revision } => new(
            Code::NotFound,
            Reason::RevisionNotFound,
            &format!("{repo}@{revision}"),
            "name a branch, tag or commit that the repository has",
        ),
        HubError::NoFile { path, .. } => {
            new(Code::NotFound, Reason::FileNotFound, path, "the repository may have changed: ask again")
        }
        HubError::Malformed { host, .. } => {
            new(Code::Unavailable, Reason::HubMalformed, host, "is `hub_endpoint` the address of a Hugging Face hub?")
        }
        HubError::Listing { repo, .. } => {
            new(Code::Unavailable, Reason::HubMalformed, repo, "is `hub_endpoint` the address of a Hugging Face hub?")
        }
        HubError::NotAHubId { spec } => {
            new(Code::InvalidArgument, Reason::InvalidSpec, spec, "give an id such as `Tongyi-MAI/Z-Image-Turbo`")
        }
        HubError::Unusable { .. } => {
            new(Code::FailedPrecondition, Reason::HubMalformed, "", "check `hub_endpoint` in the configuration")
        }
    };
    let retryable = failure.retryable || error.is_transient();
    Failure { retry_after: error.retry_after(), retryable, ..failure }
}

fn fetch(error: &FetchError, message: String) -> Failure {
    use ErrorReason as Reason;
    let new = |code, reason, resource: String, hint: &str| Failure::new(code, reason, message.clone(), resource, hint);
    match error {
        FetchError::Hub(error) => hub(error, message),
        FetchError::File { source, .. } => hub(source, message),
        FetchError::WrongLength { file, .. }
        | FetchError::OtherBlob { file, .. }
        | FetchError::OtherCommit { file, .. } => new(
            Code::Unavailable,
            Reason::HubInconsistent,
            file.clone(),
            "the hub contradicts itself: try again; if it stays so, the mirror or proxy in between is at fault",
        ),
        FetchError::Corrupt { file, .. } => new(
            Code::DataLoss,
            Reason::Corrupt,
            file.clone(),
            "it came twice like this and was thrown away: the mirror, proxy or disk in between is at fault",
        ),
        FetchError::NoSpace { path, .. } => new(
            Code::ResourceExhausted,
            Reason::NoSpace,
            path.display().to_string(),
            "make room, or name another cache in `hub_cache`; what has come already is kept",
        ),
        FetchError::NothingMatches { repo, .. } => {
            new(Code::NotFound, Reason::FileNotFound, repo.clone(), "`weightsd resolve` lists the files")
        }
        FetchError::Snapshot(error) => snapshot(error, message),
        FetchError::Io { path, source } => io_failure(path.display().to_string(), source, message),
        FetchError::Abandoned => new(Code::Aborted, Reason::Internal, String::new(), "ask again"),
        FetchError::Died => new(Code::Internal, Reason::Internal, String::new(), "report it with the log"),
    }
}

fn io_failure(path: String, source: &io::Error, message: String) -> Failure {
    if is_full(source) {
        let hint = "make room; what has come already is kept";
        return Failure::new(Code::ResourceExhausted, ErrorReason::NoSpace, message, path, hint);
    }
    let (code, hint) = match source.kind() {
        io::ErrorKind::NotFound => (Code::NotFound, "the file was there a moment ago: try again"),
        io::ErrorKind::PermissionDenied => (Code::FailedPrecondition, "make it readable for the daemon's user"),
        _ if source.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            (Code::FailedPrecondition, "links at this path lead in a circle: remove them")
        }
        // A socket cannot even be opened.
        _ if source.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) => {
            (Code::FailedPrecondition, "replace it by a regular file")
        }
        io::ErrorKind::InvalidInput => (Code::FailedPrecondition, "replace it by a regular file"),
        _ => (Code::Unavailable, SHORT_OF_SPACE),
    };
    Failure::new(code, ErrorReason::Io, message, path, hint)
}
