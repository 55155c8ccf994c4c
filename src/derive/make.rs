//! From a plan to its image: found on the disk, or computed, one at a time, with all processors.

use std::{path::Path, path::PathBuf, sync::Arc, time::Duration, time::Instant};

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};
use weightsd_core::{derive::Derivation, identity::ComponentId};

use super::{
    ComputeFailed, Engines, FoundEngine, Image, Images, Installed, Order, OrderedFile, PULSE, PartialImage, Provenance,
    SILENCE_MAX, compute, process::ASKING_MAX,
};
use crate::{
    events::EventKind,
    handle::Daemon,
    lanes::{Kind, MayBlock, Task},
    pace::Pace,
    progress::{Phase, Step, Watcher},
};

/// Names the look for an image in errors.
const FIND: &str = "looking for an image";

/// An image that is wanted.
pub struct Wanted {
    /// The component it is for.
    pub id: ComponentId,
    /// What is computed, and the file that it makes.
    pub derivation: Derivation,
    /// The engine that the component's id names; `None` where it names none, because what is asked for is as stored.
    /// The kernels of some files are put in order all the same, by whatever engine there is: that moves bytes only.
    pub engine: Option<FoundEngine>,
    /// What it is made from, in words.
    pub provenance: Provenance,
    /// The files that are read, in the order of their numbers.
    pub files: Vec<OrderedFile>,
    /// Returns the first of those files that changed since it was opened.
    pub changed: Box<dyn Fn() -> Option<PathBuf> + Send + Sync>,
}

impl std::fmt::Debug for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wanted").field("id", &self.id).field("files", &self.files).finish_non_exhaustive()
    }
}

/// Makes room in a folder for a file of that length in bytes.
pub type MakeRoom = Arc<dyn Fn(&Path, u64, &MayBlock<'_>) -> Result<(), ComputeFailed> + Send + Sync>;

/// Finds images and makes them.
#[derive(Debug)]
pub struct Maker {
    images: Arc<Images>,
    engines: Arc<Engines>,
    turn: Semaphore,
    daemon: Daemon,
}

impl Maker {
    /// Keeps what it makes in `images`.
    #[must_use]
    pub fn new(images: Arc<Images>, engines: Arc<Engines>, daemon: Daemon) -> Self {
        Self { images, engines, turn: Semaphore::new(1), daemon }
    }

    /// Finds the image or computes it. Returns how long the computation took: nothing, if the image was there.
    ///
    /// # Errors
    /// When there is no room for it, the computation fails, or the daemon stops.
    pub async fn image(
        &self,
        wanted: &Arc<Wanted>,
        watcher: &dyn Watcher,
        make_room: &MakeRoom,
    ) -> Result<(Image, Duration), ComputeFailed> {
        let started = Instant::now();
        if let Some(image) = self.find(wanted).await? {
            return Ok((image, Duration::ZERO));
        }
        let _turn = self.turn(watcher).await?;
        // Another daemon, or a request for the same content under another name, may have computed it meanwhile.
        if let Some(image) = self.find(wanted).await? {
            return Ok((image, Duration::ZERO));
        }
        // Before others are deleted for its sake.
        let installed = self.installed(wanted).await?;
        let partial = self.begin(wanted, make_room).await?;
        tokio::select! {
            // Checked first, so that a daemon that stops starts no process any more.
            biased;
            () = self.daemon.stopping().cancelled() => return Err(ComputeFailed::Stopping),
            result = wanted.compute(installed, &partial, &self.daemon, watcher) => if let Err(error) = result {
                // Nobody finds a half image beside the error.
                let _ = self.in_the_folder("deleting a half image", Kind::Long, |may| partial.discard(may)).await;
                return Err(error);
            },
        }
        let image = self.publish(wanted, partial).await?;
        let took = started.elapsed();
        let message = format!("{} in {took:.1?}", image.provenance);
        self.daemon.events().push(EventKind::Derived, Some(wanted.id), message);
        Ok((image, took))
    }

    /// The engine that computes here.
    ///
    /// # Errors
    /// When the process that tells cannot be started, or dies.
    pub async fn engine(&self) -> Result<FoundEngine, ComputeFailed> {
        timeout(ASKING_MAX, self.engines.find(&self.daemon)).await.unwrap_or(Err(ComputeFailed::EngineUnknown))
    }

    /// The engine for `wanted`; `None` where everything is copied or decoded, which needs none.
    async fn installed(&self, wanted: &Wanted) -> Result<Option<Arc<Installed>>, ComputeFailed> {
        if !wanted.derivation.needs_engine() {
            return Ok(None);
        }
        let engine = match &wanted.engine {
            Some(engine) => engine.clone(),
            None => self.engine().await?,
        };
        match engine {
            FoundEngine::Installed(installed) => Ok(Some(installed)),
            FoundEngine::Absent { why, .. } => Err(why.into()),
        }
    }

    async fn find(&self, wanted: &Arc<Wanted>) -> Result<Option<Image>, ComputeFailed> {
        let (images, wanted) = (Arc::clone(&self.images), Arc::clone(wanted));
        self.in_the_folder(FIND, Kind::Load, move |may| images.open(wanted.id, &wanted.derivation.image, may)).await
    }

    /// Does work in the lane of the folder of images.
    async fn in_the_folder<T: Send + 'static>(
        &self,
        operation: &'static str,
        kind: Kind,
        work: impl FnOnce(&MayBlock<'_>) -> T + Send + 'static,
    ) -> Result<T, ComputeFailed> {
        let lanes = self.daemon.lanes();
        let folder = self.images.folder().map(Path::to_owned);
        let disks = lanes.locate(operation, folder.into_iter().collect(), Some(SILENCE_MAX)).await?;
        let task = Task { operation, subject: "images", disks: &disks, kind, limit: Some(SILENCE_MAX) };
        Ok(lanes.run(task, work).await?)
    }

    /// Waits for the turn to compute, and reports now and then: clients give up on a daemon that is silent.
    async fn turn(&self, watcher: &dyn Watcher) -> Result<SemaphorePermit<'_>, ComputeFailed> {
        let turn = self.turn.acquire();
        tokio::pin!(turn);
        loop {
            watcher.step(&Step { phase: Phase::Derive, ..Step::default() });
            tokio::select! {
                biased;
                () = self.daemon.stopping().cancelled() => return Err(ComputeFailed::Stopping),
                turn = timeout(PULSE, &mut turn) => if let Ok(turn) = turn {
                    return turn.map_err(|_| ComputeFailed::Stopping);
                },
            }
        }
    }

    async fn begin(&self, wanted: &Arc<Wanted>, make_room: &MakeRoom) -> Result<PartialImage, ComputeFailed> {
        let (images, wanted, make_room) = (Arc::clone(&self.images), Arc::clone(wanted), Arc::clone(make_room));
        self.in_the_folder("making room for an image", Kind::Long, move |may| {
            let length = wanted.derivation.image.length;
            images.begin(wanted.id, length, &wanted.provenance, |folder| make_room(folder, length, may), may)
        })
        .await?
    }

    async fn publish(&self, wanted: &Arc<Wanted>, partial: PartialImage) -> Result<Image, ComputeFailed> {
        let (images, wanted) = (Arc::clone(&self.images), Arc::clone(wanted));
        self.in_the_folder("publishing an image", Kind::Long, move |may| {
            // The worker opened by path the files that are held open here.
            if let Some(path) = (wanted.changed)() {
                partial.discard(may);
                return Err(ComputeFailed::Changed { path });
            }
            images.publish(partial, may)?;
            Ok(Image::published(&images, wanted.id, &wanted.derivation.image, may)?)
        })
        .await?
    }
}

impl Wanted {
    /// Computes the image into `partial`, in a process of its own.
    async fn compute(
        &self,
        engine: Option<Arc<Installed>>,
        partial: &PartialImage,
        daemon: &Daemon,
        watcher: &dyn Watcher,
    ) -> Result<(), ComputeFailed> {
        let order = Order {
            engine: engine.as_deref().cloned(),
            files: self.files.clone(),
            image: partial.path().to_owned(),
            head: self.derivation.image.head.clone(),
            jobs: self.derivation.jobs.clone(),
        };
        let total = self.derivation.input_bytes();
        let mut pace = Pace::default();
        compute(order, daemon, |bytes, tensor| {
            pace.add(bytes);
            watcher.step(&Step {
                phase: Phase::Derive,
                file: tensor.to_owned(),
                bytes_done: bytes,
                bytes_total: total,
                bytes_per_second: pace.bytes_per_second(),
                remaining: pace.remaining(total.saturating_sub(bytes)),
                ..Step::default()
            });
        })
        .await
    }
}
