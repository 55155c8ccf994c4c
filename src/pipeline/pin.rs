//! From selectors to commits: what each selector names, and the commit that the name means now.

use std::sync::Arc;

use weightsd_core::{explain::sentence, ingredients::Ingredients, spec::Commit};

use super::{AcquireError, FINDING, LoadError, Pinned, Tools, Trip};
use crate::{
    lanes::MayBlock,
    resolve::{self as resolving, Address, Choice, Network, Pin, Places, RepoAddress, Selector, Warning},
    source::Patience,
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
    fn of(selector: &Selector, places: &Places, _: &MayBlock<'_>) -> Result<Self, LoadError> {
        let address = resolving::address(selector, places)?;
        places.allow(selector, (&address).into())?;
        let known = match &address {
            Address::Repo(address) => address.last_known(),
            Address::Path(_) => None,
        };
        Ok(Self { address, known, choice: selector.choice.clone(), network: selector.network })
    }
}

/// Finds what each selector names.
pub(super) async fn resolve(
    models: &Ingredients<Selector>,
    trip: &Trip,
    tools: &Arc<Tools>,
) -> Result<Ingredients<Addressed>, AcquireError> {
    let models = models.clone();
    let look = move |tools: &Tools, may: &MayBlock<'_>| {
        models.try_map(|_, selector| Addressed::of(&selector, &tools.places, may))
    };
    Ok(tools.stage(trip, FINDING, look).await??)
}

/// Finds the commit that an address means. A revision that is a commit means itself. For others the source is asked, and if
/// it is away, the commit that the store knows counts, with a warning. A path has no commit, and neither has a revision
/// that only the source could tell.
pub(super) async fn pin(found: Addressed, tools: &Tools) -> Result<Pinned, AcquireError> {
    let Addressed { address, known, choice, network } = found;
    let pin = match &address {
        Address::Path(_) => None,
        Address::Repo(address) => match (address.commit(), known) {
            (Some(pin), _) => Some(pin),
            (None, known) if !tools.may_ask(network) => known.map(|commit| Pin { commit, warning: None }),
            (None, known) => Some(ask(address, known).await?),
        },
    };
    Ok(Pinned { address: Arc::new(address), pin, choice, network })
}

/// Asks the source what a revision means. If it does not say, the commit that was last known counts.
async fn ask(address: &RepoAddress, known: Option<Commit>) -> Result<Pin, LoadError> {
    let source = &address.source;
    let patience = if known.is_some() { Patience::Brief } else { Patience::Full };
    match (source.commit(&address.repo, &address.revision, patience).await, known) {
        (Ok(commit), _) => {
            let renamed = |to| Warning::Renamed { from: address.repo.clone(), to };
            Ok(Pin { commit, warning: source.new_name(&address.repo).await.map(renamed) })
        }
        (Err(error), Some(commit)) if error.leaves_last_known() => {
            let warning = Warning::LastKnown {
                words: source.words(),
                revision: address.revision.clone(),
                problem: sentence(&error),
            };
            tracing::warn!(repo = %address.repo, %commit, "{warning}");
            Ok(Pin { commit, warning: Some(warning) })
        }
        (Err(error), _) => Err(error.into()),
    }
}

/// Resolves and pins one selector.
///
/// # Errors
/// When the selector names nothing, or the source does not know its revision.
pub async fn pinned(selector: &Selector, trip: &Trip, tools: &Arc<Tools>) -> Result<Pinned, AcquireError> {
    let found = resolve(&Ingredients::only(selector.clone()), trip, tools).await?;
    pin(found.own, tools).await
}

/// Resolves one selector without asking a source.
///
/// # Errors
/// When the selector names nothing.
pub fn pinned_here(selector: &Selector, places: &Places, may: &MayBlock<'_>) -> Result<Pinned, LoadError> {
    let Addressed { address, choice, network, .. } = Addressed::of(selector, places, may)?;
    Ok(Pinned { address: Arc::new(address), pin: None, choice, network })
}

impl Pinned {
    /// Writes into the cache what the revision means, as other programs that share it do. A cache that cannot be written to
    /// is no obstacle.
    pub(super) fn note(&self, _: &MayBlock<'_>) {
        let (Address::Repo(address), Some(pin)) = (&*self.address, &self.pin) else { return };
        if let Err(error) = address.store.point(&address.revision, &pin.commit) {
            tracing::warn!(repo = %address.repo, revision = %address.revision, error = sentence(&error), "a ref cannot be written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{SourceProblem, fake::Directory};

    #[tokio::test]
    async fn a_source_that_does_not_know_leaves_the_last_known_commit() {
        let folder = tempfile::tempdir().unwrap();
        let source = Arc::new(Directory::new(folder.path()));
        let address = |revision: &str| crate::resolve::tests::address(&source, revision, folder.path());
        let known = Commit::parse(&"d".repeat(40)).unwrap();
        let pin = ask(&address("main"), Some(known.clone())).await.unwrap();
        assert_eq!(pin, Pin { commit: Directory::the_commit(), warning: None });
        let pin = ask(&address("gone"), Some(known.clone())).await.unwrap();
        assert!(pin.commit == known && matches!(pin.warning, Some(Warning::LastKnown { .. })), "{pin:?}");
        let LoadError::Source(error) = ask(&address("gone"), None).await.unwrap_err() else { panic!() };
        assert!(matches!(*error.problem, SourceProblem::NoRevision { .. }), "{error}");
    }
}
