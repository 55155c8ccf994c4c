//! What the lease table locks with and reads the clock by. `tests/model` has a module of the same names over a scheduler
//! and a clock of its own.

pub(crate) use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};
use std::time::Instant;

/// The present moment.
#[must_use]
pub(crate) fn now() -> Instant {
    Instant::now()
}
