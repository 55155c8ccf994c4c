//! Why a load failed, or a request for a component. Each stage has an error of its own; here they become one.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use weightsd_core::{
    adapter::{AdapterConfigError, AdapterRefused},
    assemble::AssembleError,
    audit::AuditReport,
    card::CardId,
    derive::{CannotConvert, Wish},
    explain::{Explain, Explanation, Reason},
    family::{self, ConfigError},
    identity::ComponentId,
    place::PlanError,
    spec::SpecError,
};

use crate::{
    assembly::RecipeError,
    checkpoint::CheckpointError,
    derive::ComputeFailed,
    lanes::LaneError,
    resolve::ResolveError,
    snapshot::{FetchError, RemoteError, SnapshotError, VerifyError},
    source::SourceError,
    vram::VramFailed,
};

/// Why a load failed: one variant a stage.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The model was not found.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// The source does not say which commit is meant.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A path, where something that can be downloaded is wanted.
    #[error("`{spec}` is a path, and only what a source has can be downloaded")]
    NotDownloadable {
        /// The spec.
        spec: String,
    },
    /// Its files cannot be used.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// Files could not be fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// Its files do not come, and those of another commit are here.
    #[error("`{wanted}` cannot be fetched, though `{here}` is here whole")]
    NotFetched {
        /// Repository and commit that are wanted.
        wanted: String,
        /// Repository and commit that are on this machine.
        here: String,
        /// Why the files do not come.
        #[source]
        source: Box<LoadError>,
    },
    /// It cannot be audited where it is on the hub.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// Its files could not be compared with their hashes.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// A file is not what its name says, and it cannot be fetched again.
    #[error("`{name}` is not what it should be: its hash is {found}, expected {expected}; {}", fate(aside.as_deref()))]
    Corrupt {
        /// The file, below the model's directory.
        name: String,
        /// By its name.
        expected: String,
        /// By its content.
        found: String,
        /// Where it was moved; `None` when it was left where it is.
        aside: Option<PathBuf>,
    },
    /// The shards cannot be used.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The audit refused it.
    #[error("{}", .0.fault())]
    Audit(Box<AuditReport>),
    /// Its layers are in a format that the modules of layout MLX do not have, and nothing makes them plain.
    #[error("MLX cannot use {}", .0.refusal)]
    Foreign(Box<AuditReport>),
    /// Nothing says how the component is put together.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// Its tensors do not fit together.
    #[error("`{component}` of {model} cannot be put together")]
    Assemble {
        /// The component.
        component: String,
        /// The model.
        model: String,
        /// Why.
        #[source]
        source: Box<AssembleError>,
    },
    /// It cannot be lent in this layout.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Nothing says what the modules of that program call its tensors.
    #[error("what the modules of {layout} call the tensors of `{component}` is not known for the family `{family}`")]
    NoNames {
        /// The component.
        component: String,
        /// The family.
        family: &'static str,
        /// The layout.
        layout: &'static str,
    },
    /// An adapter's config cannot be used.
    #[error(transparent)]
    AdapterConfig(#[from] AdapterConfigError),
    /// An adapter cannot be applied.
    #[error(transparent)]
    Adapter(#[from] AdapterRefused),
    /// The family knows no layers that adapters change.
    #[error("adapters for `{component}` of the family `{family}` are not known, so `{adapter}` cannot be applied")]
    NoAdapterTargets {
        /// The component.
        component: String,
        /// The family.
        family: &'static str,
        /// The adapter.
        adapter: String,
    },
    /// The conversion has no meaning for the component.
    #[error("`{component}` cannot be converted as requested")]
    Derive {
        /// The component.
        component: String,
        /// Why not.
        #[source]
        source: CannotConvert,
    },
    /// It is not in the memory of the card.
    #[error("`{component}` is not on the card {card}")]
    Card {
        /// The component.
        component: String,
        /// The card.
        card: CardId,
        /// Why not.
        #[source]
        source: Box<VramFailed>,
    },
    /// The worker did not make the image.
    #[error("`{component}` was not computed")]
    ComputeFailed {
        /// The component.
        component: String,
        /// Why not.
        #[source]
        source: Box<ComputeFailed>,
    },
}

impl Explain for LoadError {
    fn explain(&self) -> Explanation {
        match self {
            Self::Resolve(error) => error.explain(),
            Self::Source(error) => error.explain(),
            Self::NotDownloadable { spec } => {
                Explanation::new(Reason::InvalidSpec, spec, "give a Hugging Face id such as `Tongyi-MAI/Z-Image-Turbo`")
            }
            Self::Snapshot(error) => error.explain(),
            Self::Fetch(error) => error.explain(),
            Self::NotFetched { here, source, .. } => {
                let explanation = source.explain();
                let hint = format!("ask for `{here}` to load what is here; or: {}", explanation.hint);
                Explanation { hint: hint.into(), ..explanation }
            }
            Self::Remote(error) => error.explain(),
            Self::Verify(error) => error.explain(),
            Self::Corrupt { name, aside, .. } => {
                let hint = match aside {
                    Some(_) => {
                        "it is fetched again when its source may be asked; if it happens again, look at the disk"
                    }
                    None => "if you changed it, load it without `--verify`; if not, move it away and fetch it again",
                };
                Explanation::new(Reason::Corrupt, name, hint)
            }
            Self::Checkpoint(error) => error.explain(),
            Self::Audit(report) => {
                let hint = "`weightsd audit` lists the names; `--report-only` (`audit_policy = REPORT_ONLY`) lends it all the same";
                Explanation::new(Reason::AuditFailed, &report.component, hint)
            }
            Self::Foreign(report) => {
                let hint = "layout SOURCE (`--layout source`) lends the tensors as they are stored; so does a load that only \
                            reports what it finds (`--report-only`)";
                Explanation::new(Reason::AuditFailed, &report.component, hint)
            }
            Self::Recipe(error) => error.explain(),
            Self::Assemble { component, source, .. } => Explanation { resource: component.clone(), ..source.explain() },
            Self::Plan(error) => error.explain(),
            Self::NoNames { component, .. } => {
                let hint = "ask for the published names (`--layout source`, LAYOUT_SOURCE)";
                Explanation::new(Reason::CannotConvert, component, hint)
            }
            Self::AdapterConfig(error) => error.explain(),
            Self::Adapter(error) => error.explain(),
            Self::NoAdapterTargets { component, .. } => {
                let hint = format!("adapters are known for {}", family::adapted());
                Explanation::new(Reason::InvalidAdapter, component, hint)
            }
            Self::Derive { component, source } => Explanation { resource: component.clone(), ..source.explain() },
            Self::Card { card, source, .. } => Explanation { resource: card.to_string(), ..source.explain() },
            Self::ComputeFailed { component, source } => {
                Explanation { resource: component.clone(), ..source.explain() }
            }
        }
    }
}

impl LoadError {
    /// The report, when the audit refused the component.
    #[must_use]
    pub fn audit(&self) -> Option<&AuditReport> {
        match self {
            Self::Audit(report) | Self::Foreign(report) => Some(report),
            _ => None,
        }
    }

    /// The failure of an image of `component`.
    pub(super) fn computing(component: &str, failed: ComputeFailed) -> Self {
        Self::ComputeFailed { component: component.to_owned(), source: Box::new(failed) }
    }

    /// `component` is not in the memory of `card`.
    #[must_use]
    pub fn card(component: &str, card: CardId, failed: VramFailed) -> Self {
        Self::Card { component: component.to_owned(), card, source: Box::new(failed) }
    }

    /// Whether the dtype that a request names is one that some tensors cannot have.
    #[must_use]
    pub fn is_unmet_dtype(&self) -> bool {
        matches!(self, Self::Derive { source: CannotConvert::Opaque { wish: Wish::Cast, .. }, .. })
    }

    /// Whether the error is that something is not on this machine, so that a source may have it.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        match self {
            Self::Resolve(error) => {
                matches!(error, ResolveError::RepoNotCached { .. } | ResolveError::RevisionNotCached { .. })
            }
            Self::Snapshot(error) => matches!(
                error,
                SnapshotError::Incomplete { .. } | SnapshotError::NoSuchComponent { .. } | SnapshotError::Select(_)
            ),
            Self::Recipe(RecipeError::Config(ConfigError::Missing { .. })) => true,
            _ => false,
        }
    }
}

impl LoadError {
    /// Whether a damaged small file or header may be the cause.
    #[must_use]
    pub fn may_be_damage(&self) -> bool {
        match self {
            Self::Snapshot(error) | Self::Recipe(RecipeError::Snapshot(error)) => is_damage(error),
            Self::Fetch(FetchError::Snapshot(error)) => is_damage(error),
            Self::Recipe(RecipeError::Config(_)) | Self::AdapterConfig(_) => true,
            Self::Checkpoint(error) => matches!(error, CheckpointError::Header { .. }),
            _ => false,
        }
    }

    /// The file that cannot be used, where the error knows one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Snapshot(error) | Self::Recipe(RecipeError::Snapshot(error)) => damaged(error),
            Self::Fetch(FetchError::Snapshot(error)) => damaged(error),
            Self::Checkpoint(CheckpointError::Header { path, .. }) => Some(path),
            _ => None,
        }
    }
}

fn is_damage(error: &SnapshotError) -> bool {
    damaged(error).is_some()
}

/// The small file that cannot be used.
fn damaged(error: &SnapshotError) -> Option<&Path> {
    match error {
        SnapshotError::Damaged { path, .. } | SnapshotError::Index { path, .. } => Some(path),
        _ => None,
    }
}

/// Why a request got no component.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AcquireError {
    /// A stage failed.
    #[error(transparent)]
    Load(Arc<LoadError>),
    /// A disk did not answer in time.
    #[error(transparent)]
    Disk(LaneError),
    /// A task of the daemon died.
    #[error("{operation} died: this is a fault of weightsd, and its log says more")]
    Died {
        /// Which.
        operation: &'static str,
    },
    /// The caller has a component, and what it asks for is another one by now.
    #[error("what was loaded as {wanted} is {found} by now: its files, or what is computed from them, have changed")]
    Another {
        /// The id of the caller's component.
        wanted: ComponentId,
        /// What the request means now.
        found: ComponentId,
    },
    /// The daemon stops.
    #[error("weightsd is stopping")]
    Stopping,
}

impl Explain for AcquireError {
    fn explain(&self) -> Explanation {
        match self {
            Self::Load(error) => error.explain(),
            Self::Disk(error) => error.explain(),
            Self::Died { operation } => {
                Explanation::new(Reason::Internal, *operation, "report it with the daemon's log")
            }
            Self::Another { wanted, .. } => {
                let hint = "load it again for what it is now; what is mapped keeps its bytes, unless somebody wrote to its files";
                Explanation::new(Reason::NotLoaded, wanted.to_string(), hint)
            }
            Self::Stopping => Explanation::new(Reason::ShuttingDown, "", "connect again once the daemon is back"),
        }
    }
}

impl From<LaneError> for AcquireError {
    fn from(error: LaneError) -> Self {
        match error {
            LaneError::Stopping => Self::Stopping,
            LaneError::Died { operation } => Self::Died { operation },
            error @ LaneError::Late { .. } => Self::Disk(error),
        }
    }
}

impl From<LoadError> for AcquireError {
    fn from(error: LoadError) -> Self {
        Self::Load(Arc::new(error))
    }
}

impl AcquireError {
    /// The report, when the audit refused the component.
    #[must_use]
    pub fn audit(&self) -> Option<&AuditReport> {
        match self {
            Self::Load(error) => error.audit(),
            _ => None,
        }
    }

    /// Whether the work stopped because nobody waited for it any more.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        let Self::Load(error) = self else { return false };
        match &**error {
            LoadError::Card { source, .. } => matches!(**source, VramFailed::Abandoned),
            error => matches!(
                error,
                LoadError::Checkpoint(CheckpointError::Abandoned) | LoadError::Verify(VerifyError::Abandoned)
            ),
        }
    }
}

impl From<SpecError> for LoadError {
    fn from(error: SpecError) -> Self {
        Self::Resolve(error.into())
    }
}

fn fate(aside: Option<&Path>) -> String {
    aside.map_or_else(|| "it was left where it is".to_owned(), |aside| format!("it was moved to `{}`", aside.display()))
}
