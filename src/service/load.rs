//! `LoadComponent`: the response stream is the lease. It lives in a task that ends when the client hangs up, however
//! that happens, and takes the lease with it.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use prost::{Message as _, bytes::Bytes};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use weightsd_core::handoff::{Given, Ticket};
use weightsd_proto::{
    prepared::LoadComponentResponse,
    v1::{self, LoadComponentRequest, load_component_response::Event},
};

use super::{
    Context, Failure, guest, messages,
    request::{self, Hold, LoadRequest},
    sheet,
};
use crate::{
    cache::{Acquired, AcquiredOnCard, Bringing, Brought, Cache, Change, ChangeKind, Holder, Residency},
    component::Component,
    events::EventKind,
    guests::Peer,
    metrics::Road,
    progress::{Phase, Step},
    resolve::ResolvedModel,
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
    asker: (u32, Peer),
    request: LoadComponentRequest,
) -> Result<LoadStream, Failure> {
    let asked = request::load(request.clone())?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    let (cache, known) = (Arc::clone(&context.cache), Arc::clone(&context.known));
    let remember = move |acquired: &Acquired| known.remember(acquired.lease.component().id, request, &acquired.model);
    context.daemon.tasks().spawn("lease", async move { serve(&cache, (asked, remember), asker, sender).await });
    Ok(ReceiverStream::new(receiver))
}

async fn serve(
    cache: &Arc<Cache>,
    (asked, remember): (LoadRequest, impl FnOnce(&Acquired)),
    (pid, peer): (u32, Peer),
    sender: Sender,
) {
    let (metrics, asked_at) = (cache.daemon().metrics(), Instant::now());
    let keep_alive = cache.config().keep_alive.get().grant(asked.keep_alive);
    let LoadRequest { request, client_name: name, given, takes_sheet, residency, again, card, .. } = asked;
    let holder = Holder { pid, name, since: SystemTime::now(), keep_alive, given, takes_sheet };
    let progress = |step: &Step, sharers| {
        let _ = sender.try_send(Ok(Event::Progress(messages::progress(step, sharers)).into()));
    };
    let acquire = async {
        match card {
            Some(card) => cache.acquire_on_card(request, card, holder, &progress).await.map(Lent::OnCard),
            None => {
                let acquired = cache.acquire_this(again, request, holder, progress).await;
                acquired.inspect(remember).map(|acquired| Lent::Files(acquired, given))
            }
        }
    };
    let acquired = tokio::select! {
        acquired = acquire => acquired,
        () = sender.closed() => return,
    };
    match acquired {
        Ok(lent) => {
            metrics.loaded(if lent.is_warm() { Road::Warm } else { Road::Cold }, asked_at.elapsed());
            let sent = match again {
                None => send(cache, &lent, (&sender, peer), (asked.hold, takes_sheet), keep_alive).await,
                Some(_) => lease_again(cache, &lent, (&sender, peer), keep_alive).await,
            };
            if sent.is_ok() && asked.hold == Hold::Stream {
                hold(cache, &lent, residency, (&sender, peer)).await;
            }
        }
        Err(error) => {
            let _ = sender.send(Err(Failure::from(&error).to(peer).refuse(metrics))).await;
        }
    }
}

/// What a request gets, and the right to it.
enum Lent {
    Files(Acquired, Given),
    OnCard(AcquiredOnCard),
}

impl Lent {
    fn is_warm(&self) -> bool {
        match self {
            Self::Files(acquired, _) => acquired.warm,
            Self::OnCard(acquired) => acquired.warm,
        }
    }

    fn changes(&self) -> watch::Receiver<Option<Change>> {
        match self {
            Self::Files(acquired, _) => acquired.lease.entry().changes(),
            Self::OnCard(acquired) => acquired.lease.entry().changes(),
        }
    }

    /// Whether the holder's bytes stay when somebody writes to the files.
    fn is_safe(&self) -> bool {
        match self {
            Self::Files(acquired, given) => acquired.lease.component().is_safe_with(*given),
            Self::OnCard(_) => true,
        }
    }

    fn component(&self) -> &Component {
        match self {
            Self::Files(acquired, _) => acquired.lease.component(),
            Self::OnCard(acquired) => &acquired.lease.component().component,
        }
    }

    fn segments(&self) -> Vec<v1::Segment> {
        match self {
            Self::Files(acquired, given) => {
                let segments = &acquired.lease.component().segments;
                segments.iter().map(|segment| messages::segment(segment, *given)).collect()
            }
            Self::OnCard(acquired) => vec![messages::card_segment(acquired.lease.component())],
        }
    }

    /// The tensor table, encoded once for all holders.
    fn pages(&self) -> &[Bytes] {
        match self {
            Self::Files(acquired, _) => {
                let component = acquired.lease.component();
                let encode = || encode_pages(component.tensors.iter().map(messages::tensor));
                component.encoded_pages.get_or_init(encode)
            }
            Self::OnCard(acquired) => {
                let on_card = acquired.lease.component();
                let tensor = |(tensor, offset)| v1::Tensor { segment: 0, offset, ..messages::tensor(tensor) };
                on_card.encoded_pages.get_or_init(|| encode_pages(on_card.tensors().map(tensor)))
            }
        }
    }

    /// Number and ticket of the lease.
    fn lease(&self) -> (u64, Ticket) {
        match self {
            Self::Files(acquired, _) => (acquired.lease.number(), acquired.lease.ticket()),
            Self::OnCard(acquired) => (acquired.lease.number(), acquired.lease.ticket()),
        }
    }

    fn leases(&self) -> usize {
        match self {
            Self::Files(acquired, _) => acquired.leases,
            Self::OnCard(acquired) => acquired.leases,
        }
    }

    fn model(&self) -> &ResolvedModel {
        match self {
            Self::Files(acquired, _) => &acquired.model,
            Self::OnCard(acquired) => &acquired.model,
        }
    }

    fn timings(&self) -> v1::Timings {
        let resolve = match self {
            Self::Files(acquired, _) => acquired.resolve,
            Self::OnCard(acquired) => acquired.resolve,
        };
        if self.is_warm() {
            return v1::Timings { resolve: messages::duration(resolve), ..v1::Timings::default() };
        }
        let timings = self.component().timings;
        let upload = match self {
            Self::Files(..) => None,
            Self::OnCard(acquired) => messages::duration(acquired.lease.component().took),
        };
        v1::Timings {
            resolve: messages::duration(timings.resolve),
            open: messages::duration(timings.open),
            audit: messages::duration(timings.audit),
            derive: messages::duration(timings.derive),
            upload,
        }
    }
}

/// Waits until the client hangs up, passing on what a holder should know.
async fn hold(cache: &Arc<Cache>, lent: &Lent, residency: Residency, (sender, peer): (&Sender, Peer)) {
    let bringing = match lent {
        Lent::Files(acquired, given) => cache.bring(acquired.lease.component(), *given, residency),
        Lent::OnCard(_) => None,
    };
    tokio::select! {
        () = sender.closed() => {}
        () = tell_changes(lent, (sender, peer)) => {}
        () = tell_residency(bringing.as_deref(), residency, sender) => {}
        () = cache.daemon().stopping().cancelled() => {
            let message = "weightsd is stopping; what is mapped stays readable".to_owned();
            let kind = v1::NoticeKind::ShuttingDown.into();
            let _ = sender.try_send(Ok(Event::Notice(v1::Notice { kind, message }).into()));
        }
    }
}

/// Tells what becomes of the component's files, for ever.
async fn tell_changes(lent: &Lent, (sender, peer): (&Sender, Peer)) {
    let mut changes = lent.changes();
    loop {
        let change = changes.borrow_and_update().clone();
        if let Some(Change { kind, message }) = change {
            let kind = match kind {
                ChangeKind::Changed if lent.is_safe() => v1::NoticeKind::FileGone,
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
    lent: &Lent,
    (sender, peer): (&Sender, Peer),
    (hold, takes_sheet): (Hold, bool),
    keep_alive: Duration,
) -> Sent {
    let sheet = match lent {
        Lent::Files(acquired, _) if takes_sheet => sheet::of(acquired.lease.component(), cache.daemon()).await,
        Lent::Files(..) | Lent::OnCard(_) => None,
    };
    let (id, ticket) = match (hold, lent.lease()) {
        (Hold::Stream, (number, ticket)) => (number, ticket.0.to_vec()),
        (Hold::None, _) => (0, Vec::new()),
    };
    let lease = v1::Lease { id, ticket, keep_alive: messages::duration(keep_alive) };
    let mut described = described(lent, &cache.config().attestations, lease);
    described.sheet_bytes = sheet.map_or(0, |sheet| sheet.bytes);
    sender.send(Ok(Event::Component(guest::told(peer, described)).into())).await?;
    if sheet.is_none() {
        for page in lent.pages() {
            sender.send(Ok(LoadComponentResponse::Encoded(page.clone()))).await?;
        }
    }
    Ok(())
}

/// Answers a holder whose lease ended with an earlier daemon. It has files and tensors.
async fn lease_again(cache: &Cache, lent: &Lent, (sender, peer): (&Sender, Peer), keep_alive: Duration) -> Sent {
    let (component, (number, _), daemon) = (lent.component(), lent.lease(), cache.daemon());
    let message =
        format!("a holder of {} of {} is back: its lease was an earlier daemon's", component.name, component.model);
    tracing::info!(id = %component.id, lease = number, "{message}");
    daemon.events().push(EventKind::LeasedAgain, Some(component.id), message);
    let lease = v1::Lease { id: number, ticket: Vec::new(), keep_alive: messages::duration(keep_alive) };
    let described = described(lent, &cache.config().attestations, lease);
    sender.send(Ok(Event::Component(guest::told(peer, described)).into())).await
}

/// The component as a holder sees it, without its tensors.
fn described(lent: &Lent, attestations: &Attestations, lease: v1::Lease) -> v1::Component {
    let component = lent.component();
    v1::Component {
        id: component.id.to_string(),
        name: component.name.clone(),
        family: component.family.to_owned(),
        layout: messages::layout(component.layout).into(),
        model: Some(messages::model(lent.model())),
        config_json: component.config_json.clone(),
        segments: lent.segments(),
        tensor_count: u32::try_from(component.tensors.len()).unwrap_or(u32::MAX),
        tensor_bytes: component.tensor_bytes(),
        audit: Some(messages::component_audit(component)),
        lease: Some(lease),
        computed_bytes: component.computed_bytes(),
        warm: lent.is_warm(),
        leases: u32::try_from(lent.leases()).unwrap_or(u32::MAX),
        timings: Some(lent.timings()),
        attestation: Some(messages::attestation(component, attestations)),
        assumptions: component.assumptions.clone(),
        image: messages::image(component),
        adapters: component.adapters.iter().map(messages::adapted).collect(),
        sheet_bytes: 0,
    }
}

/// A tensor table as messages, encoded.
fn encode_pages(tensors: impl Iterator<Item = v1::Tensor>) -> Vec<Bytes> {
    let mut pages = Vec::new();
    let mut page = v1::TensorPage::default();
    let mut bytes = 0;
    let mut close = |page: &mut v1::TensorPage| {
        let event = Some(Event::Page(std::mem::take(page)));
        pages.push(v1::LoadComponentResponse { event }.encode_to_vec().into());
    };
    for tensor in tensors {
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
