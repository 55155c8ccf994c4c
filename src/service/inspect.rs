//! `Resolve` and `Audit`: what a spec means and whether its components are whole, without lending or keeping anything.
//! What is on this machine is looked at here; what is not, on the hub.

use std::sync::Arc;

use tonic::Status;
use weightsd_core::{audit::AuditReport, listing::Listed};
use weightsd_proto::v1::{
    AuditRequest, AuditResponse, ComponentFiles, ModelConfig, ModelFile, ResolveRequest, ResolveResponse,
};

use super::{Context, Failure, convert, request};
use crate::{
    cache::{AcquireError, Cache},
    pipeline::{self, LoadError},
    resolve::{Pin, Selector, Target},
    snapshot::{Remote, Snapshot, SnapshotError},
};

pub(super) async fn resolve(context: &Context, request: ResolveRequest) -> Result<ResolveResponse, Status> {
    let selector = request::selector(request.model)?;
    // A shutdown waits for the answer.
    let _token = context.cache.tasks().token();
    let place = Place::find(&context.cache, selector).await.map_err(|error| Failure::from(&error))?;
    let mut components = Vec::new();
    for site in place.snapshot().sites() {
        components.push(place.component(&context.cache, &site.name).await);
    }
    let snapshot = place.snapshot();
    let configs = snapshot.family.configs(&snapshot.facts);
    Ok(ResolveResponse {
        model: Some(convert::model(&snapshot.model)),
        family: snapshot.family.id().to_owned(),
        components,
        configs: configs.into_iter().map(|(name, config)| ModelConfig { name, json: config.to_string() }).collect(),
    })
}

pub(super) async fn audit(context: &Context, request: AuditRequest) -> Result<AuditResponse, Status> {
    let selector = request::selector(request.model)?;
    let mut names = request::components(request.components)?;
    let _token = context.cache.tasks().token();
    let place = Place::find(&context.cache, selector).await.map_err(|error| Failure::from(&error))?;
    if names.is_empty() {
        names = place.snapshot().sites().iter().map(|site| site.name.clone()).collect();
    }
    let mut reports = Vec::new();
    for name in &names {
        reports.push(place.audit(&context.cache, name).await.map_err(|error| Failure::from(&error))?);
    }
    Ok(AuditResponse {
        model: Some(convert::model(&place.snapshot().model)),
        family: place.snapshot().family.id().to_owned(),
        reports: reports.iter().map(convert::audit_report).collect(),
    })
}

/// Where a model is.
enum Place {
    /// On this machine, as far as its listing and small files go. Some of its weights may not be.
    Here { snapshot: Arc<Snapshot>, selector: Selector, target: Arc<Target>, pin: Option<Pin> },
    /// On the hub.
    There(Remote),
}

impl Place {
    async fn find(cache: &Arc<Cache>, selector: Selector) -> Result<Self, AcquireError> {
        let (target, pin) = cache.pinned(&selector).await?;
        let here = {
            let (target, pin, choice) = (Arc::clone(&target), pin.clone(), selector.choice.clone());
            let list = move || pipeline::snapshot(&target, pin.as_ref(), &choice);
            cache.in_time("resolving", cache.stage("resolving", list)).await?
        };
        match here {
            Ok(snapshot) if snapshot.missing_documents.is_empty() && !snapshot.sites().is_empty() => {
                Ok(Self::Here { snapshot: Arc::new(snapshot), selector, target, pin })
            }
            here => match (cache.look(&selector, &target, pin.as_ref()).await?, here) {
                (Some(remote), _) => Ok(Self::There(remote)),
                (None, Ok(snapshot)) => Ok(Self::Here { snapshot: Arc::new(snapshot), selector, target, pin }),
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

    /// The files of a component, or what stands in the way of opening it.
    async fn component(&self, cache: &Arc<Cache>, name: &str) -> ComponentFiles {
        let (snapshot, asked) = (Arc::clone(self.snapshot()), name.to_owned());
        let here = cache.stage("resolving", move || snapshot.component(&asked).map_err(LoadError::from)).await;
        let name = name.to_owned();
        match (here, self) {
            (Ok(Ok(files)), _) => ComponentFiles {
                name,
                bytes: files.shards.iter().map(|shard| shard.identity.length).sum(),
                files: files.shards.iter().map(convert::file).collect(),
                problem: String::new(),
            },
            (Ok(Err(error)), Self::Here { snapshot, .. }) => {
                let files = match &error {
                    LoadError::Snapshot(SnapshotError::Incomplete { missing, .. }) => {
                        missing.iter().map(|path| missing_file(snapshot, path)).collect()
                    }
                    _ => Vec::new(),
                };
                problem(name, files, &Failure::from(&error))
            }
            (Ok(Err(_)), Self::There(remote)) => match remote.component(&name).await {
                Ok(component) => {
                    let is_here = |path: &str| remote.snapshot.files.path(path).exists();
                    let file = |(path, listed): &(String, Listed)| convert::listed_file(path, listed, is_here(path));
                    ComponentFiles {
                        name,
                        bytes: component.shards.iter().map(|(_, listed)| listed.bytes).sum(),
                        files: component.shards.iter().map(file).collect(),
                        problem: String::new(),
                    }
                }
                Err(error) => problem(name, Vec::new(), &Failure::from(&LoadError::from(error))),
            },
            (Err(error), _) => problem(name, Vec::new(), &Failure::from(&error)),
        }
    }

    async fn audit(&self, cache: &Arc<Cache>, name: &str) -> Result<AuditReport, AcquireError> {
        let (snapshot, asked, worker) = (Arc::clone(self.snapshot()), name.to_owned(), Arc::clone(cache));
        let work = cache.stage("the audit", move || pipeline::audit_component(&snapshot, &asked, worker.pool()));
        let error = match cache.in_time("the audit", work).await? {
            Ok(report) => return Ok(report),
            Err(error) if error.is_missing() => error,
            Err(error) => return Err(error.into()),
        };
        match self {
            Self::There(remote) => Ok(pipeline::audit_remote(remote, name).await?),
            Self::Here { selector, target, pin, .. } => match cache.look(selector, target, pin.as_ref()).await? {
                Some(remote) => Ok(pipeline::audit_remote(&remote, name).await?),
                None => Err(error.into()),
            },
        }
    }
}

fn missing_file(snapshot: &Snapshot, path: &str) -> ModelFile {
    match snapshot.files.in_listing(path) {
        Some(listed) => convert::listed_file(path, listed, false),
        None => ModelFile { path: path.to_owned(), ..ModelFile::default() },
    }
}

fn problem(name: String, files: Vec<ModelFile>, failure: &Failure) -> ComponentFiles {
    ComponentFiles { name, bytes: 0, files, problem: failure.message().to_owned() }
}
