//! Components in the memory of cards: one table of leases for each card, filled by loaders, one at a time for each card.
//!
//! A request first gets the component as any other does: same id, same audit, same reasons. What it holds in the end is the
//! copy on the card; the files are let go.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use dashmap::DashMap;
use tokio::sync::Mutex;
use weightsd_core::{
    card::{self, CardFacts, CardId},
    explain::sentence,
    handoff::Ticket,
    identity::ComponentId,
    policy::{Decision, Wish},
};

use super::{
    ATTEMPTS, Acquired, Cache, Change, ChangeKind, Holder,
    leases::{self, LeaseTable},
};
use crate::{
    component::Component,
    events::EventKind,
    flight::{Joined, SharedWork, Work, WorkContext},
    lanes::{FileFate, Kind, MayBlock, Task},
    pipeline::{AcquireError, LoadError, Progress, Request},
    progress::{Phase, Step},
    resolve::ResolvedModel,
    vram::{self, Ledger, OnCard, Order, VramFailed},
};

/// Cards that are remembered although nothing is on them.
const SHELVES_MAX: usize = 64;
/// How long the memory of a dropped component may take to be free again.
const SETTLING: Duration = Duration::from_secs(1);
/// How often is looked meanwhile.
const LOOK: Duration = Duration::from_millis(10);
/// How long the look at the files of a component may take that was just copied.
const PATIENCE: Duration = Duration::from_secs(10);

/// A component on a card, and its holders.
pub type CardEntry = leases::Entry<OnCard>;
/// The right to hold a component on a card.
pub type CardLease = leases::Lease<OnCard>;

/// A component on a card and the right to hold it.
#[derive(Debug)]
pub struct AcquiredOnCard {
    /// The lease.
    pub lease: CardLease,
    /// The model that was asked for.
    pub model: Arc<ResolvedModel>,
    /// Whether it was on the card before.
    pub warm: bool,
    /// Leases on it, this one included.
    pub leases: usize,
    /// How long finding the model took for this request.
    pub resolve: Duration,
}

/// The filling of a card.
#[derive(Debug, Clone)]
struct Fill;

impl Work for Fill {
    type Key = (CardId, ComponentId);
    type Step = Step;
    type Output = Arc<OnCard>;
    type Error = AcquireError;

    fn died() -> AcquireError {
        AcquireError::Died { operation: "filling the card" }
    }
}

/// What is on one card.
#[derive(Debug)]
struct Shelf {
    table: Arc<LeaseTable<OnCard>>,
    ledger: Arc<Ledger>,
    /// One loader at a time: the link is one, and so room is made for one after the other.
    turn: Mutex<()>,
    /// Whether a task looks for components that have outlived their keep-alive.
    is_swept: AtomicBool,
}

/// What is on all cards.
#[derive(Debug, Default)]
pub(super) struct Cards {
    shelves: DashMap<CardId, Arc<Shelf>>,
    fills: Arc<SharedWork<Fill>>,
}

/// A card that something is or was loaded onto, as a list shows it.
#[derive(Debug, Clone)]
pub struct CardReport {
    /// The card.
    pub card: CardId,
    /// Bytes of components that are loaded or held.
    pub loaded: u64,
    /// Leases on them.
    pub leases: u64,
    /// Components that were dropped and that processes keep: id, name and bytes.
    pub departed: Vec<(ComponentId, String, u64)>,
}

impl Shelf {
    /// Facts about what is loaded; what is withdrawn and held is not among it.
    fn facts(&self) -> Vec<CardFacts> {
        let fact = |entry: &Arc<CardEntry>| CardFacts {
            id: entry.id(),
            bytes: entry.component.bytes(),
            idle_since: entry.idle_since(),
        };
        self.table.entries().iter().map(fact).collect()
    }

    /// Bytes that dropping what is loaded would not free.
    fn others(&self, facts: &[CardFacts]) -> u64 {
        let (loaded, departed) = self.ledger.taken();
        let listed: u64 = facts.iter().map(|facts| facts.bytes).sum();
        loaded.saturating_sub(listed).saturating_add(departed)
    }
}

impl Cards {
    fn shelf(&self, card: CardId, cache: &Cache) -> Arc<Shelf> {
        let new = || {
            let listener = super::on_lease(Arc::clone(cache.daemon().events()), None, on_card);
            let table = LeaseTable::new(Box::new(listener));
            Arc::new(Shelf { table, ledger: Arc::default(), turn: Mutex::default(), is_swept: AtomicBool::new(false) })
        };
        if self.shelves.len() >= SHELVES_MAX {
            // Requests can name cards that there are not.
            self.shelves.retain(|_, shelf| Arc::strong_count(shelf) > 1 || shelf.ledger.taken() != (0, 0));
        }
        Arc::clone(&self.shelves.entry(card).or_insert_with(new))
    }

    fn all(&self) -> Vec<(CardId, Arc<Shelf>)> {
        let mut all: Vec<_> = self.shelves.iter().map(|shelf| (*shelf.key(), Arc::clone(&shelf))).collect();
        all.sort_by_key(|(card, _)| *card);
        all
    }

    /// The component that a ticket stands for.
    pub(super) fn redeem(&self, ticket: Ticket) -> Option<Arc<OnCard>> {
        self.all().iter().find_map(|(_, shelf)| shelf.table.redeem(ticket)).map(|ticketed| ticketed.component)
    }
}

/// A component on a card, as events name it.
fn on_card(component: &OnCard) -> String {
    format!("{} on {}", component.component.name, component.card)
}

impl Cache {
    /// Leases the component that `request` means in the memory of `card` to `holder`, and has it put there first where it is
    /// not. `progress` is told each step and the number of requests that wait for it.
    ///
    /// # Errors
    /// When the load fails, the card cannot be filled, and when the daemon stops.
    pub async fn acquire_on_card(
        self: &Arc<Self>,
        request: Request,
        card: CardId,
        holder: Holder,
        progress: Progress<'_>,
    ) -> Result<AcquiredOnCard, AcquireError> {
        let Acquired { lease: files, model, resolve, .. } =
            self.acquire(request, holder.clone(), |step, sharers| progress(step, sharers)).await?;
        let (component, shelf) = (files.component(), self.cards.shelf(card, self));
        let acquired = |lease: CardLease, warm| {
            let leases = lease.entry().usage().holders.len();
            AcquiredOnCard { lease, model: Arc::clone(&model), warm, leases, resolve }
        };
        for _ in 0..ATTEMPTS {
            if let Some(lease) = shelf.table.lease(component.id, &holder) {
                return Ok(acquired(lease, true));
            }
            let filled = tokio::select! {
                filled = self.put_on_card(component, card, &shelf, progress) => filled,
                () = self.daemon().stopping().cancelled() => Err(AcquireError::Stopping),
            };
            match filled {
                Err(error) if error.is_abandoned() => {}
                Err(error) => return Err(error),
                Ok(filled) => return Ok(acquired(shelf.table.lease_or_keep(component.id, filled, &holder), false)),
            }
        }
        Err(Fill::died())
    }

    /// Joins the filling of `card` with `component`, or begins it, and waits for it.
    async fn put_on_card(
        self: &Arc<Self>,
        component: &Arc<Component>,
        card: CardId,
        shelf: &Arc<Shelf>,
        progress: Progress<'_>,
    ) -> Result<Arc<OnCard>, AcquireError> {
        let finished = || shelf.table.get(component.id).map(|entry| Arc::clone(&entry.component));
        let waiter = match self.cards.fills.join((card, component.id), finished) {
            Joined::Done(on_card) => return Ok(on_card),
            Joined::Waiting(waiter) => waiter,
            Joined::First(waiter, leader) => {
                let (cache, component, shelf) = (Arc::clone(self), Arc::clone(component), Arc::clone(shelf));
                let context = leader.context();
                let work = async move { cache.see_card_through(component, card, &shelf, &context).await };
                self.daemon().tasks().spawn("fill a card", leader.run(work));
                waiter
            }
        };
        waiter.wait(|step, sharers| progress(step, sharers)).await
    }

    /// Fills the card unless nobody waits any more, keeps what comes out, and says how it ended.
    async fn see_card_through(
        self: &Arc<Self>,
        component: Arc<Component>,
        card: CardId,
        shelf: &Arc<Shelf>,
        context: &WorkContext<Fill>,
    ) -> Result<Arc<OnCard>, AcquireError> {
        let filling = self.fill_card(&component, card, shelf, |step| context.report(step));
        let filled = tokio::select! {
            filled = filling => filled,
            () = context.abandoned() => Err(VramFailed::Abandoned),
            () = self.daemon().stopping().cancelled() => Err(VramFailed::Stopping),
        };
        let what = format!("{} of {} on {card}", component.name, component.model);
        match filled {
            Ok(on_card) => {
                let (id, on_card) = (component.id, Arc::new(on_card));
                self.daemon().events().push(EventKind::Loaded, Some(id), format!("{what}: {} bytes", on_card.bytes()));
                shelf.table.keep(id, Arc::clone(&on_card));
                self.sweep(shelf);
                Ok(on_card)
            }
            Err(error) => {
                let message = format!("{what}: {}", sentence(&error));
                self.daemon().events().push(EventKind::LoadFailed, None, message);
                Err(LoadError::card(&component.name, card, error).into())
            }
        }
    }

    /// Makes room, has a loader fill it, and looks whether the files stayed what they were. A card that is full all the same
    /// loses one component after the other.
    async fn fill_card(
        &self,
        component: &Arc<Component>,
        card: CardId,
        shelf: &Shelf,
        report: impl Fn(Step),
    ) -> Result<OnCard, VramFailed> {
        let order = Order::new(component, card)?;
        let arrangement = vram::arrange(component)?;
        let step = Step { phase: Phase::Upload, bytes_total: order.copied_bytes(), ..Step::default() };
        report(step.clone());
        let _turn = shelf.turn.lock().await;
        let facts = shelf.facts();
        let (others, budget) = (shelf.others(&facts), self.config.vram_budget.get());
        for decision in card::make_room(&facts, others, arrangement.bytes, budget)? {
            self.drop_from_card(shelf, &decision).await;
        }
        let filled = loop {
            let filled =
                vram::fill(&order, self.daemon(), |bytes| report(Step { bytes_done: bytes, ..step.clone() })).await;
            match (filled, card::next_to_go(&shelf.facts())) {
                (Err(error), Some(decision)) if error.is_full() => self.drop_from_card(shelf, &decision).await,
                (filled, _) => break filled?,
            }
        };
        self.are_unchanged(component).await?;
        OnCard::new(Arc::clone(component), (card, arrangement), filled, &shelf.ledger).map_err(VramFailed::Start)
    }

    /// Whether the files that were copied are what they were when the component was loaded.
    async fn are_unchanged(&self, component: &Arc<Component>) -> Result<(), VramFailed> {
        let (looked, disks, subject) = (Arc::clone(component), component.disks(), component.model.to_string());
        let look = move |may: &MayBlock<'_>| {
            let is_written = looked.fate(may) == FileFate::Written;
            is_written
                .then(|| looked.segments.first().map(|segment| segment.file().path().to_owned()).unwrap_or_default())
        };
        let (kind, limit) = (Kind::Look, Some(PATIENCE));
        let task =
            Task { operation: "looking at files that were copied", subject: &subject, disks: &disks, kind, limit };
        match self.daemon().lanes().run(task, look).await? {
            Some(path) => Err(VramFailed::Changed { path }),
            None => Ok(()),
        }
    }

    /// Drops a component that nobody holds, and waits until its memory is free, or kept by a process.
    async fn drop_from_card(&self, shelf: &Shelf, decision: &Decision) {
        let Some(entry) = shelf.table.get(decision.id) else { return };
        if !shelf.table.drop_unheld(decision.id) {
            return;
        }
        self.tell_card_eviction(&entry, decision);
        let before = shelf.ledger.taken().0;
        drop(entry);
        let begun = Instant::now();
        while shelf.ledger.taken().0 >= before && begun.elapsed() < SETTLING {
            tokio::time::sleep(LOOK).await;
        }
    }

    fn tell_card_eviction(&self, entry: &CardEntry, decision: &Decision) {
        let message = format!("{}: {}", on_card(&entry.component), decision.reason);
        tracing::info!(id = %decision.id, "{message}");
        self.daemon().events().push(EventKind::Evicted, Some(decision.id), message);
    }

    /// Has what outlives its keep-alive on a card dropped from now on.
    fn sweep(self: &Arc<Self>, shelf: &Arc<Shelf>) {
        if shelf.is_swept.swap(true, Ordering::Relaxed) {
            return;
        }
        let (cache, shelf) = (Arc::clone(self), Arc::clone(shelf));
        self.daemon().tasks().spawn("sweep a card", async move {
            let sleep_until = |at| tokio::time::sleep_until(tokio::time::Instant::from_std(at));
            tokio::select! {
                () = shelf.table.when_due(sleep_until, || drop(cache.evict_from(&shelf, Wish::Expired))) => {}
                () = cache.daemon().stopping().cancelled() => {}
            }
        });
    }

    fn evict_from(&self, shelf: &Shelf, wish: Wish) -> Vec<(Decision, Option<Arc<CardEntry>>)> {
        let outcomes = shelf.table.evict(wish);
        for (decision, dropped) in &outcomes {
            if let Some(entry) = dropped {
                self.tell_card_eviction(entry, decision);
            }
        }
        outcomes
    }

    /// What the policy would do about `wish` on all cards now.
    #[must_use]
    pub fn decide_on_cards(&self, wish: Wish) -> Vec<(CardId, Decision)> {
        let all = self.cards.all().into_iter();
        all.flat_map(|(card, shelf)| shelf.table.decide(wish).into_iter().map(move |decision| (card, decision)))
            .collect()
    }

    /// Does what [`Self::decide_on_cards`] says, and returns what became of it.
    pub fn evict_from_cards(&self, wish: Wish) -> Vec<(CardId, Decision)> {
        let all = self.cards.all().into_iter();
        let evict = |(card, shelf): (CardId, Arc<Shelf>)| {
            self.evict_from(&shelf, wish).into_iter().map(move |(decision, _)| (card, decision))
        };
        all.flat_map(evict).collect()
    }

    /// All components on cards, sorted by card, model and name.
    #[must_use]
    pub fn card_entries(&self) -> Vec<Arc<CardEntry>> {
        let mut entries: Vec<_> = self.cards.all().iter().flat_map(|(_, shelf)| shelf.table.entries()).collect();
        entries.sort_by_cached_key(|entry| {
            let on_card = &entry.component;
            (on_card.card, on_card.component.model.to_string(), on_card.component.name.clone())
        });
        entries
    }

    /// The cards that something is on, or was.
    #[must_use]
    pub fn cards(&self) -> Vec<CardReport> {
        let report = |(card, shelf): (CardId, Arc<Shelf>)| CardReport {
            card,
            loaded: shelf.ledger.taken().0,
            leases: shelf.table.held(),
            departed: shelf.ledger.departed(),
        };
        let is_used = |report: &CardReport| report.loaded > 0 || !report.departed.is_empty();
        self.cards.all().into_iter().map(report).filter(is_used).collect()
    }

    /// Lends what was made of damaged files no more, and tells its holders.
    pub(super) fn withdraw_from_cards(&self, is_over: impl Fn(&Component) -> bool, message: &str) {
        for (_, shelf) in self.cards.all() {
            for entry in shelf.table.entries().iter().filter(|entry| is_over(&entry.component.component)) {
                shelf.table.withdraw(entry);
                entry.notify(Change { kind: ChangeKind::Corrupt, message: message.to_owned() });
            }
        }
    }
}
