//! One request's trip through the stages: what it is about, the disks that it touches, and how long it may still take.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::AcquireError;
use crate::lanes::{Disks, Kind, LaneError, Lanes, MayBlock, Task};

/// The trip of one request. Its time does not count downloads, hashing and computing.
#[derive(Debug)]
pub struct Trip {
    subject: String,
    disks: Disks,
    limit: Duration,
    left: Arc<Mutex<Duration>>,
}

impl Trip {
    /// A trip about `subject` on disks that are known, whose stages may take `limit` together.
    #[must_use]
    pub fn on(disks: Disks, subject: String, limit: Duration) -> Self {
        Self { subject, disks, limit, left: Arc::new(Mutex::new(limit)) }
    }

    /// A trip to `paths`: finds the disks that they lead to, which counts as a stage.
    pub(super) async fn begin(
        lanes: &Arc<Lanes>,
        subject: String,
        paths: Vec<PathBuf>,
        limit: Duration,
    ) -> Result<Arc<Self>, AcquireError> {
        let started = Instant::now();
        let trip = Self::on(Disks::default(), subject, limit);
        let located = lanes.locate(&trip.subject, paths, Some(limit)).await;
        trip.spend(started.elapsed());
        let disks = located.map_err(|error| trip.whole(error))?;
        Ok(Arc::new(Self { disks, ..trip }))
    }

    /// The same trip, to these disks too.
    #[must_use]
    pub fn with(&self, disks: &Disks) -> Arc<Self> {
        Arc::new(Self {
            subject: self.subject.clone(),
            disks: self.disks.and(disks),
            limit: self.limit,
            left: Arc::clone(&self.left),
        })
    }

    /// What it is about.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The disks that it touches.
    #[must_use]
    pub fn disks(&self) -> &Disks {
        &self.disks
    }

    fn left(&self) -> Duration {
        *self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spend(&self, spent: Duration) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        *left = left.saturating_sub(spent);
    }

    /// The error with the limit of the whole trip: what was left for its last stage says nothing to anybody.
    fn whole(&self, error: LaneError) -> AcquireError {
        match error {
            LaneError::Late { operation, disk, .. } => LaneError::Late { operation, disk, limit: self.limit }.into(),
            error => error.into(),
        }
    }

    /// Does `work` in the lane of its disks.
    ///
    /// # Errors
    /// As [`Lanes::run`].
    pub async fn run<T: Send + 'static>(
        &self,
        lanes: &Arc<Lanes>,
        operation: &'static str,
        kind: Kind,
        work: impl FnOnce(&MayBlock<'_>) -> T + Send + 'static,
    ) -> Result<T, AcquireError> {
        let started = Instant::now();
        let (subject, disks) = (self.subject.as_str(), &self.disks);
        let result = lanes.run(Task { operation, subject, disks, kind, limit: Some(self.left()) }, work).await;
        self.spend(started.elapsed());
        result.map_err(|error| self.whole(error))
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;

    #[tokio::test]
    async fn stages_share_one_deadline_and_the_error_tells_it() {
        let lanes = Arc::new(Lanes::new(CancellationToken::new()));
        let limit = Duration::from_secs(60);
        let trip = Trip::on(Disks::from_iter([1]), "a model".to_owned(), limit);
        let pause = Duration::from_millis(20);
        let slow = move |_: &MayBlock<'_>| std::thread::sleep(pause);
        trip.with(&Disks::from_iter([2])).run(&lanes, "a stage", Kind::Load, slow).await.unwrap();
        assert!(trip.left() <= limit - pause, "{:?}", trip.left());
        trip.spend(trip.left() - pause);
        let (let_go, hang) = std::sync::mpsc::channel::<()>();
        let hanging = move |_: &MayBlock<'_>| hang.recv().is_ok();
        let error = trip.run(&lanes, "a stage", Kind::Load, hanging).await.unwrap_err();
        assert!(error.to_string().starts_with("a stage took longer than 60s: "), "{error}");
        assert!(trip.left().is_zero(), "{:?}", trip.left());
        drop(let_go);
    }
}
