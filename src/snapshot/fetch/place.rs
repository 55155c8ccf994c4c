//! The disk that files come to: whatever asks it does so in its lane, not on the threads that speak to sources.

use std::{path::Path, sync::Arc, time::Duration};

use super::FetchError;
use crate::lanes::{Disks, Kind, Lanes, MayBlock, Task};

/// The disk of a store, and for what it is asked.
#[derive(Debug, Clone)]
pub(in crate::snapshot) struct Place {
    lanes: Arc<Lanes>,
    disks: Disks,
    subject: Arc<str>,
}

impl Place {
    /// The place of `folder`, which need not exist yet.
    pub(in crate::snapshot) async fn find(
        lanes: &Arc<Lanes>,
        folder: &Path,
        subject: &str,
        limit: Option<Duration>,
    ) -> Result<Self, FetchError> {
        let disks = lanes.locate(subject, vec![folder.to_owned()], limit).await?;
        Ok(Self { lanes: Arc::clone(lanes), disks, subject: subject.into() })
    }

    /// Does `work` in the lane. It takes as long as the disk does: those who wait for a download decide when to give up.
    pub(in crate::snapshot) async fn run<T: Send + 'static>(
        &self,
        operation: &'static str,
        kind: Kind,
        work: impl FnOnce(&MayBlock<'_>) -> Result<T, FetchError> + Send + 'static,
    ) -> Result<T, FetchError> {
        self.within(None, operation, kind, work).await
    }

    /// The same, for at most `limit`.
    pub(in crate::snapshot) async fn within<T: Send + 'static>(
        &self,
        limit: Option<Duration>,
        operation: &'static str,
        kind: Kind,
        work: impl FnOnce(&MayBlock<'_>) -> Result<T, FetchError> + Send + 'static,
    ) -> Result<T, FetchError> {
        let task = Task { operation, subject: &self.subject, disks: &self.disks, kind, limit };
        self.lanes.run(task, work).await?
    }
}
