//! Times of one thing done many times, or of several things that take turns.

use std::time::{Duration, Instant};

/// In how many rounds things take turns.
pub(crate) const ROUNDS: usize = 10;

/// One of the things that take turns, with its name.
pub(crate) type Way<'a> = (&'static str, Box<dyn FnMut() -> anyhow::Result<()> + 'a>);

/// Runs each of `ways` `count` times in rounds in which they take turns, so that what else the machine does meets all of them.
/// Each turn begins with a tenth as many runs that are thrown away.
pub(crate) fn in_turns(count: usize, ways: &mut [Way<'_>]) -> anyhow::Result<Vec<Samples>> {
    let mut times = vec![Vec::with_capacity(count); ways.len()];
    for _ in 0..ROUNDS {
        for ((_, work), times) in ways.iter_mut().zip(&mut times) {
            times.extend(Samples::take(count.div_ceil(ROUNDS), work)?.0);
        }
    }
    Ok(times.into_iter().map(Samples::from).collect())
}

/// Sorted times.
#[derive(Debug, Clone)]
pub(crate) struct Samples(Vec<Duration>);

impl Samples {
    /// Runs `work` `count` times after a tenth as many runs that are thrown away.
    pub(crate) fn take(count: usize, mut work: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<Self> {
        for _ in 0..count / 10 {
            work()?;
        }
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let began = Instant::now();
            work()?;
            times.push(began.elapsed());
        }
        Ok(Self::from(times))
    }

    /// The time that `percent` of all runs stay below.
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let at = (self.0.len() * percent / 100).min(self.0.len().saturating_sub(1));
        self.0.get(at).copied().unwrap_or_default()
    }

    /// Half of all runs stay below this.
    pub(crate) fn p50(&self) -> Duration {
        self.percentile(50)
    }
}

impl From<Vec<Duration>> for Samples {
    fn from(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }
}

impl Samples {
    /// How many times as long as the other ones these took, at the middle.
    pub(crate) fn ratio_to(&self, other: &Self) -> f64 {
        self.p50().as_secs_f64() / other.p50().as_secs_f64()
    }
}

/// `0.312`, in milliseconds.
pub(crate) fn millis(time: Duration) -> String {
    format!("{:.3}", time.as_secs_f64() * 1e3)
}
