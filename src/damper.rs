//! What happens very often is told a few times and then counted: nothing that one client does floods the log or the ring
//! of events.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How many are told in each span of time.
const TOLD_MAX: u32 = 16;
/// The span.
const SPAN: Duration = Duration::from_secs(10);

/// Counts things of one sort.
#[derive(Debug, Default)]
pub(crate) struct Damper(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    began: Option<Instant>,
    told: u32,
    untold: u64,
}

impl Damper {
    /// None so far.
    #[must_use]
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(State { began: None, told: 0, untold: 0 }))
    }

    /// Whether one more is told: then with the number of those that were not since the last that was.
    pub(crate) fn tells(&self) -> Option<u64> {
        self.tells_at(Instant::now())
    }

    fn tells_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.began.is_none_or(|began| now.duration_since(began) >= SPAN) {
            (state.began, state.told) = (Some(now), 0);
        }
        if state.told == TOLD_MAX {
            state.untold += 1;
            return None;
        }
        state.told += 1;
        Some(std::mem::take(&mut state.untold))
    }
}

/// The end of a message that is told: the number of those that were not.
#[must_use]
pub(crate) fn and_untold(untold: u64) -> String {
    match untold {
        0 => String::new(),
        untold => format!(" (and {untold} more that were not told)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_told_in_part_and_counted_as_a_whole() {
        let damper = Damper::new();
        let start = Instant::now();
        let told = (0..1000).filter_map(|_| damper.tells_at(start)).count();
        assert_eq!(told, TOLD_MAX as usize);
        assert_eq!(damper.tells_at(start + SPAN), Some(1000 - u64::from(TOLD_MAX)));
        assert_eq!(damper.tells_at(start + SPAN), Some(0));
        assert_eq!((and_untold(0).as_str(), and_untold(3).as_str()), ("", " (and 3 more that were not told)"));
    }
}
