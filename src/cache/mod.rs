//! What is loaded, who holds it, and how requests for one thing become one piece of work.
//!
//! A request goes three ways, the cheapest that works: *recall* (nothing that decided the last answer has changed, and
//! the component is loaded), *warm* (the request was prepared anew and means a loaded component), *cold* (what is missing
//! is downloaded, a flight loads the component, and everyone who asks meanwhile joins).

mod entry;
mod events;
mod flight;
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
    handoff::Ticket,
    identity::ComponentId,
    policy::{self, Decision, KeepAliveLimits, Wish},
};

pub use self::{
    entry::{Change, ChangeKind, Entry, Holder, Lease, Usage},
    events::{Event, EventKind, Events, Read},
    flight::FlightReport,
};
use self::{flight::LoadCargo, recall::Recalls, verify::VerifyCargo};
use crate::{
    checkpoint::ShardPool,
    component::Component,
    daemon::Tasks,
    flight::Flights,
    hub::{Hub, HubError},
    pipeline::{self, LoadError, Needed, Pinned, Prepared, Request, Step, Subject, Verification},
    resolve::{ModelKind, Places, ResolvedModel, Selector, Target},
    snapshot::{Attestations, Extent, FetchReport, Fetcher, Remote, Told, Want},
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
    /// Bytes that downloads leave free on the disk.
    pub free_space_floor: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Cache {
    config: CacheConfig,
    components: DashMap<ComponentId, Arc<Entry>>,
    tickets: DashMap<Ticket, Arc<Component>>,
    flights: Arc<Flights<LoadCargo>>,
    verifications: Arc<Flights<VerifyCargo>>,
    recalls: Recalls,
    pool: Arc<ShardPool>,
    fetcher: Arc<Fetcher>,
    events: Arc<Events>,
    leases: AtomicU64,
    janitor: Notify,
    stages: Arc<Semaphore>,
    /// One component is hashed afterwards at a time.
    verifying: Semaphore,
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
            Told::Began(message) => teller.push(EventKind::DownloadBegan, None, message),
            Told::Ended(message) => teller.push(EventKind::Downloaded, None, message),
            Told::Failed(message) => teller.push(EventKind::DownloadFailed, None, message),
            Told::Quarantined(message) => teller.push(EventKind::Quarantined, None, message),
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
            tasks,
        });
        let janitor = Arc::clone(&cache);
        cache.tasks.spawn("janitor", async move { janitor.expire().await });
        cache
    }

    /// Loads the component that `request` means, or joins whoever loads it, and leases it to `holder`. `progress` is
    /// called with each step and the number of requests that wait for it.
    ///
    /// # Errors
    /// [`AcquireError`].
    pub async fn acquire(
        self: &Arc<Self>,
        request: Request,
        holder: Holder,
        mut progress: impl FnMut(&Step, usize) + Send,
    ) -> Result<Acquired, AcquireError> {
        let started = Instant::now();
        let work = async {
            for _ in 0..ATTEMPTS {
                match self.try_acquire(&request, &holder, started, &mut progress).await {
                    Err(AcquireError::Load(error)) if is_abandoned(&error) => {}
                    result => return result,
                }
            }
            Err(AcquireError::Died { operation: "the load" })
        };
        tokio::select! {
            result = work => result,
            () = self.tasks.stopping().cancelled() => Err(AcquireError::Stopping),
        }
    }

    async fn try_acquire(
        self: &Arc<Self>,
        request: &Request,
        holder: &Holder,
        started: Instant,
        progress: &mut (impl FnMut(&Step, usize) + Send),
    ) -> Result<Acquired, AcquireError> {
        let acquired = |lease: Lease, model, warm| {
            let leases = lease.entry().usage().holders.len();
            Acquired { lease, model, warm, leases, resolve: started.elapsed() }
        };
        // A few `stat` calls on local disks: waking another thread for them would take longer than they do.
        let recalled = self.recalls.get(request, |id| self.intact(id));
        if let Some((id, model)) = recalled
            && self.is_current(&model, request.selector.offline).await
            && let Some(lease) = self.lease_loaded(id, holder)
        {
            return Ok(acquired(lease, model, true));
        }
        let subject = self.subject(request, progress).await?;
        let prepared = self.prepared(request, &subject, progress).await?;
        let (id, model) = (prepared.id, Arc::clone(&prepared.model));
        if self.intact(id)
            && let Some(lease) = self.lease_loaded(id, holder)
            && self.is_as_wanted(request, lease.component(), progress).await?
        {
            return Ok(acquired(lease, model, true));
        }
        let flight = self.fly(prepared, &request.selector.spec, progress);
        let component = self.in_time("the load", flight).await?;
        Ok(acquired(self.lease_or_insert(component, holder), model, false))
    }

    /// Whether a loaded component may be lent for `request`. One of the same content can lie over other files than those
    /// that were looked at for this request; if they turn out to be bad, it is dropped.
    async fn is_as_wanted(
        self: &Arc<Self>,
        request: &Request,
        component: &Arc<Component>,
        progress: &mut (impl FnMut(&Step, usize) + Send),
    ) -> Result<bool, AcquireError> {
        if request.verification == Verification::Afterwards {
            return Ok(true);
        }
        let (model, suspects) = (Arc::clone(&component.model), component.suspects.clone());
        match self.verified(component.id, model, suspects, progress).await {
            Ok(()) => Ok(true),
            Err(AcquireError::Load(error)) if matches!(*error, LoadError::Corrupt { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether what a revision meant is still known to be what it means.
    async fn is_current(&self, model: &ResolvedModel, offline: bool) -> bool {
        let hub = &self.config.hub;
        match &model.kind {
            ModelKind::Hub { repo, revision, commit, .. } if revision.as_commit().is_none() => {
                // Whether the hub was asked is part of the answer.
                let was_asked = model.warning.is_none();
                offline
                    || hub.settings().offline
                    || (!was_asked && hub.was_absent().is_some())
                    || (was_asked && hub.known_commit(repo, revision).await.as_ref() == Some(commit))
            }
            ModelKind::Hub { .. } | ModelKind::Directory | ModelKind::File => true,
        }
    }

    /// What `selector` names, and the commit it means.
    ///
    /// # Errors
    /// [`AcquireError`].
    pub async fn pinned(self: &Arc<Self>, selector: &Selector) -> Result<Pinned, AcquireError> {
        let (cache, asked) = (Arc::clone(self), selector.clone());
        let work = self.stage("finding the model", move || pipeline::target(&asked, &cache.config.places));
        let (target, known) = self.in_time("finding the model", work).await??;
        let pin = pipeline::pin(&target, known, selector.offline, &self.config.hub).await?;
        Ok(Pinned { target: Arc::new(target), pin })
    }

    /// What `request` names, looked up; of the models beside its own, what is needed is on this machine.
    async fn subject(
        self: &Arc<Self>,
        request: &Request,
        progress: &mut (impl FnMut(&Step, usize) + Send),
    ) -> Result<Subject, AcquireError> {
        let model = self.pinned(&request.selector).await?;
        let base = match &request.base {
            Some(base) => Some(self.brought(base, Needed::Documents, progress).await?),
            None => None,
        };
        let overlay = match &request.overlay {
            Some(overlay) => Some(self.brought(overlay, Needed::RootWeights, progress).await?),
            None => None,
        };
        Ok(Subject { model, base, overlay })
    }

    /// What `selector` names, with what is needed of it on this machine.
    ///
    /// # Errors
    /// [`AcquireError`].
    pub(crate) async fn brought(
        self: &Arc<Self>,
        selector: &Selector,
        needed: Needed,
        progress: &mut (impl FnMut(&Step, usize) + Send),
    ) -> Result<Pinned, AcquireError> {
        let pinned = self.pinned(selector).await?;
        let (asked, choice) = (pinned.clone(), selector.choice.clone());
        let work = self.stage("finding the model", move || pipeline::has(&asked, &choice, needed));
        let is_fetchable = pinned.pin.is_some() && !self.is_offline(selector);
        match self.in_time("finding the model", work).await? {
            Ok(true) => {}
            Ok(false) if !is_fetchable => {}
            Err(error) if !error.is_missing() || !is_fetchable => return Err(error.into()),
            Ok(false) | Err(_) => {
                let want = Want {
                    components: Vec::new(),
                    extent: match needed {
                        Needed::Documents => Extent::Documents,
                        Needed::RootWeights => Extent::Components,
                    },
                    choice: selector.choice.clone(),
                };
                pipeline::fetch(&pinned, want, &self.fetcher, |step, sharers| progress(step, sharers)).await?;
            }
        }
        Ok(pinned)
    }

    /// The component that `request` means, everything it needs being on this machine, verified if that is wanted.
    async fn prepared(
        self: &Arc<Self>,
        request: &Request,
        subject: &Subject,
        progress: &mut (impl FnMut(&Step, usize) + Send),
    ) -> Result<Prepared, AcquireError> {
        let mut fetched = self.is_offline(&request.selector);
        let mut verified = request.verification == Verification::Afterwards;
        let want = || Want {
            components: vec![request.component.clone()],
            extent: Extent::Components,
            choice: request.selector.choice.clone(),
        };
        loop {
            let is_fetchable = !fetched && subject.model.pin.is_some();
            let prepared = match self.prepare(request, subject).await? {
                Ok(prepared) if prepared.is_provisional() && is_fetchable => None,
                Ok(prepared) => Some(prepared),
                Err(error) if error.is_missing() && is_fetchable => None,
                Err(error) => return Err(error.into()),
            };
            let Some(prepared) = prepared else {
                fetched = true;
                let progress = |step: &Step, sharers| progress(step, sharers);
                pipeline::fetch(&subject.model, want(), &self.fetcher, progress).await?;
                continue;
            };
            if verified {
                return Ok(prepared);
            }
            verified = true;
            let (id, model, suspects) = (prepared.id, Arc::clone(&prepared.model), prepared.suspects());
            match self.verified(id, model, suspects, progress).await {
                Ok(()) => return Ok(prepared),
                // It was moved aside, so it is missing now. What comes in its place is verified as it comes.
                Err(AcquireError::Load(error))
                    if matches!(*error, LoadError::Corrupt { .. }) && !self.is_offline(&request.selector) =>
                {
                    fetched = false;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn is_offline(&self, selector: &Selector) -> bool {
        selector.offline || self.config.hub.settings().offline
    }

    async fn prepare(
        self: &Arc<Self>,
        request: &Request,
        subject: &Subject,
    ) -> Result<Result<Prepared, LoadError>, AcquireError> {
        let (cache, asked, subject) = (Arc::clone(self), request.clone(), subject.clone());
        let work = self.stage("finding the model", move || -> Result<_, LoadError> {
            let begun = std::time::SystemTime::now();
            let prepared = pipeline::prepare(&asked, &subject, &cache.pool)?;
            pipeline::note(&subject.model);
            // Whoever wants it verified first must not be lent it because somebody else asked before.
            if !prepared.is_provisional() && asked.verification == Verification::Afterwards {
                cache.recalls.remember(asked, &prepared, begun);
            }
            if !cache.intact(prepared.id) {
                cache.look_again(&prepared);
            }
            Ok(prepared)
        });
        self.in_time("finding the model", work).await
    }

    /// Forgets what the revision of `selector` means, so that the hub is asked anew.
    ///
    /// # Errors
    /// [`AcquireError`].
    pub async fn look_up_again(self: &Arc<Self>, selector: &Selector) -> Result<(), AcquireError> {
        let (cache, asked) = (Arc::clone(self), selector.clone());
        let work = self.stage("finding the model", move || pipeline::target(&asked, &cache.config.places));
        if let (Target::Hub(target), _) = work.await?? {
            self.config.hub.forget(&target.repo, &target.revision).await;
        }
        Ok(())
    }

    /// A hub model where it is; `None` for a path, and for what the cache alone may answer.
    ///
    /// # Errors
    /// [`AcquireError`].
    pub async fn look(self: &Arc<Self>, selector: &Selector, pinned: &Pinned) -> Result<Option<Remote>, AcquireError> {
        let hub = &self.config.hub;
        let (Target::Hub(target), Some(pin)) = (&*pinned.target, &pinned.pin) else { return Ok(None) };
        if self.is_offline(selector) {
            return Ok(None);
        }
        let remote = Remote::look(&self.fetcher, hub, target, pin, &selector.choice).await;
        Ok(Some(remote.map_err(LoadError::from)?))
    }

    /// Downloads what `want` needs of a hub model, and verifies what was here before.
    ///
    /// # Errors
    /// [`AcquireError`].
    pub async fn pull(
        self: &Arc<Self>,
        selector: &Selector,
        want: Want,
        progress: impl FnMut(&Step, usize) + Send,
    ) -> Result<(Pinned, Option<Arc<FetchReport>>), AcquireError> {
        if self.is_offline(selector) {
            return Err(LoadError::from(HubError::forbidden(
                format!("the files of `{}`", selector.spec),
                selector.offline,
            ))
            .into());
        }
        let pinned = self.pinned(selector).await?;
        let report = pipeline::fetch(&pinned, want, &self.fetcher, progress).await?;
        Ok((pinned, report))
    }

    /// Waits for `work`, for as long as a load may take.
    pub(crate) async fn in_time<T>(
        &self,
        operation: &'static str,
        work: impl Future<Output = Result<T, AcquireError>>,
    ) -> Result<T, AcquireError> {
        let limit = self.config.load_deadline;
        let late = AcquireError::Deadline { operation, limit };
        tokio::time::timeout(limit, work).await.unwrap_or(Err(late))
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
        let lends = |entry: &Entry| entry.component.segments.iter().any(|shard| paths.contains(shard.file.path()));
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
