//! The setting `preload`: components that the daemon loads and holds by itself. They are loaded one after the other, and
//! none begins while a client's load or download is under way.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::future::select_all;
use tokio::time::{Instant, sleep};
use weightsd_core::{
    catalogue::AuditPolicy,
    explain::{Explain as _, sentence},
    handoff::Given,
    ingredients::Ingredients,
    place::Layout,
};

use super::{config::Changing, settings::Preload};
use crate::{
    cache::{Acquired, Cache, Holder, Lease},
    pipeline::{Request, Treatment, Verification},
    resolve::Selector,
};

/// The name under which the daemon holds what it preloads.
const HOLDER: &str = "preload";
/// How often what failed is tried again where that may help, and what is held is compared with what is loaded.
const AGAIN: Duration = Duration::from_secs(60);
/// How often the daemon asks, as a client would, whether the model means something else by now.
const ASKED: Duration = Duration::from_secs(10 * 60);

/// A component of the list, and how far it is.
struct Wanted {
    what: Preload,
    state: State,
    /// Whether it is to be asked for now.
    is_due: bool,
    /// When it was asked for last.
    asked: Instant,
    /// The failure that was logged last.
    said: String,
}

enum State {
    /// Loaded, and held.
    Held(Lease),
    /// Not loaded; it is tried again in a while.
    Away,
    /// Failed for good, until the configuration is read anew.
    Failed,
}

/// Loads what the list names and holds it while it stays in the list, until the daemon stops.
pub(super) async fn run(changing: Changing, cache: Arc<Cache>) {
    let mut list = changing.preload.changes();
    let mut all: Vec<Wanted> = Vec::new();
    loop {
        let now = list.borrow_and_update().clone();
        all.retain(|wanted| now.contains(&wanted.what));
        // A list that was read anew is asked for anew.
        all.iter_mut().for_each(|wanted| wanted.is_due = true);
        let is_new = |what: &&Preload| all.iter().all(|wanted| wanted.what != **what);
        let new: Vec<Wanted> = now.iter().filter(is_new).cloned().map(Wanted::new).collect();
        all.extend(new);
        tokio::select! {
            changed = list.changed() => if changed.is_err() { return },
            () = keep(&mut all, &cache) => {}
            () = cache.daemon().stopping().cancelled() => return,
        }
    }
}

/// Loads what is due, and again what changed, for ever.
async fn keep(all: &mut [Wanted], cache: &Arc<Cache>) {
    loop {
        for wanted in all.iter_mut().filter(|wanted| wanted.is_due) {
            cache.quiet().await;
            wanted.load(cache).await;
        }
        tokio::select! {
            () = sleep(AGAIN), if !all.is_empty() => {}
            () = a_change(all) => {}
        }
        for wanted in all.iter_mut() {
            wanted.is_due = wanted.may_be_another(cache);
        }
    }
}

/// Waits until the files of something that is held change.
async fn a_change(all: &[Wanted]) {
    let changes = all.iter().filter_map(|wanted| match &wanted.state {
        State::Held(lease) => Some(lease.entry().changes()),
        State::Away | State::Failed => None,
    });
    let told = changes.map(|mut changes| Box::pin(async move { drop(changes.wait_for(Option::is_some).await) }));
    let told: Vec<_> = told.collect();
    if told.is_empty() { std::future::pending().await } else { drop(select_all(told).await) }
}

impl Wanted {
    fn new(what: Preload) -> Self {
        Self { what, state: State::Away, is_due: true, asked: Instant::now(), said: String::new() }
    }

    /// Asks for it as a client would. What is held already stays held until there is something else.
    async fn load(&mut self, cache: &Arc<Cache>) {
        (self.is_due, self.asked) = (false, Instant::now());
        let Preload { spec, component } = &self.what;
        let holder = Holder {
            pid: std::process::id(),
            name: HOLDER.to_owned(),
            since: SystemTime::now(),
            keep_alive: cache.config().keep_alive.get().default,
            given: Given::Originals,
            takes_sheet: false,
        };
        match cache.acquire(request(&self.what), holder, |_, _| {}).await {
            Ok(Acquired { lease, .. }) => {
                self.said.clear();
                let is_same = matches!(&self.state, State::Held(held) if Arc::ptr_eq(held.entry(), lease.entry()));
                if !is_same {
                    tracing::info!(spec, component, id = %lease.component().id, "preloaded");
                    self.state = State::Held(lease);
                }
            }
            Err(error) => {
                let explanation = error.explain();
                let problem = sentence(&error);
                if problem != self.said {
                    tracing::warn!(spec, component, hint = %explanation.hint, "cannot preload: {problem}");
                    self.said = problem;
                }
                match &self.state {
                    State::Held(lease) if !is_changed(lease) => {}
                    _ if explanation.reason.is_retryable() => self.state = State::Away,
                    _ => self.state = State::Failed,
                }
            }
        }
    }

    /// Whether asking may bring something else than what is held.
    fn may_be_another(&self, cache: &Cache) -> bool {
        match &self.state {
            State::Held(lease) => {
                let is_loaded = cache.is_loaded(lease.component().id);
                is_changed(lease) || !is_loaded || self.asked.elapsed() >= ASKED
            }
            State::Away => true,
            State::Failed => false,
        }
    }
}

/// Whether the files of what is held have changed.
fn is_changed(lease: &Lease) -> bool {
    lease.entry().changes().borrow().is_some()
}

/// What `weightsd load` asks for without flags.
fn request(what: &Preload) -> Request {
    Request {
        models: Ingredients::only(Selector { spec: what.spec.clone(), ..Selector::default() }),
        component: what.component.clone(),
        layout: Layout::Mlx,
        treatment: Treatment::default(),
        policy: AuditPolicy::Strict,
        verification: Verification::Afterwards,
    }
}
