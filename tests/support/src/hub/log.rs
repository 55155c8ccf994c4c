//! What the hub has seen.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{on::Side, request::Request, seen::Seen};

#[derive(Debug)]
pub(super) struct Log {
    started: Instant,
    entries: Mutex<Vec<Arc<Entry>>>,
}

/// One request; its thread writes the numbers while others read them.
#[derive(Debug)]
pub(super) struct Entry {
    number: usize,
    at: Duration,
    side: Side,
    request: Request,
    status: AtomicU16,
    sent: AtomicU64,
    over: AtomicBool,
}

impl Log {
    pub(super) fn new() -> Self {
        Self { started: Instant::now(), entries: Mutex::default() }
    }

    pub(super) fn note(&self, side: Side, request: &Request) -> Arc<Entry> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = Arc::new(Entry::new(entries.len(), self.started.elapsed(), side, request));
        entries.push(Arc::clone(&entry));
        entry
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|entry| entry.seen()).collect()
    }

    pub(super) fn bytes_sent(&self, side: Side) -> u64 {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.iter().filter(|entry| entry.side == side).map(|entry| entry.sent.load(Ordering::SeqCst)).sum()
    }

    pub(super) fn clear(&self) {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Entry {
    pub(super) fn new(number: usize, at: Duration, side: Side, request: &Request) -> Self {
        Self {
            number,
            at,
            side,
            request: request.clone(),
            status: AtomicU16::new(0),
            sent: AtomicU64::new(0),
            over: AtomicBool::new(false),
        }
    }

    pub(super) fn number(&self) -> usize {
        self.number
    }

    pub(super) fn answered(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    /// Counts bytes before they are written: a client that has them all must not find fewer in the log.
    pub(super) fn sending(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::SeqCst);
    }

    /// Takes back what could not be written.
    pub(super) fn unsent(&self, bytes: u64) {
        self.sent.fetch_sub(bytes, Ordering::SeqCst);
    }

    pub(super) fn over(&self) {
        self.over.store(true, Ordering::SeqCst);
    }

    fn seen(&self) -> Seen {
        let status = self.status.load(Ordering::SeqCst);
        Seen {
            at: self.at,
            side: self.side,
            method: self.request.method.clone(),
            path: self.request.path.clone(),
            query: self.request.query.clone(),
            headers: self.request.headers.clone(),
            status: (status != 0).then_some(status),
            sent: self.sent.load(Ordering::SeqCst),
            over: self.over.load(Ordering::SeqCst),
        }
    }
}
