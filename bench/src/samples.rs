//! Times of one thing done many times.

use std::time::{Duration, Instant};

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

/// `0.312`, in milliseconds.
pub(crate) fn millis(time: Duration) -> String {
    format!("{:.3}", time.as_secs_f64() * 1e3)
}
