//! The program in one file: from a model's name to a component.
//!
//! ```text
//! Selector -> ResolvedModel -> Snapshot -> Checkpoint -> AuditReport -> Placed tensors -> Component
//! (string)    commit pinned    files on    headers       expected       where each one
//!                              disk        parsed        vs. found      lies
//! ```
//!
//! Stages never call each other; this file calls them in order. [`prepare`] is cheap and opens no weight file: it says
//! which component is meant. [`load`] opens it. Both block, and run on threads that may.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Instant,
};

use weightsd_core::{
    audit::{AuditReport, audit},
    family::{ConfigError, Description},
    identity::{ComponentId, IdentityInputs},
    plan::{self, Layout, PlanError},
    spec::SpecError,
};

use crate::{
    checkpoint::{self, CheckpointError, ShardPool},
    component::{Component, Timings},
    resolve::{self, Places, ResolveError, ResolvedModel, Selector},
    snapshot::{ComponentFiles, Snapshot, SnapshotError},
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
}

impl Prepared {
    /// The component's name.
    #[must_use]
    pub fn component(&self) -> &str {
        &self.files.site.name
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
    /// Its files cannot be used.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
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

impl From<SpecError> for LoadError {
    fn from(error: SpecError) -> Self {
        Self::Resolve(error.into())
    }
}

/// Resolves the model of `request` and lists its files.
///
/// # Errors
/// [`LoadError`].
pub fn prepare(request: &Request, places: &Places) -> Result<Prepared, LoadError> {
    let started = Instant::now();
    let snapshot = snapshot(&request.selector, places)?;
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
        timings: Timings { resolve: started.elapsed(), ..Timings::default() },
    })
}

/// Resolves a model and lists its files.
///
/// # Errors
/// [`LoadError`].
pub fn snapshot(selector: &Selector, places: &Places) -> Result<Snapshot, LoadError> {
    Ok(Snapshot::list(resolve::resolve(selector, places)?)?)
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
    Ok(Component {
        id: prepared.id,
        name: prepared.files.site.name,
        family: prepared.family,
        layout: prepared.layout,
        model: prepared.model,
        config_json: if config.is_null() { String::new() } else { config.to_string() },
        segments: checkpoint.shards,
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
