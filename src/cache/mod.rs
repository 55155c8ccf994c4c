//! What is loaded, who holds it, and how requests for one thing become one piece of work.
//!
//! A request goes three ways, the cheapest that works: *recall* (nothing that decided the last answer has changed, and
//! the component is loaded), *warm* (the request was prepared anew and means a loaded component), *cold* (what is missing
//! is downloaded, a flight loads the component, and everyone who asks meanwhile joins).

mod acquire;
mod derive;
mod entry;
mod events;
mod flight;
mod mend;
mod recall;
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
use tokio_util::sync::CancellationToken;
use weightsd_core::{
    audit::AuditReport,
    explain::{Explain, Explanation, Reason},
    handoff::Ticket,
    identity::ComponentId,
    policy::{self, Decision, KeepAliveLimits, Wish},
};

pub use self::{
    entry::{Change, ChangeKind, Entry, Holder, Lease, Usage},
    events::{Event, EventKind, Events, Read},
    flight::FlightReport,
};
use self::{flight::LoadWork, recall::Recalls, verify::VerifyWork};
use crate::{
    checkpoint::ShardPool,
    component::Component,
    derive::Images,
    flight::SharedWork,
    hub::Hub,
    pipeline::{LoadError, Prepared},
    resolve::{Places, ResolvedModel},
    snapshot::{Attestations, DownloadEvent, Fetcher},
    tasks::Tasks,
};

/// Stages that may run at once. Each may hold a header of megabytes, so this bounds what strangers' files can cost.
const STAGES_AT_ONCE: usize = 8;
/// How often a request starts over when what it joined was abandoned by everyone else.
const ATTEMPTS: usize = 3;

/// What the cache works with.
#[derive(Debug, Clone)]
pub struct CacheConfig {
    /// The daemon's own places.
    pub places: Places,
    /// Keep-alive limits.
    pub keep_alive: KeepAliveLimits,
    /// How long one load may take, downloads and verification not counted.
    pub load_deadline: Duration,
    /// The hub.
    pub hub: Arc<Hub>,
    /// What was hashed and found good.
    pub attestations: Arc<Attestations>,
    /// Whether components whose files were here before are hashed after they are lent.
    pub verify_afterwards: bool,
    /// Bytes that downloads and images leave free on the disk.
    pub free_space_floor: u64,
    /// What was computed.
    pub images: Arc<Images>,
    /// Bytes that images may take together.
    pub image_budget: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Cache {
    config: CacheConfig,
    components: DashMap<ComponentId, Arc<Entry>>,
    tickets: DashMap<Ticket, Arc<Component>>,
    flights: Arc<SharedWork<LoadWork>>,
    verifications: Arc<SharedWork<VerifyWork>>,
    recalls: Recalls,
    pool: Arc<ShardPool>,
    fetcher: Arc<Fetcher>,
    events: Arc<Events>,
    leases: AtomicU64,
    janitor: Notify,
    stages: Arc<Semaphore>,
    /// One component is hashed afterwards at a time.
    verifying: Semaphore,
    /// One component is computed at a time, with all processors.
    deriving: Semaphore,
    tasks: Tasks,
}

/// Why a component could not be had.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AcquireError {
    /// A stage failed.
    #[error(transparent)]
    Load(Arc<LoadError>),
    /// It took too long.
    #[error("{operation} took longer than {limit:?}")]
    Deadline {
        /// What took so long.
        operation: &'static str,
        /// What is allowed.
        limit: Duration,
    },
    /// A task of the daemon died.
    #[error("{operation} died: this is a fault of weightsd, and its log says more")]
    Died {
        /// Which.
        operation: &'static str,
    },
    /// The daemon stops.
    #[error("weightsd is stopping")]
    Stopping,
}

impl Explain for AcquireError {
    fn explain(&self) -> Explanation {
        match self {
            Self::Load(error) => error.explain(),
            Self::Deadline { operation, .. } => Explanation::new(
                Reason::Deadline,
                *operation,
                "the disk or network file system is slow: try again, or raise `load_deadline` in the configuration file",
            ),
            Self::Died { operation } => Explanation::new(Reason::Internal, *operation, "report it with the log"),
            Self::Stopping => Explanation::new(Reason::ShuttingDown, "", "connect again once the daemon is back"),
        }
    }
}

impl AcquireError {
    /// The report, when the audit refused the component.
    #[must_use]
    pub fn audit(&self) -> Option<&AuditReport> {
        match self {
            Self::Load(error) => error.audit(),
            _ => None,
        }
    }
}

impl From<LoadError> for AcquireError {
    fn from(error: LoadError) -> Self {
        Self::Load(Arc::new(error))
    }
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
    /// An empty cache whose work runs in `tasks`.
    #[must_use]
    pub fn new(config: CacheConfig, tasks: Tasks) -> Arc<Self> {
        let events = Arc::<Events>::default();
        let teller = Arc::clone(&events);
        let tell = Box::new(move |told| match told {
            DownloadEvent::Began(message) => teller.push(EventKind::DownloadBegan, None, message),
            DownloadEvent::Ended(message) => teller.push(EventKind::Downloaded, None, message),
            DownloadEvent::Failed(message) => teller.push(EventKind::DownloadFailed, None, message),
            DownloadEvent::Quarantined(message) => teller.push(EventKind::Quarantined, None, message),
        });
        let (hub, attestations) = (Arc::clone(&config.hub), Arc::clone(&config.attestations));
        let fetcher = Fetcher::new(hub, attestations, config.free_space_floor, tell);
        let cache = Arc::new(Self {
            config,
            components: DashMap::new(),
            tickets: DashMap::new(),
            flights: Arc::default(),
            verifications: Arc::default(),
            recalls: Recalls::default(),
            pool: Arc::default(),
            fetcher,
            events,
            leases: AtomicU64::new(0),
            janitor: Notify::new(),
            stages: Arc::new(Semaphore::new(STAGES_AT_ONCE)),
            verifying: Semaphore::new(1),
            deriving: Semaphore::new(1),
            tasks,
        });
        let janitor = Arc::clone(&cache);
        cache.tasks.spawn("janitor", async move { janitor.expire().await });
        cache
    }

    /// Runs stages of the pipeline on a thread that may block, a few at a time. A thread that hangs keeps its place
    /// until it is done, whoever has stopped waiting for it.
    pub(crate) async fn stage<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, AcquireError> {
        let place = Arc::clone(&self.stages).acquire_owned().await.map_err(|_| AcquireError::Stopping)?;
        blocking(operation, move || {
            let result = work();
            drop(place);
            result
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
            self.events.push(EventKind::Evicted, Some(id), format!("{what} was deleted or replaced"));
        } else {
            let message = format!("{what} changed on disk");
            self.events.push(EventKind::FileChanged, Some(id), message.clone());
            entry.notify(Change { kind: ChangeKind::Changed, message });
        }
        false
    }

    /// Looks at the loaded components over the paths that are about to be opened. A file that was written to is known
    /// by another id than before, so nobody who asks for it would find that out for those who hold it.
    fn look_again(&self, prepared: &Prepared) {
        let paths: HashSet<&Path> = prepared.shards().collect();
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

    /// Keeps a component that was just loaded, so that whoever asks next finds it even before it is leased.
    fn insert(&self, component: Arc<Component>) {
        self.components.entry(component.id).or_insert_with(|| Arc::new(Entry::new(component)));
        self.janitor.notify_one();
    }

    fn lease(self: &Arc<Self>, entry: &Arc<Entry>, holder: &Holder) -> Lease {
        let number = self.leases.fetch_add(1, Ordering::Relaxed) + 1;
        let lease = Lease::begin(self, entry, number, holder.clone());
        self.tickets.insert(lease.ticket(), Arc::clone(&entry.component));
        let message = format!("{} ({}) holds {}", holder.name, holder.pid, entry.component.name);
        self.events.push(EventKind::Leased, Some(entry.component.id), message);
        lease
    }

    /// Called by a lease that ends.
    fn released(&self, entry: &Entry, ticket: Ticket, holder: &Holder) {
        self.tickets.remove(&ticket);
        let message = format!("{} ({}) let go of {}", holder.name, holder.pid, entry.component.name);
        self.events.push(EventKind::Released, Some(entry.component.id), message);
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

    /// What downloads.
    #[must_use]
    pub fn fetcher(&self) -> &Arc<Fetcher> {
        &self.fetcher
    }

    /// What happened.
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Limits and places in force.
    #[must_use]
    pub fn config(&self) -> &CacheConfig {
        &self.config
    }

    /// Open shards.
    #[must_use]
    pub fn pool(&self) -> &Arc<ShardPool> {
        &self.pool
    }

    /// Is cancelled when the daemon stops.
    #[must_use]
    pub fn stopping(&self) -> &CancellationToken {
        self.tasks.stopping()
    }

    /// Tasks of the daemon.
    #[must_use]
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// What the policy would do about `wish` now.
    #[must_use]
    pub fn decide(&self, wish: Wish) -> Vec<Decision> {
        let facts: Vec<_> = self.components.iter().map(|entry| entry.facts()).collect();
        policy::decide(&facts, wish, Instant::now())
    }

    /// Does what [`Self::decide`] says. A component that was leased in between stays.
    pub fn evict(&self, wish: Wish) -> Vec<Decision> {
        let mut decisions = self.decide(wish);
        for decision in decisions.iter_mut().filter(|decision| decision.evict) {
            let removed = self.components.remove_if(&decision.id, |_, entry| entry.usage().holders.is_empty());
            if let Some((id, entry)) = removed {
                let message = format!("{} of {}: {}", entry.component.name, entry.component.model, decision.reason);
                tracing::info!(%id, "{message}");
                self.events.push(EventKind::Evicted, Some(id), message);
            } else {
                decision.evict = false;
                "leased in this moment".clone_into(&mut decision.reason);
            }
        }
        self.pool.sweep();
        decisions
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
                () = self.stopping().cancelled() => return,
            }
        }
    }
}

fn is_abandoned(error: &LoadError) -> bool {
    use crate::{checkpoint::CheckpointError, snapshot::VerifyError};
    matches!(error, LoadError::Checkpoint(CheckpointError::Abandoned) | LoadError::Verify(VerifyError::Abandoned))
}

/// Runs `work` on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(
    operation: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, AcquireError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| AcquireError::Died { operation })
}
