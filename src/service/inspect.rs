//! `Resolve` and `Audit`: what a spec means and whether its components are whole, without lending or keeping anything.
//! Models on this machine are read here, others at their source.

use std::{error::Error, sync::Arc};

use weightsd_core::{
    explain::sentence,
    family::GENERIC,
    ingredients::{Ingredients, Role},
    listing::Listed,
};
use weightsd_proto::v1::{
    AuditRequest, AuditResponse, ComponentFiles, ModelConfig, ModelFile, ResolveRequest, ResolveResponse,
};

use super::{Context, Failure, messages, request};
use crate::{
    lanes::MayBlock,
    pipeline::{
        self, AcquireError, LoadError, Pinned, Tools, Trip,
        look::{self, Audited},
    },
    resolve::{Address, Selector, WithoutVariant},
    snapshot::{Remote, RemoteComponent, Snapshot, SnapshotError},
};

pub(super) async fn resolve(context: &Context, request: ResolveRequest) -> Result<ResolveResponse, Failure> {
    let selector = request::selector(request.model)?;
    // A shutdown waits for the answer.
    let _token = context.daemon.tasks().token();
    let tools = context.cache.tools();
    let spec = selector.spec.clone();
    let trip = tools.trip([&selector]).await.map_err(|error| Failure::from(&error))?;
    let way = Way { tools, trip: &trip };
    let model = Whereabouts::find(way, selector, &Beside::default()).await.map_err(|error| Failure::from(&error))?;
    let mut components = Vec::new();
    for site in model.snapshot().sites() {
        components.push(model.component(way, &site.name).await);
    }
    let snapshot = model.snapshot();
    let configs = snapshot.family.configs(&snapshot.facts);
    Ok(ResolveResponse {
        model: Some(messages::model(&snapshot.model)),
        family: snapshot.family.id().to_owned(),
        components,
        configs: configs.into_iter().map(|(name, config)| ModelConfig { name, json: config.to_string() }).collect(),
        known: snapshot.family.name(Some(&spec), &snapshot.facts).as_ref().map(messages::known),
        inspection: snapshot.located().map(messages::inspection),
    })
}

pub(super) async fn audit(context: &Context, request: AuditRequest) -> Result<AuditResponse, Failure> {
    let mut selector = request::selector(request.model)?;
    let mut names = request::components(request.components)?;
    if names.is_empty() {
        selector.choice.without_variant = WithoutVariant::Plain;
    }
    let base = request.base.map(|base| request::selector(Some(base))).transpose()?;
    let overlay = request.overlay.map(|overlay| request::selector(Some(overlay))).transpose()?;
    let _token = context.daemon.tasks().token();
    let tools = context.cache.tools();
    let named = [Some(&selector), base.as_ref(), overlay.as_ref()].into_iter().flatten();
    let trip = tools.trip(named).await.map_err(|error| Failure::from(&error))?;
    let way = Way { tools, trip: &trip };
    let beside = Beside::bring(base, overlay, way).await.map_err(|error| Failure::from(&error))?;
    let model = Whereabouts::find(way, selector, &beside).await.map_err(|error| Failure::from(&error))?;
    if names.is_empty() {
        names = model.snapshot().sites().iter().map(|site| site.name.clone()).collect();
    }
    if names.is_empty() {
        return Err(Failure::from(&AcquireError::from(LoadError::from(model.snapshot().nothing()))));
    }
    let mut reports = Vec::new();
    for name in &names {
        reports.push(model.audit(way, name, &beside).await.map_err(|error| Failure::from(&error))?);
    }
    // Headers may have told more than the listing.
    let told = reports.iter().map(|report| report.family).find(|family| *family != GENERIC);
    Ok(AuditResponse {
        model: Some(messages::model(&model.snapshot().model)),
        family: told.unwrap_or_else(|| model.snapshot().family.id()).to_owned(),
        reports: reports.iter().map(|report| messages::audited(report, request.full_lists)).collect(),
    })
}

/// What is said of an audit of headers alone.
const WITHOUT_OVERLAY: &str =
    "the model's weights are not on this machine, so the overlay is not laid over them: this is the model by itself";

/// What a request works with, and its trip.
#[derive(Clone, Copy)]
struct Way<'a> {
    tools: &'a Arc<Tools>,
    trip: &'a Trip,
}

/// The models beside the one that is audited.
#[derive(Clone, Default)]
struct Beside {
    base: Option<Arc<Snapshot>>,
    overlay: Option<Arc<Snapshot>>,
}

impl Beside {
    async fn bring(
        base: Option<Selector>,
        overlay: Option<Selector>,
        Way { tools, trip }: Way<'_>,
    ) -> Result<Self, AcquireError> {
        let mut beside = Self::default();
        for (role, selector, found) in
            [(Role::Base, base, &mut beside.base), (Role::Overlay, overlay, &mut beside.overlay)]
        {
            if let Some(selector) = selector {
                *found = Some(look::bring(role, &pipeline::pinned(&selector, trip, tools).await?, trip, tools).await?);
            }
        }
        Ok(beside)
    }
}

/// Where a model is.
enum Whereabouts {
    /// The listing and the small files are on this machine. Some weights may not be.
    Here { snapshot: Arc<Snapshot>, pinned: Pinned },
    /// At its source.
    There(Remote),
}

impl Whereabouts {
    async fn find(Way { tools, trip }: Way<'_>, selector: Selector, beside: &Beside) -> Result<Self, AcquireError> {
        let pinned = pipeline::pinned(&selector, trip, tools).await?;
        let (asked, base) = (pinned.clone(), beside.base.clone());
        let list =
            move |tools: &Tools, may: &MayBlock<'_>| pipeline::snapshot(&asked, base.as_deref(), &tools.pool, may);
        match tools.stage(trip, "resolving", list).await? {
            Ok(snapshot) if snapshot.missing_documents.is_empty() && !snapshot.sites().is_empty() => {
                Ok(Self::Here { snapshot: Arc::new(snapshot), pinned })
            }
            here => match (look::remote(&pinned, tools).await?, here) {
                (Some(remote), _) => Ok(Self::There(remote)),
                (None, Ok(snapshot)) => Ok(Self::Here { snapshot: Arc::new(snapshot), pinned }),
                (None, Err(error)) => Err(error.into()),
            },
        }
    }

    fn snapshot(&self) -> &Arc<Snapshot> {
        match self {
            Self::Here { snapshot, .. } => snapshot,
            Self::There(remote) => &remote.snapshot,
        }
    }

    /// The files of a component, or why it cannot be opened.
    async fn component(&self, way: Way<'_>, name: &str) -> ComponentFiles {
        let Way { tools, trip } = way;
        let (snapshot, asked) = (Arc::clone(self.snapshot()), name.to_owned());
        let look = move |_: &Tools, _: &MayBlock<'_>| snapshot.component(&asked).map_err(LoadError::from);
        let here = tools.stage(trip, "resolving", look).await;
        let site = self.snapshot().site(name).ok();
        let part = site.and_then(|site| self.snapshot().located_in(site)?.part(name));
        let prefix = part.map(|part| part.prefix.clone());
        let name = name.to_owned();
        match (here, self) {
            (Ok(Ok(files)), _) => ComponentFiles {
                name,
                bytes: files.shards.iter().map(|shard| shard.identity.length).sum(),
                files: files.shards.iter().map(messages::file).collect(),
                problem: String::new(),
                prefix: prefix.unwrap_or_default(),
            },
            (Ok(Err(error)), Self::Here { snapshot, .. }) => {
                if error.is_missing()
                    && let Some(remote) = self.elsewhere(tools).await
                    && let Ok(component) = remote.component(&name).await
                {
                    return component_there(way, name, &remote, component).await;
                }
                let files = match &error {
                    LoadError::Snapshot(SnapshotError::Incomplete { missing, .. }) => {
                        missing.iter().map(|path| missing_file(snapshot, path)).collect()
                    }
                    _ => Vec::new(),
                };
                problem(name, files, &error)
            }
            (Ok(Err(_)), Self::There(remote)) => match remote.component(&name).await {
                Ok(component) => component_there(way, name, remote, component).await,
                Err(error) => problem(name, Vec::new(), &LoadError::from(error)),
            },
            (Err(error), _) => problem(name, Vec::new(), &error),
        }
    }

    /// The source's side of a model that is here in part, when the source was there a moment ago.
    async fn elsewhere(&self, tools: &Tools) -> Option<Remote> {
        let Self::Here { pinned, .. } = self else { return None };
        let was_there = matches!(&*pinned.address, Address::Repo(address) if !address.source.was_absent());
        if was_there { look::remote(pinned, tools).await.ok().flatten() } else { None }
    }

    async fn audit(&self, Way { tools, trip }: Way<'_>, name: &str, beside: &Beside) -> Result<Audited, AcquireError> {
        let (own, asked, Beside { base, overlay }) = (Arc::clone(self.snapshot()), name.to_owned(), beside.clone());
        let snapshots = Ingredients { own, base, overlay, adapters: Vec::new() };
        let audit = move |tools: &Tools, may: &MayBlock<'_>| look::audit(&snapshots, &asked, &tools.pool, may);
        let error = match tools.stage(trip, "the audit", audit).await? {
            Ok(report) => return Ok(report),
            Err(error) if error.is_missing() => error,
            Err(error) => return Err(error.into()),
        };
        let base = beside.base.as_deref();
        let mut audited = match self {
            Self::There(remote) => look::audit_remote(remote, name, base).await?,
            Self::Here { pinned, .. } => match look::remote(pinned, tools).await? {
                Some(remote) => look::audit_remote(&remote, name, base).await?,
                None => return Err(error.into()),
            },
        };
        if beside.overlay.is_some() {
            audited.assembled.report.remarks.push(WITHOUT_OVERLAY.to_owned());
        }
        Ok(audited)
    }
}

/// A component by the source's listing. Some of its files may be on this machine.
async fn component_there(
    Way { tools, trip }: Way<'_>,
    name: String,
    remote: &Remote,
    component: RemoteComponent,
) -> ComponentFiles {
    let (snapshot, bytes) = (Arc::clone(&remote.snapshot), component.shards.iter().map(|(_, it)| it.bytes).sum());
    let list = move |_: &Tools, _: &MayBlock<'_>| -> Vec<ModelFile> {
        let is_here = |path: &str| snapshot.files.path(path).exists();
        let file = |(path, listed): &(String, Listed)| messages::listed_file(path, listed, is_here(path));
        component.shards.iter().map(file).collect()
    };
    match tools.stage(trip, "resolving", list).await {
        Ok(files) => ComponentFiles { name, bytes, files, ..ComponentFiles::default() },
        Err(error) => problem(name, Vec::new(), &error),
    }
}

fn missing_file(snapshot: &Snapshot, path: &str) -> ModelFile {
    match snapshot.files.in_listing(path) {
        Some(listed) => messages::listed_file(path, listed, false),
        None => ModelFile { path: path.to_owned(), ..ModelFile::default() },
    }
}

fn problem(name: String, files: Vec<ModelFile>, error: &dyn Error) -> ComponentFiles {
    ComponentFiles { name, files, problem: sentence(error), ..ComponentFiles::default() }
}
