//! `WatchEvents`: a position in the ring that follows it.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use weightsd_proto::v1::{self, WatchEventsRequest, WatchEventsResponse};

use super::Context;
use crate::{
    events::{Event, EventKind},
    handle::Daemon,
};

/// The stream of events.
pub(super) type EventStream = ReceiverStream<Result<WatchEventsResponse, Status>>;

/// Events that wait for a slow client; the ring keeps the others.
const QUEUE: usize = 1;

pub(super) fn watch(context: &Context, request: &WatchEventsRequest) -> EventStream {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let (daemon, position) = (context.daemon.clone(), request.from_sequence);
    let until = if request.past_only { Until::Now } else { Until::Stopped };
    context.daemon.tasks().spawn("watch", async move {
        tokio::select! {
            () = follow(&daemon, position, until, &sender) => {}
            () = sender.closed() => {}
        }
    });
    ReceiverStream::new(receiver)
}

/// How long events are followed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    /// To the latest one.
    Now,
    /// Until the daemon stops.
    Stopped,
}

async fn follow(
    daemon: &Daemon,
    mut position: u64,
    until: Until,
    sender: &mpsc::Sender<Result<WatchEventsResponse, Status>>,
) {
    let mut latest = daemon.events().latest();
    loop {
        latest.mark_unchanged();
        let mut read = daemon.events().read(position);
        let is_last = read.events.is_empty();
        for event in read.events {
            position = event.sequence + 1;
            let skipped = std::mem::take(&mut read.skipped);
            if sender.send(Ok(WatchEventsResponse { event: Some(message(&event)), skipped })).await.is_err() {
                return;
            }
        }
        if !is_last {
            continue;
        }
        if until == Until::Now {
            return;
        }
        tokio::select! {
            // In this order, so that the event of the shutdown is sent before the end.
            biased;
            changed = latest.changed() => if changed.is_err() { return },
            () = daemon.stopping().cancelled() => return,
        }
    }
}

fn message(event: &Event) -> v1::Event {
    let kind = match event.kind {
        EventKind::Loaded => v1::EventKind::Loaded,
        EventKind::LoadFailed => v1::EventKind::LoadFailed,
        EventKind::Leased => v1::EventKind::Leased,
        EventKind::Released => v1::EventKind::Released,
        EventKind::Evicted => v1::EventKind::Evicted,
        EventKind::FileChanged => v1::EventKind::FileChanged,
        EventKind::Refused => v1::EventKind::Refused,
        EventKind::DownloadBegan => v1::EventKind::DownloadBegan,
        EventKind::Downloaded => v1::EventKind::Downloaded,
        EventKind::DownloadFailed => v1::EventKind::DownloadFailed,
        EventKind::Quarantined => v1::EventKind::Quarantined,
        EventKind::Verified => v1::EventKind::Verified,
        EventKind::Derived => v1::EventKind::Derived,
        EventKind::ImageDeleted => v1::EventKind::ImageDeleted,
        EventKind::SettingsRead => v1::EventKind::SettingsRead,
        EventKind::ShuttingDown => v1::EventKind::ShuttingDown,
    };
    v1::Event {
        sequence: event.sequence,
        time: Some(event.time.into()),
        kind: kind.into(),
        component_id: event.component.map(|id| id.to_string()).unwrap_or_default(),
        message: event.message.clone(),
    }
}
