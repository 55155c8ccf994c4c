//! Loads that are under way. Requests for the same component at the same time share one.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use weightsd_core::{explain::sentence, identity::ComponentId};

use super::Cache;
use crate::{
    checkpoint::CheckpointError,
    component::Component,
    events::EventKind,
    flight::{Joined, Work, WorkContext},
    lanes::MayBlock,
    pipeline::{AcquireError, LoadError, Prepared, Progress, Shared},
    progress::{Step, Watcher},
};

/// A load under way, as a list shows it.
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

/// The loading of a component.
#[derive(Debug, Clone)]
pub(super) struct Load;

impl Work for Load {
    type Key = ComponentId;
    type Step = Named;
    type Output = Arc<Component>;
    type Error = AcquireError;

    fn died() -> AcquireError {
        AcquireError::Died { operation: "the load" }
    }
}

/// What is loaded, as people call it.
#[derive(Debug, Default)]
struct Title {
    component: String,
    spec: String,
}

/// A step with the load that it belongs to.
#[derive(Debug, Clone, Default)]
pub(super) struct Named {
    title: Arc<Title>,
    step: Step,
}

impl Cache {
    /// Joins the load of `prepared`, or begins it with `work`, and waits for the component.
    pub(super) async fn load<W, F>(
        self: &Arc<Self>,
        prepared: Prepared,
        work: W,
        progress: Progress<'_>,
    ) -> Result<Arc<Component>, AcquireError>
    where
        W: FnOnce(Prepared, Shared) -> F + Send + 'static,
        F: Future<Output = Result<Component, AcquireError>> + Send + 'static,
    {
        let id = prepared.id;
        // A load may have ended since this request looked, and left its component.
        let finished = || self.leases.get(id).map(|entry| Arc::clone(&entry.component));
        let waiter = match self.flights.join(id, finished) {
            Joined::Done(component) => return Ok(component),
            Joined::Waiting(waiter) => waiter,
            Joined::First(waiter, leader) => {
                let spec = prepared.request.models.own.spec.clone();
                let title = Arc::new(Title { component: prepared.component().to_owned(), spec });
                let reporter =
                    Arc::new(Reporter { title, context: leader.context(), abandoned: AtomicBool::new(false) });
                let (cache, room) = (Arc::clone(self), Arc::clone(self));
                let make_room =
                    Arc::new(move |folder: &Path, bytes, may: &MayBlock<'_>| room.make_room(folder, bytes, may));
                let shared = Shared { watcher: Arc::clone(&reporter) as _, make_room };
                let loading = work(prepared, shared);
                let work = async move { cache.see_through(id, loading, &reporter).await };
                self.daemon().tasks().spawn("load", leader.run(work));
                waiter
            }
        };
        waiter.wait(|named, sharers| progress(&named.step, sharers)).await
    }

    /// Waits for a load unless it is abandoned, keeps what comes out, and says how it ended.
    async fn see_through(
        self: &Arc<Self>,
        id: ComponentId,
        loading: impl Future<Output = Result<Component, AcquireError>>,
        reporter: &Reporter,
    ) -> Result<Arc<Component>, AcquireError> {
        reporter.step(&Step::default());
        let result = tokio::select! {
            result = loading => result,
            () = reporter.context.abandoned() => {
                // A thread that opens files notices this; a computation is dropped at once.
                reporter.abandoned.store(true, Ordering::Relaxed);
                Err(LoadError::from(CheckpointError::Abandoned).into())
            }
        };
        let Title { component, spec } = &*reporter.title;
        match result {
            Ok(loaded) => {
                let message = format!("{component} of {}: {}", loaded.model, loaded.audit.summary());
                self.daemon().events().push(EventKind::Loaded, Some(id), message);
                Ok(self.keep(loaded).await)
            }
            Err(error) => {
                let message = format!("{component} of {spec}: {}", sentence(&error));
                self.daemon().events().push(EventKind::LoadFailed, None, message);
                Err(error)
            }
        }
    }

    async fn keep(self: &Arc<Self>, loaded: Component) -> Arc<Component> {
        let loaded = Arc::new(loaded);
        // Looked up here, where waiting is allowed: later answers come from memory.
        let _ = self.was_verified(&loaded).await;
        loaded.weigh(&self.sums);
        self.leases.keep(loaded.id, Arc::clone(&loaded));
        self.ask_where_nobody_tells(&loaded);
        self.crowded.notify_one();
        self.verify_afterwards(&loaded);
        loaded
    }

    /// Loads that are under way, `max` of them at most.
    #[must_use]
    pub fn flights(&self, max: usize) -> Vec<FlightReport> {
        let report = |(_, Named { title, step }, sharers): (_, Named, _)| {
            let (component, spec) = (title.component.clone(), title.spec.clone());
            FlightReport { component, spec, step, sharers }
        };
        self.flights.reports(max).into_iter().map(report).collect()
    }
}

/// Passes steps on to everyone who waits.
struct Reporter {
    title: Arc<Title>,
    context: WorkContext<Load>,
    abandoned: AtomicBool,
}

impl Watcher for Reporter {
    fn step(&self, step: &Step) {
        self.context.report(Named { title: Arc::clone(&self.title), step: step.clone() });
    }

    fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed)
    }
}
