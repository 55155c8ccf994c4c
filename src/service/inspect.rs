//! `Resolve` and `Audit`: what a spec means and whether its components are whole, without lending anything.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tonic::Status;
use weightsd_proto::v1::{AuditRequest, AuditResponse, ComponentFiles, ModelConfig, ResolveRequest, ResolveResponse};

use super::{Context, Failure, convert, request};
use crate::{
    cache::AcquireError,
    pipeline::{self, LoadError},
    resolve::Selector,
    snapshot::{Snapshot, SnapshotError},
};

pub(super) async fn resolve(context: &Context, request: ResolveRequest) -> Result<ResolveResponse, Status> {
    let selector = request::selector(request.model)?;
    within(context, "resolving", move |cache| {
        let snapshot = pipeline::snapshot(&selector, &cache.config().places)?;
        Ok(ResolveResponse {
            model: Some(convert::model(&snapshot.model)),
            family: snapshot.family.id().to_owned(),
            components: snapshot.sites().iter().map(|site| component_files(&snapshot, &site.name)).collect(),
            configs: snapshot
                .family
                .configs(&snapshot.facts)
                .into_iter()
                .map(|(name, config)| ModelConfig { name, json: config.to_string() })
                .collect(),
        })
    })
    .await
}

fn component_files(snapshot: &Snapshot, name: &str) -> ComponentFiles {
    let name = name.to_owned();
    match snapshot.component(&name) {
        Ok(files) => ComponentFiles {
            name,
            bytes: files.shards.iter().map(|shard| shard.identity.length).sum(),
            files: files.shards.iter().map(convert::file).collect(),
            problem: String::new(),
        },
        Err(error) => {
            let files = match &error {
                SnapshotError::Incomplete { missing, .. } => missing
                    .iter()
                    .map(|path| weightsd_proto::v1::ModelFile { path: path.clone(), ..Default::default() })
                    .collect(),
                _ => Vec::new(),
            };
            let problem = Failure::from(&LoadError::from(error)).message().to_owned();
            ComponentFiles { name, files, bytes: 0, problem }
        }
    }
}

pub(super) async fn audit(context: &Context, request: AuditRequest) -> Result<AuditResponse, Status> {
    let selector: Selector = request::selector(request.model)?;
    let mut wanted = request.components.into_iter().map(request::component).collect::<Result<Vec<_>, _>>()?;
    // One component named a thousand times is still audited once.
    let mut seen = HashSet::new();
    wanted.retain(|name| seen.insert(name.clone()));
    within(context, "the audit", move |cache| {
        let snapshot = pipeline::snapshot(&selector, &cache.config().places)?;
        let names = match wanted.is_empty() {
            true => snapshot.sites().iter().map(|site| site.name.clone()).collect(),
            false => wanted,
        };
        let audit = |name: &String| pipeline::audit_component(&snapshot, name, cache.pool());
        let reports = names.iter().map(audit).collect::<Result<Vec<_>, _>>()?;
        Ok(AuditResponse {
            model: Some(convert::model(&snapshot.model)),
            family: snapshot.family.id().to_owned(),
            reports: reports.iter().map(convert::audit_report).collect(),
        })
    })
    .await
}

/// Runs `work` on a thread that may block, within the daemon's deadline for loads.
async fn within<T: Send + 'static>(
    context: &Context,
    operation: &'static str,
    work: impl FnOnce(&crate::cache::Cache) -> Result<T, LoadError> + Send + 'static,
) -> Result<T, Status> {
    let cache = Arc::clone(&context.cache);
    let limit: Duration = cache.config().load_deadline;
    let worker = Arc::clone(&cache);
    // A shutdown waits for the answer.
    let _token = cache.tasks().token();
    let result = tokio::time::timeout(limit, cache.stage(operation, move || work(&worker)))
        .await
        .unwrap_or(Err(AcquireError::Deadline { operation, limit }));
    match result {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(Failure::from(&error).into()),
        Err(error) => Err(Failure::from(&error).into()),
    }
}
