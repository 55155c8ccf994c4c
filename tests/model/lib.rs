//! The daemon's own files, compiled against shuttle's tokio, dashmap and locks. `tests/` has what must hold in every
//! interleaving. Run it with `.ci/model`.

#[path = "../../src/flight.rs"]
pub mod flight;
#[path = "../../src/cache/leases.rs"]
pub mod leases;

/// What `src/sync.rs` is to the daemon: shuttle's locks, and a clock that stands still until a test turns it on.
pub mod sync {
    use std::{
        cell::Cell,
        sync::LazyLock,
        time::{Duration, Instant},
    };

    pub use shuttle::sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    };
    pub use std::sync::PoisonError;

    static START: LazyLock<Instant> = LazyLock::new(Instant::now);

    thread_local! {
        // All tasks of a schedule run on one thread.
        static PASSED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }

    /// The present moment.
    #[must_use]
    pub fn now() -> Instant {
        *START + PASSED.get()
    }

    /// Starts the clock anew: each schedule begins at the same moment.
    pub fn reset_clock() {
        PASSED.set(Duration::ZERO);
    }

    /// Turns the clock on to `moment`, and never back.
    pub fn pass_until(moment: Instant) {
        PASSED.set(PASSED.get().max(moment - *START));
    }
}
