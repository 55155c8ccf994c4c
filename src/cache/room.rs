//! Room on the disk for images: which are deleted so that another one fits, and which must stay.

use std::{
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use weightsd_core::{
    budget::{self, Freed, ImageFacts, NoRoom, Removal, Room},
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
/// How long the room of a deleted file may take to appear: the last who holds it may be about to close it.
const SETTLING: Duration = Duration::from_secs(1);
/// How often is looked meanwhile.
const LOOK: Duration = Duration::from_millis(10);

/// Deletes images, one after the other, until one of `needed` bytes fits. The disk is measured anew after each: a
/// deleted file does not always free what it had. `limits.free` is not looked at.
fn make_room(
    mut images: Vec<ImageFacts>,
    needed: u64,
    limits: Room,
    free: impl Fn() -> u64,
    mut delete: impl FnMut(&Removal) -> Result<(), ComputeFailed>,
    may: &MayBlock<'_>,
) -> Result<(), ComputeFailed> {
    let mut freed = Freed::default();
    loop {
        let room = Room { free: free(), ..limits };
        let Some(removal) = budget::make_room(&images, needed, room)?.into_iter().next() else { return Ok(()) };
        if removal.for_disk && freed.is_kept() {
            let (Room { free, floor, .. }, Freed { deleted, gained }) = (room, freed);
            return Err(NoRoom::Kept { needed, free, floor, deleted, gained }.into());
        }
        delete(&removal)?;
        may.alive();
        images.retain(|image| image.id != removal.id);
        let begun = Instant::now();
        let gained = || free().saturating_sub(room.free);
        while gained() < removal.bytes / 2 && begun.elapsed() < SETTLING {
            thread::sleep(LOOK);
            may.alive();
        }
        freed.deleted += removal.bytes;
        freed.gained += gained();
    }
}

impl Cache {
    /// Deletes images so that one of `needed` bytes fits into `folder`.
    ///
    /// # Errors
    /// When there is no room without images that somebody holds.
    pub(super) fn make_room(&self, folder: &Path, needed: u64, may: &MayBlock<'_>) -> Result<(), ComputeFailed> {
        let facts = self.image_facts(&self.config.images.list(may));
        let limits = self.room(folder, may);
        let free = || free_bytes(folder).unwrap_or(u64::MAX);
        let delete = |removal: &Removal| {
            self.delete_image(removal.id, &removal.reason, may)?;
            Ok(())
        };
        make_room(facts, needed, limits, free, delete, may)
    }

    /// What is known of `images` where room is made.
    #[must_use]
    pub fn image_facts(&self, images: &[StoredImage]) -> Vec<ImageFacts> {
        let fact = |stored: &StoredImage| ImageFacts {
            id: stored.id,
            bytes: stored.bytes,
            used: stored.used,
            is_held: self.is_held(stored.id),
        };
        images.iter().map(fact).collect()
    }

    /// The room for images in `folder`.
    #[must_use]
    pub fn room(&self, folder: &Path, may: &MayBlock<'_>) -> Room {
        Room {
            budget: self.config.image_budget.get(),
            writing: self.config.images.partial_bytes(may),
            free: free_bytes(folder).unwrap_or(u64::MAX),
            floor: self.config.free_space_floor.get(),
        }
    }

    /// The images that go when all are to go that nobody holds. A dry run shows these, and a real one deletes them.
    #[must_use]
    pub fn unheld_images(&self, may: &MayBlock<'_>) -> Vec<StoredImage> {
        let mut images = self.config.images.list(may);
        images.retain(|stored| !self.is_held(stored.id));
        images
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

#[cfg(test)]
mod tests {
    use std::{cell::Cell, time::SystemTime};

    use super::*;

    fn image(number: u8, bytes: u64) -> ImageFacts {
        let id = format!("{number:064x}").parse().unwrap();
        let used = SystemTime::UNIX_EPOCH + Duration::from_secs(number.into());
        ImageFacts { id, bytes, used, is_held: false }
    }

    /// Which of four images of 10 bytes go, and whether that makes room for one of `needed`, on a disk that gets back the
    /// bytes of a deleted file or not.
    fn gone(needed: u64, gives_back: bool, budget: u64) -> (usize, Result<(), String>) {
        let (free, deleted) = (Cell::new(5), Cell::new(0));
        let limits = Room { budget, writing: 0, free: 0, floor: 0 };
        let images = (1..=4).map(|number| image(number, 10)).collect();
        let result = make_room(
            images,
            needed,
            limits,
            || free.get(),
            |removal| {
                deleted.set(deleted.get() + 1);
                if gives_back {
                    free.set(free.get() + removal.bytes);
                }
                Ok(())
            },
            &MayBlock::on_a_thread_of_its_own(),
        );
        (deleted.get(), result.map_err(|error| std::error::Error::source(&error).unwrap_or(&error).to_string()))
    }

    #[test]
    fn a_disk_that_keeps_what_is_deleted_loses_one_image_and_not_all() {
        assert_eq!(gone(25, true, 1000), (2, Ok(())));
        let (deleted, result) = gone(25, false, 1000);
        let problem = result.unwrap_err();
        assert!(deleted == 1 && problem.contains("deleting 10 bytes of images freed 0"), "{deleted}: {problem}");
        // What goes for the budget goes all the same.
        assert_eq!(gone(5, false, 25), (2, Ok(())));
    }
}
