//! Whether there is a token for the hub, for the status. The token's file may lie on a dead file system, so it is looked
//! for off the threads that answer, once at a time and for a moment.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Semaphore, task::spawn_blocking, time::timeout};

use crate::hub::Hub;

/// How long an answer waits for the token's file; a local disk takes microseconds.
const PATIENCE: Duration = Duration::from_millis(50);

/// Answers whether there is a token, and never waits long.
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
    /// Whether there is a token now; what was seen last, where looking takes too long.
    pub(super) async fn has_token(self: &Arc<Self>, hub: &Arc<Hub>) -> bool {
        if let Ok(place) = Arc::clone(&self.looking).try_acquire_owned() {
            let (probe, hub) = (Arc::clone(self), Arc::clone(hub));
            let look = spawn_blocking(move || {
                probe.seen.store(hub.has_token(), Ordering::Relaxed);
                drop(place);
            });
            // A thread that is stuck keeps the place, so no other one gets stuck.
            let _ = timeout(PATIENCE, look).await;
        }
        self.seen.load(Ordering::Relaxed)
    }
}
