//! Something that threads share by amounts, such as the memory of the pieces in progress.

use std::sync::{Condvar, Mutex, PoisonError};

/// An amount, of which threads take parts for a while.
#[derive(Debug)]
pub(super) struct Budget {
    whole: u64,
    taken: Mutex<u64>,
    returned: Condvar,
}

/// A part of the budget. Dropping it gives it back.
#[must_use]
pub(super) struct Share<'a> {
    budget: &'a Budget,
    amount: u64,
}

impl Budget {
    pub(super) fn new(whole: u64) -> Self {
        Self { whole, taken: Mutex::new(0), returned: Condvar::new() }
    }

    /// Blocks until `amount` of the budget is free. A request above the whole budget waits until it is alone.
    pub(super) fn take(&self, amount: u64) -> Share<'_> {
        let amount = amount.min(self.whole);
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let exceeds_budget = |taken: &mut u64| *taken + amount > self.whole;
        let mut taken = self.returned.wait_while(taken, exceeds_budget).unwrap_or_else(PoisonError::into_inner);
        *taken += amount;
        Share { budget: self, amount }
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        *self.budget.taken.lock().unwrap_or_else(PoisonError::into_inner) -= self.amount;
        self.budget.returned.notify_all();
    }
}
