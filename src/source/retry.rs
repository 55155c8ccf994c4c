//! Repeats requests after failures that may pass: a few times, each after a longer pause or after the pause that the
//! source asks for.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder, Retryable as _};

use weightsd_core::explain::sentence;

use super::SourceError;

/// How often, and after which pauses.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// Tries after the first.
    pub tries: usize,
    /// The first pause; each is about twice the one before.
    pub pause: Duration,
    /// The longest pause, and the longest that the hub may ask for. If it asks for a longer one, the caller is told.
    pub pause_max: Duration,
}

impl Backoff {
    fn builder(&self) -> ExponentialBuilder {
        ExponentialBuilder::default()
            .with_jitter()
            .with_min_delay(self.pause)
            .with_max_delay(self.pause_max)
            .with_max_times(self.tries)
    }

    /// The pauses, in order.
    pub fn pauses(&self) -> impl Iterator<Item = Duration> + Send + use<> {
        self.builder().build()
    }

    /// The pause before the next try after `error`, given the one that is due; `None` when another try has no point.
    #[must_use]
    pub fn pause_after(&self, error: &SourceError, due: Option<Duration>) -> Option<Duration> {
        let due = due.filter(|_| error.is_transient())?;
        match error.retry_after() {
            Some(asked) if asked > self.pause_max => None,
            Some(asked) => Some(asked.max(due)),
            None => Some(due),
        }
    }

    /// Calls `work` until it succeeds, fails for good, or has failed too often.
    ///
    /// # Errors
    /// The last error.
    pub async fn retry<T, F>(&self, work: impl FnMut() -> F) -> Result<T, SourceError>
    where
        F: Future<Output = Result<T, SourceError>>,
    {
        work.retry(self.builder())
            .adjust(|error, due| self.pause_after(error, due))
            .when(SourceError::is_transient)
            .notify(|error, pause| tracing::info!(error = sentence(error), ?pause, "the hub is asked again"))
            .await
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::source::{SourceProblem, fake::WORDS};

    const QUICK: Backoff = Backoff { tries: 3, pause: Duration::from_millis(1), pause_max: Duration::from_millis(20) };

    async fn tries(error: SourceError) -> usize {
        let count = Cell::new(0);
        let result: Result<(), _> = QUICK
            .retry(|| {
                count.set(count.get() + 1);
                std::future::ready(Err(error.clone()))
            })
            .await;
        assert_eq!(result, Err(error));
        count.get()
    }

    #[tokio::test]
    async fn only_what_may_pass_is_tried_again() {
        let failing = |after| WORDS.error(SourceProblem::Failing { host: "h".into(), status: 503, after });
        assert_eq!(tries(failing(None)).await, 4);
        assert_eq!(tries(failing(Some(Duration::from_millis(5)))).await, 4);
        assert_eq!(tries(failing(Some(Duration::from_secs(60)))).await, 1, "the caller is told when to come back");
        assert_eq!(tries(WORDS.error(SourceProblem::NoRepo { repo: "a/b".into() })).await, 1);
    }
}
