//! What the stages of a load work with: sources, files that are open, images, and threads that may block.

use std::{sync::Arc, time::Duration};

use weightsd_core::derive::Alignment;

use super::{AcquireError, LoadError, Trip};
use crate::{
    checkpoint::ShardPool,
    derive::Maker,
    handle::Daemon,
    lanes::{Kind, MayBlock, Task},
    resolve::{self, Network, Places, Selector},
    snapshot::{Attestations, Fetcher},
    source::{Source, SourceProblem},
};

/// What the stages of a load work with.
#[derive(Debug)]
pub struct Tools {
    /// Where relative paths and ids are looked up, unless a selector says otherwise; and the sources that they may mean.
    pub places: Places,
    /// Downloads.
    pub fetcher: Arc<Fetcher>,
    /// What was hashed and found good.
    pub attestations: Arc<Attestations>,
    /// Weight files that are open.
    pub pool: ShardPool,
    /// What makes images.
    pub maker: Maker,
    /// The daemon that runs it all.
    pub daemon: Daemon,
    /// What becomes of misaligned tensors in layout MLX.
    pub alignment: Alignment,
    deadline: Duration,
}

impl Tools {
    /// `deadline` is how long the stages of one load may take together.
    #[must_use]
    pub fn new(
        places: Places,
        fetcher: Arc<Fetcher>,
        attestations: Arc<Attestations>,
        maker: Maker,
        deadline: Duration,
        daemon: Daemon,
    ) -> Self {
        let (pool, alignment) = (ShardPool::default(), Alignment::default());
        Self { places, fetcher, attestations, pool, maker, daemon, alignment, deadline }
    }

    /// The same, with misaligned tensors treated so.
    #[must_use]
    pub fn with_alignment(self, alignment: Alignment) -> Self {
        Self { alignment, ..self }
    }

    /// How long the stages of one load may take together.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Begins the trip of a request about `selectors`: finds the disks that they lead to.
    ///
    /// # Errors
    /// When a disk does not answer, and when the daemon stops.
    pub async fn trip(&self, selectors: impl IntoIterator<Item = &Selector> + Send) -> Result<Arc<Trip>, AcquireError> {
        let selectors: Vec<&Selector> = selectors.into_iter().collect();
        let subject = selectors.first().map(|selector| selector.spec.clone()).unwrap_or_default();
        let paths = selectors.iter().flat_map(|selector| resolve::may_lie_at(selector, &self.places)).collect();
        Trip::begin(self.daemon.lanes(), subject, paths, self.deadline).await
    }

    /// Runs a stage on a thread that may block, a few at a time on each disk.
    ///
    /// # Errors
    /// When the stages of the trip take longer than they may, the disk hangs, or the stage panics.
    pub async fn stage<T: Send + 'static>(
        self: &Arc<Self>,
        trip: &Trip,
        operation: &'static str,
        work: impl FnOnce(&Self, &MayBlock<'_>) -> T + Send + 'static,
    ) -> Result<T, AcquireError> {
        let tools = Arc::clone(self);
        trip.run(self.daemon.lanes(), operation, Kind::Load, move |may| work(&tools, may)).await
    }

    /// Hashes files, moves damaged ones aside, deletes. May take as long as somebody waits for it.
    ///
    /// # Errors
    /// When the disk hangs, or the work panics.
    pub async fn long<T: Send + 'static>(
        self: &Arc<Self>,
        trip: &Trip,
        operation: &'static str,
        work: impl FnOnce(&Self, &MayBlock<'_>) -> T + Send + 'static,
    ) -> Result<T, AcquireError> {
        let tools = Arc::clone(self);
        let (subject, disks) = (trip.subject(), trip.disks());
        let task = Task { operation, subject, disks, kind: Kind::Long, limit: None };
        Ok(self.daemon.lanes().run(task, move |may| work(&tools, may)).await?)
    }

    /// Allows what needs a source.
    ///
    /// # Errors
    /// When the caller or the daemon's settings forbid to ask `source` for `what`.
    pub fn allow(&self, network: Network, source: &dyn Source, what: String) -> Result<(), LoadError> {
        let why = match network {
            _ if self.may_ask(network) => return Ok(()),
            Network::Forbidden => "the request is offline",
            Network::Allowed => "the daemon is offline",
        };
        Err(source.words().error(SourceProblem::Offline { what, why }).into())
    }

    /// Whether sources may be asked, by the caller's wish and the daemon's settings.
    #[must_use]
    pub fn may_ask(&self, network: Network) -> bool {
        network == Network::Allowed && !self.places.sources.is_offline()
    }
}
