//! `LoadComponent`: the response stream is the lease. It lives in a task that ends when the client hangs up, however
//! that happens, and takes the lease with it.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
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
    Context, Failure, messages,
    request::{self, Hold, LoadRequest},
    sheet,
};
use crate::{
    cache::{Acquired, Bringing, Brought, Cache, Change, ChangeKind, Holder, Lease, Residency},
    component::Component,
    events::EventKind,
    metrics::Road,
    progress::{Phase, Step},
    snapshot::Attestations,
};

/// The stream of a load.
pub(super) type LoadStream = ReceiverStream<Result<LoadComponentResponse, Status>>;

type Sender = mpsc::Sender<Result<LoadComponentResponse, Status>>;

/// Messages that wait for a slow client. Progress beyond that is dropped: a later message says more.
const QUEUE: usize = 16;
/// Pause between two words of how far the bytes are on their way into memory.
const TOLD: Duration = Duration::from_millis(200);
/// A page is closed when it has this many bytes; a message may have 1 MiB.
const PAGE_BYTES: usize = 256 * 1024;
/// Tag and length of a tensor in a page, at most.
const FRAMING: usize = 4;

pub(super) fn load_component(
    context: &Context,
    pid: u32,
    request: LoadComponentRequest,
) -> Result<LoadStream, Failure> {
    let asked = request::load(request.clone())?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    let (cache, known) = (Arc::clone(&context.cache), Arc::clone(&context.known));
    let remember = move |acquired: &Acquired| known.remember(acquired.lease.component().id, request, &acquired.model);
    context.daemon.tasks().spawn("lease", async move { serve(&cache, (asked, remember), pid, sender).await });
    Ok(ReceiverStream::new(receiver))
}

async fn serve(cache: &Arc<Cache>, (asked, remember): (LoadRequest, impl FnOnce(&Acquired)), pid: u32, sender: Sender) {
    let (metrics, asked_at) = (cache.daemon().metrics(), Instant::now());
    let keep_alive = cache.config().keep_alive.get().grant(asked.keep_alive);
    let (given, takes_sheet) = (asked.given, asked.takes_sheet);
    let holder = Holder { pid, name: asked.client_name, since: SystemTime::now(), keep_alive, given, takes_sheet };
    let acquired = tokio::select! {
        acquired = cache.acquire_this(asked.again, asked.request, holder, |step, sharers| {
            let _ = sender.try_send(Ok(Event::Progress(messages::progress(step, sharers)).into()));
        }) => acquired,
        () = sender.closed() => return,
    };
    match acquired {
        Ok(acquired) => {
            metrics.loaded(if acquired.warm { Road::Warm } else { Road::Cold }, asked_at.elapsed());
            remember(&acquired);
            let sent = match asked.again {
                None => send(cache, &acquired, &sender, (asked.hold, given, takes_sheet), keep_alive).await,
                Some(_) => lease_again(cache, &acquired, &sender, (given, keep_alive)).await,
            };
            if sent.is_ok() && asked.hold == Hold::Stream {
                hold(cache, &acquired.lease, (given, asked.residency), &sender).await;
            }
        }
        Err(error) => {
            let _ = sender.send(Err(Failure::from(&error).refuse(metrics))).await;
        }
    }
}

/// Waits until the client hangs up, passing on what a holder should know.
async fn hold(cache: &Arc<Cache>, lease: &Lease, (given, residency): (Given, Residency), sender: &Sender) {
    let bringing = cache.bring(lease.component(), given, residency);
    tokio::select! {
        () = sender.closed() => {}
        () = tell_changes(lease, given, sender) => {}
        () = tell_residency(bringing.as_deref(), residency, sender) => {}
        () = cache.daemon().stopping().cancelled() => {
            let message = "weightsd is stopping; what is mapped stays readable".to_owned();
            let kind = v1::NoticeKind::ShuttingDown.into();
            let _ = sender.try_send(Ok(Event::Notice(v1::Notice { kind, message }).into()));
        }
    }
}

/// Tells what becomes of the component's files, for ever.
async fn tell_changes(lease: &Lease, given: Given, sender: &Sender) {
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
            let notice = v1::Notice { kind: kind.into(), message };
            let _ = sender.send(Ok(Event::Notice(notice).into())).await;
        }
        if changes.changed().await.is_err() {
            // Nobody is left who could tell more.
            std::future::pending::<()>().await;
        }
    }
}

/// Tells how far the bytes are on their way into memory, for ever.
async fn tell_residency(bringing: Option<&Bringing>, residency: Residency, sender: &Sender) {
    let Some(bringing) = bringing else { return std::future::pending().await };
    let mut brought = bringing.brought();
    let mut said = None;
    loop {
        let Brought { done, total, problem, has_ended } = brought.borrow_and_update().clone();
        if problem != said && residency == Residency::Pinned {
            let (kind, message) = (v1::NoticeKind::NotPinned.into(), problem.clone().unwrap_or_default());
            let _ = sender.send(Ok(Event::Notice(v1::Notice { kind, message }).into())).await;
        }
        said = problem;
        let step = Step { phase: Phase::Prefetch, bytes_done: done, bytes_total: total, ..Step::default() };
        let message = Ok(Event::Progress(messages::progress(&step, 1)).into());
        if has_ended {
            // The last word is worth waiting for.
            let _ = sender.send(message).await;
            return std::future::pending().await;
        }
        let _ = sender.try_send(message);
        tokio::select! {
            () = tokio::time::sleep(TOLD) => {}
            _ = brought.wait_for(|brought| brought.has_ended) => continue,
        }
        if brought.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// The end of the stream's beginning: an error when the client has hung up.
type Sent = Result<(), mpsc::error::SendError<Result<LoadComponentResponse, Status>>>;

/// Sends a component, and its tensors in pages unless its sheet is handed over.
async fn send(
    cache: &Arc<Cache>,
    acquired: &Acquired,
    sender: &Sender,
    (hold, given, takes_sheet): (Hold, Given, bool),
    keep_alive: Duration,
) -> Sent {
    let lease = &acquired.lease;
    let component = lease.component();
    let sheet = match takes_sheet {
        true => sheet::of(component, cache.daemon()).await,
        false => None,
    };
    let (id, ticket) = match hold {
        Hold::Stream => (lease.number(), lease.ticket().0.to_vec()),
        Hold::None => (0, Vec::new()),
    };
    let lent = v1::Lease { id, ticket, keep_alive: messages::duration(keep_alive) };
    let mut described = described(acquired, &cache.config().attestations, given, lent);
    described.sheet_bytes = sheet.map_or(0, |sheet| sheet.bytes);
    sender.send(Ok(Event::Component(described).into())).await?;
    if sheet.is_none() {
        for page in component.encoded_pages.get_or_init(|| encode_pages(component)) {
            sender.send(Ok(LoadComponentResponse::Encoded(page.clone()))).await?;
        }
    }
    Ok(())
}

/// Answers a holder whose lease ended with an earlier daemon. It has files and tensors.
async fn lease_again(
    cache: &Cache,
    acquired: &Acquired,
    sender: &Sender,
    (given, keep_alive): (Given, Duration),
) -> Sent {
    let (lease, daemon) = (&acquired.lease, cache.daemon());
    let component = lease.component();
    let message =
        format!("a holder of {} of {} is back: its lease was an earlier daemon's", component.name, component.model);
    tracing::info!(id = %component.id, lease = lease.number(), "{message}");
    daemon.events().push(EventKind::LeasedAgain, Some(component.id), message);
    let lent = v1::Lease { id: lease.number(), ticket: Vec::new(), keep_alive: messages::duration(keep_alive) };
    let described = described(acquired, &cache.config().attestations, given, lent);
    sender.send(Ok(Event::Component(described).into())).await
}

/// The component as a holder sees it, without its tensors.
fn described(acquired: &Acquired, attestations: &Attestations, given: Given, lent: v1::Lease) -> v1::Component {
    let component = acquired.lease.component();
    let timings = match acquired.warm {
        true => v1::Timings { resolve: messages::duration(acquired.resolve), ..v1::Timings::default() },
        false => v1::Timings {
            resolve: messages::duration(component.timings.resolve),
            open: messages::duration(component.timings.open),
            audit: messages::duration(component.timings.audit),
            derive: messages::duration(component.timings.derive),
        },
    };
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
        lease: Some(lent),
        computed_bytes: component.computed_bytes(),
        warm: acquired.warm,
        leases: u32::try_from(acquired.leases).unwrap_or(u32::MAX),
        timings: Some(timings),
        attestation: Some(messages::attestation(component, attestations)),
        assumptions: component.assumptions.clone(),
        image: messages::image(component),
        adapters: component.adapters.iter().map(messages::adapted).collect(),
        sheet_bytes: 0,
    }
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
