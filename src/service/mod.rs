//! The gRPC service: turns requests into calls of the pipeline and the cache, and their answers into messages. The
//! `.proto` files say what the messages mean.

mod call;
mod cannot_start;
mod events;
mod evict;
mod explain;
mod failure;
mod guest;
mod inspect;
mod load;
mod probe;
mod request;
mod restore;
mod sheet;
mod status;
mod work;

use std::{path::PathBuf, sync::Arc, time::SystemTime};

use tonic::{Request, Response, Status, transport::server::Router};
use tonic_health::{ServingStatus, server::HealthReporter};
use weightsd_proto::{
    server::weights_service_server::{WeightsService, WeightsServiceServer},
    v1::{
        AuditRequest, AuditResponse, EvictRequest, EvictResponse, ExplainRequest, ExplainResponse, GetComponentRequest,
        GetComponentResponse, GetStatusRequest, GetStatusResponse, ListComponentsRequest, ListComponentsResponse,
        LoadComponentRequest, PullRequest, ResolveRequest, ResolveResponse, VerifyRequest, WatchEventsRequest,
    },
};

pub use self::cannot_start::refuse_all;
use self::failure::Failure;
pub use self::probe::Probe;
pub(crate) use self::{
    events::Watchers,
    restore::{Known, run as restore},
};
use crate::{
    cache::Cache,
    connections::Connections,
    guests::{Guests, Right},
    handle::Daemon,
    messages,
};

/// Largest request that is read, in bytes: a request is a few strings.
const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// Streams that one connection may have open at once.
const STREAMS_MAX: u32 = 256;

/// What the service works with.
#[derive(Debug, Clone)]
pub struct Context {
    /// The daemon that serves.
    pub daemon: Daemon,
    /// The cache.
    pub cache: Arc<Cache>,
    /// The socket.
    pub socket: PathBuf,
    /// When the daemon started.
    pub started: SystemTime,
    /// Whom the daemon serves beside its own user.
    pub guests: Arc<Guests>,
    /// Connections open.
    pub(crate) connections: Arc<Connections>,
    /// Streams of events that are open.
    pub(crate) watchers: Arc<Watchers>,
    /// By which requests components were loaded.
    pub(crate) known: Arc<Known>,
    /// What only the system knows.
    pub probe: Arc<Probe>,
}

/// Why a service could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The descriptors cannot be served.
    #[error("server reflection")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// All services of the daemon: its own, health, and both versions of reflection.
///
/// # Errors
/// When the descriptors of the interface cannot be served, which a build that passes its tests never meets.
pub async fn router(context: Context) -> Result<(Router, HealthReporter), SetupError> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<WeightsServiceServer<Context>>().await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(weightsd_proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let weights = WeightsServiceServer::new(context).max_decoding_message_size(REQUEST_BYTES_MAX);
    let router = tonic::transport::Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .add_service(weights)
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);
    Ok((router, health))
}

/// Tells health checks that the daemon stops.
pub async fn not_serving(health: &HealthReporter) {
    health.set_not_serving::<WeightsServiceServer<Context>>().await;
    health.set_service_status("", ServingStatus::NotServing).await;
}

#[tonic::async_trait]
impl WeightsService for Context {
    type LoadComponentStream = load::LoadStream;
    type PullStream = work::PullStream;
    type VerifyStream = work::VerifyStream;
    type WatchEventsStream = events::EventStream;

    async fn load_component(
        &self,
        request: Request<LoadComponentRequest>,
    ) -> Result<Response<Self::LoadComponentStream>, Status> {
        let asked = request.get_ref();
        let call = call::begin("LoadComponent", (self, &request), asked.model.as_ref(), Some(&asked.component));
        let peer = call.peer;
        call.answer(self.daemon.metrics(), async {
            let (pid, asked) = (call::pid(&request), request.into_inner());
            guest::reads_only(peer, &asked)?;
            load::load_component(self, (pid, peer), guest::narrowed(self, peer, asked)?)
        })
        .await
    }

    async fn resolve(&self, request: Request<ResolveRequest>) -> Result<Response<ResolveResponse>, Status> {
        let call = call::begin("Resolve", (self, &request), request.get_ref().model.as_ref(), None);
        let peer = call.peer;
        call.answer(self.daemon.metrics(), async {
            let asked = guest::narrowed(self, peer, request.into_inner())?;
            Ok(guest::told(peer, inspect::resolve(self, asked).await?))
        })
        .await
    }

    async fn audit(&self, request: Request<AuditRequest>) -> Result<Response<AuditResponse>, Status> {
        let asked = request.get_ref();
        let call = call::begin("Audit", (self, &request), asked.model.as_ref(), Some(&asked.components.join(" ")));
        let peer = call.peer;
        call.answer(self.daemon.metrics(), async {
            let asked = guest::narrowed(self, peer, request.into_inner())?;
            Ok(guest::told(peer, inspect::audit(self, asked).await?))
        })
        .await
    }

    async fn pull(&self, request: Request<PullRequest>) -> Result<Response<Self::PullStream>, Status> {
        let asked = request.get_ref();
        let call = call::begin("Pull", (self, &request), asked.model.as_ref(), Some(&asked.components.join(" ")));
        let peer = call.peer;
        call.answer(self.daemon.metrics(), async {
            guest::granted(self, peer, Right::Pull)?;
            work::pull(self, peer, guest::narrowed(self, peer, request.into_inner())?)
        })
        .await
    }

    async fn verify(&self, request: Request<VerifyRequest>) -> Result<Response<Self::VerifyStream>, Status> {
        let asked = request.get_ref();
        let call = call::begin("Verify", (self, &request), asked.model.as_ref(), Some(&asked.components.join(" ")));
        let peer = call.peer;
        call.answer(self.daemon.metrics(), async {
            guest::granted(self, peer, Right::Verify)?;
            work::verify(self, peer, guest::narrowed(self, peer, request.into_inner())?)
        })
        .await
    }

    async fn list_components(
        &self,
        request: Request<ListComponentsRequest>,
    ) -> Result<Response<ListComponentsResponse>, Status> {
        let call = call::begin("ListComponents", (self, &request), None, None);
        let peer = call.peer;
        call.answer(self.daemon.metrics(), async {
            guest::owner(peer)?;
            status::list_components(self, request.into_inner()).await
        })
        .await
    }

    async fn get_component(
        &self,
        request: Request<GetComponentRequest>,
    ) -> Result<Response<GetComponentResponse>, Status> {
        let call = call::begin("GetComponent", (self, &request), None, Some(&request.get_ref().id));
        let peer = call.peer;
        call.answer(self.daemon.metrics(), async {
            guest::owner(peer)?;
            status::get_component(self, request.into_inner()).await
        })
        .await
    }

    async fn explain(&self, request: Request<ExplainRequest>) -> Result<Response<ExplainResponse>, Status> {
        let call = call::begin("Explain", (self, &request), None, Some(&request.get_ref().id));
        let peer = call.peer;
        call.answer(self.daemon.metrics(), async {
            guest::owner(peer)?;
            explain::explain(self, &request.get_ref().id).await
        })
        .await
    }

    async fn get_status(&self, request: Request<GetStatusRequest>) -> Result<Response<GetStatusResponse>, Status> {
        let call = call::begin("GetStatus", (self, &request), None, None);
        let peer = call.peer;
        call.answer(self.daemon.metrics(), async { Ok(guest::told(peer, status::get_status(self).await)) }).await
    }

    async fn evict(&self, request: Request<EvictRequest>) -> Result<Response<EvictResponse>, Status> {
        let call = call::begin("Evict", (self, &request), None, Some(&request.get_ref().id));
        let peer = call.peer;
        call.answer(self.daemon.metrics(), async {
            guest::granted(self, peer, Right::Evict)?;
            Ok(guest::told(peer, evict::evict(self, request.get_ref()).await?))
        })
        .await
    }

    async fn watch_events(
        &self,
        request: Request<WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let call = call::begin("WatchEvents", (self, &request), None, None);
        let peer = call.peer;
        call.answer(self.daemon.metrics(), async {
            guest::owner(peer)?;
            events::watch(self, call::pid(&request), request.get_ref())
        })
        .await
    }
}
