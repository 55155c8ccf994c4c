//! The answer of a daemon that cannot start: the same words to every call.

use std::io;

use tokio::net::UnixStream;
use tokio_stream::Stream;
use tonic::{
    Code, Request,
    service::InterceptorLayer,
    transport::{Error, Server},
};
use weightsd_core::explain::Explanation;
use weightsd_proto::{
    rich_error,
    v1::{ErrorDetail, ErrorReason, ErrorTier},
};

/// Answers every call on `incoming` with why the daemon cannot start, until `stop` comes and the last answer is out.
///
/// # Errors
/// When the gRPC server fails.
pub async fn refuse_all(
    incoming: impl Stream<Item = io::Result<UnixStream>>,
    message: String,
    explanation: Explanation,
    stop: impl Future<Output = ()>,
) -> Result<(), Error> {
    let detail = ErrorDetail {
        reason: ErrorReason::CannotStart.into(),
        resource: explanation.resource,
        hint: explanation.hint.into_owned(),
        retryable: false,
        audit: None,
        retry_after: None,
        tier: ErrorTier::Condition.into(),
    };
    let status = rich_error::encode(Code::Unavailable, format!("weightsd cannot start: {message}"), detail);
    // The layer answers before any service is asked; tonic wants one all the same.
    let (_, health) = tonic_health::server::health_reporter();
    let refuse = InterceptorLayer::new(move |_: Request<()>| Err(status.clone()));
    Server::builder().layer(refuse).add_service(health).serve_with_incoming_shutdown(incoming, stop).await
}
