//! `WatchEvents`: a position in the ring that follows it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use weightsd_core::explain::{Explanation, Reason};
use weightsd_proto::v1::{self, WatchEventsRequest, WatchEventsResponse};

use super::{Context, Failure};
use crate::{
    events::{Event, EventKind},
    handle::Daemon,
};

/// The stream of events.
pub(super) type EventStream = ReceiverStream<Result<WatchEventsResponse, Status>>;

/// Events that wait for a slow client; the ring keeps the others.
const QUEUE: usize = 1;

/// Streams of events that the daemon has open at once.
const WATCHERS_MAX: usize = 512;
/// Streams of events that one process has open at once. Each takes buffers of the transport, read or not.
const WATCHERS_OF_ONE_MAX: usize = 64;

/// Streams of events that are open, by process.
#[derive(Debug, Default)]
pub(crate) struct Watchers(Mutex<BTreeMap<u32, usize>>);

/// One of them.
struct Watching {
    watchers: Arc<Watchers>,
    pid: u32,
}

impl Watchers {
    fn table(&self) -> MutexGuard<'_, BTreeMap<u32, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admit(self: &Arc<Self>, pid: u32) -> Result<Watching, Failure> {
        let mut table = self.table();
        let (own, all) = (table.get(&pid).copied().unwrap_or_default(), table.values().sum::<usize>());
        let problem = match () {
            () if own >= WATCHERS_OF_ONE_MAX => format!("process {pid} has {own} of them open"),
            () if all >= WATCHERS_MAX => format!("{all} of them are open"),
            () => {
                *table.entry(pid).or_default() += 1;
                return Ok(Watching { watchers: Arc::clone(self), pid });
            }
        };
        let hint = "end one that is not needed; `weightsd events` without `--follow` ends by itself";
        let message = format!("no further stream of events is opened: {problem}");
        Err(Failure::new(message, Explanation::new(Reason::Busy, "", hint)))
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let mut table = self.watchers.table();
        if let Some(count) = table.get_mut(&self.pid) {
            *count -= 1;
            if *count == 0 {
                table.remove(&self.pid);
            }
        }
    }
}

pub(super) fn watch(context: &Context, pid: u32, request: &WatchEventsRequest) -> Result<EventStream, Failure> {
    let watching = context.watchers.admit(pid)?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    let (daemon, position) = (context.daemon.clone(), request.from_sequence);
    let until = if request.past_only { Until::Now } else { Until::Stopped };
    context.daemon.tasks().spawn("watch", async move {
        tokio::select! {
            () = follow(&daemon, position, until, &sender) => {}
            () = sender.closed() => {}
        }
        drop(watching);
    });
    Ok(ReceiverStream::new(receiver))
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
        EventKind::LeasedAgain => v1::EventKind::LeasedAgain,
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
