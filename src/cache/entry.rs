//! A loaded component, its holders, and the lease: holding is a value, letting go is its drop.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::watch;
use weightsd_core::{handoff::Ticket, policy::Facts};

use super::Cache;
use crate::component::Component;

/// How long a component that has just been loaded waits for those who asked for it.
const TO_FIRST_LEASE: Duration = Duration::from_secs(1);

/// Who holds a component.
#[derive(Debug, Clone)]
pub struct Holder {
    /// Process id of the peer when it connected; 0 when unknown.
    pub pid: u32,
    /// The name the client gave itself.
    pub name: String,
    /// Since when.
    pub since: SystemTime,
    /// How long the component stays warm after this holder, as granted.
    pub keep_alive: Duration,
}

/// Why a component's bytes can no longer be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// Somebody wrote to a file.
    Changed,
    /// A file is not what its hash says.
    Corrupt,
}

/// A component's bytes can no longer be trusted.
#[derive(Debug, Clone)]
pub struct Change {
    /// Why.
    pub kind: ChangeKind,
    /// What happened, in words.
    pub message: String,
}

/// What changes about a loaded component.
#[derive(Debug)]
pub struct Usage {
    /// Holders, by number of the lease.
    pub holders: BTreeMap<u64, Holder>,
    /// Until when it stays warm without holders.
    pub warm_until: Instant,
    /// How often it was asked for.
    pub requests: u64,
}

/// A loaded component and its holders.
#[derive(Debug)]
pub struct Entry {
    /// The component.
    pub component: Arc<Component>,
    /// When it was loaded.
    pub loaded: SystemTime,
    usage: Mutex<Usage>,
    change: watch::Sender<Option<Change>>,
}

impl Entry {
    pub(super) fn new(component: Arc<Component>) -> Self {
        let usage = Usage { holders: BTreeMap::new(), warm_until: Instant::now() + TO_FIRST_LEASE, requests: 0 };
        Self { component, loaded: SystemTime::now(), usage: Mutex::new(usage), change: watch::Sender::new(None) }
    }

    /// Holders and numbers. Keep the guard for as short as you can.
    pub fn usage(&self) -> MutexGuard<'_, Usage> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn facts(&self) -> Facts {
        let usage = self.usage();
        Facts { id: self.component.id, leases: usage.holders.len(), warm_until: usage.warm_until }
    }

    pub(super) fn notify(&self, change: Change) {
        self.change.send_replace(Some(change));
    }

    /// Tells of a change of the component's files; at most one ever comes.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Option<Change>> {
        self.change.subscribe()
    }
}

/// The right to hold a component. Dropping it lets go.
#[derive(Debug)]
#[must_use = "a lease that is not kept is let go at once"]
pub struct Lease {
    cache: Arc<Cache>,
    entry: Arc<Entry>,
    number: u64,
    ticket: Ticket,
}

impl Lease {
    pub(super) fn begin(cache: &Arc<Cache>, entry: &Arc<Entry>, number: u64, holder: Holder) -> Self {
        let mut usage = entry.usage();
        usage.requests += 1;
        usage.holders.insert(number, holder);
        drop(usage);
        Self { cache: Arc::clone(cache), entry: Arc::clone(entry), number, ticket: new_ticket() }
    }

    /// The entry that is held.
    #[must_use]
    pub fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }

    /// The component that is held.
    #[must_use]
    pub fn component(&self) -> &Arc<Component> {
        &self.entry.component
    }

    /// Number of the lease.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// What the hand-off protocol exchanges for descriptors.
    #[must_use]
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut usage = self.entry.usage();
        let Some(holder) = usage.holders.remove(&self.number) else { return };
        usage.warm_until = usage.warm_until.max(Instant::now() + holder.keep_alive);
        drop(usage);
        self.cache.released(&self.entry, self.ticket, &holder);
    }
}

fn new_ticket() -> Ticket {
    let mut bytes = [0; weightsd_core::handoff::TICKET_LEN];
    // The system's generator fails only where there is none, and nothing here could be trusted then.
    getrandom::fill(&mut bytes).expect("the system has a random generator");
    Ticket(bytes)
}
