//! Loads that are under way: one for everyone who asks for the same component at the same time.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use weightsd_core::identity::ComponentId;

use super::{AcquireError, Cache, EventKind};
use crate::{
    checkpoint::CheckpointError,
    component::Component,
    flight::{Joined, Work, WorkContext},
    pipeline::{self, LoadError, Prepared},
    progress::{Step, Watcher},
};

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

/// What travels: a component.
#[derive(Debug, Clone)]
pub(super) struct LoadWork;

impl Work for LoadWork {
    type Key = ComponentId;
    type Step = Named;
    type Output = Arc<Component>;
    type Error = AcquireError;

    fn died() -> AcquireError {
        AcquireError::Died { operation: "the load" }
    }
}

/// A step, and whose it is.
#[derive(Debug, Clone, Default)]
pub(super) struct Named {
    name: Arc<(String, String)>,
    step: Step,
}

impl Cache {
    /// Joins the flight for `prepared`, or starts it, and waits for the component.
    pub(super) async fn fly(
        self: &Arc<Self>,
        prepared: Prepared,
        spec: &str,
        progress: &mut (impl FnMut(&Step, usize) + Send),
    ) -> Result<Arc<Component>, AcquireError> {
        let id = prepared.id;
        // A flight that landed since this request looked has left its component.
        let arrived = || self.components.get(&id).map(|entry| Arc::clone(&entry.component));
        let waiter = match self.flights.join(id, arrived) {
            Joined::Done(component) => return Ok(component),
            Joined::Waiting(waiter) => waiter,
            Joined::First(waiter, leader) => {
                let name = Arc::new((prepared.component().to_owned(), spec.to_owned()));
                let (cache, context) = (Arc::clone(self), Arc::new(leader.context()));
                self.tasks.spawn("load", leader.run(async move { cache.load(prepared, name, context).await }));
                waiter
            }
        };
        waiter.wait(|named, sharers| progress(&named.step, sharers)).await
    }

    async fn load(
        self: &Arc<Self>,
        prepared: Prepared,
        name: Arc<(String, String)>,
        context: Arc<WorkContext<LoadWork>>,
    ) -> Result<Arc<Component>, AcquireError> {
        let id = prepared.id;
        let abandoned = Arc::new(AtomicBool::new(false));
        let reporter = Arc::new(Reporter {
            name: Arc::clone(&name),
            context: Arc::clone(&context),
            abandoned: Arc::clone(&abandoned),
        });
        reporter.step(&Step::default());
        let work = self.open_and_lend(prepared, reporter);
        tokio::pin!(work);
        let result = tokio::select! {
            result = &mut work => result,
            () = context.abandoned() => {
                abandoned.store(true, Ordering::Relaxed);
                // A thread that opens files finds out; what is computed is given up at once.
                Err(LoadError::from(CheckpointError::Abandoned).into())
            }
        };
        let (component, spec) = &*name;
        match result {
            Ok(loaded) => {
                let message = format!("{component} of {}: {}", loaded.model, loaded.audit.summary());
                self.events().push(EventKind::Loaded, Some(id), message);
                let loaded = Arc::new(loaded);
                self.insert(Arc::clone(&loaded));
                self.verify_afterwards(&loaded);
                Ok(loaded)
            }
            Err(error) => {
                let message = format!("{component} of {spec}: {error}");
                self.events().push(EventKind::LoadFailed, None, message);
                Err(error)
            }
        }
    }

    /// From the prepared to the component. Opening has a deadline; computing takes the time it takes, and is told of.
    async fn open_and_lend(
        self: &Arc<Self>,
        prepared: Prepared,
        reporter: Arc<Reporter>,
    ) -> Result<Component, AcquireError> {
        let (pool, watcher) = (Arc::clone(self.pool()), Arc::clone(&reporter));
        let opening = self.stage("the load", move || pipeline::open(prepared, &pool, &*watcher));
        let planned = self.in_time("the load", opening).await??;
        let loaded = self.lend(planned, |step| reporter.step(step)).await?;
        let attestations = Arc::clone(&self.config.attestations);
        // Looked up here, where waiting is allowed: whoever asks later is answered from memory.
        super::blocking("attestations", move || {
            let _ = loaded.was_verified(&attestations);
            loaded
        })
        .await
    }

    /// Loads that are under way.
    #[must_use]
    pub fn flights(&self) -> Vec<FlightReport> {
        let report = |(_, named, sharers): (_, Named, _)| {
            let (component, spec) = (*named.name).clone();
            FlightReport { component, spec, step: named.step, sharers }
        };
        self.flights.reports().into_iter().map(report).collect()
    }
}

struct Reporter {
    name: Arc<(String, String)>,
    context: Arc<WorkContext<LoadWork>>,
    abandoned: Arc<AtomicBool>,
}

impl Watcher for Reporter {
    fn step(&self, step: &Step) {
        self.context.report(Named { name: Arc::clone(&self.name), step: step.clone() });
    }

    fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed)
    }
}
