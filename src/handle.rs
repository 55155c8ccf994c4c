//! What every room of a running daemon needs of it: its tasks, its event log, and the news that it stops.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::{events::Events, tasks::Tasks};

/// A running daemon. Clones mean the same one.
#[derive(Debug, Clone, Default)]
pub struct Daemon {
    tasks: Tasks,
    events: Arc<Events>,
}

impl Daemon {
    /// Its tasks.
    #[must_use]
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
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
