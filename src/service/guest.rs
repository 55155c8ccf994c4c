//! What guests may ask for and are told: models by their names, and no path, name or doing of others.

use tonic::{Request, transport::server::UdsConnectInfo};
use weightsd_core::{
    explain::{Explanation, Reason},
    shown::without_paths,
    spec::ModelSpec,
};
use weightsd_proto::v1::{
    self, AuditRequest, AuditResponse, GetStatusResponse, LoadComponentRequest, ModelSelector, PullRequest,
    ResolveRequest, ResolveResponse, VerifyRequest,
};

use super::{Context, Failure};
use crate::guests::{Peer, Right};

/// Who asks. Connections of strangers never come here, so whose user is not known is a guest.
pub(super) fn peer<T>(context: &Context, request: &Request<T>) -> Peer {
    let known = request.extensions().get::<UdsConnectInfo>().and_then(|info| info.peer_cred);
    let own = rustix::process::geteuid().as_raw();
    let peer = known.and_then(|peer| context.guests.peer(own, peer.uid(), peer.gid()));
    peer.unwrap_or(Peer::Guest)
}

/// Refuses a call that guests may make only if the settings grant it.
pub(super) fn granted(context: &Context, peer: Peer, right: Right) -> Result<(), Failure> {
    let name = right.name();
    match peer {
        Peer::Guest if !context.guests.may(right) => Err(not_allowed(
            format!("`{name}` is not granted to other users of this machine"),
            "the daemon's user can grant it with `guests_may`",
        )),
        Peer::Owner | Peer::Guest => Ok(()),
    }
}

/// Refuses a call that tells of others.
pub(super) fn owner(peer: Peer) -> Result<(), Failure> {
    match peer {
        Peer::Owner => Ok(()),
        Peer::Guest => Err(not_allowed(
            "what the daemon's cache holds is not told to other users of this machine".to_owned(),
            "ask for a model by its name: `resolve`, `audit` and `load` answer",
        )),
    }
}

/// Refuses what would not be read-only: memory of a card can be written to by everybody who has it, and locked memory is
/// taken away from others.
pub(super) fn reads_only(peer: Peer, request: &LoadComponentRequest) -> Result<(), Failure> {
    if peer == Peer::Owner {
        return Ok(());
    }
    if !request.device.is_empty() {
        return Err(not_allowed(
            "the memory of a card is not lent to other users of this machine, who could write to it".to_owned(),
            "leave out the device, and copy the tensors onto the card",
        ));
    }
    if request.residency() == v1::Residency::Pinned {
        return Err(not_allowed(
            "nothing is locked in memory for other users of this machine".to_owned(),
            "ask for it without locking: the daemon reads it ahead all the same",
        ));
    }
    Ok(())
}

fn not_allowed(message: String, hint: &'static str) -> Failure {
    Failure::new(message, Explanation::new(Reason::NotAllowed, "allow_uids, allow_gids", hint))
}

/// The selectors of a request.
pub(super) trait Selectors {
    /// All of them.
    fn selectors(&mut self) -> Vec<&mut ModelSelector>;
}

impl Selectors for LoadComponentRequest {
    fn selectors(&mut self) -> Vec<&mut ModelSelector> {
        let adapters = self.adapters.iter_mut().filter_map(|adapter| adapter.model.as_mut());
        [&mut self.model, &mut self.base, &mut self.overlay].into_iter().flatten().chain(adapters).collect()
    }
}

impl Selectors for AuditRequest {
    fn selectors(&mut self) -> Vec<&mut ModelSelector> {
        [&mut self.model, &mut self.base, &mut self.overlay].into_iter().flatten().collect()
    }
}

/// For requests about one model.
macro_rules! one_selector {
    ($($request:ty),*) => {
        $(impl Selectors for $request {
            fn selectors(&mut self) -> Vec<&mut ModelSelector> {
                self.model.iter_mut().collect()
            }
        })*
    };
}

one_selector!(ResolveRequest, PullRequest, VerifyRequest);

/// The request as it counts. A guest's folders are not the daemon's, and its cache is not looked into; a path is refused
/// unless the setting `allow` says which paths may be lent.
pub(super) fn narrowed<T: Selectors>(context: &Context, peer: Peer, mut request: T) -> Result<T, Failure> {
    if peer == Peer::Owner {
        return Ok(request);
    }
    let may_name_paths = !context.cache.config().places.allowed.get().is_everything();
    for selector in request.selectors() {
        selector.hub_cache.clear();
        selector.working_directory.clear();
        if !may_name_paths && matches!(ModelSpec::parse(&selector.spec), Ok(ModelSpec::Path(_))) {
            return Err(not_allowed(
                "paths are not lent to other users of this machine".to_owned(),
                "name the model by its id; the daemon's user can allow folders with `allow`",
            ));
        }
    }
    Ok(request)
}

/// An answer, and what of it is not for guests.
pub(super) trait ForGuests {
    /// Takes out paths of the daemon's user, and what others do.
    fn keep_to_oneself(&mut self);
}

/// The answer for this peer.
pub(super) fn told<T: ForGuests>(peer: Peer, mut answer: T) -> T {
    if peer == Peer::Guest {
        answer.keep_to_oneself();
    }
    answer
}

impl ForGuests for v1::ResolvedModel {
    fn keep_to_oneself(&mut self) {
        self.path.clear();
        self.hub_cache.clear();
        self.warning = without_paths(&self.warning);
    }
}

impl ForGuests for v1::Component {
    fn keep_to_oneself(&mut self) {
        self.model.iter_mut().for_each(ForGuests::keep_to_oneself);
        for segment in &mut self.segments {
            segment.path = segment.path.rsplit('/').next().unwrap_or_default().to_owned();
        }
        self.assumptions.iter_mut().for_each(|text| *text = without_paths(text));
        if let Some(image) = &mut self.image {
            image.path.clear();
            image.made_from = without_paths(&image.made_from);
        }
    }
}

impl ForGuests for ResolveResponse {
    fn keep_to_oneself(&mut self) {
        self.model.iter_mut().for_each(ForGuests::keep_to_oneself);
        self.components.iter_mut().for_each(|component| component.problem = without_paths(&component.problem));
    }
}

impl ForGuests for AuditResponse {
    fn keep_to_oneself(&mut self) {
        self.model.iter_mut().for_each(ForGuests::keep_to_oneself);
    }
}

impl ForGuests for v1::PullReport {
    fn keep_to_oneself(&mut self) {
        self.model.iter_mut().for_each(ForGuests::keep_to_oneself);
    }
}

impl ForGuests for v1::VerifyReport {
    fn keep_to_oneself(&mut self) {
        self.model.iter_mut().for_each(ForGuests::keep_to_oneself);
        self.verdicts.iter_mut().for_each(|verdict| verdict.moved_to.clear());
    }
}

impl ForGuests for v1::EvictResponse {
    fn keep_to_oneself(&mut self) {
        // Its own components a guest knows, and of the others it is told how many were dropped.
        for outcome in &mut self.outcomes {
            (outcome.name, outcome.reason) = (String::new(), without_paths(&outcome.reason));
        }
        self.images.iter_mut().for_each(|image| *image = v1::DerivedImage { bytes: image.bytes, ..Default::default() });
    }
}

impl ForGuests for v1::Notice {
    fn keep_to_oneself(&mut self) {
        self.message = without_paths(&self.message);
    }
}

impl ForGuests for GetStatusResponse {
    fn keep_to_oneself(&mut self) {
        self.loads.clear();
        self.downloads.clear();
        self.hub_endpoint.clear();
        self.hub_cache.clear();
        self.socket.clear();
        self.cards.clear();
    }
}
