//! What the status says and only the system knows: whether the source of ids has credentials, and how much memory the
//! daemon takes. The credentials' file may lie on a dead file system, so both are looked at in a lane, and an answer waits
//! a moment.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use weightsd_segment::MemoryUse;

use crate::{
    handle::Daemon,
    lanes::{Disks, Kind, MayBlock, Task},
    source::Source,
};

/// How long an answer waits; a local disk takes microseconds.
const PATIENCE: Duration = Duration::from_millis(50);

/// Answers what was seen last, and never waits long.
#[derive(Debug, Default)]
pub struct Probe {
    memory_bytes: AtomicU64,
    has_token: AtomicBool,
}

/// What was seen.
pub(super) struct Seen {
    pub(super) memory_bytes: u64,
    pub(super) has_token: bool,
}

impl Probe {
    /// What is so now; what was seen last, where looking takes too long.
    pub(super) async fn look(self: &Arc<Self>, daemon: &Daemon, source: Option<&Arc<dyn Source>>) -> Seen {
        let (probe, source, disks) = (Arc::clone(self), source.cloned(), Disks::default());
        let (subject, kind, limit) = ("the status", Kind::Look, Some(PATIENCE));
        let task = Task { operation: "looking at memory and token", subject, disks: &disks, kind, limit };
        let look = move |_: &MayBlock<'_>| {
            let memory = MemoryUse::resident_of_self().unwrap_or_default();
            probe.memory_bytes.store(memory, Ordering::Relaxed);
            probe.has_token.store(source.is_some_and(|source| source.has_credentials()), Ordering::Relaxed);
        };
        // Late or refused: what was seen last is told.
        let _ = daemon.lanes().run(task, look).await;
        Seen {
            memory_bytes: self.memory_bytes.load(Ordering::Relaxed),
            has_token: self.has_token.load(Ordering::Relaxed),
        }
    }
}
