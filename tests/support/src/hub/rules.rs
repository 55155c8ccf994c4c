//! Which faults are in force.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{
    fault::Fault,
    on::{On, Side},
    request::Request,
};

/// A fault that was switched on; it stays on when this is dropped.
#[derive(Debug, Clone)]
pub struct Rule {
    rules: Arc<Rules>,
    id: u64,
}

impl Rule {
    /// The fault is over after that many requests; `None`: it stays until it is removed.
    pub fn times(self, times: u64) -> Self {
        self.rules.change(self.id, |entry| entry.left = Some(times));
        self
    }

    /// Requests that pass before the first fault.
    pub fn skip(self, requests: u64) -> Self {
        self.rules.change(self.id, |entry| entry.skip = requests);
        self
    }

    /// How many requests it was in force for.
    #[must_use]
    pub fn hits(&self) -> u64 {
        let mut hits = 0;
        self.rules.change(self.id, |entry| hits = entry.hits);
        hits
    }

    /// Switches it off. Answers that it stalls go on.
    pub fn remove(&self) {
        self.rules.change(self.id, |entry| (entry.left, entry.is_removed) = (Some(0), true));
    }

    /// Whether somebody switched it off; a rule that is used up was not.
    pub(super) fn is_removed(&self) -> bool {
        let mut is_removed = true;
        self.rules.change(self.id, |entry| is_removed = entry.is_removed);
        is_removed
    }
}

#[derive(Debug, Default)]
pub(super) struct Rules(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Never goes back: handles outlive the rules that were cleared.
    next: u64,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    on: On,
    fault: Fault,
    skip: u64,
    left: Option<u64>,
    is_removed: bool,
    hits: u64,
}

impl Rules {
    /// One more, in force at once.
    pub(super) fn add(self: &Arc<Self>, on: On, fault: Fault, skip: u64, times: Option<u64>) -> Rule {
        let mut inner = self.inner();
        let id = inner.next;
        inner.next += 1;
        inner.entries.push(Entry { id, on, fault, skip, left: times, is_removed: false, hits: 0 });
        Rule { rules: Arc::clone(self), id }
    }

    pub(super) fn clear(&self) {
        self.inner().entries.clear();
    }

    /// The faults for a request, each with its rule, in the order in which they were switched on; uses them up.
    pub(super) fn take(self: &Arc<Self>, side: Side, request: &Request) -> Vec<(Fault, Rule)> {
        let mut faults = Vec::new();
        for entry in &mut self.inner().entries {
            let idle = request.is_head() && entry.fault.needs_body();
            if idle || entry.left == Some(0) || !entry.on.matches(side, request) {
                continue;
            }
            if entry.skip > 0 {
                entry.skip -= 1;
                continue;
            }
            entry.left = entry.left.map(|left| left - 1);
            entry.hits += 1;
            faults.push((entry.fault.clone(), Rule { rules: Arc::clone(self), id: entry.id }));
        }
        faults
    }

    fn change(&self, id: u64, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.inner().entries.iter_mut().find(|entry| entry.id == id) {
            change(entry);
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
