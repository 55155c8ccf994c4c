//! `LoadComponent`: the response stream is the lease. It lives in a task that ends when the client hangs up, however
//! that happens, and takes the lease with it.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use prost::{Message as _, bytes::Bytes};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use weightsd_core::handoff::Given;
use weightsd_proto::{
    prepared::LoadComponentResponse,
    v1::{self, LoadComponentRequest, load_component_response::Event},
};

use super::{
    Context, Failure, guest, messages,
    request::{self, Hold, LoadRequest},
};
use crate::{
    cache::{Acquired, Cache, Change, ChangeKind, Holder, Lease},
    component::Component,
    guests::Peer,
    metrics::Road,
    snapshot::Attestations,
};

/// The stream of a load.
pub(super) type LoadStream = ReceiverStream<Result<LoadComponentResponse, Status>>;

type Sender = mpsc::Sender<Result<LoadComponentResponse, Status>>;

/// Messages that wait for a slow client. Progress beyond that is dropped: a later message says more.
const QUEUE: usize = 16;
/// A page is closed when it has this many bytes; a message may have 1 MiB.
const PAGE_BYTES: usize = 256 * 1024;
/// Tag and length of a tensor in a page, at most.
const FRAMING: usize = 4;

pub(super) fn load_component(
    context: &Context,
    asker: (u32, Peer),
    request: LoadComponentRequest,
) -> Result<LoadStream, Failure> {
    let asked = request::load(request)?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    let cache = Arc::clone(&context.cache);
    context.daemon.tasks().spawn("lease", async move { serve(&cache, asked, asker, sender).await });
    Ok(ReceiverStream::new(receiver))
}

async fn serve(cache: &Arc<Cache>, asked: LoadRequest, (pid, peer): (u32, Peer), sender: Sender) {
    let (metrics, asked_at) = (cache.daemon().metrics(), Instant::now());
    let keep_alive = cache.config().keep_alive.get().grant(asked.keep_alive);
    let given = asked.given;
    let holder = Holder { pid, name: asked.client_name, since: SystemTime::now(), keep_alive, given };
    let acquired = tokio::select! {
        acquired = cache.acquire(asked.request, holder, |step, sharers| {
            let _ = sender.try_send(Ok(Event::Progress(messages::progress(step, sharers)).into()));
        }) => acquired,
        () = sender.closed() => return,
    };
    match acquired {
        Ok(acquired) => {
            metrics.loaded(if acquired.warm { Road::Warm } else { Road::Cold }, asked_at.elapsed());
            let attestations = &cache.config().attestations;
            let sent = send_component((&sender, peer), &acquired, attestations, (asked.hold, given), keep_alive).await;
            if sent.is_ok() && asked.hold == Hold::Stream {
                hold(cache, &acquired.lease, given, (&sender, peer)).await;
            }
        }
        Err(error) => {
            let _ = sender.send(Err(Failure::from(&error).to(peer).refuse(metrics))).await;
        }
    }
}

/// Waits until the client hangs up, passing on what a holder should know.
async fn hold(cache: &Arc<Cache>, lease: &Lease, given: Given, (sender, peer): (&Sender, Peer)) {
    let tell_change = async {
        let mut changes = lease.entry().changes();
        loop {
            let change = changes.borrow_and_update().clone();
            if let Some(Change { kind, message }) = change {
                let kind = match kind {
                    ChangeKind::Changed if lease.component().is_safe_with(given) => v1::NoticeKind::FileGone,
                    ChangeKind::Changed => v1::NoticeKind::FileChanged,
                    ChangeKind::Corrupt => v1::NoticeKind::Corrupt,
                    ChangeKind::Gone => v1::NoticeKind::FileGone,
                };
                let notice = guest::told(peer, v1::Notice { kind: kind.into(), message });
                let _ = sender.send(Ok(Event::Notice(notice).into())).await;
            }
            if changes.changed().await.is_err() {
                // Nobody is left who could tell more.
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        () = sender.closed() => {}
        () = tell_change => {}
        () = cache.daemon().stopping().cancelled() => {
            let message = "weightsd is stopping; what is mapped stays readable".to_owned();
            let kind = v1::NoticeKind::ShuttingDown.into();
            let _ = sender.try_send(Ok(Event::Notice(v1::Notice { kind, message }).into()));
        }
    }
}

async fn send_component(
    (sender, peer): (&Sender, Peer),
    acquired: &Acquired,
    attestations: &Attestations,
    (hold, given): (Hold, Given),
    keep_alive: std::time::Duration,
) -> Result<(), mpsc::error::SendError<Result<LoadComponentResponse, Status>>> {
    let lease = &acquired.lease;
    let component = lease.component();
    let (id, ticket) = match hold {
        Hold::Stream => (lease.number(), lease.ticket().0.to_vec()),
        Hold::None => (0, Vec::new()),
    };
    let timings = match acquired.warm {
        true => v1::Timings { resolve: messages::duration(acquired.resolve), ..v1::Timings::default() },
        false => v1::Timings {
            resolve: messages::duration(component.timings.resolve),
            open: messages::duration(component.timings.open),
            audit: messages::duration(component.timings.audit),
            derive: messages::duration(component.timings.derive),
        },
    };
    let message = guest::told(
        peer,
        v1::Component {
            id: component.id.to_string(),
            name: component.name.clone(),
            family: component.family.to_owned(),
            layout: messages::layout(component.layout).into(),
            model: Some(messages::model(&acquired.model)),
            config_json: component.config_json.clone(),
            segments: component.segments.iter().map(|segment| messages::segment(segment, given)).collect(),
            tensor_count: u32::try_from(component.tensors.len()).unwrap_or(u32::MAX),
            tensor_bytes: component.tensor_bytes(),
            audit: Some(messages::component_audit(component)),
            lease: Some(v1::Lease { id, ticket, keep_alive: messages::duration(keep_alive) }),
            computed_bytes: component.computed_bytes(),
            warm: acquired.warm,
            leases: u32::try_from(acquired.leases).unwrap_or(u32::MAX),
            timings: Some(timings),
            attestation: Some(messages::attestation(component, attestations)),
            assumptions: component.assumptions.clone(),
            image: messages::image(component),
            adapters: component.adapters.iter().map(messages::adapted).collect(),
        },
    );
    sender.send(Ok(Event::Component(message).into())).await?;
    for page in component.encoded_pages.get_or_init(|| encode_pages(component)) {
        sender.send(Ok(LoadComponentResponse::Encoded(page.clone()))).await?;
    }
    Ok(())
}

/// The component's tensor table as messages, encoded.
fn encode_pages(component: &Component) -> Vec<Bytes> {
    let mut pages = Vec::new();
    let mut page = v1::TensorPage::default();
    let mut bytes = 0;
    let mut close = |page: &mut v1::TensorPage| {
        let event = Some(Event::Page(std::mem::take(page)));
        pages.push(v1::LoadComponentResponse { event }.encode_to_vec().into());
    };
    for tensor in component.tensors.iter().map(messages::tensor) {
        bytes += tensor.encoded_len() + FRAMING;
        page.tensors.push(tensor);
        if bytes >= PAGE_BYTES {
            bytes = 0;
            close(&mut page);
        }
    }
    if !page.tensors.is_empty() {
        close(&mut page);
    }
    pages
}
