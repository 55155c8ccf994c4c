//! What is loaded, who holds it, and how requests for one thing become one piece of work.
//!
//! A request goes one of three ways, the cheapest that works: *recall* (nothing that decided the last answer has changed,
//! and the component is kept), *warm* (the files were listed anew, and mean a component that is kept), *cold* (the rest of
//! [`pipeline::load`](crate::pipeline::load) runs, once for all requests that ask meanwhile).

mod acquire;
mod entry;
mod flight;
mod mend;
mod recall;
mod room;
mod verify;

use std::{
    collections::HashSet,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use dashmap::{DashMap, mapref::entry::Entry as Slot};
use tokio::sync::{Notify, Semaphore};
use weightsd_core::{
    handoff::Ticket,
    identity::ComponentId,
    policy::{self, Decision, Fate, KeepAliveLimits, Wish},
};

pub use self::{
    entry::{Change, ChangeKind, Entry, Holder, Lease, Usage},
    flight::FlightReport,
};
use self::{flight::Load, recall::Recalls, verify::VerifyWork};
pub use crate::pipeline::AcquireError;
use crate::{
    component::Component,
    derive::{Engines, Images, Maker},
    events::{EventKind, Events},
    flight::SharedWork,
    handle::Daemon,
    pipeline::{Prepared, Tools, Verification, blocking},
    resolve::{Places, ResolvedModel},
    snapshot::{Attestations, DownloadEvent, Fetcher},
};

/// How often a request starts over when what it joined was abandoned by everyone else.
const ATTEMPTS: usize = 3;

/// What the cache works with.
#[derive(Debug, Clone)]
pub struct CacheConfig {
    /// The daemon's own places, and the sources that models come from.
    pub places: Places,
    /// Keep-alive limits.
    pub keep_alive: KeepAliveLimits,
    /// How long one load may take, downloads and verification not counted.
    pub load_deadline: Duration,
    /// What was hashed and found good.
    pub attestations: Arc<Attestations>,
    /// Whether components whose files were here before are hashed after they are lent.
    pub verify_afterwards: bool,
    /// Bytes that downloads and images leave free on the disk.
    pub free_space_floor: u64,
    /// What was computed.
    pub images: Arc<Images>,
    /// What computes.
    pub engines: Arc<Engines>,
    /// Bytes that images may take together.
    pub image_budget: u64,
}

/// Loaded components, their leases, and the loads that are under way.
#[derive(Debug)]
pub struct Cache {
    config: CacheConfig,
    tools: Arc<Tools>,
    components: DashMap<ComponentId, Arc<Entry>>,
    tickets: DashMap<Ticket, Arc<Component>>,
    flights: Arc<SharedWork<Load>>,
    verifications: Arc<SharedWork<VerifyWork>>,
    recalls: Recalls,
    leases: AtomicU64,
    janitor: Notify,
    /// One component is hashed afterwards at a time.
    verifying: Semaphore,
}

/// A component and the right to hold it.
#[derive(Debug)]
pub struct Acquired {
    /// The lease.
    pub lease: Lease,
    /// The model that was asked for; the component may have been loaded under another one of the same content.
    pub model: Arc<ResolvedModel>,
    /// Whether it was loaded before.
    pub warm: bool,
    /// Leases on the component, this one included.
    pub leases: usize,
    /// How long finding the model took for this request.
    pub resolve: Duration,
}

impl Cache {
    /// An empty cache of `daemon`.
    #[must_use]
    pub fn new(config: CacheConfig, daemon: Daemon) -> Arc<Self> {
        let tell = tell(Arc::clone(daemon.events()));
        let attestations = || Arc::clone(&config.attestations);
        let fetcher = Fetcher::new(attestations(), config.free_space_floor, Box::new(tell));
        let maker = Maker::new(Arc::clone(&config.images), Arc::clone(&config.engines), daemon.clone());
        let tools = Tools::new(config.places.clone(), fetcher, attestations(), maker, config.load_deadline, daemon);
        let cache = Arc::new(Self {
            config,
            tools: Arc::new(tools),
            components: DashMap::new(),
            tickets: DashMap::new(),
            flights: Arc::default(),
            verifications: Arc::default(),
            recalls: Recalls::default(),
            leases: AtomicU64::new(0),
            janitor: Notify::new(),
            verifying: Semaphore::new(1),
        });
        let janitor = Arc::clone(&cache);
        cache.daemon().tasks().spawn("janitor", async move { janitor.expire().await });
        cache
    }

    /// Remembers what a request meant, and looks whether its component is kept and its files are as they were.
    async fn looked_up(self: &Arc<Self>, prepared: Prepared) -> Result<(Prepared, bool), AcquireError> {
        let cache = Arc::clone(self);
        blocking("finding the model", move || {
            // A request that wants files verified first must not be lent what an earlier request found.
            if !prepared.is_provisional() && prepared.request.verification == Verification::Afterwards {
                cache.recalls.remember(&prepared);
            }
            let kept = cache.intact(prepared.id);
            if !kept {
                cache.look_again(&prepared);
            }
            (prepared, kept)
        })
        .await
    }

    /// Whether the component is loaded and its files are as they were; if they are not, it is dropped, and its holders
    /// are told if their bytes can have changed.
    fn intact(&self, id: ComponentId) -> bool {
        let Some(entry) = self.components.get(&id).map(|entry| Arc::clone(&entry)) else { return false };
        if entry.component.is_unchanged() {
            return true;
        }
        if self.components.remove_if(&id, |_, found| Arc::ptr_eq(found, &entry)).is_none() {
            return false;
        }
        let what = format!("a file of {} of {}", entry.component.name, entry.component.model);
        if entry.component.is_intact() {
            self.daemon().events().push(EventKind::Evicted, Some(id), format!("{what} was deleted or replaced"));
        } else {
            let message = format!("{what} changed on disk");
            self.daemon().events().push(EventKind::FileChanged, Some(id), message.clone());
            entry.notify(Change { kind: ChangeKind::Changed, message });
        }
        false
    }

    /// Looks at the loaded components over the paths that are about to be opened. A rewritten file gets a new component
    /// id, so requests for the new id never notice that holders of the old one now read changed bytes.
    fn look_again(&self, prepared: &Prepared) {
        let paths: HashSet<&Path> = prepared.shards().map(|shard| shard.path.as_path()).collect();
        let lends =
            |entry: &Entry| entry.component.sources.iter().any(|source| paths.contains(source.open.file.path()));
        for entry in self.entries().into_iter().filter(|entry| lends(entry) && !entry.component.is_intact()) {
            self.intact(entry.component.id);
        }
    }

    fn lease_loaded(self: &Arc<Self>, id: ComponentId, holder: &Holder) -> Option<Lease> {
        // The guard of the map keeps the janitor out until the lease counts.
        let entry = self.components.get(&id)?;
        Some(self.lease(&entry, holder))
    }

    fn lease_or_insert(self: &Arc<Self>, component: Arc<Component>, holder: &Holder) -> Lease {
        match self.components.entry(component.id) {
            Slot::Occupied(entry) => self.lease(entry.get(), holder),
            Slot::Vacant(slot) => {
                let entry = slot.insert(Arc::new(Entry::new(component)));
                self.lease(&entry, holder)
            }
        }
    }

    /// Keeps a component that was just loaded, so that the next request finds it even before it is leased.
    fn insert(&self, component: Arc<Component>) {
        self.components.entry(component.id).or_insert_with(|| Arc::new(Entry::new(component)));
        self.janitor.notify_one();
    }

    fn lease(self: &Arc<Self>, entry: &Arc<Entry>, holder: &Holder) -> Lease {
        let number = self.leases.fetch_add(1, Ordering::Relaxed) + 1;
        let lease = Lease::begin(self, entry, number, holder.clone());
        self.tickets.insert(lease.ticket(), Arc::clone(&entry.component));
        let message = format!("{} ({}) holds {}", holder.name, holder.pid, entry.component.name);
        self.daemon().events().push(EventKind::Leased, Some(entry.component.id), message);
        lease
    }

    /// Called by a lease that ends.
    fn released(&self, entry: &Entry, ticket: Ticket, holder: &Holder) {
        self.tickets.remove(&ticket);
        let message = format!("{} ({}) let go of {}", holder.name, holder.pid, entry.component.name);
        self.daemon().events().push(EventKind::Released, Some(entry.component.id), message);
        self.janitor.notify_one();
    }

    /// The component that a ticket stands for.
    #[must_use]
    pub fn redeem(&self, ticket: Ticket) -> Option<Arc<Component>> {
        self.tickets.get(&ticket).map(|component| Arc::clone(&component))
    }

    /// All loaded components, sorted by model and name.
    #[must_use]
    pub fn entries(&self) -> Vec<Arc<Entry>> {
        let mut entries: Vec<_> = self.components.iter().map(|entry| Arc::clone(&entry)).collect();
        entries.sort_by_cached_key(|entry| (entry.component.model.to_string(), entry.component.name.clone()));
        entries
    }

    /// What the stages of a load work with.
    #[must_use]
    pub fn tools(&self) -> &Arc<Tools> {
        &self.tools
    }

    /// The daemon whose cache it is.
    #[must_use]
    pub fn daemon(&self) -> &Daemon {
        &self.tools.daemon
    }

    /// Limits and places in force.
    #[must_use]
    pub fn config(&self) -> &CacheConfig {
        &self.config
    }

    /// What the policy would do about `wish` now.
    #[must_use]
    pub fn decide(&self, wish: Wish) -> Vec<Decision> {
        let facts: Vec<_> = self.components.iter().map(|entry| entry.facts()).collect();
        policy::decide(&facts, wish, Instant::now())
    }

    /// Does what [`Self::decide`] says, and returns what became of it.
    pub fn evict(&self, wish: Wish) -> Vec<Decision> {
        let outcomes = self.decide(wish).into_iter().map(|decision| self.carry_out(decision, wish)).collect();
        self.tools.pool.sweep();
        outcomes
    }

    fn carry_out(&self, mut decision: Decision, wish: Wish) -> Decision {
        if let Some(entry) = drop_if_due(&self.components, &mut decision, wish) {
            let message = format!("{} of {}: {}", entry.component.name, entry.component.model, decision.reason);
            tracing::info!(id = %decision.id, "{message}");
            self.daemon().events().push(EventKind::Evicted, Some(decision.id), message);
        }
        decision
    }

    /// Drops what has outlived its keep-alive. Sleeps while there is nothing to wait for.
    async fn expire(&self) {
        loop {
            let next = policy::next_expiry(&self.components.iter().map(|entry| entry.facts()).collect::<Vec<_>>());
            let sleep = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = sleep => drop(self.evict(Wish::Expired)),
                () = self.janitor.notified() => {}
                () = self.daemon().stopping().cancelled() => return,
            }
        }
    }
}

/// Drops a component that `decision` drops, if the policy still says so: it may have been leased since, and released with
/// a keep-alive. What the policy says now becomes the decision.
fn drop_if_due(
    components: &DashMap<ComponentId, Arc<Entry>>,
    decision: &mut Decision,
    wish: Wish,
) -> Option<Arc<Entry>> {
    if decision.fate == Fate::Kept {
        return None;
    }
    let id = decision.id;
    let is_due = |_: &ComponentId, entry: &Arc<Entry>| {
        *decision = policy::decide_one(&entry.facts(), wish, Instant::now());
        decision.fate == Fate::Dropped
    };
    let dropped = components.remove_if(&id, is_due).map(|(_, entry)| entry);
    if dropped.is_none() {
        // Another caller may have dropped it meanwhile.
        decision.fate = Fate::Kept;
    }
    dropped
}

/// Writes what downloads do into the event log.
fn tell(events: Arc<Events>) -> impl Fn(DownloadEvent) + Send + Sync {
    move |event| match event {
        DownloadEvent::Began(message) => events.push(EventKind::DownloadBegan, None, message),
        DownloadEvent::Ended(message) => events.push(EventKind::Downloaded, None, message),
        DownloadEvent::Failed(message) => events.push(EventKind::DownloadFailed, None, message),
        DownloadEvent::Quarantined(message) => events.push(EventKind::Quarantined, None, message),
    }
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, sync::OnceLock};

    use weightsd_core::{audit::audit, place::Layout, source::Sources, table::Table};

    use super::*;
    use crate::{component::Timings, resolve::ModelKind};

    fn component(id: ComponentId) -> Component {
        let model =
            ResolvedModel { kind: ModelKind::File, path: PathBuf::new(), dependencies: Vec::new(), warning: None };
        Component {
            id,
            name: "c".into(),
            family: "generic",
            layout: Layout::Source,
            model: Arc::new(model),
            config_json: String::new(),
            segments: Vec::new(),
            image: None,
            sources: Sources::default(),
            adapters: Vec::new(),
            tensors: Vec::new(),
            assumptions: Vec::new(),
            audit: audit("c", &Table::default(), None, Vec::new()),
            unmet: None,
            timings: Timings::default(),
            encoded_pages: OnceLock::new(),
        }
    }

    #[test]
    fn a_keep_alive_that_was_just_granted_outlives_an_old_decision() {
        let id: ComponentId = "ab".repeat(32).parse().unwrap();
        let entry = Arc::new(Entry::new(Arc::new(component(id))));
        let components = DashMap::from_iter([(id, Arc::clone(&entry))]);
        entry.usage().warm_until = Instant::now();
        let mut decisions = policy::decide(&[entry.facts()], Wish::Expired, Instant::now());
        let mut decision = decisions.remove(0);
        assert_eq!(decision.fate, Fate::Dropped);
        // Leased and released in between: nobody holds it, and it is to stay warm.
        entry.usage().warm_until = Instant::now() + Duration::from_secs(60);
        assert!(drop_if_due(&components, &mut decision, Wish::Expired).is_none());
        assert_eq!((decision.fate, components.len()), (Fate::Kept, 1));
        assert_eq!(decision.reason, "still within its keep-alive");
        entry.usage().warm_until = Instant::now();
        decision.fate = Fate::Dropped;
        assert!(drop_if_due(&components, &mut decision, Wish::Expired).is_some());
        assert!(components.is_empty());
    }
}
