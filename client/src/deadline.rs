//! A limit on how long an operation may take.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::ClientError;

/// A point in time by which an operation must end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    at: Option<Instant>,
    after: Duration,
}

impl Deadline {
    pub(crate) fn after(after: Duration) -> Deadline {
        Deadline { at: Instant::now().checked_add(after), after }
    }

    /// Awaits `work` until the deadline. The error names the operation.
    pub(crate) async fn bound<T>(
        self,
        operation: &str,
        work: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        let Some(at) = self.at else { return work.await };
        let late = |_| ClientError::Deadline { operation: operation.to_owned(), after: self.after };
        timeout_at(at, work).await.map_err(late)?
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test]
    async fn an_endless_deadline_is_none() {
        assert!(Deadline::after(Duration::MAX).at.is_none());
        let error = Deadline::after(Duration::ZERO).bound("x", pending::<Result<(), _>>()).await.unwrap_err();
        assert!(matches!(error, ClientError::Deadline { .. }));
    }
}
