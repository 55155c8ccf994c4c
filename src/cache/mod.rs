//! What is loaded, who holds it, and how requests for one thing become one piece of work.
//!
//! A request goes one of three ways, the cheapest that works: *recall* (nothing that decided the last answer has changed,
//! and the component is kept), *warm* (the files were listed anew, and mean a component that is kept), *cold* (the rest of
//! [`pipeline::load`](crate::pipeline::load) runs, once for all requests that ask meanwhile).

mod acquire;
mod flight;
pub mod leases;
mod mend;
mod recall;
mod room;
mod verify;

use std::{collections::HashSet, path::Path, sync::Arc, time::Duration};

use tokio::sync::Semaphore;
use weightsd_core::{
    derive::Alignment,
    handoff::Ticket,
    identity::ComponentId,
    policy::{Decision, KeepAliveLimits, Wish},
};

pub use self::{
    flight::FlightReport,
    leases::{Change, ChangeKind, Holder, Usage},
};
use self::{
    flight::Load,
    leases::{LeaseEvent, LeaseTable},
    recall::Recalls,
    verify::VerifyWork,
};
pub use crate::pipeline::AcquireError;
use crate::{
    component::Component,
    derive::{Engines, Images, Maker},
    events::{EventKind, Events},
    flight::SharedWork,
    handle::Daemon,
    lanes::{Kind, MayBlock},
    live::Live,
    pipeline::{Prepared, Tools, Verification},
    resolve::{Places, ResolvedModel},
    snapshot::{Attestations, DownloadEvent, Fetcher},
};

/// How often a request starts over when everyone else abandoned the work that it joined.
const ATTEMPTS: usize = 3;
/// Names the look at a request's files in errors.
const FINDING: &str = "finding the model";

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
    /// What becomes of misaligned tensors in layout MLX.
    pub alignment: Alignment,
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
    flights: Arc<SharedWork<Load>>,
    verifications: Arc<SharedWork<VerifyWork>>,
    recalls: Recalls,
    /// One component at a time is hashed after it was lent.
    verifying: Semaphore,
    /// The images are counted once at a time.
    counting: Arc<Semaphore>,
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
        let fetcher = Fetcher::new(attestations(), config.free_space_floor.clone(), Box::new(tell));
        let maker = Maker::new(Arc::clone(&config.images), Arc::clone(&config.engines), daemon.clone());
        let leases = LeaseTable::new(Box::new(log_leases(Arc::clone(daemon.events()))));
        let tools = Tools::new(config.places.clone(), fetcher, attestations(), maker, config.load_deadline, daemon)
            .with_alignment(config.alignment);
        let cache = Arc::new(Self {
            config,
            tools: Arc::new(tools),
            leases,
            flights: Arc::default(),
            verifications: Arc::default(),
            recalls: Recalls::default(),
            verifying: Semaphore::new(1),
            counting: Arc::new(Semaphore::new(1)),
        });
        let janitor = Arc::clone(&cache);
        cache.daemon().tasks().spawn("janitor", async move { janitor.expire().await });
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

    /// Whether the component is loaded and its files are as they were; if they are not, it is dropped, and its holders
    /// are told if their bytes can have changed.
    fn intact(&self, id: ComponentId, may: &MayBlock<'_>) -> bool {
        let Some(entry) = self.leases.get(id) else { return false };
        if entry.component.is_unchanged(may) {
            return true;
        }
        if !self.leases.withdraw(&entry) {
            return false;
        }
        let what = format!("a file of {} of {}", entry.component.name, entry.component.model);
        if entry.component.is_intact(may) {
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
    fn look_again(&self, prepared: &Prepared, may: &MayBlock<'_>) {
        let paths: HashSet<&Path> = prepared.shards().map(|shard| shard.path.as_path()).collect();
        let lends =
            |entry: &Entry| entry.component.sources.iter().any(|source| paths.contains(source.open.file.path()));
        for entry in self.entries().into_iter().filter(|entry| lends(entry) && !entry.component.is_intact(may)) {
            self.intact(entry.component.id, may);
        }
    }

    /// The component that a ticket stands for.
    #[must_use]
    pub fn redeem(&self, ticket: Ticket) -> Option<Arc<Component>> {
        self.leases.redeem(ticket)
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
                let message = format!("{} of {}: {}", entry.component.name, entry.component.model, decision.reason);
                tracing::info!(id = %decision.id, "{message}");
                self.daemon().events().push(EventKind::Evicted, Some(decision.id), message);
            }
            outcomes.push(decision);
        }
        self.tools.pool.sweep();
        outcomes
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

/// Writes leases into the event log.
fn log_leases(events: Arc<Events>) -> impl Fn(LeaseEvent, &Entry, &Holder) + Send + Sync {
    move |event, entry, holder| {
        let (kind, what) = match event {
            LeaseEvent::Began => (EventKind::Leased, "holds"),
            LeaseEvent::Ended => (EventKind::Released, "let go of"),
        };
        let message = format!("{} ({}) {what} {}", holder.name, holder.pid, entry.component.name);
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
