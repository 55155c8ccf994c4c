//! The program in one file: from a model's name to a component.
//!
//! ```text
//! Selector -> ResolvedModel -> Snapshot -> Checkpoint -> AuditReport -> Placed tensors -> Component
//! (string)    commit pinned    files on    headers       expected       where each one
//!                              disk        parsed        vs. found      lies
//! ```
//!
//! Stages never call each other; this file calls them in order. [`pin`] asks the hub which commit is meant, where
//! somebody must be asked. [`prepare`] is cheap and opens no weight file: it says which component is meant, or what is
//! missing, which [`fetch`] brings. [`load`] opens the component. `prepare` and `load` block, and run on threads that
//! may.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use weightsd_core::{
    audit::{AuditReport, audit},
    family::{ConfigError, Description},
    identity::{ComponentId, IdentityInputs},
    plan::{self, Layout, PlanError},
    spec::{Commit, SpecError},
};

use crate::{
    checkpoint::{self, CheckpointError, ShardPool},
    component::{Component, Timings},
    hub::{Hub, HubError, Patience, RepoStore},
    resolve::{self, Choice, Pin, Places, ResolveError, ResolvedModel, Selector, Target},
    snapshot::{
        Attestations, ComponentFiles, FetchError, FetchReport, Fetcher, FileProgress, Remote, RemoteError, Scope,
        Snapshot, SnapshotError, Suspect, Verdict, VerifyError, Want, verify,
    },
};

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Request {
    /// The model.
    pub selector: Selector,
    /// The component's name.
    pub component: String,
    /// The layout.
    pub layout: Layout,
    /// What a failed audit does.
    pub policy: AuditPolicy,
    /// When the content is compared with its hashes.
    pub verification: Verification,
}

/// When files that were on this machine before are hashed. What the daemon downloads is hashed as it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verification {
    /// Once, after they are lent; holders are told if something is wrong.
    Afterwards,
    /// Once, before they are lent.
    Before,
}

/// What is done with a component that does not match its catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AuditPolicy {
    /// It is refused.
    Strict,
    /// It is lent all the same.
    ReportOnly,
}

/// A request of which it is known what it means: everything but the tensors.
#[derive(Debug)]
pub struct Prepared {
    /// Identity of the component.
    pub id: ComponentId,
    /// The model.
    pub model: Arc<ResolvedModel>,
    /// Paths that the answer depends on: as long as they stay as they are, so does [`Self::id`].
    pub witnesses: Vec<PathBuf>,
    family: &'static str,
    files: ComponentFiles,
    description: Description,
    layout: Layout,
    policy: AuditPolicy,
    started: Instant,
    timings: Timings,
    missing_documents: bool,
}

impl Prepared {
    /// The component's name.
    #[must_use]
    pub fn component(&self) -> &str {
        &self.files.site.name
    }

    /// Whether there are small files that the commit has and this machine has not, so that the answer may be another one
    /// when they come.
    #[must_use]
    pub fn is_provisional(&self) -> bool {
        self.missing_documents
    }

    /// The weight files, to be verified.
    #[must_use]
    pub fn suspects(&self) -> Vec<Suspect> {
        suspects(&self.files)
    }

    /// The files that [`load`] will open.
    pub fn shards(&self) -> impl Iterator<Item = &Path> {
        self.files.shards.iter().map(|shard| shard.path.as_path())
    }
}

/// What a load is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Phase {
    /// Finding the model and its files.
    #[default]
    Resolve,
    /// Downloading what is missing.
    Download,
    /// Comparing files with their hashes.
    Verify,
    /// Opening shards and reading headers.
    Open,
    /// Auditing and placing.
    Audit,
}

/// How far a load is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Step {
    /// What it is doing.
    pub phase: Phase,
    /// The file it works on, below the model's directory.
    pub file: String,
    /// Files done.
    pub files_done: usize,
    /// Files in all; 0 while unknown.
    pub files_total: usize,
    /// Bytes done.
    pub bytes_done: u64,
    /// Bytes in all; 0 while unknown.
    pub bytes_total: u64,
    /// Bytes that come in a second; 0 while unknown.
    pub bytes_per_second: u64,
    /// How long it will take; `None` while unknown.
    pub remaining: Option<Duration>,
    /// Files on their way.
    pub files: Vec<FileProgress>,
}

/// Whoever watches a load.
pub trait Watcher: Sync {
    /// Called when something moved. Must not block.
    fn step(&self, step: &Step);
    /// Whether the result is of no interest any more.
    fn is_abandoned(&self) -> bool;
}

/// A watcher that does not look.
#[derive(Debug, Clone, Copy)]
pub struct Unwatched;

impl Watcher for Unwatched {
    fn step(&self, _: &Step) {}
    fn is_abandoned(&self) -> bool {
        false
    }
}

/// Why a load failed: one variant a stage.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The model was not found.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// The hub does not say what it means.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// Its files cannot be used.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// Its files do not come.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// It cannot be looked at where it is.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// Its files were not verified.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// A file is not what its name says, and it cannot be fetched again.
    #[error("`{name}` is damaged: its hash is {found}, expected {expected}; it was moved to `{}`", aside.display())]
    Corrupt {
        /// The file, below the model's directory.
        name: String,
        /// By its name.
        expected: String,
        /// By its content.
        found: String,
        /// Where it is now.
        aside: PathBuf,
    },
    /// A config is not its family's.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The shards cannot be used.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The audit refused it.
    #[error("`{}` does not match its catalogue: {}", .0.component, .0.summary())]
    Audit(Box<AuditReport>),
    /// It cannot be lent in this layout.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

impl LoadError {
    /// Whether something is not on this machine that a hub may have.
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
            Self::Config(ConfigError::Missing { .. }) => true,
            _ => false,
        }
    }
}

impl From<SpecError> for LoadError {
    fn from(error: SpecError) -> Self {
        Self::Resolve(error.into())
    }
}

/// Finds out what `selector` names, and the commit that the cache knows for it. Blocks.
///
/// # Errors
/// [`LoadError::Resolve`].
pub fn target(selector: &Selector, places: &Places) -> Result<(Target, Option<Commit>), LoadError> {
    let target = resolve::target(selector, places)?;
    let known = match &target {
        Target::Hub(target) => target.last_known(),
        Target::Path(_) => None,
    };
    Ok((target, known))
}

/// The commit that a hub id means: the revision itself if it is one; else what the hub says; else, when the hub is away
/// and the cache has a `known` one, that, with a warning. `None` for what has no commit, and when only the cache may
/// answer and does not know.
///
/// # Errors
/// [`LoadError::Hub`].
pub async fn pin(
    target: &Target,
    known: Option<Commit>,
    offline: bool,
    hub: &Arc<Hub>,
) -> Result<Option<Pin>, LoadError> {
    let Target::Hub(target) = target else { return Ok(None) };
    if let Some(pin) = target.commit() {
        return Ok(Some(pin));
    }
    if offline || hub.settings().offline {
        return Ok(known.map(|commit| Pin { commit, warning: None }));
    }
    let patience = if known.is_some() { Patience::Brief } else { Patience::Full };
    match (hub.commit(&target.repo, &target.revision, patience).await, known) {
        (Ok(commit), _) => Ok(Some(Pin { commit, warning: None })),
        (Err(error), Some(commit)) if error.is_absence() => {
            let warning = format!(
                "the hub was not asked what `{}` means now, this is the commit last known ({error})",
                target.revision
            );
            tracing::warn!(repo = %target.repo, %commit, "{warning}");
            Ok(Some(Pin { commit, warning: Some(warning) }))
        }
        (Err(error), _) => Err(error.into()),
    }
}

/// Lets the cache know what a branch means, as the hub's other clients do. A cache that cannot be written to is no
/// obstacle. Blocks.
pub fn note(target: &Target, pin: Option<&Pin>) {
    let (Target::Hub(target), Some(pin)) = (target, pin) else { return };
    let store = RepoStore::new(&target.cache, &target.repo);
    if let Err(error) = store.point(&target.revision, &pin.commit) {
        tracing::warn!(repo = %target.repo, revision = %target.revision, %error, "a ref cannot be written");
    }
}

/// Brings what is missing of a hub model.
///
/// # Errors
/// [`LoadError::Fetch`].
pub async fn fetch(
    target: &Target,
    pin: Option<&Pin>,
    want: Want,
    fetcher: &Arc<Fetcher>,
    progress: impl FnMut(&Step, usize),
) -> Result<Option<Arc<FetchReport>>, LoadError> {
    let (Target::Hub(target), Some(pin)) = (target, pin) else { return Ok(None) };
    Ok(Some(fetcher.fetch(target, pin, want, progress).await?))
}

/// Lists the files of the model of `request`, as far as they are on this machine. Blocks.
///
/// # Errors
/// [`LoadError`].
pub fn prepare(request: &Request, target: &Target, pin: Option<&Pin>) -> Result<Prepared, LoadError> {
    let started = Instant::now();
    let snapshot = snapshot(target, pin, &request.selector.choice)?;
    let files = snapshot.component(&request.component)?;
    let description = snapshot.family.describe(&files.site, &snapshot.facts)?;
    let config = files.site.config.as_ref().and_then(|path| snapshot.facts.documents.get(path));
    let shards: Vec<_> = files.shards.iter().map(|shard| (shard.name.clone(), shard.content.clone())).collect();
    let id = ComponentId::of(&IdentityInputs {
        family: snapshot.family.id(),
        component: &request.component,
        layout: request.layout,
        report_only: request.policy == AuditPolicy::ReportOnly,
        config: config.map_or(&[], Vec::as_slice),
        shards: &shards,
    });
    let witnesses = snapshot.model.witnesses.iter().chain(&files.witnesses).cloned().collect();
    Ok(Prepared {
        id,
        witnesses,
        family: snapshot.family.id(),
        model: Arc::new(snapshot.model),
        files,
        description,
        layout: request.layout,
        policy: request.policy,
        started,
        missing_documents: !snapshot.missing_documents.is_empty(),
        timings: Timings { resolve: started.elapsed(), ..Timings::default() },
    })
}

/// Lists the files of a model, as far as they are on this machine. Blocks.
///
/// # Errors
/// [`LoadError`].
pub fn snapshot(target: &Target, pin: Option<&Pin>, choice: &Choice) -> Result<Snapshot, LoadError> {
    Ok(Snapshot::list(target.on_disk(pin)?, choice)?)
}

/// Compares weight files with their hashes; what is not what its name says is moved aside. Blocks.
///
/// # Errors
/// [`LoadError::Verify`].
pub fn verify_files(
    model: &ResolvedModel,
    suspects: &[Suspect],
    scope: Scope,
    attestations: &Attestations,
    watcher: &dyn Watcher,
) -> Result<Vec<Verdict>, LoadError> {
    Ok(verify(suspects, scope, model.store().as_ref(), attestations, watcher)?)
}

/// The files of `components`, or all files of the model that are on this machine, to be verified. Blocks.
///
/// # Errors
/// [`LoadError`].
pub fn suspects_of(snapshot: &Snapshot, components: &[String]) -> Result<Vec<Suspect>, LoadError> {
    if components.is_empty() {
        return Ok(snapshot.suspects());
    }
    let of = |name: &String| Ok(suspects(&snapshot.component(name)?));
    let all = components.iter().map(of).collect::<Result<Vec<_>, LoadError>>()?;
    Ok(all.into_iter().flatten().collect())
}

/// Audits a component where it is, from its headers alone.
///
/// # Errors
/// [`LoadError`].
pub async fn audit_remote(remote: &Remote, component: &str) -> Result<AuditReport, LoadError> {
    let found = remote.component(component).await?;
    let headers = remote.headers(&found).await?;
    let snapshot = &remote.snapshot;
    let description = snapshot.family.describe(&found.site, &snapshot.facts)?;
    let table = found.table(headers);
    let (table, remarks) =
        table.map_err(|source| CheckpointError::Table { component: component.to_owned(), source })?;
    Ok(audit(component, &table, description.catalogue.as_ref(), remarks))
}

/// The weight files of a component.
fn suspects(files: &ComponentFiles) -> Vec<Suspect> {
    let suspect = |shard: &crate::snapshot::ShardFile| Suspect {
        name: shard.name.clone(),
        path: shard.path.clone(),
        blob: shard.blob(),
    };
    files.shards.iter().map(suspect).collect()
}

/// Opens what [`prepare`] found.
///
/// # Errors
/// [`LoadError`].
pub fn load(prepared: Prepared, pool: &ShardPool, watcher: &dyn Watcher) -> Result<Component, LoadError> {
    let mut timings = prepared.timings;
    let opening = Instant::now();
    let checkpoint = checkpoint::open(&prepared.files, pool, watcher)?;
    timings.open = opening.elapsed();

    let auditing = Instant::now();
    watcher.step(&Step { phase: Phase::Audit, ..Step::default() });
    let catalogue = prepared.description.catalogue.as_ref();
    let report = audit(&prepared.files.site.name, &checkpoint.table, catalogue, checkpoint.remarks);
    if prepared.policy == AuditPolicy::Strict && !report.is_clean() {
        return Err(LoadError::Audit(Box::new(report)));
    }
    let tensors = plan::place(&checkpoint.table, catalogue, &prepared.description.naming, prepared.layout)?;
    timings.audit = auditing.elapsed();

    tracing::info!(
        id = %prepared.id, model = %prepared.model, component = prepared.files.site.name, tensors = tensors.len(),
        took = ?prepared.started.elapsed(), "component loaded"
    );
    let config = &prepared.description.config;
    let suspects = suspects(&prepared.files);
    Ok(Component {
        id: prepared.id,
        name: prepared.files.site.name,
        family: prepared.family,
        layout: prepared.layout,
        model: prepared.model,
        config_json: if config.is_null() { String::new() } else { config.to_string() },
        segments: checkpoint.shards,
        suspects,
        tensors,
        audit: report,
        timings,
        encoded_pages: OnceLock::new(),
    })
}

/// Audits a component of `snapshot` from its headers.
///
/// # Errors
/// [`LoadError`].
pub fn audit_component(snapshot: &Snapshot, component: &str, pool: &ShardPool) -> Result<AuditReport, LoadError> {
    let files = snapshot.component(component)?;
    let description = snapshot.family.describe(&files.site, &snapshot.facts)?;
    let checkpoint = checkpoint::open(&files, pool, &Unwatched)?;
    Ok(audit(component, &checkpoint.table, description.catalogue.as_ref(), checkpoint.remarks))
}
