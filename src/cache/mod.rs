//! What is loaded, who holds it, and how requests for one thing become one piece of work.
//!
//! A request goes one of three ways, the cheapest that works: *recall* (nothing that decided the last answer has changed,
//! and the component is kept), *warm* (the files were listed anew, and mean a component that is kept), *cold* (the rest of
//! [`pipeline::load`](crate::pipeline::load) runs, once for all requests that ask meanwhile).

mod acquire;
mod cards;
mod changes;
mod flight;
pub mod leases;
mod mend;
mod recall;
mod residency;
mod room;
mod verify;

use std::{
    os::fd::{AsFd as _, BorrowedFd},
    sync::Arc,
    time::Duration,
};

use tokio::sync::{Notify, Semaphore};
use weightsd_core::{
    derive::Alignment,
    handoff::Ticket,
    policy::{self, Decision, Idle, IdleFacts, KeepAliveLimits, Wish},
};

use self::{
    cards::Cards,
    changes::{Asked, Departed},
    flight::Load,
    leases::{LeaseEvent, LeaseTable},
    recall::Recalls,
    residency::Residencies,
    verify::{HashWork, VerifyWork},
};
pub use self::{
    cards::{AcquiredOnCard, CardEntry, CardLease, CardReport},
    flight::FlightReport,
    leases::{Change, ChangeKind, Holder, Ticketed, Usage},
    residency::{Bringing, Brought, Residency},
    verify::Hashed,
};
pub use crate::pipeline::AcquireError;
use crate::{
    component::{Component, Sums},
    derive::{Engines, Images, Maker},
    events::{EventKind, Events},
    flight::SharedWork,
    handle::Daemon,
    lanes::{Kind, MayBlock},
    live::Live,
    pipeline::{Prepared, Tools, Verification},
    resolve::{Places, ResolvedModel},
    snapshot::{Attestations, DownloadEvent, Fetcher},
    vram::OnCard,
};

/// How often a request starts over when everyone else abandoned the work that it joined.
const ATTEMPTS: usize = 3;
/// Names the look at a request's files in errors.
const FINDING: &str = "finding the model";
/// Pause between two looks for idle components that are too many.
const THIN_PAUSE: Duration = Duration::from_millis(50);

/// How often it is looked whether clients' loads have ended.
const QUIET: Duration = Duration::from_millis(100);

/// What the cache works with.
#[derive(Debug, Clone)]
pub struct CacheConfig {
    /// The daemon's own places, and the sources that models come from.
    pub places: Places,
    /// Keep-alive limits.
    pub keep_alive: Live<KeepAliveLimits>,
    /// How long one load may take, downloads and verification not counted.
    pub load_deadline: Duration,
    /// What was hashed and found good.
    pub attestations: Arc<Attestations>,
    /// Whether components whose files were here before are hashed after they are lent.
    pub verify_afterwards: Live<bool>,
    /// Bytes that downloads and images leave free on the disk.
    pub free_space_floor: Live<u64>,
    /// What was computed.
    pub images: Arc<Images>,
    /// What computes.
    pub engines: Arc<Engines>,
    /// Bytes that images may take together.
    pub image_budget: Live<u64>,
    /// Bytes that components may take together in the memory of one card.
    pub vram_budget: Live<u64>,
    /// What becomes of misaligned tensors in layout MLX.
    pub alignment: Alignment,
    /// What components that nobody holds may take together.
    pub idle: Idle,
    /// Bytes that may be locked in memory together.
    pub pin_budget: u64,
}

/// A loaded component and its holders.
pub type Entry = leases::Entry<Component>;
/// The right to hold a component.
pub type Lease = leases::Lease<Component>;

/// Loaded components, their leases, and the loads that are under way.
#[derive(Debug)]
pub struct Cache {
    config: CacheConfig,
    tools: Arc<Tools>,
    leases: Arc<LeaseTable<Component>>,
    cards: Cards,
    sums: Arc<Sums>,
    /// Withdrawn components whose files are gone, and are not written to as far as anybody knows.
    departed: Departed,
    /// Disks that tell nobody of changes, with a task that asks them.
    asked: Asked,
    /// Is told when a component comes, or is idle again: idle ones may take more than they may now.
    crowded: Arc<Notify>,
    flights: Arc<SharedWork<Load>>,
    verifications: Arc<SharedWork<VerifyWork>>,
    hashings: Arc<SharedWork<HashWork>>,
    recalls: Recalls,
    residencies: Residencies,
    /// One component at a time is hashed after it was lent.
    verifying: Semaphore,
    /// The images are counted once at a time.
    counting: Arc<Semaphore>,
}

/// What the holder of a ticket gets descriptors of.
#[derive(Debug)]
pub enum Redeemed {
    /// A component's files, which of them, and whether its sheet comes after them.
    Files(Ticketed<Component>),
    /// Memory of a card.
    OnCard(Arc<OnCard>),
}

impl Redeemed {
    /// The descriptors, in the order in which they are handed over.
    #[must_use]
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        match self {
            Self::Files(Ticketed { component, given, takes_sheet }) => {
                let segments = component.given(*given).into_iter().map(|file| file.as_fd());
                let sheet = component.sheet.get().filter(|_| *takes_sheet);
                segments.chain(sheet.into_iter().flatten().map(|sheet| sheet.file.as_fd())).collect()
            }
            Self::OnCard(component) => component.descriptors(),
        }
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
    /// An empty cache of `daemon`.
    #[must_use]
    pub fn new(config: CacheConfig, daemon: Daemon) -> Arc<Self> {
        let tell = tell(Arc::clone(daemon.events()));
        let attestations = || Arc::clone(&config.attestations);
        let fetcher =
            Fetcher::new(attestations(), config.free_space_floor.clone(), Box::new(tell), Arc::clone(daemon.lanes()));
        let maker = Maker::new(Arc::clone(&config.images), Arc::clone(&config.engines), daemon.clone());
        let crowded = Arc::new(Notify::new());
        let leases = LeaseTable::new(Box::new(on_lease(
            Arc::clone(daemon.events()),
            Some(Arc::clone(&crowded)),
            |component: &Component| component.name.clone(),
        )));
        let tools = Tools::new(config.places.clone(), fetcher, attestations(), maker, config.load_deadline, daemon)
            .with_alignment(config.alignment);
        let cache = Arc::new(Self {
            config,
            tools: Arc::new(tools),
            leases,
            cards: Cards::default(),
            sums: Arc::default(),
            departed: Departed::default(),
            asked: Asked::default(),
            crowded,
            flights: Arc::default(),
            verifications: Arc::default(),
            hashings: Arc::default(),
            recalls: Recalls::default(),
            residencies: Residencies::default(),
            verifying: Semaphore::new(1),
            counting: Arc::new(Semaphore::new(1)),
        });
        let janitor = Arc::clone(&cache);
        cache.daemon().tasks().spawn("janitor", async move { janitor.expire().await });
        let listening = Arc::clone(&cache);
        cache.daemon().tasks().spawn("news of files", async move { listening.tell_news().await });
        let thinning = Arc::clone(&cache);
        cache.daemon().tasks().spawn("thin out", async move { thinning.keep_thin().await });
        cache
    }

    /// Remembers what a request meant, and looks whether its component is kept and its files are as they were.
    async fn looked_up(self: &Arc<Self>, prepared: Prepared) -> Result<(Prepared, bool), AcquireError> {
        let cache = Arc::clone(self);
        let kept = self.leases.get(prepared.id).map(|entry| entry.component.disks());
        let trip = prepared.trip.with(&kept.unwrap_or_default());
        let look = move |may: &MayBlock<'_>| {
            // A request that wants files verified first must not be lent what an earlier request found.
            if !prepared.is_provisional() && prepared.request.verification == Verification::Afterwards {
                cache.recalls.remember(&prepared, may);
            }
            let kept = cache.intact(prepared.id, may);
            if !kept {
                cache.look_again(&prepared, may);
            }
            (prepared, kept)
        };
        trip.run(self.daemon().lanes(), FINDING, Kind::Look, look).await
    }

    /// What a ticket stands for, while its lease lasts.
    #[must_use]
    pub fn redeem(&self, ticket: Ticket) -> Option<Redeemed> {
        let files = self.leases.redeem(ticket).map(Redeemed::Files);
        files.or_else(|| self.cards.redeem(ticket).map(Redeemed::OnCard))
    }

    /// All loaded components, sorted by model and name.
    #[must_use]
    pub fn entries(&self) -> Vec<Arc<Entry>> {
        let mut entries = self.leases.entries();
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

    /// Waits until no load and no download is under way, so that background work begins behind those of clients.
    pub async fn quiet(&self) {
        while self.is_at_work() {
            tokio::time::sleep(QUIET).await;
        }
    }

    fn is_at_work(&self) -> bool {
        !self.flights(1).is_empty() || !self.tools.fetcher.reports(1).is_empty()
    }

    /// Whether nothing is loaded and nothing is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.leases.is_empty() && !self.is_at_work()
    }

    /// What the policy would do about `wish` now.
    #[must_use]
    pub fn decide(&self, wish: Wish) -> Vec<Decision> {
        self.leases.decide(wish)
    }

    /// Does what [`Self::decide`] says, and returns what became of it.
    pub fn evict(&self, wish: Wish) -> Vec<Decision> {
        let mut outcomes = Vec::new();
        for (decision, dropped) in self.leases.evict(wish) {
            if let Some(entry) = dropped {
                self.tell_eviction(&entry, &decision);
            }
            outcomes.push(decision);
        }
        self.tools.pool.sweep();
        outcomes
    }

    fn tell_eviction(&self, entry: &Entry, decision: &Decision) {
        let message = format!("{} of {}: {}", entry.component.name, entry.component.model, decision.reason);
        tracing::info!(id = %decision.id, "{message}");
        self.daemon().events().push(EventKind::Evicted, Some(decision.id), message);
        self.daemon().freed().notify_one();
    }

    /// How many components are loaded, how many leases they have, and the bytes of their tensors. Costs the same for any
    /// number of them.
    #[must_use]
    pub fn totals(&self) -> (usize, usize, u64) {
        let leases = usize::try_from(self.leases.held()).unwrap_or(usize::MAX);
        (self.leases.len(), leases, self.sums.tensor_bytes())
    }

    /// Whether all components together take more than the idle ones may, so that it is worth counting those.
    fn takes_too_much(&self) -> bool {
        self.sums.idle(self.leases.len()).exceeds(&self.config.idle).is_some()
    }

    /// Drops idle components, the least recently used first, while they take more than they may; until the daemon stops.
    async fn keep_thin(&self) {
        let thin = async {
            loop {
                self.crowded.notified().await;
                if self.takes_too_much() {
                    self.thin_out();
                }
                // Held components may take as much as they like, and then each look finds little.
                tokio::time::sleep(THIN_PAUSE).await;
            }
        };
        tokio::select! {
            () = thin => {}
            () = self.daemon().stopping().cancelled() => {}
        }
    }

    fn thin_out(&self) {
        let facts = |entry: &Arc<Entry>| {
            Some(IdleFacts { id: entry.id(), used: entry.idle_since()?, takes: entry.component.takes() })
        };
        let idle = self.leases.entries().iter().filter_map(facts).collect();
        for decision in policy::surplus(idle, self.config.idle) {
            if let Some(entry) = self.leases.get(decision.id)
                && self.leases.drop_unheld(decision.id)
            {
                self.tell_eviction(&entry, &decision);
            }
        }
        self.tools.pool.sweep();
    }

    /// Drops what has outlived its keep-alive, until the daemon stops.
    async fn expire(&self) {
        let sleep_until = |at| tokio::time::sleep_until(tokio::time::Instant::from_std(at));
        tokio::select! {
            () = self.leases.when_due(sleep_until, || drop(self.evict(Wish::Expired))) => {}
            () = self.daemon().stopping().cancelled() => {}
        }
    }
}

/// Writes leases into the event log, and has the end of one looked at.
fn on_lease<C>(
    events: Arc<Events>,
    crowded: Option<Arc<Notify>>,
    title: fn(&C) -> String,
) -> impl Fn(LeaseEvent, &leases::Entry<C>, &Holder) + Send + Sync {
    move |event, entry, holder| {
        if let (LeaseEvent::Ended, Some(crowded)) = (event, &crowded) {
            crowded.notify_one();
        }
        let (kind, what) = match event {
            LeaseEvent::Began => (EventKind::Leased, "holds"),
            LeaseEvent::Ended => (EventKind::Released, "let go of"),
        };
        let message = format!("{} ({}) {what} {}", holder.name, holder.pid, title(&entry.component));
        events.push(kind, Some(entry.id()), message);
    }
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
