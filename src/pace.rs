//! How fast something goes, from what came in the last seconds.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// How far back is looked.
const WINDOW: Duration = Duration::from_secs(5);

/// The bytes of the last seconds.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    samples: VecDeque<(Instant, u64)>,
}

impl Pace {
    /// `bytes` are done now.
    pub(crate) fn add(&mut self, bytes: u64) {
        self.add_at(Instant::now(), bytes);
    }

    fn add_at(&mut self, now: Instant, bytes: u64) {
        // A file that begins anew takes its bytes back.
        if self.samples.back().is_some_and(|&(_, before)| before > bytes) {
            self.samples.clear();
        }
        self.samples.push_back((now, bytes));
        while self.samples.front().is_some_and(|&(then, _)| now.duration_since(then) > WINDOW) {
            self.samples.pop_front();
        }
    }

    /// Zero while unknown.
    pub(crate) fn bytes_per_second(&self) -> u64 {
        let (Some((then, before)), Some((now, bytes))) = (self.samples.front(), self.samples.back()) else { return 0 };
        let millis = u64::try_from(now.duration_since(*then).as_millis()).unwrap_or(u64::MAX);
        (bytes - before).saturating_mul(1000).checked_div(millis).unwrap_or_default()
    }

    /// How long `bytes` more will take; `None` while unknown.
    pub(crate) fn remaining(&self, bytes: u64) -> Option<Duration> {
        bytes.checked_div(self.bytes_per_second()).map(Duration::from_secs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_seconds_count() {
        let mut pace = Pace::default();
        assert_eq!((pace.bytes_per_second(), pace.remaining(10)), (0, None));
        let start = Instant::now();
        for second in 0..20 {
            pace.add_at(
                start + Duration::from_secs(second),
                if second < 10 { second } else { 10 + (second - 10) * 100 },
            );
        }
        assert_eq!((pace.bytes_per_second(), pace.remaining(1000)), (100, Some(Duration::from_secs(10))));
        pace.add_at(start + Duration::from_secs(21), 5);
        assert_eq!(pace.bytes_per_second(), 0, "it began anew");
    }
}
