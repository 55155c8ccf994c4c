//! How much memory the pieces in progress may take together.

use std::sync::{Condvar, Mutex, PoisonError};

/// Bytes that the pieces in progress may take together, by estimate. One piece may always run, however large it is.
const BUDGET_BYTES: u64 = 384 << 20;

/// The memory of pieces in progress.
#[derive(Debug, Default)]
pub(super) struct Budget {
    taken: Mutex<u64>,
    returned: Condvar,
}

/// A part of the budget. Dropping it gives it back.
#[must_use]
pub(super) struct Share<'a> {
    budget: &'a Budget,
    bytes: u64,
}

impl Budget {
    /// Blocks until `bytes` of the budget are free. A request above the whole budget waits until it is alone.
    pub(super) fn take(&self, bytes: u64) -> Share<'_> {
        let bytes = bytes.min(BUDGET_BYTES);
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let exceeds_budget = |taken: &mut u64| *taken + bytes > BUDGET_BYTES;
        let mut taken = self.returned.wait_while(taken, exceeds_budget).unwrap_or_else(PoisonError::into_inner);
        *taken += bytes;
        Share { budget: self, bytes }
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        *self.budget.taken.lock().unwrap_or_else(PoisonError::into_inner) -= self.bytes;
        self.budget.returned.notify_all();
    }
}
