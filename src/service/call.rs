//! One call of one client: the span that its log lines are in, and its end.

use std::time::Instant;

use tonic::{Request, Response, Status, transport::server::UdsConnectInfo};
use tracing::{Instrument as _, Span};
use weightsd_core::shown::shown_up_to;
use weightsd_proto::v1::ModelSelector;

use super::{Context, Failure, guest};
use crate::{guests::Peer, metrics::Metrics};

/// Bytes of a spec, and of names of components, that a log line shows.
const SHOWN_BYTES_MAX: usize = 120;

/// The process at the other end of the connection; 0 when the system does not say.
pub(super) fn pid<T>(request: &Request<T>) -> u32 {
    let peer = request.extensions().get::<UdsConnectInfo>().and_then(|info| info.peer_cred);
    peer.and_then(|peer| peer.pid()).and_then(|pid| u32::try_from(pid).ok()).unwrap_or_default()
}

/// A call that is about to be answered.
#[must_use = "a call that is not answered keeps its client waiting"]
pub(super) struct Call {
    name: &'static str,
    span: Span,
    /// Who asks.
    pub(super) peer: Peer,
}

/// A request about components of a model, or about the id of a loaded component.
pub(super) fn begin<T>(
    name: &'static str,
    (context, request): (&Context, &Request<T>),
    model: Option<&ModelSelector>,
    component: Option<&str>,
) -> Call {
    let cut = |text: &str| shown_up_to(text, SHOWN_BYTES_MAX);
    let spec = model.map(|model| cut(&model.spec));
    let span = tracing::info_span!("call", name, pid = pid(request), spec, component = component.map(cut));
    Call { name, span, peer: guest::peer(context, request) }
}

impl Call {
    /// Does the work of a call within its span; a refusal is logged there.
    pub(super) async fn answer<T>(
        self,
        metrics: &Metrics,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<Response<T>, Status> {
        let begun = Instant::now();
        let answer = async { work.await.map(Response::new).map_err(|failure| failure.to(self.peer).refuse(metrics)) };
        let answer = answer.instrument(self.span).await;
        metrics.answered(self.name, begun.elapsed());
        answer
    }
}
