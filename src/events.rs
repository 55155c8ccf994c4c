//! The event log: a ring of what happened. Each reader has a position of its own, so a slow one loses events and delays
//! nobody.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use tokio::sync::watch;
use weightsd_core::identity::ComponentId;

use crate::damper::{Damper, and_untold};

/// Events that are kept.
const KEPT: usize = 1024;
/// Events that are read at once.
const READ_MAX: usize = 16;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// A component became ready.
    Loaded,
    /// A load failed.
    LoadFailed,
    /// A lease began.
    Leased,
    /// A holder came back that had its lease from an earlier daemon.
    LeasedAgain,
    /// A lease ended.
    Released,
    /// A component was dropped.
    Evicted,
    /// A file under a component changed.
    FileChanged,
    /// A connection was refused.
    Refused,
    /// A download began.
    DownloadBegan,
    /// A download ended well.
    Downloaded,
    /// A download failed.
    DownloadFailed,
    /// A file is not what its hash says, and was moved aside.
    Quarantined,
    /// A component's files are what their hashes say.
    Verified,
    /// A component's tensors were computed.
    Derived,
    /// A derived image was deleted.
    ImageDeleted,
    /// The configuration was read anew.
    SettingsRead,
    /// The daemon is stopping.
    ShuttingDown,
}

impl EventKind {
    /// All kinds, in their order.
    pub const ALL: [Self; 17] = [
        Self::Loaded,
        Self::LoadFailed,
        Self::Leased,
        Self::LeasedAgain,
        Self::Released,
        Self::Evicted,
        Self::FileChanged,
        Self::Refused,
        Self::DownloadBegan,
        Self::Downloaded,
        Self::DownloadFailed,
        Self::Quarantined,
        Self::Verified,
        Self::Derived,
        Self::ImageDeleted,
        Self::SettingsRead,
        Self::ShuttingDown,
    ];
}

/// One thing that happened.
#[derive(Debug, Clone)]
pub struct Event {
    /// Counts up by one from 1.
    pub sequence: u64,
    /// When.
    pub time: SystemTime,
    /// What.
    pub kind: EventKind,
    /// The component concerned.
    pub component: Option<ComponentId>,
    /// What happened and why.
    pub message: String,
}

/// What a reader finds at its position.
#[derive(Debug)]
pub struct Read {
    /// Some events from the position on, or from the oldest that is kept. None when the reader has read all.
    pub events: Vec<Arc<Event>>,
    /// Events between the position and the first of `events`.
    pub skipped: u64,
}

/// The ring.
#[derive(Debug)]
pub struct Events {
    ring: Mutex<VecDeque<Arc<Event>>>,
    refused: Damper,
    failed: Damper,
    latest: watch::Sender<u64>,
    /// Events of each kind since the start, also those that were not kept.
    counts: [AtomicU64; EventKind::ALL.len()],
}

impl Default for Events {
    fn default() -> Self {
        Self {
            ring: Mutex::default(),
            refused: Damper::new(),
            failed: Damper::new(),
            latest: watch::Sender::new(0),
            counts: Default::default(),
        }
    }
}

impl Events {
    /// Adds an event. Refusals and failed loads, which cost a client nothing, are kept a few at a time, with the number of
    /// those that are not: otherwise they would push out everything else.
    pub fn push(&self, kind: EventKind, component: Option<ComponentId>, mut message: String) {
        self.counts[kind as usize].fetch_add(1, Ordering::Relaxed);
        let damper = match kind {
            EventKind::Refused => Some(&self.refused),
            EventKind::LoadFailed => Some(&self.failed),
            _ => None,
        };
        if let Some(damper) = damper {
            let Some(untold) = damper.tells() else { return };
            message.push_str(&and_untold(untold));
        }
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let sequence = *self.latest.borrow() + 1;
        if ring.len() == KEPT {
            ring.pop_front();
        }
        ring.push_back(Arc::new(Event { sequence, time: SystemTime::now(), kind, component, message }));
        self.latest.send_replace(sequence);
    }

    /// The next events from `position` on. They are shared with all other readers.
    #[must_use]
    pub fn read(&self, position: u64) -> Read {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        // Sequence numbers in the ring go up by one.
        let oldest = ring.front().map_or(0, |event| event.sequence);
        let past = usize::try_from(position.saturating_sub(oldest)).unwrap_or(usize::MAX);
        let events: Vec<_> = ring.iter().skip(past).take(READ_MAX).cloned().collect();
        let skipped = match events.first() {
            Some(first) if position > 0 => first.sequence - position,
            _ => 0,
        };
        Read { events, skipped }
    }

    /// How many events of each kind there were since the start.
    pub fn counts(&self) -> impl Iterator<Item = (EventKind, u64)> {
        EventKind::ALL.into_iter().map(|kind| (kind, self.counts[kind as usize].load(Ordering::Relaxed)))
    }

    /// Tells when there is more to read.
    #[must_use]
    pub fn latest(&self) -> watch::Receiver<u64> {
        self.latest.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_reader_learns_how_much_it_missed() {
        let events = Events::default();
        for number in 0..KEPT + 10 {
            events.push(EventKind::Loaded, None, number.to_string());
        }
        let mut read = events.read(3);
        assert_eq!((read.events.len(), read.skipped), (READ_MAX, 8));
        assert_eq!(read.events[0].sequence, 11);
        let (mut count, mut next) = (0, 3);
        while let Some(last) = read.events.last() {
            count += read.events.len();
            next = last.sequence + 1;
            read = events.read(next);
        }
        assert_eq!((count, next), (KEPT, KEPT as u64 + 11));
        events.push(EventKind::Evicted, None, String::new());
        assert_eq!(events.read(next).events.len(), 1);
        assert_eq!(events.read(next).skipped, 0);
    }

    #[test]
    fn every_event_is_counted_also_those_that_are_not_kept() {
        let events = Events::default();
        for (number, kind) in EventKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, number, "{kind:?} stands elsewhere in the list");
            (0..=number).for_each(|_| events.push(kind, None, String::new()));
        }
        assert!(events.counts().enumerate().all(|(number, (_, count))| count == number as u64 + 1));
    }

    #[test]
    fn a_flood_of_refusals_leaves_the_other_events_where_they_are() {
        let events = Events::default();
        events.push(EventKind::Quarantined, None, "what matters".to_owned());
        for _ in 0..10 * KEPT {
            events.push(EventKind::Refused, None, String::new());
            events.push(EventKind::LoadFailed, None, String::new());
        }
        let read = events.read(0);
        assert_eq!((read.events[0].message.as_str(), read.skipped), ("what matters", 0));
    }
}
