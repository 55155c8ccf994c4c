//! What the stages of a load work with: sources, files that are open, images, and threads that may block.

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;
use weightsd_core::derive::Alignment;

use super::{AcquireError, LoadError};
use crate::{
    checkpoint::ShardPool,
    derive::Maker,
    handle::Daemon,
    resolve::{Network, Places},
    snapshot::{Attestations, Fetcher},
    source::{Source, SourceProblem},
};

/// Stages that may run at once. Each may hold a header of megabytes, so this bounds what strangers' files can cost.
const STAGES_AT_ONCE: usize = 8;

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
    stages: Arc<Semaphore>,
}

impl Tools {
    /// `deadline` is how long one stage may take.
    #[must_use]
    pub fn new(
        places: Places,
        fetcher: Arc<Fetcher>,
        attestations: Arc<Attestations>,
        maker: Maker,
        deadline: Duration,
        daemon: Daemon,
    ) -> Self {
        Self {
            places,
            fetcher,
            attestations,
            pool: ShardPool::default(),
            maker,
            daemon,
            alignment: Alignment::default(),
            deadline,
            stages: Arc::new(Semaphore::new(STAGES_AT_ONCE)),
        }
    }

    /// The same, with misaligned tensors treated so.
    #[must_use]
    pub fn with_alignment(self, alignment: Alignment) -> Self {
        Self { alignment, ..self }
    }

    /// Runs a stage on a thread that may block, a few at a time. A thread that hangs keeps its place until it is done,
    /// also when nobody waits for it any more.
    ///
    /// # Errors
    /// When it takes longer than a load may take, or panics.
    pub async fn stage<T: Send + 'static>(
        self: &Arc<Self>,
        operation: &'static str,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Result<T, AcquireError> {
        let in_turn = async {
            let place = Arc::clone(&self.stages).acquire_owned().await.map_err(|_| AcquireError::Stopping)?;
            let tools = Arc::clone(self);
            blocking(operation, move || {
                let result = work(&tools);
                drop(place);
                result
            })
            .await
        };
        let limit = self.deadline;
        let late = AcquireError::Deadline { operation, limit };
        tokio::time::timeout(limit, in_turn).await.unwrap_or(Err(late))
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

/// Runs `work` on a thread that may block.
///
/// # Errors
/// When it panics.
pub(crate) async fn blocking<T: Send + 'static>(
    operation: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, AcquireError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| AcquireError::Died { operation })
}
