//! What every room of a running daemon needs of it: its tasks, its lanes, its event log, and the news that it stops.

use std::sync::Arc;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{events::Events, lanes::Lanes, log::Losses, metrics::Metrics, tasks::Tasks};

/// A running daemon. Clones mean the same one.
#[derive(Debug, Clone)]
pub struct Daemon {
    tasks: Tasks,
    events: Arc<Events>,
    lanes: Arc<Lanes>,
    losses: Losses,
    metrics: Metrics,
    freed: Arc<Notify>,
}

impl Default for Daemon {
    fn default() -> Self {
        Self::new(Losses::default())
    }
}

impl Daemon {
    /// One that runs nothing yet. `losses` counts what its log lost.
    #[must_use]
    pub fn new(losses: Losses) -> Self {
        let tasks = Tasks::default();
        let lanes = Arc::new(Lanes::new(tasks.stopping().clone()));
        Self { tasks, events: Arc::default(), lanes, losses, metrics: Metrics::default(), freed: Arc::default() }
    }

    /// Its tasks.
    #[must_use]
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// Where its work that may block runs.
    #[must_use]
    pub fn lanes(&self) -> &Arc<Lanes> {
        &self.lanes
    }

    /// How many lines its log lost.
    #[must_use]
    pub fn losses(&self) -> &Losses {
        &self.losses
    }

    /// What it counts.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Is told when memory was freed that may be worth giving back to the system.
    #[must_use]
    pub fn freed(&self) -> &Arc<Notify> {
        &self.freed
    }

    /// Its event log.
    #[must_use]
    pub fn events(&self) -> &Arc<Events> {
        &self.events
    }

    /// Is cancelled when it stops.
    #[must_use]
    pub fn stopping(&self) -> &CancellationToken {
        self.tasks.stopping()
    }
}
