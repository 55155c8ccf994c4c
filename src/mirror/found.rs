//! What a request names: a revision of a repository, pinned as for a load, with its files.

use std::sync::Arc;

use hyper::StatusCode;
use weightsd_core::listing::Listing;

use super::{Mirror, refused::Refused, route::Route};
use crate::{
    lanes::MayBlock,
    pipeline::{self, Pinned, Tools, Trip},
    resolve::{Address, Pin, RepoAddress, Selector},
    snapshot,
};

/// What a request found: a revision of a repository, pinned, with its files.
pub(super) struct Found {
    pub(super) trip: Arc<Trip>,
    pub(super) pinned: Pinned,
    pub(super) address: RepoAddress,
    pub(super) pin: Pin,
    pub(super) listing: Arc<Listing>,
}

/// Finds what a route names, as a load would.
pub(super) async fn find(mirror: &Mirror, route: &Route) -> Result<Found, Refused> {
    let tools = mirror.cache.tools();
    let (spec, revision) = (route.repo.to_string(), Some(route.revision.to_string()));
    let selector = Selector { spec, revision, ..Selector::default() };
    let trip = tools.trip([&selector]).await?;
    let pinned = pipeline::pinned(&selector, &trip, tools).await?;
    let (Address::Repo(address), Some(pin)) = (&*pinned.address, &pinned.pin) else {
        let message = format!(
            "revision `{}` of `{}` is not known here, and the hub may not be asked",
            route.revision, route.repo
        );
        return Err(Refused::new(StatusCode::SERVICE_UNAVAILABLE, None, &message).passing());
    };
    let (address, pin) = (address.clone(), pin.clone());
    let listing = match tools.fetcher.listing(&address, &pin.commit).await {
        Err(error) if error.is_absence() => here(mirror, &trip, &address, &pin).await?.ok_or(error)?,
        listing => listing?,
    };
    Ok(Found { trip, pinned, address, pin, listing })
}

/// What this machine has of a commit, where nobody says what else it has; `None` when there is nothing.
async fn here(mirror: &Mirror, trip: &Trip, address: &RepoAddress, pin: &Pin) -> Result<Option<Arc<Listing>>, Refused> {
    let (store, commit) = (Arc::clone(&address.store), pin.commit.clone());
    let list = move |_: &Tools, may: &MayBlock<'_>| snapshot::of_snapshot(&*store, &commit, may);
    // A snapshot that cannot be read is none; the source's error says why it was looked at.
    let listing = mirror.cache.tools().stage(trip, "listing a snapshot", list).await?.unwrap_or_default();
    if listing.is_empty() {
        return Ok(None);
    }
    let (repo, commit, files) = (&address.repo, &pin.commit, listing.len());
    tracing::info!(%repo, %commit, files, "the mirror lists what is here: nobody can be asked what else there is");
    Ok(Some(Arc::new(listing)))
}
