//! The table of what is loaded and who holds it. It knows a component by its id and nothing of its content: loading,
//! lending and telling clients are left to others.
//!
//! A lease begins and a component is dropped under the lock of the component's place in the map, so nothing is dropped
//! while somebody holds it. `tests/model` compiles this file against a scheduler that tries the orders of its steps.

use std::{
    collections::BTreeMap,
    fmt,
    future::{Future, pending},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use dashmap::{DashMap, mapref::entry::Entry as Slot};
use tokio::sync::{Notify, watch};
use weightsd_core::{
    handoff::{Given, TICKET_LEN, Ticket},
    identity::ComponentId,
    policy::{self, Decision, Facts, Fate, Wish},
};

use crate::sync::{AtomicU64, Mutex, MutexGuard, Ordering, PoisonError, now};

/// How long a component that has just been loaded waits for those who asked for it.
pub const TO_FIRST_LEASE: Duration = Duration::from_secs(1);

/// Components that are looked through at once whenever one of them changes.
const MANY: usize = 64;
/// Pause between two looks through more of them.
const PAUSE: Duration = Duration::from_millis(50);

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
    /// Which files it is given.
    pub given: Given,
    /// Whether it is given the sheet after them.
    pub takes_sheet: bool,
}

/// What a ticket stands for, while its lease lasts.
#[derive(Debug)]
pub struct Ticketed<C> {
    /// The component.
    pub component: Arc<C>,
    /// Which of its files are given.
    pub given: Given,
    /// Whether its sheet is given after them.
    pub takes_sheet: bool,
}

impl<C> Clone for Ticketed<C> {
    fn clone(&self) -> Self {
        Self { component: Arc::clone(&self.component), ..*self }
    }
}

/// Why a component is lent no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// Somebody wrote to a file.
    Changed,
    /// A file was deleted, moved or replaced. Its holders keep its bytes.
    Gone,
    /// A file is not what its hash says.
    Corrupt,
}

/// A component is lent no more.
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
    /// When it was last held.
    pub used: Instant,
    /// How often it was asked for.
    pub requests: u64,
}

/// A loaded component and its holders.
#[derive(Debug)]
pub struct Entry<C> {
    /// The component.
    pub component: Arc<C>,
    /// When it was loaded.
    pub loaded: SystemTime,
    id: ComponentId,
    usage: Mutex<Usage>,
    change: watch::Sender<Option<Change>>,
}

impl<C> Entry<C> {
    fn new(id: ComponentId, component: Arc<C>) -> Self {
        let usage = Usage { holders: BTreeMap::new(), warm_until: now() + TO_FIRST_LEASE, used: now(), requests: 0 };
        let (change, _) = watch::channel(None);
        Self { component, loaded: SystemTime::now(), id, usage: Mutex::new(usage), change }
    }

    /// The component's id.
    #[must_use]
    pub fn id(&self) -> ComponentId {
        self.id
    }

    /// Holders and numbers. Keep the guard for as short as you can.
    pub fn usage(&self) -> MutexGuard<'_, Usage> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn facts(&self) -> Facts {
        let usage = self.usage();
        Facts { id: self.id, leases: usage.holders.len(), warm_until: usage.warm_until }
    }

    /// When it was last held, if nobody holds it.
    #[must_use]
    pub fn idle_since(&self) -> Option<Instant> {
        let usage = self.usage();
        usage.holders.is_empty().then_some(usage.used)
    }

    /// Tells the holders that the component's files changed.
    pub fn notify(&self, change: Change) {
        self.change.send_replace(Some(change));
    }

    /// Tells of changes of the component's files. The later one is the graver one.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Option<Change>> {
        self.change.subscribe()
    }
}

/// What happened to a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseEvent {
    /// It began.
    Began,
    /// It ended.
    Ended,
}

/// Hears of every lease that begins or ends. It is called without a lock.
pub type Listener<C> = Box<dyn Fn(LeaseEvent, &Entry<C>, &Holder) + Send + Sync>;

/// Loaded components and the leases on them.
pub struct LeaseTable<C> {
    entries: DashMap<ComponentId, Arc<Entry<C>>>,
    tickets: DashMap<Ticket, Ticketed<C>>,
    leases: AtomicU64,
    /// Leases that have not ended.
    held: AtomicU64,
    /// The next expiry may be another one than before.
    changed: Notify,
    listener: Listener<C>,
}

impl<C> fmt::Debug for LeaseTable<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseTable").field("entries", &self.entries.len()).finish_non_exhaustive()
    }
}

impl<C> LeaseTable<C> {
    /// An empty table.
    #[must_use]
    pub fn new(listener: Listener<C>) -> Arc<Self> {
        Arc::new(Self {
            entries: DashMap::new(),
            tickets: DashMap::new(),
            leases: AtomicU64::new(0),
            held: AtomicU64::new(0),
            changed: Notify::new(),
            listener,
        })
    }

    /// Leases the component of that id; `None` when it is not loaded.
    pub fn lease(self: &Arc<Self>, id: ComponentId, holder: &Holder) -> Option<Lease<C>> {
        // The guard of the map keeps the component from being dropped until the lease counts.
        let begun = self.entries.get(&id).map(|entry| self.begin(&entry, holder));
        begun.map(|lease| self.announced(lease, holder))
    }

    /// Leases the component of that id, which is `component` unless another one is in the table.
    pub fn lease_or_keep(self: &Arc<Self>, id: ComponentId, component: Arc<C>, holder: &Holder) -> Lease<C> {
        let begun = match self.entries.entry(id) {
            Slot::Occupied(entry) => self.begin(entry.get(), holder),
            Slot::Vacant(slot) => self.begin(&slot.insert(Arc::new(Entry::new(id, component))), holder),
        };
        self.announced(begun, holder)
    }

    /// Keeps a component that was just loaded, so that the next request finds it even before it is leased.
    pub fn keep(&self, id: ComponentId, component: Arc<C>) {
        drop(self.entries.entry(id).or_insert_with(|| Arc::new(Entry::new(id, component))));
        self.changed.notify_one();
    }

    fn begin(self: &Arc<Self>, entry: &Arc<Entry<C>>, holder: &Holder) -> Lease<C> {
        let number = self.leases.fetch_add(1, Ordering::Relaxed) + 1;
        let mut usage = entry.usage();
        usage.requests += 1;
        usage.holders.insert(number, holder.clone());
        drop(usage);
        self.held.fetch_add(1, Ordering::Relaxed);
        Lease { table: Arc::clone(self), entry: Arc::clone(entry), number, ticket: new_ticket() }
    }

    fn announced(&self, lease: Lease<C>, holder: &Holder) -> Lease<C> {
        let component = Arc::clone(&lease.entry.component);
        let redeemed = Ticketed { component, given: holder.given, takes_sheet: holder.takes_sheet };
        self.tickets.insert(lease.ticket, redeemed);
        (self.listener)(LeaseEvent::Began, &lease.entry, holder);
        lease
    }

    /// What a ticket stands for, while its lease lasts.
    #[must_use]
    pub fn redeem(&self, ticket: Ticket) -> Option<Ticketed<C>> {
        self.tickets.get(&ticket).map(|given| given.clone())
    }

    /// The component of that id.
    #[must_use]
    pub fn get(&self, id: ComponentId) -> Option<Arc<Entry<C>>> {
        self.entries.get(&id).map(|entry| Arc::clone(&entry))
    }

    /// Whether the component of that id is loaded.
    #[must_use]
    pub fn contains(&self, id: ComponentId) -> bool {
        self.entries.contains_key(&id)
    }

    /// How many components are loaded. Costs the same for any number of them.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is loaded.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many leases there are. Costs the same for any number of them.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// All loaded components, in no order.
    #[must_use]
    pub fn entries(&self) -> Vec<Arc<Entry<C>>> {
        self.entries.iter().map(|entry| Arc::clone(&entry)).collect()
    }

    /// Takes `entry` out, also while it is held: nobody is lent it any more, and its holders keep what they have. Returns
    /// whether it was in the table.
    pub fn withdraw(&self, entry: &Arc<Entry<C>>) -> bool {
        self.entries.remove_if(&entry.id, |_, found| Arc::ptr_eq(found, entry)).is_some()
    }

    /// Drops the component of that id unless somebody holds it. Returns whether it is not loaded now.
    pub fn drop_unheld(&self, id: ComponentId) -> bool {
        self.entries.remove_if(&id, |_, entry| entry.usage().holders.is_empty());
        !self.contains(id)
    }

    /// What the policy would do about `wish` now.
    #[must_use]
    pub fn decide(&self, wish: Wish) -> Vec<Decision> {
        policy::decide(&self.facts(), wish, now())
    }

    /// Does what [`Self::decide`] says. Returns what became of each decision, with the component if it was dropped.
    pub fn evict(&self, wish: Wish) -> Vec<(Decision, Option<Arc<Entry<C>>>)> {
        self.decide(wish).into_iter().map(|decision| self.carry_out(decision, wish)).collect()
    }

    /// Drops a component that `decision` drops, if the policy still says so: it may have been leased since, and released
    /// with a keep-alive. What the policy says now becomes the decision.
    fn carry_out(&self, mut decision: Decision, wish: Wish) -> (Decision, Option<Arc<Entry<C>>>) {
        if decision.fate == Fate::Kept {
            return (decision, None);
        }
        let id = decision.id;
        let is_due = |_: &ComponentId, entry: &Arc<Entry<C>>| {
            decision = policy::decide_one(&entry.facts(), wish, now());
            decision.fate == Fate::Dropped
        };
        let dropped = self.entries.remove_if(&id, is_due).map(|(_, entry)| entry);
        if dropped.is_none() {
            // Another caller may have dropped it meanwhile.
            decision.fate = Fate::Kept;
        }
        (decision, dropped)
    }

    /// Calls `evict` each time a component may have outlived its keep-alive, for ever. `sleep_until` waits for a moment. It
    /// looks through all components to find the next moment, and where they are many it does so only now and then.
    pub async fn when_due<F: Future<Output = ()>>(&self, sleep_until: impl Fn(Instant) -> F, evict: impl Fn()) {
        loop {
            let next = policy::next_expiry(&self.facts());
            let sleep = async {
                match next {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                () = sleep => evict(),
                () = self.changed.notified() => {}
            }
            if self.entries.len() > MANY {
                sleep_until(now() + PAUSE).await;
            }
        }
    }

    fn facts(&self) -> Vec<Facts> {
        self.entries.iter().map(|entry| entry.facts()).collect()
    }
}

/// The right to hold a component. Dropping it lets go.
#[derive(Debug)]
#[must_use = "a lease that is not kept is let go at once"]
pub struct Lease<C> {
    table: Arc<LeaseTable<C>>,
    entry: Arc<Entry<C>>,
    number: u64,
    ticket: Ticket,
}

impl<C> Lease<C> {
    /// The entry that is held.
    #[must_use]
    pub fn entry(&self) -> &Arc<Entry<C>> {
        &self.entry
    }

    /// The component that is held.
    #[must_use]
    pub fn component(&self) -> &Arc<C> {
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

impl<C> Drop for Lease<C> {
    fn drop(&mut self) {
        self.table.tickets.remove(&self.ticket);
        let mut usage = self.entry.usage();
        let Some(holder) = usage.holders.remove(&self.number) else { return };
        usage.used = now();
        usage.warm_until = usage.warm_until.max(usage.used + holder.keep_alive);
        drop(usage);
        self.table.held.fetch_sub(1, Ordering::Relaxed);
        (self.table.listener)(LeaseEvent::Ended, &self.entry, &holder);
        self.table.changed.notify_one();
    }
}

fn new_ticket() -> Ticket {
    let mut bytes = [0; TICKET_LEN];
    // The system's generator fails only where there is none, and nothing here could be trusted then.
    getrandom::fill(&mut bytes).expect("the system has a random generator");
    Ticket(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(id: ComponentId) -> (Arc<LeaseTable<()>>, Arc<Entry<()>>) {
        let table = LeaseTable::new(Box::new(|_, _, _| {}));
        table.keep(id, Arc::new(()));
        let entry = table.get(id).unwrap();
        (table, entry)
    }

    #[test]
    fn a_keep_alive_that_was_just_granted_outlives_an_old_decision() {
        let (table, entry) = loaded("ab".repeat(32).parse().unwrap());
        entry.usage().warm_until = now();
        let decision = table.decide(Wish::Expired).remove(0);
        assert_eq!(decision.fate, Fate::Dropped);
        // Leased and released in between: nobody holds it, and it is to stay warm.
        entry.usage().warm_until = now() + Duration::from_secs(60);
        let (now_said, dropped) = table.carry_out(decision.clone(), Wish::Expired);
        assert!(dropped.is_none() && table.contains(entry.id()));
        assert_eq!((now_said.fate, now_said.reason.as_str()), (Fate::Kept, "still within its keep-alive"));
        entry.usage().warm_until = now();
        assert!(table.carry_out(decision, Wish::Expired).1.is_some());
        assert!(!table.contains(entry.id()));
    }

    #[test]
    fn a_lease_on_a_withdrawn_component_leaves_its_successor_alone() {
        let (table, entry) = loaded("cd".repeat(32).parse().unwrap());
        let holder = |keep_alive| Holder {
            pid: 1,
            name: "h".into(),
            since: SystemTime::UNIX_EPOCH,
            keep_alive,
            given: Given::Originals,
            takes_sheet: false,
        };
        let old = table.lease(entry.id(), &holder(Duration::ZERO)).unwrap();
        assert!(table.withdraw(&entry) && !table.withdraw(&entry));
        assert!(table.lease(entry.id(), &holder(Duration::ZERO)).is_none());
        let new = table.lease_or_keep(entry.id(), Arc::new(()), &holder(Duration::ZERO));
        assert!(table.redeem(old.ticket()).is_some(), "what is held can be fetched");
        drop(old);
        assert_eq!(table.get(entry.id()).unwrap().usage().holders.len(), 1);
        assert!(!table.drop_unheld(entry.id()), "it is held");
        drop(new);
        assert!(table.drop_unheld(entry.id()));
    }
}
