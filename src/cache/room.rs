//! Room on the disk for images: which are deleted so that another one fits, and which must stay.

use std::{path::Path, sync::Arc, time::Duration};

use weightsd_core::{
    budget::{self, ImageFacts, Room},
    explain::sentence,
    identity::ComponentId,
};

use super::{AcquireError, Cache};
use crate::{
    derive::{ComputeFailed, ImageError, StoredImage},
    disk::free_bytes,
    events::EventKind,
    lanes::{Kind, MayBlock, Task},
};

/// How long a count of the images' bytes is good enough.
const COUNTED: Duration = Duration::from_secs(2);

impl Cache {
    /// Deletes images so that one of `needed` bytes fits into `folder`.
    ///
    /// # Errors
    /// When there is no room without images that somebody holds.
    pub(super) fn make_room(&self, folder: &Path, needed: u64, may: &MayBlock<'_>) -> Result<(), ComputeFailed> {
        let images = &self.config.images;
        let fact = |stored: &StoredImage| ImageFacts {
            id: stored.id,
            bytes: stored.bytes,
            used: stored.used,
            is_held: self.is_held(stored.id),
        };
        let facts: Vec<_> = images.list(may).iter().map(fact).collect();
        let room = Room {
            budget: self.config.image_budget,
            writing: images.partial_bytes(may),
            free: free_bytes(folder).unwrap_or(u64::MAX),
            floor: self.config.free_space_floor,
        };
        let removals = budget::make_room(&facts, needed, room)?;
        for removal in removals {
            self.delete_image(removal.id, &removal.reason, may)?;
        }
        Ok(())
    }

    /// Deletes an image, unless somebody holds a component in it. A component that nobody holds goes with it.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn delete_image(&self, id: ComponentId, reason: &str, may: &MayBlock<'_>) -> Result<bool, ImageError> {
        if !self.leases.drop_unheld(id) {
            return Ok(false);
        }
        let provenance = self.config.images.provenance(id, may);
        self.config.images.delete(id, may)?;
        let what = provenance
            .map_or_else(|| "an image without a note of what it was made from".to_owned(), |it| it.to_string());
        let message = format!("{what}: {reason}");
        tracing::info!(%id, "image deleted: {message}");
        self.daemon().events().push(EventKind::ImageDeleted, Some(id), message);
        Ok(true)
    }

    /// Deletes images that were made from a damaged blob. Their holders were told.
    pub(super) fn forget_images_of(&self, blob: &str, may: &MayBlock<'_>) {
        let is_of = |stored: &StoredImage| {
            stored.provenance.as_ref().is_some_and(|provenance| provenance.sources.iter().any(|source| source == blob))
        };
        for stored in self.config.images.list(may).iter().filter(|stored| is_of(stored)) {
            if let Err(error) = self.delete_image(stored.id, "it was made from a file that is damaged", may) {
                tracing::warn!(id = %stored.id, error = sentence(&error), "an image of damaged weights is still there");
            }
        }
    }

    /// Does work in the lane of the folder of images.
    ///
    /// # Errors
    /// When its disk does not answer, the work panics, or the daemon stops.
    pub async fn with_images<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&MayBlock<'_>) -> T + Send + 'static,
    ) -> Result<T, AcquireError> {
        let (lanes, limit) = (self.daemon().lanes(), Some(self.config.load_deadline));
        let folder = self.config.images.folder().map(Path::to_owned);
        let disks = lanes.locate(operation, folder.into_iter().collect(), limit).await?;
        let task = Task { operation, subject: "images", disks: &disks, kind: Kind::Long, limit };
        Ok(lanes.run(task, work).await?)
    }

    /// Has the bytes of all images counted anew, soon and at most every so often: another daemon may use the folder too.
    pub fn recount_images(self: &Arc<Self>) {
        let Ok(place) = Arc::clone(&self.counting).try_acquire_owned() else { return };
        let cache = Arc::clone(self);
        self.daemon().tasks().spawn("recount", async move {
            let images = Arc::clone(&cache.config.images);
            let _ = cache.with_images("counting images", move |may| images.recount(may)).await;
            tokio::select! {
                () = tokio::time::sleep(COUNTED) => {}
                () = cache.daemon().stopping().cancelled() => {}
            }
            drop(place);
        });
    }

    /// Whether somebody holds the component of that id.
    #[must_use]
    pub fn is_held(&self, id: ComponentId) -> bool {
        self.leases.get(id).is_some_and(|entry| !entry.usage().holders.is_empty())
    }

    /// Whether a component that is loaded lies in the image of that id.
    #[must_use]
    pub fn is_loaded(&self, id: ComponentId) -> bool {
        self.leases.contains(id)
    }
}
