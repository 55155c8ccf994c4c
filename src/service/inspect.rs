//! `Resolve` and `Audit`: what a spec means and whether its components are whole, without lending or keeping anything.
//! Models on this machine are read here, others at their source.

use std::{error::Error, sync::Arc};

use weightsd_core::{
    explain::sentence,
    ingredients::{Ingredients, Role},
    listing::Listed,
};
use weightsd_proto::v1::{
    AuditRequest, AuditResponse, ComponentFiles, ModelConfig, ModelFile, ResolveRequest, ResolveResponse,
};

use super::{Context, Failure, messages, request};
use crate::{
    pipeline::{
        self, AcquireError, LoadError, Pinned, Tools,
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
    let model = Whereabouts::find(tools, selector, &Beside::default()).await.map_err(|error| Failure::from(&error))?;
    let mut components = Vec::new();
    for site in model.snapshot().sites() {
        components.push(model.component(tools, &site.name).await);
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
    let beside = Beside::bring(base, overlay, tools).await.map_err(|error| Failure::from(&error))?;
    let model = Whereabouts::find(tools, selector, &beside).await.map_err(|error| Failure::from(&error))?;
    if names.is_empty() {
        names = model.snapshot().sites().iter().map(|site| site.name.clone()).collect();
    }
    if names.is_empty() {
        return Err(Failure::from(&AcquireError::from(LoadError::from(model.snapshot().nothing()))));
    }
    let mut reports = Vec::new();
    for name in &names {
        reports.push(model.audit(tools, name, &beside).await.map_err(|error| Failure::from(&error))?);
    }
    Ok(AuditResponse {
        model: Some(messages::model(&model.snapshot().model)),
        family: model.snapshot().family.id().to_owned(),
        reports: reports.iter().map(|report| messages::audited(report, request.full_lists)).collect(),
    })
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
        tools: &Arc<Tools>,
    ) -> Result<Self, AcquireError> {
        let mut beside = Self::default();
        for (role, selector, found) in
            [(Role::Base, base, &mut beside.base), (Role::Overlay, overlay, &mut beside.overlay)]
        {
            if let Some(selector) = selector {
                *found = Some(look::bring(role, &pipeline::pinned(&selector, tools).await?, tools).await?);
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
    async fn find(tools: &Arc<Tools>, selector: Selector, beside: &Beside) -> Result<Self, AcquireError> {
        let pinned = pipeline::pinned(&selector, tools).await?;
        let (asked, base) = (pinned.clone(), beside.base.clone());
        let list = move |tools: &Tools| pipeline::snapshot(&asked, base.as_deref(), &tools.pool);
        match tools.stage("resolving", list).await? {
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
    async fn component(&self, tools: &Arc<Tools>, name: &str) -> ComponentFiles {
        let (snapshot, asked) = (Arc::clone(self.snapshot()), name.to_owned());
        let here = tools.stage("resolving", move |_| snapshot.component(&asked).map_err(LoadError::from)).await;
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
                    return component_there(name, &remote, &component);
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
                Ok(component) => component_there(name, remote, &component),
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

    async fn audit(&self, tools: &Arc<Tools>, name: &str, beside: &Beside) -> Result<Audited, AcquireError> {
        let (own, asked, Beside { base, overlay }) = (Arc::clone(self.snapshot()), name.to_owned(), beside.clone());
        let snapshots = Ingredients { own, base, overlay, adapters: Vec::new() };
        let audit = move |tools: &Tools| look::audit(&snapshots, &asked, &tools.pool);
        let error = match tools.stage("the audit", audit).await? {
            Ok(report) => return Ok(report),
            Err(error) if error.is_missing() => error,
            Err(error) => return Err(error.into()),
        };
        match self {
            Self::There(remote) => Ok(look::audit_remote(remote, name).await?),
            Self::Here { pinned, .. } => match look::remote(pinned, tools).await? {
                Some(remote) => Ok(look::audit_remote(&remote, name).await?),
                None => Err(error.into()),
            },
        }
    }
}

/// A component by the source's listing. Some of its files may be on this machine.
fn component_there(name: String, remote: &Remote, component: &RemoteComponent) -> ComponentFiles {
    let is_here = |path: &str| remote.snapshot.files.path(path).exists();
    let file = |(path, listed): &(String, Listed)| messages::listed_file(path, listed, is_here(path));
    ComponentFiles {
        name,
        bytes: component.shards.iter().map(|(_, listed)| listed.bytes).sum(),
        files: component.shards.iter().map(file).collect(),
        problem: String::new(),
        prefix: String::new(),
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
