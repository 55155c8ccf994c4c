//! Audits and verifications: they use the stages of a load, and lend and keep nothing. A component that is not on this
//! machine is audited from the headers that its source sends.

use std::sync::Arc;

use weightsd_core::{
    assemble::Assembled,
    family::ComponentSite,
    ingredients::{Ingredients, Role},
    source::Sources,
    table::Shard,
};

use super::{AcquireError, FINDING, LoadError, Pinned, Tools, Trip, bare, find, plan};
use crate::{
    assembly::{Recipe, Tensors},
    checkpoint::{self, Checkpoint, ShardPool, SourceFile},
    lanes::MayBlock,
    progress::{Step, Unwatched, Watcher},
    resolve::{Address, ResolvedModel},
    snapshot::{Attestations, HashCandidate, HashCheck, OwnFiles, Remote, Scope, ShardFile, Snapshot, Verdict, verify},
};

/// A component that was assembled for an audit.
#[derive(Debug)]
pub struct Audited {
    /// The family that it is audited as.
    pub family: &'static str,
    /// The component.
    pub assembled: Assembled,
    /// Names of the files that its tensors lie in.
    pub files: Sources<String>,
}

/// Audits a component of `snapshots` from its headers.
///
/// # Errors
/// When files are missing or cannot be used. A component that does not match its catalogue is no error.
pub fn audit(
    snapshots: &Ingredients<Arc<Snapshot>>,
    component: &str,
    pool: &ShardPool,
    may: &MayBlock<'_>,
) -> Result<Audited, LoadError> {
    let files = snapshots.as_ref().try_map(|role, it| find::component_files(role, it, component).map(Arc::new))?;
    let (own, base) = (&snapshots.own, snapshots.base.as_deref());
    let recipe = Recipe::new(own, &files.own.site, &own.model.to_string(), base)?;
    let plan::Opened { checkpoints, sources, .. } = plan::open(&files, pool, &Unwatched, may)?;
    let overlay = checkpoints.overlay.as_ref().map(Checkpoint::tensors);
    let mut assembled = plan::put_together(&recipe, &own.model, checkpoints.own.tensors(), overlay)?;
    assembled.report.remarks.extend(own.remark_on(&files.own.site));
    assembled.report.remarks.extend(assembled.report.left_out());
    let is_own = |source: &SourceFile| files.own.shards.iter().any(|shard| shard.path == source.file.path);
    let name = |source: &SourceFile| match is_own(source) {
        true => source.file.name.clone(),
        false => source.file.path.display().to_string(),
    };
    Ok(Audited { family: own.family.id(), assembled, files: sources.iter().map(name).collect() })
}

/// Audits a component where it is at its source, from its headers alone, and from the configs of `base`.
///
/// # Errors
/// When headers do not come or cannot be used.
pub async fn audit_remote(remote: &Remote, component: &str, base: Option<&Snapshot>) -> Result<Audited, LoadError> {
    let found = remote.component(component).await?;
    let headers = remote.headers(&found).await?;
    let snapshot = &*remote.snapshot;
    let metadata = headers.iter().flat_map(|(_, header)| header.metadata.clone()).collect();
    let mut names = Sources::default();
    let mut shards = Vec::with_capacity(headers.len());
    for (name, header) in &headers {
        shards.push(Shard { source: names.add(name.clone()), name, header: header.clone() });
    }
    let (table, mut remarks) = checkpoint::merge(component, shards, found.index.as_ref())?;
    remarks.extend(snapshot.remark_on(&found.site));
    let told = bare::told(snapshot, &found.site, &table, &metadata, base);
    let snapshot = told.as_ref().unwrap_or(snapshot);
    let is_it = |site: &&ComponentSite| site.folder == found.site.folder;
    let site = snapshot.sites().iter().find(is_it).unwrap_or(&found.site);
    let recipe = Recipe::new(snapshot, site, &snapshot.model.to_string(), base)?;
    let own = Tensors { table: &table, metadata: &metadata, remarks };
    let mut assembled = plan::put_together(&recipe, &snapshot.model, own, None)?;
    assembled.report.remarks.extend(assembled.report.left_out());
    Ok(Audited { family: snapshot.family.id(), assembled, files: names })
}

/// Lists a model at its source without downloading its weights. `None` for a path, and when the source may not be asked.
///
/// # Errors
/// When the source's answers cannot be used.
pub async fn remote(pinned: &Pinned, tools: &Tools) -> Result<Option<Remote>, AcquireError> {
    let (Address::Repo(address), Some(pin)) = (&*pinned.address, &pinned.pin) else { return Ok(None) };
    if !tools.may_ask(pinned.network) {
        return Ok(None);
    }
    let remote = Remote::look(&tools.fetcher, address, pin, &pinned.choice).await;
    Ok(Some(remote.map_err(LoadError::from)?))
}

/// Compares files of a model with their hashes, and moves damaged ones aside.
///
/// # Errors
/// When a file cannot be read or moved, or changes meanwhile, and when nobody waits any more.
pub fn verify_files(
    model: &ResolvedModel,
    candidates: &[HashCandidate],
    (scope, own): (Scope, OwnFiles),
    attestations: &Attestations,
    watcher: &dyn Watcher,
    may: &MayBlock<'_>,
) -> Result<Vec<Verdict>, LoadError> {
    let store = model.store().map(AsRef::as_ref);
    let watcher = Alive { watcher, may };
    Ok(verify(candidates, HashCheck { store, attestations, scope, own }, &watcher)?)
}

/// Passes steps on, and says with each piece that the work is alive.
struct Alive<'a> {
    watcher: &'a dyn Watcher,
    may: &'a MayBlock<'a>,
}

impl Watcher for Alive<'_> {
    fn step(&self, step: &Step) {
        self.watcher.step(step);
    }

    fn is_abandoned(&self) -> bool {
        self.may.alive();
        self.watcher.is_abandoned()
    }
}

/// The files of `components`, or all files of the model that are on this machine, to be verified.
///
/// # Errors
/// When a component is not here as a whole.
pub fn candidates(
    snapshot: &Snapshot,
    components: &[String],
    _: &MayBlock<'_>,
) -> Result<Vec<HashCandidate>, LoadError> {
    if components.is_empty() {
        return Ok(snapshot.candidates());
    }
    let of = |name: &String| -> Result<Vec<HashCandidate>, LoadError> {
        Ok(snapshot.component(name)?.shards.iter().map(ShardFile::candidate).collect())
    };
    Ok(components.iter().map(of).collect::<Result<Vec<_>, _>>()?.concat())
}

/// Lists the files of an ingredient that an audit needs beside the model, and fetches those that are missing.
///
/// # Errors
/// When a file is not on this machine and cannot be fetched.
pub async fn bring(
    role: Role,
    pinned: &Pinned,
    trip: &Trip,
    tools: &Arc<Tools>,
) -> Result<Arc<Snapshot>, AcquireError> {
    let mut may_fetch = pinned.is_fetchable(tools);
    loop {
        let asked = pinned.clone();
        let list = move |tools: &Tools, may: &MayBlock<'_>| -> Result<_, LoadError> {
            let snapshot = find::snapshot(&asked, None, &tools.pool, may)?;
            find::component_files(role, &snapshot, "")?;
            Ok(snapshot)
        };
        match tools.stage(trip, FINDING, list).await? {
            Ok(snapshot) if !may_fetch || snapshot.missing_documents.is_empty() => return Ok(Arc::new(snapshot)),
            Err(error) if !may_fetch || !error.is_missing() => return Err(error.into()),
            Ok(_) | Err(_) => {}
        }
        may_fetch = false;
        find::fetch(pinned, find::want(role, "", pinned), tools, &|_, _| {}).await?;
    }
}
