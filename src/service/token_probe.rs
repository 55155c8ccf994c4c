//! Whether a source has credentials, for the status. Their file may lie on a dead file system, so another thread
//! looks for it, one at a time and for a moment.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Semaphore, task::spawn_blocking, time::timeout};

use crate::source::Source;

/// How long an answer waits for the credentials' file; a local disk takes microseconds.
const PATIENCE: Duration = Duration::from_millis(50);

/// Answers whether a source has credentials, and never waits long.
#[derive(Debug)]
pub struct TokenProbe {
    seen: AtomicBool,
    looking: Arc<Semaphore>,
}

impl Default for TokenProbe {
    fn default() -> Self {
        Self { seen: AtomicBool::new(false), looking: Arc::new(Semaphore::new(1)) }
    }
}

impl TokenProbe {
    /// Whether there are credentials now. If looking takes too long, the last answer counts.
    pub(super) async fn has_credentials(self: &Arc<Self>, source: &Arc<dyn Source>) -> bool {
        if let Ok(place) = Arc::clone(&self.looking).try_acquire_owned() {
            let (probe, source) = (Arc::clone(self), Arc::clone(source));
            let look = spawn_blocking(move || {
                probe.seen.store(source.has_credentials(), Ordering::Relaxed);
                drop(place);
            });
            // A thread that is stuck keeps the place, so no other one gets stuck.
            let _ = timeout(PATIENCE, look).await;
        }
        self.seen.load(Ordering::Relaxed)
    }
}
