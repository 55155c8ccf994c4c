//! The event log: a ring of what happened. Each reader has a position of its own, so a slow one loses events and delays
//! nobody.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use tokio::sync::watch;
use weightsd_core::identity::ComponentId;

/// Events that are kept.
const KEPT: usize = 1024;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// A component became ready.
    Loaded,
    /// A load failed.
    LoadFailed,
    /// A lease began.
    Leased,
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
    /// The daemon is stopping.
    ShuttingDown,
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
    /// Events from the position on, or from the oldest that is kept.
    pub events: Vec<Event>,
    /// Events between the position and the first of `events`.
    pub skipped: u64,
}

/// The ring.
#[derive(Debug)]
pub struct Events {
    ring: Mutex<VecDeque<Event>>,
    latest: watch::Sender<u64>,
}

impl Default for Events {
    fn default() -> Self {
        Self { ring: Mutex::default(), latest: watch::Sender::new(0) }
    }
}

impl Events {
    /// Adds an event.
    pub fn push(&self, kind: EventKind, component: Option<ComponentId>, message: String) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let sequence = *self.latest.borrow() + 1;
        if ring.len() == KEPT {
            ring.pop_front();
        }
        ring.push_back(Event { sequence, time: SystemTime::now(), kind, component, message });
        self.latest.send_replace(sequence);
    }

    /// The events from `position` on.
    #[must_use]
    pub fn read(&self, position: u64) -> Read {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let events: Vec<Event> = ring.iter().filter(|event| event.sequence >= position).cloned().collect();
        let skipped = match events.first() {
            Some(first) if position > 0 => first.sequence - position,
            _ => 0,
        };
        Read { events, skipped }
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
        let read = events.read(3);
        assert_eq!((read.events.len(), read.skipped), (KEPT, 8));
        assert_eq!(read.events[0].sequence, 11);
        let next = read.events.last().unwrap().sequence + 1;
        assert!(events.read(next).events.is_empty());
        events.push(EventKind::Evicted, None, String::new());
        assert_eq!(events.read(next).events.len(), 1);
        assert_eq!(events.read(next).skipped, 0);
    }
}
