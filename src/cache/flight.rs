//! One piece of work for everyone who asks for the same thing at the same time.
//!
//! The work runs in a task of its own, so it does not end with the request that began it. Whatever happens to it,
//! everyone who waits is woken: with the component, with the error, or with the news that the task died. When nobody
//! waits any more, the work is told to stop.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use dashmap::{DashMap, mapref::entry::Entry as Slot};
use tokio::sync::watch;
use weightsd_core::identity::ComponentId;

use super::{AcquireError, Cache, EventKind};
use crate::{
    component::Component,
    pipeline::{self, Prepared, Step, Watcher},
};

/// The task of a flight is gone, and nobody knows why.
const DIED: AcquireError = AcquireError::Died { operation: "the load" };

#[derive(Debug, Clone)]
enum State {
    Running(Step),
    Landed(Arc<Component>),
    Crashed(AcquireError),
}

/// A flight as a list shows it.
#[derive(Debug, Clone)]
pub struct FlightReport {
    /// The component's name.
    pub component: String,
    /// The spec it was first asked for by.
    pub spec: String,
    /// How far it is.
    pub step: Step,
    /// Requests that wait for it.
    pub sharers: usize,
}

#[derive(Debug)]
struct Flight {
    state: watch::Sender<State>,
    component: String,
    spec: String,
}

/// Flights under way.
#[derive(Debug, Default)]
pub(super) struct Flights {
    by_id: DashMap<ComponentId, Arc<Flight>>,
}

impl Flights {
    pub(super) fn reports(&self) -> Vec<FlightReport> {
        let report = |flight: &Flight| match &*flight.state.borrow() {
            State::Running(step) => Some(FlightReport {
                component: flight.component.clone(),
                spec: flight.spec.clone(),
                step: step.clone(),
                sharers: flight.state.receiver_count(),
            }),
            State::Landed(_) | State::Crashed(_) => None,
        };
        self.by_id.iter().filter_map(|flight| report(&flight)).collect()
    }
}

impl Cache {
    /// Joins the flight for `prepared`, or starts it, and waits for the component.
    pub(super) async fn fly(
        self: &Arc<Self>,
        prepared: Prepared,
        spec: &str,
        progress: &mut (impl FnMut(&Step, usize) + Send),
    ) -> Result<Arc<Component>, AcquireError> {
        let (flight, mut state) = match self.flights.by_id.entry(prepared.id) {
            Slot::Occupied(flight) => (Arc::clone(flight.get()), flight.get().state.subscribe()),
            Slot::Vacant(slot) => {
                // A flight that landed since this request looked has left its component.
                if let Some(entry) = self.components.get(&prepared.id) {
                    return Ok(Arc::clone(&entry.component));
                }
                let state = watch::Sender::new(State::Running(Step::default()));
                let receiver = state.subscribe();
                let component = prepared.component().to_owned();
                let flight = Arc::new(Flight { state, component, spec: spec.to_owned() });
                slot.insert(Arc::clone(&flight));
                let leader = Leader { cache: Arc::clone(self), id: prepared.id, flight: Arc::clone(&flight) };
                self.tasks().spawn("load", leader.run(prepared));
                (flight, receiver)
            }
        };
        loop {
            let now = state.borrow_and_update().clone();
            match now {
                State::Running(step) => progress(&step, flight.state.receiver_count()),
                State::Landed(component) => return Ok(component),
                State::Crashed(error) => return Err(error),
            }
            if state.changed().await.is_err() {
                return Err(DIED);
            }
        }
    }
}

/// The task that does the work. Dropping it, in whatever way, takes the flight off the list and wakes everyone.
struct Leader {
    cache: Arc<Cache>,
    id: ComponentId,
    flight: Arc<Flight>,
}

impl Leader {
    async fn run(self, prepared: Prepared) {
        let abandoned = Arc::new(AtomicBool::new(false));
        let reporter = Reporter { flight: Arc::clone(&self.flight), abandoned: Arc::clone(&abandoned) };
        let pool = Arc::clone(self.cache.pool());
        let work = self.cache.stage("the load", move || pipeline::load(prepared, &pool, &reporter));
        tokio::pin!(work);
        let result = tokio::select! {
            result = &mut work => result,
            () = self.flight.state.closed() => {
                abandoned.store(true, Ordering::Relaxed);
                work.await
            }
        };
        let name = &self.flight.component;
        let end = match result {
            Ok(Ok(component)) => {
                let message = format!("{name} of {}: {}", component.model, component.audit.summary());
                self.cache.events().push(EventKind::Loaded, Some(self.id), message);
                let component = Arc::new(component);
                self.cache.insert(Arc::clone(&component));
                State::Landed(component)
            }
            Ok(Err(error)) => {
                let message = format!("{name} of {}: {error}", self.flight.spec);
                tracing::warn!(id = %self.id, "{message}");
                self.cache.events().push(EventKind::LoadFailed, None, message);
                State::Crashed(error.into())
            }
            Err(error) => State::Crashed(error),
        };
        self.flight.state.send_replace(end);
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        self.cache.flights.by_id.remove_if(&self.id, |_, flight| Arc::ptr_eq(flight, &self.flight));
        self.flight.state.send_if_modified(|state| {
            let running = matches!(state, State::Running(_));
            if running {
                *state = State::Crashed(DIED);
            }
            running
        });
    }
}

struct Reporter {
    flight: Arc<Flight>,
    abandoned: Arc<AtomicBool>,
}

impl Watcher for Reporter {
    fn step(&self, step: &Step) {
        self.flight.state.send_replace(State::Running(step.clone()));
    }

    fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed)
    }
}
