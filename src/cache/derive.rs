//! Components that have to be computed: found computed, or computed once for everyone who asks; and room on the disk for
//! what comes out.

use std::{path::Path, sync::Arc, time::Instant};

use tokio::{sync::SemaphorePermit, time::timeout};
use weightsd_core::{
    budget::{self, ImageFacts, Room},
    identity::ComponentId,
};

use super::{AcquireError, Cache, EventKind};
use crate::{
    component::Component,
    derive::{self, DeriveFailure, Image, ImageError, PULSE, Partial, Stored},
    disk::free_bytes,
    pipeline::{LoadError, Planned},
    progress::{Phase, Step},
};

impl Cache {
    /// The component that was planned, with its image where it needs one. `report` is called with each step.
    pub(super) async fn lend(
        self: &Arc<Self>,
        planned: Planned,
        report: impl Fn(&Step) + Send + Sync,
    ) -> Result<Component, AcquireError> {
        if planned.derivation().is_none() {
            return Ok(planned.lend(None, Default::default()));
        }
        let started = Instant::now();
        let planned = Arc::new(planned);
        if let Some(image) = self.image_of(&planned).await? {
            return Ok(finish(planned, image, Default::default()));
        }
        let _turn = self.turn(&report).await?;
        // Another name of the same content, or another daemon, may have made it meanwhile.
        if let Some(image) = self.image_of(&planned).await? {
            return Ok(finish(planned, image, Default::default()));
        }
        match self.image(&planned, report).await {
            Ok(image) => {
                let took = started.elapsed();
                let message = format!("{} in {took:.1?}", image.provenance);
                self.events().push(EventKind::Derived, Some(planned.id()), message);
                Ok(finish(planned, image, took))
            }
            Err(failure) => {
                let component = planned.provenance().component;
                Err(LoadError::Derivation { component, source: Box::new(failure) }.into())
            }
        }
    }

    /// Waits for the turn to compute. Whoever waits is told so now and then, for as long as it takes: clients give up on a
    /// daemon that says nothing.
    async fn turn(&self, report: impl Fn(&Step)) -> Result<SemaphorePermit<'_>, AcquireError> {
        let turn = self.deriving.acquire();
        tokio::pin!(turn);
        loop {
            report(&Step { phase: Phase::Derive, ..Step::default() });
            tokio::select! {
                biased;
                () = self.stopping().cancelled() => return Err(AcquireError::Stopping),
                turn = timeout(PULSE, &mut turn) => if let Ok(turn) = turn {
                    return turn.map_err(|_| AcquireError::Stopping);
                },
            }
        }
    }

    /// The image, where it is on the disk.
    async fn image_of(self: &Arc<Self>, planned: &Arc<Planned>) -> Result<Option<Image>, AcquireError> {
        let (images, planned) = (Arc::clone(&self.config.images), Arc::clone(planned));
        super::blocking("looking for the image", move || {
            planned.derivation().and_then(|derivation| images.open(planned.id(), &derivation.image))
        })
        .await
    }

    /// Has the image made.
    async fn image(
        self: &Arc<Self>,
        planned: &Arc<Planned>,
        report: impl Fn(&Step) + Send + Sync,
    ) -> Result<Image, DeriveFailure> {
        let partial = self.begin(planned).await?;
        let work = planned.derive(&partial, |step| report(step));
        tokio::select! {
            // First, so that a daemon that stops starts no process any more.
            biased;
            () = self.stopping().cancelled() => return Err(DeriveFailure::Stopping),
            result = work => result?,
        }
        let (images, planned) = (Arc::clone(&self.config.images), Arc::clone(planned));
        let published = super::blocking("publishing the image", move || {
            images.publish(partial)?;
            let layout = planned.derivation().map(|derivation| &derivation.image).ok_or(ImageError::NoFolder)?;
            Image::published(&images, planned.id(), layout)
        });
        Ok(published.await.map_err(|error| DeriveFailure::Died { how: error.to_string() })??)
    }

    /// Makes room, and takes it.
    async fn begin(self: &Arc<Self>, planned: &Arc<Planned>) -> Result<Partial, DeriveFailure> {
        let (cache, planned) = (Arc::clone(self), Arc::clone(planned));
        let begun = super::blocking("making room for the image", move || {
            // Before others are deleted for its sake.
            derive::look_for_mlx()?;
            let length = planned.derivation().map_or(0, |derivation| derivation.image.length);
            let room = |folder: &Path| cache.make_room(folder, length);
            cache.config.images.begin(planned.id(), length, &planned.provenance(), room)
        });
        begun.await.map_err(|error| DeriveFailure::Died { how: error.to_string() })?
    }

    fn make_room(&self, folder: &Path, needed: u64) -> Result<(), DeriveFailure> {
        let images = &self.config.images;
        let fact = |stored: &Stored| ImageFacts {
            id: stored.id,
            bytes: stored.bytes,
            used: stored.used,
            is_held: self.is_held(stored.id),
        };
        let facts: Vec<_> = images.list().iter().map(fact).collect();
        let room = Room {
            budget: self.config.image_budget,
            writing: images.partial_bytes(),
            free: free_bytes(folder).unwrap_or(u64::MAX),
            floor: self.config.free_space_floor,
        };
        let removals = budget::make_room(&facts, needed, room)?;
        for removal in removals {
            self.delete_image(removal.id, &removal.reason)?;
        }
        Ok(())
    }

    /// Deletes an image, unless somebody holds a component in it. A component that nobody holds goes with it.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn delete_image(&self, id: ComponentId, reason: &str) -> Result<bool, ImageError> {
        self.components.remove_if(&id, |_, entry| entry.usage().holders.is_empty());
        if self.components.contains_key(&id) {
            return Ok(false);
        }
        let provenance = self.config.images.provenance(id);
        self.config.images.delete(id)?;
        let what = provenance
            .map_or_else(|| "an image of which nobody knows what it was made from".to_owned(), |it| it.to_string());
        let message = format!("{what}: {reason}");
        tracing::info!(%id, "image deleted: {message}");
        self.events.push(EventKind::ImageDeleted, Some(id), message);
        Ok(true)
    }

    /// Deletes images that were made from a blob which is not what its name says. Whoever holds one was told.
    pub(super) fn forget_images_of(&self, blob: &str) {
        let is_of = |stored: &Stored| {
            stored.provenance.as_ref().is_some_and(|provenance| provenance.sources.iter().any(|source| source == blob))
        };
        for stored in self.config.images.list().iter().filter(|stored| is_of(stored)) {
            if let Err(error) = self.delete_image(stored.id, "it was made from a file that is damaged") {
                tracing::warn!(id = %stored.id, %error, "an image of damaged weights is still there");
            }
        }
    }

    /// Whether somebody holds the component of that id.
    #[must_use]
    pub fn is_held(&self, id: ComponentId) -> bool {
        self.components.get(&id).is_some_and(|entry| !entry.usage().holders.is_empty())
    }

    /// Whether a component that is loaded lies in the image of that id.
    #[must_use]
    pub fn is_loaded(&self, id: ComponentId) -> bool {
        self.components.contains_key(&id)
    }
}

/// Nobody else has the plan any more.
fn finish(planned: Arc<Planned>, image: Image, took: std::time::Duration) -> Component {
    let planned = Arc::into_inner(planned).expect("work that shared the plan has ended");
    planned.lend(Some(Arc::new(image)), took)
}
