//! The gRPC service: turns requests into calls of the pipeline and the cache, and their answers into messages. The
//! `.proto` files say what the messages mean.

mod call;
mod cannot_start;
mod events;
mod evict;
mod explain;
mod failure;
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
use crate::{cache::Cache, connections::Connections, handle::Daemon, messages};

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
        let call = call::begin("LoadComponent", &request, asked.model.as_ref(), Some(&asked.component));
        call.answer(self.daemon.metrics(), async {
            load::load_component(self, call::pid(&request), request.into_inner())
        })
        .await
    }

    async fn resolve(&self, request: Request<ResolveRequest>) -> Result<Response<ResolveResponse>, Status> {
        let call = call::begin("Resolve", &request, request.get_ref().model.as_ref(), None);
        call.answer(self.daemon.metrics(), inspect::resolve(self, request.into_inner())).await
    }

    async fn audit(&self, request: Request<AuditRequest>) -> Result<Response<AuditResponse>, Status> {
        let asked = request.get_ref();
        let call = call::begin("Audit", &request, asked.model.as_ref(), Some(&asked.components.join(" ")));
        call.answer(self.daemon.metrics(), inspect::audit(self, request.into_inner())).await
    }

    async fn pull(&self, request: Request<PullRequest>) -> Result<Response<Self::PullStream>, Status> {
        let asked = request.get_ref();
        let call = call::begin("Pull", &request, asked.model.as_ref(), Some(&asked.components.join(" ")));
        call.answer(self.daemon.metrics(), async { work::pull(self, request.into_inner()) }).await
    }

    async fn verify(&self, request: Request<VerifyRequest>) -> Result<Response<Self::VerifyStream>, Status> {
        let asked = request.get_ref();
        let call = call::begin("Verify", &request, asked.model.as_ref(), Some(&asked.components.join(" ")));
        call.answer(self.daemon.metrics(), async { work::verify(self, request.into_inner()) }).await
    }

    async fn list_components(
        &self,
        request: Request<ListComponentsRequest>,
    ) -> Result<Response<ListComponentsResponse>, Status> {
        let call = call::begin("ListComponents", &request, None, None);
        call.answer(self.daemon.metrics(), status::list_components(self, request.into_inner())).await
    }

    async fn get_component(
        &self,
        request: Request<GetComponentRequest>,
    ) -> Result<Response<GetComponentResponse>, Status> {
        let call = call::begin("GetComponent", &request, None, Some(&request.get_ref().id));
        call.answer(self.daemon.metrics(), status::get_component(self, request.into_inner())).await
    }

    async fn explain(&self, request: Request<ExplainRequest>) -> Result<Response<ExplainResponse>, Status> {
        let call = call::begin("Explain", &request, None, Some(&request.get_ref().id));
        call.answer(self.daemon.metrics(), explain::explain(self, &request.get_ref().id)).await
    }

    async fn get_status(&self, request: Request<GetStatusRequest>) -> Result<Response<GetStatusResponse>, Status> {
        let call = call::begin("GetStatus", &request, None, None);
        call.answer(self.daemon.metrics(), async { Ok(status::get_status(self).await) }).await
    }

    async fn evict(&self, request: Request<EvictRequest>) -> Result<Response<EvictResponse>, Status> {
        let call = call::begin("Evict", &request, None, Some(&request.get_ref().id));
        call.answer(self.daemon.metrics(), evict::evict(self, request.get_ref())).await
    }

    async fn watch_events(
        &self,
        request: Request<WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let call = call::begin("WatchEvents", &request, None, None);
        call.answer(self.daemon.metrics(), async { events::watch(self, call::pid(&request), request.get_ref()) }).await
    }
}
