//! What a request names: a revision of a repository, pinned as for a load, with its files.

use std::sync::Arc;

use hyper::StatusCode;
use weightsd_core::listing::Listing;

use super::{Mirror, refused::Refused, route::Route};
use crate::{
    pipeline::{self, Pinned, Trip},
    resolve::{Address, Pin, RepoAddress, Selector},
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
    let listing = tools.fetcher.listing(&address, &pin.commit).await?;
    Ok(Found { trip, pinned, address, pin, listing })
}
