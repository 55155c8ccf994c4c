//! The program in one file: from a model's name to a component.
//!
//! ```text
//! Selector -> ResolvedModel -> Snapshot -> Checkpoint -> Assembled -> Placed tensors -> Image    -> Component
//! (string)    commit pinned    files on    headers       names of     where each one    what had
//!                              disk        parsed        catalogue,   lies, what has    to be
//!                                                        audited      to be computed    computed
//! ```
//!
//! Stages never call each other; this file calls them in order. [`pin`] asks the hub which commit is meant, where
//! somebody must be asked. [`prepare`] is cheap and opens no weight file: it says which component is meant, or what is
//! missing, which [`fetch`] brings. [`open`] opens its files and plans; [`Planned::derive`] has computed what the plan says has to
//! be, and [`Planned::lend`] makes the component. `prepare` and `open` block, and run on threads that may.

mod adapters;
mod error;
mod planned;
mod request;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use weightsd_core::{
    assemble::Assembled,
    derive::{self, Conversion, Delta, MLX_VERSION, Setting},
    family,
    identity::{ComponentId, IdentityInputs},
    place::{self, Layout},
    source::Sources,
    spec::Commit,
    table::{Shard, Table},
};

use self::{adapters::PreparedAdapter, planned::metadata};
pub use self::{
    error::LoadError,
    planned::Planned,
    request::{Adapter, AuditPolicy, FloatWish, Needed, Others, Pinned, Request, Subject, Treatment, Verification},
};
use crate::{
    assembly::{Recipe, Tensors},
    checkpoint::{self, Checkpoint, ShardPool, Source},
    component::{Adapted, Timings},
    hub::{Hub, Patience, RepoStore},
    progress::{Phase, Step, Unwatched, Watcher},
    resolve::{self, Address, Choice, Pin, Places, ResolvedModel, Selector},
    snapshot::{
        Attestations, ComponentFiles, FetchReport, Fetcher, HashCandidate, HashCheck, OwnFiles, Remote, Scope,
        ShardFile, Snapshot, Verdict, Want, verify,
    },
};

/// A request of which it is known what it means: everything but the tensors.
#[derive(Debug)]
pub struct Prepared {
    /// Identity of the component.
    pub id: ComponentId,
    /// The model.
    pub model: Arc<ResolvedModel>,
    /// Paths that the answer depends on: as long as they stay as they are, so does [`Self::id`].
    pub dependencies: Vec<PathBuf>,
    files: ComponentFiles,
    overlay: Option<ComponentFiles>,
    adapters: Vec<PreparedAdapter>,
    recipe: Recipe,
    layout: Layout,
    conversion: Conversion,
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
    pub fn candidates(&self) -> Vec<HashCandidate> {
        self.all_files().flat_map(candidates).collect()
    }

    fn all_files(&self) -> impl Iterator<Item = &ComponentFiles> {
        let adapters = self.adapters.iter().map(|adapter| &adapter.files);
        std::iter::once(&self.files).chain(&self.overlay).chain(adapters)
    }

    /// The files that [`open`] will open.
    pub fn shards(&self) -> impl Iterator<Item = &Path> {
        self.all_files().flat_map(|files| &files.shards).map(|shard| shard.path.as_path())
    }
}

/// Finds out what `selector` names, and the commit that the cache knows for it. Blocks.
///
/// # Errors
/// [`LoadError::Resolve`].
pub fn address(selector: &Selector, places: &Places) -> Result<(Address, Option<Commit>), LoadError> {
    let address = resolve::address(selector, places)?;
    let known = match &address {
        Address::Hub(address) => address.last_known(),
        Address::Path(_) => None,
    };
    Ok((address, known))
}

/// The commit that a hub id means: the revision itself if it is one; else what the hub says; else, when the hub is away
/// and the cache has a `known` one, that, with a warning. `None` for what has no commit, and when only the cache may
/// answer and does not know.
///
/// # Errors
/// [`LoadError::Hub`].
pub async fn pin(
    address: &Address,
    known: Option<Commit>,
    offline: bool,
    hub: &Arc<Hub>,
) -> Result<Option<Pin>, LoadError> {
    let Address::Hub(address) = address else { return Ok(None) };
    if let Some(pin) = address.commit() {
        return Ok(Some(pin));
    }
    if offline || hub.settings().offline {
        return Ok(known.map(|commit| Pin { commit, warning: None }));
    }
    let patience = if known.is_some() { Patience::Brief } else { Patience::Full };
    match (hub.commit(&address.repo, &address.revision, patience).await, known) {
        (Ok(commit), _) => Ok(Some(Pin { commit, warning: None })),
        (Err(error), Some(commit)) if error.is_absence() => {
            let warning = format!(
                "the hub was not asked what `{}` means now, this is the commit last known ({error})",
                address.revision
            );
            tracing::warn!(repo = %address.repo, %commit, "{warning}");
            Ok(Some(Pin { commit, warning: Some(warning) }))
        }
        (Err(error), _) => Err(error.into()),
    }
}

/// Lets the cache know what a branch means, as the hub's other clients do. A cache that cannot be written to is no
/// obstacle. Blocks.
pub fn note(pinned: &Pinned) {
    let (Address::Hub(address), Some(pin)) = (&*pinned.address, &pinned.pin) else { return };
    let store = RepoStore::new(&address.cache, &address.repo);
    if let Err(error) = store.point(&address.revision, &pin.commit) {
        tracing::warn!(repo = %address.repo, revision = %address.revision, %error, "a ref cannot be written");
    }
}

/// Brings what is missing of a hub model.
///
/// # Errors
/// [`LoadError::Fetch`].
pub async fn fetch(
    pinned: &Pinned,
    want: Want,
    fetcher: &Arc<Fetcher>,
    progress: impl FnMut(&Step, usize),
) -> Result<Option<Arc<FetchReport>>, LoadError> {
    let (Address::Hub(address), Some(pin)) = (&*pinned.address, &pinned.pin) else { return Ok(None) };
    Ok(Some(fetcher.fetch(address, pin, want, progress).await?))
}

/// Lists the files of the model of `request`, as far as they are on this machine. Blocks.
///
/// # Errors
/// [`LoadError`].
pub fn prepare(request: &Request, subject: &Subject, pool: &ShardPool) -> Result<Prepared, LoadError> {
    let started = Instant::now();
    let choice =
        |selector: &Option<Selector>| selector.as_ref().map(|selector| selector.choice.clone()).unwrap_or_default();
    let base = subject.base.as_ref().map(|base| snapshot(base, &choice(&request.base), pool)).transpose()?;
    let snapshot = snapshot_as(&subject.model, &request.selector.choice, base.as_ref(), pool)?;
    let overlay =
        subject.overlay.as_ref().map(|overlay| overlay_files(overlay, &choice(&request.overlay))).transpose()?;
    let files = snapshot.component(&request.component)?;
    let recipe = Recipe::new(&snapshot, &files.site, &request.selector.spec, base.as_ref())?;
    let conversion = request.treatment.of(recipe.family, &request.component, request.layout);
    // Structures of words and numbers: there is nothing in them that JSON cannot say.
    let mut computed = serde_json::to_vec(&conversion).unwrap_or_default();
    computed.extend_from_slice(format!("\nmlx {MLX_VERSION}\n").as_bytes());
    let mut adapters = Vec::new();
    for (adapter, pinned) in request.adapters.iter().zip(&subject.adapters) {
        let (prepared, config) = PreparedAdapter::find(adapter, pinned)?;
        computed.extend_from_slice(format!("adapter {} {}\n", adapter.scale.to_bits(), config.len()).as_bytes());
        computed.extend_from_slice(&config);
        adapters.push(prepared);
    }
    let shard = |kind: &str, shard: &ShardFile| (format!("{kind}{}", shard.name), shard.content.clone());
    let own = files.shards.iter().map(|file| shard("", file));
    let others = overlay.iter().flat_map(|files| &files.shards).map(|file| shard("overlay ", file));
    let added = adapters.iter().flat_map(|adapter| &adapter.files.shards).map(|file| shard("adapter ", file));
    let shards: Vec<_> = own.chain(others).chain(added).collect();
    let id = ComponentId::of(&IdentityInputs {
        family: recipe.family.id(),
        component: &request.component,
        layout: request.layout,
        report_only: request.policy == AuditPolicy::ReportOnly,
        config: &recipe.fingerprint(),
        conversion: &computed,
        shards: &shards,
    });
    let mut dependencies: Vec<PathBuf> =
        snapshot.model.dependencies.iter().chain(&files.dependencies).cloned().collect();
    dependencies.extend(overlay.iter().flat_map(|files| files.dependencies.iter().cloned()));
    dependencies.extend(adapters.iter().flat_map(|adapter| adapter.files.dependencies.iter().cloned()));
    if let Some(base) = &base {
        dependencies.extend(base.model.dependencies.iter().cloned());
        dependencies.extend(base.facts.documents.keys().map(|name| base.files.path(name)));
    }
    Ok(Prepared {
        id,
        dependencies,
        missing_documents: !snapshot.missing_documents.is_empty(),
        model: Arc::new(snapshot.model),
        files,
        overlay,
        adapters,
        recipe,
        layout: request.layout,
        conversion,
        policy: request.policy,
        started,
        timings: Timings { resolve: started.elapsed(), ..Timings::default() },
    })
}

/// Whether what is needed of a model is on this machine. Blocks.
///
/// # Errors
/// [`LoadError`].
pub fn has(pinned: &Pinned, choice: &Choice, needed: Needed) -> Result<bool, LoadError> {
    match needed {
        Needed::Documents => {
            let snapshot = Snapshot::list(pinned.address.on_disk(pinned.pin.as_ref())?, choice)?;
            Ok(snapshot.missing_documents.is_empty())
        }
        Needed::RootWeights => overlay_files(pinned, choice).map(|_| true),
        Needed::Adapter => {
            let snapshot = Snapshot::list(pinned.address.on_disk(pinned.pin.as_ref())?, choice)?;
            snapshot.only_file()?;
            Ok(snapshot.missing_documents.is_empty())
        }
    }
}

/// The files of what is laid over a component.
fn overlay_files(overlay: &Pinned, choice: &Choice) -> Result<ComponentFiles, LoadError> {
    let snapshot = Snapshot::list(overlay.address.on_disk(overlay.pin.as_ref())?, choice)?;
    match snapshot.bare_file()? {
        Some(file) => Ok(snapshot.file(file)),
        None => Ok(snapshot.component(&snapshot.root_site()?.name)?),
    }
}

/// Lists the files of a model, as far as they are on this machine. Of a model that is one file the header is read, since
/// nothing else says what it holds. Blocks.
///
/// # Errors
/// [`LoadError`].
pub fn snapshot(model: &Pinned, choice: &Choice, pool: &ShardPool) -> Result<Snapshot, LoadError> {
    snapshot_as(model, choice, None, pool)
}

/// The same, of a model that is of the kind of `base`, where one is given: a file without a config has its components,
/// whatever their dimensions.
///
/// # Errors
/// [`LoadError`].
pub fn snapshot_as(
    model: &Pinned,
    choice: &Choice,
    base: Option<&Snapshot>,
    pool: &ShardPool,
) -> Result<Snapshot, LoadError> {
    let mut snapshot = Snapshot::list(model.address.on_disk(model.pin.as_ref())?, choice)?;
    if let Some(file) = snapshot.bare_file()? {
        let shard = pool.get_or_open(&file)?;
        let table = Table::of_file(shard.header.clone());
        let of_base = |base: &Snapshot| Some((base.family, family::locate_as(&table, base.family)?));
        if let Some((family, located)) = base.and_then(of_base).or_else(|| family::locate(&table)) {
            snapshot.adopt(&file.name, family, located);
        }
    }
    Ok(snapshot)
}

/// Compares files of a model with their hashes, and moves damaged ones aside. Blocks.
///
/// # Errors
/// When a file cannot be read or renamed, changes meanwhile, or nobody waits any more.
pub fn verify_files(
    model: &ResolvedModel,
    candidates: &[HashCandidate],
    (scope, own): (Scope, OwnFiles),
    attestations: &Attestations,
    watcher: &dyn Watcher,
) -> Result<Vec<Verdict>, LoadError> {
    let store = model.store();
    Ok(verify(candidates, HashCheck { store: store.as_ref(), attestations, scope, own }, watcher)?)
}

/// The files of `components`, or all files of the model that are on this machine, to be verified. Blocks.
///
/// # Errors
/// [`LoadError`].
pub fn candidates_of(snapshot: &Snapshot, components: &[String]) -> Result<Vec<HashCandidate>, LoadError> {
    if components.is_empty() {
        return Ok(snapshot.candidates());
    }
    let of = |name: &String| Ok(candidates(&snapshot.component(name)?));
    let all = components.iter().map(of).collect::<Result<Vec<_>, LoadError>>()?;
    Ok(all.into_iter().flatten().collect())
}

/// Audits a component where it is, from its headers alone.
///
/// # Errors
/// [`LoadError`].
pub async fn audit_remote(remote: &Remote, component: &str) -> Result<Audited, LoadError> {
    let found = remote.component(component).await?;
    let headers = remote.headers(&found).await?;
    let snapshot = &remote.snapshot;
    let metadata = headers.iter().flat_map(|(_, header)| header.metadata.clone()).collect();
    let mut names = Sources::default();
    let mut shards = Vec::with_capacity(headers.len());
    for (name, header) in &headers {
        shards.push(Shard { source: names.add(name.clone()), name, header: header.clone() });
    }
    let (table, remarks) = checkpoint::merge(component, shards, found.index.as_ref())?;
    let recipe = Recipe::new(snapshot, &found.site, &snapshot.model.to_string(), None)?;
    let own = Tensors { table: &table, metadata: &metadata, remarks };
    Ok(Audited { assembled: assemble(&recipe, &snapshot.model, own, None)?, files: names })
}

/// The weight files of a component.
fn candidates(files: &ComponentFiles) -> Vec<HashCandidate> {
    files.shards.iter().map(ShardFile::candidate).collect()
}

/// Opens what [`prepare`] found, audits it, and plans where its tensors come from.
///
/// # Errors
/// [`LoadError`].
pub fn open(prepared: Prepared, pool: &ShardPool, watcher: &dyn Watcher) -> Result<Planned, LoadError> {
    let mut timings = prepared.timings;
    let opening = Instant::now();
    let mut sources = Sources::default();
    let mut open = |files: &ComponentFiles| checkpoint::open(files, pool, watcher, &mut sources);
    let own = open(&prepared.files)?;
    let other = prepared.overlay.as_ref().map(&mut open).transpose()?;
    let adapters: Vec<Checkpoint> =
        prepared.adapters.iter().map(|adapter| open(&adapter.files)).collect::<Result<_, _>>()?;
    timings.open = opening.elapsed();

    let auditing = Instant::now();
    watcher.step(&Step { phase: Phase::Audit, ..Step::default() });
    let other_tensors = other.as_ref().map(Checkpoint::tensors);
    let mut assembled = assemble(&prepared.recipe, &prepared.model, own.tensors(), other_tensors)?;
    if prepared.policy == AuditPolicy::Strict && !assembled.report.is_clean() {
        return Err(LoadError::Audit(Box::new(assembled.report)));
    }
    let mut deltas: BTreeMap<String, Vec<Delta>> = BTreeMap::new();
    let mut adapted = Vec::new();
    for (adapter, opened) in prepared.adapters.iter().zip(adapters) {
        let of = (prepared.recipe.family, prepared.component());
        let planned = adapter.plan(&opened, of, &assembled)?;
        for (layer, delta) in planned.deltas {
            deltas.entry(layer).or_default().push(delta);
        }
        adapted.push(Adapted { scale: adapter.scale, report: planned.report });
    }
    let description = &assembled.description;
    let placed = place::place(&assembled.table, description.catalogue.as_ref(), &description.naming, prepared.layout)?;
    let (family, component) = (prepared.recipe.family, prepared.component());
    let quantises = |layer: &str| family.quantises(component, layer);
    let setting = Setting { quantises: &quantises, deltas, metadata: metadata(&prepared) };
    let derived = derive::plan(placed, &prepared.conversion, setting)
        .map_err(|source| LoadError::Derive { component: component.to_owned(), source })?;
    assembled.report.remarks.extend(derived.remarks);
    timings.audit = auditing.elapsed();
    let (tensors, derivation) = (derived.tensors, derived.derivation);
    Ok(Planned { sources, assembled, tensors, derivation, adapters: adapted, timings, prepared })
}

fn assemble(
    recipe: &Recipe,
    model: &ResolvedModel,
    own: Tensors<'_>,
    other: Option<Tensors<'_>>,
) -> Result<Assembled, LoadError> {
    let component = || recipe.site.name.clone();
    recipe.assemble(own, other).map_err(|source| LoadError::Assemble {
        component: component(),
        model: model.to_string(),
        source: Box::new(source),
    })
}

/// A component that was put together to be looked at.
#[derive(Debug)]
pub struct Audited {
    /// The component.
    pub assembled: Assembled,
    /// Its files, and those laid over it.
    pub files: Sources<String>,
}

/// Audits a component of `snapshot` from its headers. Blocks.
///
/// # Errors
/// [`LoadError`].
pub fn audit_component(
    snapshot: &Snapshot,
    component: &str,
    others: &Others,
    pool: &ShardPool,
) -> Result<Audited, LoadError> {
    let files = snapshot.component(component)?;
    let base = others.base.as_ref().map(|(base, choice)| self::snapshot(base, choice, pool)).transpose()?;
    let overlay = others.overlay.as_ref().map(|(overlay, choice)| overlay_files(overlay, choice)).transpose()?;
    let recipe = Recipe::new(snapshot, &files.site, &snapshot.model.to_string(), base.as_ref())?;
    let mut sources = Sources::default();
    let mut open = |files: &ComponentFiles| checkpoint::open(files, pool, &Unwatched, &mut sources);
    let own = open(&files)?;
    let other = overlay.as_ref().map(&mut open).transpose()?;
    let assembled = assemble(&recipe, &snapshot.model, own.tensors(), other.as_ref().map(Checkpoint::tensors))?;
    let own = files.shards.len();
    let name = |(number, source): (usize, &Source)| match number < own {
        true => source.file.name.clone(),
        false => source.file.path.display().to_string(),
    };
    Ok(Audited { assembled, files: sources.iter().enumerate().map(name).collect() })
}
