//! The gRPC service: requests become calls of the pipeline and the cache, what comes back becomes messages. What the
//! messages mean is written in the `.proto` files.

mod convert;
mod events;
mod evict;
mod failure;
mod inspect;
mod load;
mod request;
mod status;
mod work;

use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicUsize},
    time::SystemTime,
};

use tonic::{Request, Response, Status, transport::server::Router};
use tonic_health::{ServingStatus, server::HealthReporter};
use weightsd_proto::{
    server::weights_service_server::{WeightsService, WeightsServiceServer},
    v1::{
        AuditRequest, AuditResponse, EvictRequest, EvictResponse, GetComponentRequest, GetComponentResponse,
        GetStatusRequest, GetStatusResponse, ListComponentsRequest, ListComponentsResponse, LoadComponentRequest,
        PullRequest, ResolveRequest, ResolveResponse, VerifyRequest, WatchEventsRequest,
    },
};

pub(crate) use self::convert::{audited, inspection, known};
pub use self::{convert::audit_report, failure::Failure};
use crate::cache::Cache;

/// Largest request that is read, in bytes: a request is a few strings.
const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// Streams that one connection may have open at once.
const STREAMS_MAX: u32 = 256;

/// What the service works with.
#[derive(Debug, Clone)]
pub struct Context {
    /// The cache.
    pub cache: Arc<Cache>,
    /// The socket.
    pub socket: PathBuf,
    /// When the daemon started.
    pub started: SystemTime,
    /// Connections open.
    pub connections: Arc<AtomicUsize>,
    /// Most connections at once.
    pub connections_max: usize,
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
/// [`SetupError`].
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
        load::load_component(self, request).map(Response::new)
    }

    async fn resolve(&self, request: Request<ResolveRequest>) -> Result<Response<ResolveResponse>, Status> {
        Ok(Response::new(inspect::resolve(self, request.into_inner()).await?))
    }

    async fn audit(&self, request: Request<AuditRequest>) -> Result<Response<AuditResponse>, Status> {
        Ok(Response::new(inspect::audit(self, request.into_inner()).await?))
    }

    async fn pull(&self, request: Request<PullRequest>) -> Result<Response<Self::PullStream>, Status> {
        Ok(Response::new(work::pull(self, request.into_inner())?))
    }

    async fn verify(&self, request: Request<VerifyRequest>) -> Result<Response<Self::VerifyStream>, Status> {
        Ok(Response::new(work::verify(self, request.into_inner())?))
    }

    async fn list_components(
        &self,
        request: Request<ListComponentsRequest>,
    ) -> Result<Response<ListComponentsResponse>, Status> {
        Ok(Response::new(status::list_components(self, request.into_inner()).await?))
    }

    async fn get_component(
        &self,
        request: Request<GetComponentRequest>,
    ) -> Result<Response<GetComponentResponse>, Status> {
        Ok(Response::new(status::get_component(self, request.into_inner()).await?))
    }

    async fn get_status(&self, _: Request<GetStatusRequest>) -> Result<Response<GetStatusResponse>, Status> {
        Ok(Response::new(status::get_status(self)))
    }

    async fn evict(&self, request: Request<EvictRequest>) -> Result<Response<EvictResponse>, Status> {
        Ok(Response::new(evict::evict(self, &request.into_inner())?))
    }

    async fn watch_events(
        &self,
        request: Request<WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        Ok(Response::new(events::watch(self, &request.into_inner())))
    }
}
