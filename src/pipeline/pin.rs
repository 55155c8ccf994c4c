//! From selectors to commits: what each selector names, and the commit that the name means now.

use std::sync::Arc;

use weightsd_core::{
    ingredients::Ingredients,
    spec::{Commit, RepoId},
};

use super::{AcquireError, FINDING, LoadError, Pinned, Tools};
use crate::{
    hub::{HubError, Patience, RepoStore},
    resolve::{self as resolving, Address, Choice, HubAddress, Network, Pin, Places, Selector, Warning},
};

/// A selector whose address is known.
#[derive(Debug)]
pub(super) struct Addressed {
    address: Address,
    /// The commit that the cache knows for it.
    known: Option<Commit>,
    choice: Choice,
    network: Network,
}

impl Addressed {
    /// Blocks.
    fn of(selector: &Selector, places: &Places) -> Result<Self, LoadError> {
        let address = resolving::address(selector, places)?;
        let known = match &address {
            Address::Hub(address) => address.last_known(),
            Address::Path(_) => None,
        };
        Ok(Self { address, known, choice: selector.choice.clone(), network: selector.network })
    }
}

/// Finds what each selector names.
pub(super) async fn resolve(
    models: &Ingredients<Selector>,
    tools: &Arc<Tools>,
) -> Result<Ingredients<Addressed>, AcquireError> {
    let models = models.clone();
    let look = move |tools: &Tools| models.try_map(|_, selector| Addressed::of(&selector, &tools.places));
    Ok(tools.stage(FINDING, look).await??)
}

/// Finds the commit that an address means: the revision itself if it is one; else the hub's answer; else, when the hub is
/// away, the commit that the cache knows, with a warning. There is no commit for a path, and for a revision that only the
/// hub could tell.
pub(super) async fn pin(found: Addressed, tools: &Tools) -> Result<Pinned, AcquireError> {
    let Addressed { address, known, choice, network } = found;
    let pin = match &address {
        Address::Path(_) => None,
        Address::Hub(address) => match (address.commit(), known) {
            (Some(pin), _) => Some(pin),
            (None, known) if !tools.may_ask(network) => known.map(|commit| Pin { commit, warning: None }),
            (None, known) => {
                let patience = if known.is_some() { Patience::Brief } else { Patience::Full };
                let asked = tools.hub.commit(&address.repo, &address.revision, patience).await;
                let new_name = tools.hub.new_name(&address.repo).await;
                Some(believed(asked, known, new_name, address)?)
            }
        },
    };
    Ok(Pinned { address: Arc::new(address), pin, choice, network })
}

/// The hub's answer; or the commit that was last known, when the hub does not say.
fn believed(
    asked: Result<Commit, HubError>,
    known: Option<Commit>,
    new_name: Option<RepoId>,
    address: &HubAddress,
) -> Result<Pin, LoadError> {
    match (asked, known) {
        (Ok(commit), _) => {
            let renamed = |to| Warning::Renamed { from: address.repo.clone(), to };
            Ok(Pin { commit, warning: new_name.map(renamed) })
        }
        (Err(error), Some(commit)) if error.leaves_last_known() => {
            let warning = Warning::LastKnown { revision: address.revision.clone(), problem: error.to_string() };
            tracing::warn!(repo = %address.repo, %commit, "{warning}");
            Ok(Pin { commit, warning: Some(warning) })
        }
        (Err(error), _) => Err(error.into()),
    }
}

/// Resolves and pins one selector.
///
/// # Errors
/// When the selector names nothing, or the hub does not know its revision.
pub async fn pinned(selector: &Selector, tools: &Arc<Tools>) -> Result<Pinned, AcquireError> {
    let found = resolve(&Ingredients::only(selector.clone()), tools).await?;
    pin(found.own, tools).await
}

/// Resolves one selector without asking the hub. Blocks.
///
/// # Errors
/// When the selector names nothing.
pub fn pinned_here(selector: &Selector, places: &Places) -> Result<Pinned, LoadError> {
    let Addressed { address, choice, network, .. } = Addressed::of(selector, places)?;
    Ok(Pinned { address: Arc::new(address), pin: None, choice, network })
}

impl Pinned {
    /// Writes into the cache what the revision means, as other clients of the hub do. A cache that cannot be written to
    /// is no obstacle. Blocks.
    pub(super) fn note(&self) {
        let (Address::Hub(address), Some(pin)) = (&*self.address, &self.pin) else { return };
        let store = RepoStore::new(&address.cache, &address.repo);
        if let Err(error) = store.point(&address.revision, &pin.commit) {
            tracing::warn!(repo = %address.repo, revision = %address.revision, %error, "a ref cannot be written");
        }
    }
}
