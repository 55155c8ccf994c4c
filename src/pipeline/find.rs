//! From commits to files: which files each ingredient has, and the download of those that are missing.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use weightsd_core::ingredients::{Adapter, Ingredients, Role};

use super::{AcquireError, FINDING, LoadError, Pinned, Prepared, Progress, Request, Tools, Trip, adapters, bare};
use crate::{
    assembly::Recipe,
    checkpoint::{OpenShard, ShardPool},
    derive::FoundEngine,
    lanes::MayBlock,
    resolve::{Address, Pin},
    snapshot::{ComponentFiles, Extent, FetchReport, Snapshot, Want},
};

/// Most other commits in the cache that are looked at for one that is whole.
const OLDER_MAX: usize = 8;

/// Lists the files that `request` is made of, and fetches those that are missing.
pub(super) async fn list_and_fetch(
    request: &Request,
    pinned: &Ingredients<Pinned>,
    trip: &Arc<Trip>,
    tools: &Arc<Tools>,
    progress: Progress<'_>,
) -> Result<Prepared, AcquireError> {
    let started = Instant::now();
    let mut fetched = BTreeSet::new();
    let engine = if request.is_as_stored() { None } else { Some(engine(request, tools).await?) };
    loop {
        let (asked, models, engine) = (request.clone(), pinned.clone(), engine.clone());
        let from = Arc::clone(trip);
        let look =
            move |tools: &Tools, may: &MayBlock<'_>| list(asked, &models, engine, (started, from), &tools.pool, may);
        let listed = tools.stage(trip, FINDING, look).await?;
        let missing = match &listed {
            Ok(prepared) => prepared.provisional.clone(),
            Err(unlisted) if unlisted.error.is_missing() => vec![unlisted.role],
            Err(_) => Vec::new(),
        };
        let fetchable =
            |role: &Role| pinned.get(*role).filter(|pinned| pinned.is_fetchable(tools)).map(|it| (*role, it));
        // Each ingredient is fetched once. What is missing then, its source does not have.
        match missing.iter().filter_map(fetchable).find(|(role, _)| fetched.insert(*role)) {
            Some((role, pinned)) => {
                let fetched = fetch(pinned, want(role, &request.component, pinned), tools, progress).await;
                if let Err(error) = fetched {
                    return Err(beside_older(error, (role, pinned), &request.component, trip, tools).await.into());
                }
            }
            None => return listed.map_err(|unlisted| (*unlisted.error).into()),
        }
    }
}

/// The MLX that computes here, which is a part of the component's identity.
async fn engine(request: &Request, tools: &Tools) -> Result<FoundEngine, LoadError> {
    tools
        .maker
        .engine()
        .await
        .map_err(|failure| LoadError::ComputeFailed { component: request.component.clone(), source: Box::new(failure) })
}

/// What is fetched of an ingredient.
pub(super) fn want(role: Role, component: &str, pinned: &Pinned) -> Want {
    let (components, extent) = match role {
        Role::Own => (vec![component.to_owned()], Extent::Components),
        Role::Base => (Vec::new(), Extent::Documents),
        Role::Overlay | Role::Adapter(_) => (Vec::new(), Extent::Components),
    };
    Want { components, extent, choice: pinned.choice.clone() }
}

/// Brings what is missing of a model; `None` for a model that has no commit.
///
/// # Errors
/// When the download fails.
pub async fn fetch(
    pinned: &Pinned,
    want: Want,
    tools: &Tools,
    progress: Progress<'_>,
) -> Result<Option<Arc<FetchReport>>, LoadError> {
    let (Address::Repo(address), Some(pin)) = (&*pinned.address, &pinned.pin) else { return Ok(None) };
    Ok(Some(tools.fetcher.fetch(address, pin, want, |step, waiters| progress(step, waiters)).await?))
}

/// The error of a fetch; where another commit of the repository is here whole, it says how to ask for that one.
async fn beside_older(
    error: LoadError,
    (role, pinned): (Role, &Pinned),
    component: &str,
    trip: &Trip,
    tools: &Arc<Tools>,
) -> LoadError {
    let (Address::Repo(address), Some(wanted)) = (&*pinned.address, pinned.pin.clone()) else { return error };
    let (address, pinned, component) = (address.clone(), pinned.clone(), component.to_owned());
    let older = move |tools: &Tools, may: &MayBlock<'_>| {
        let others = address.cached_commits().into_iter().filter(|commit| *commit != wanted.commit);
        others.take(OLDER_MAX).find_map(|commit| {
            let pin = Some(Pin { commit: commit.clone(), warning: None });
            let here = snapshot(&Pinned { pin, ..pinned.clone() }, None, &tools.pool, may).ok()?;
            let is_whole = here.missing_documents.is_empty() && component_files(role, &here, &component).is_ok();
            is_whole.then(|| (format!("{}@{}", address.repo, wanted.commit), format!("{}@{commit}", address.repo)))
        })
    };
    match tools.stage(trip, FINDING, older).await {
        Ok(Some((wanted, here))) => LoadError::NotFetched { wanted, here, source: Box::new(error) },
        Ok(None) | Err(_) => error,
    }
}

/// An ingredient whose files cannot be listed, and why.
struct Unlisted {
    role: Role,
    error: Box<LoadError>,
}

fn of(role: Role) -> impl FnOnce(LoadError) -> Unlisted {
    move |error| Unlisted { role, error: Box::new(error) }
}

/// Lists the files of all ingredients that are on this machine.
fn list(
    request: Request,
    pinned: &Ingredients<Pinned>,
    engine: Option<FoundEngine>,
    (started, trip): (Instant, Arc<Trip>),
    pool: &ShardPool,
    may: &MayBlock<'_>,
) -> Result<Prepared, Unlisted> {
    let looked = std::time::SystemTime::now();
    let (snapshots, open) = snapshots(pinned, pool, may)?;
    let files = |role, snapshot| component_files(role, snapshot, &request.component).map(Arc::new).map_err(of(role));
    let files = snapshots.as_ref().try_map(files)?;
    let (own, base) = (&snapshots.own, snapshots.base.as_ref());
    let spec = &request.models.own.spec;
    let recipe = Recipe::new(own, &files.own.site, spec, base).map_err(|error| of(Role::Own)(error.into()))?;
    let is_provisional = |(_, snapshot): &(Role, &Snapshot)| !snapshot.missing_documents.is_empty();
    let provisional = snapshots.iter().filter(is_provisional).map(|(role, _)| role).collect();
    pinned.iter().for_each(|(_, pinned)| pinned.note(may));
    Ok(Prepared::new(request, files, recipe, engine, provisional, (started, looked, trip)).holding(open))
}

/// The snapshots of all ingredients, and the files of the model itself whose headers told what it is.
fn snapshots(
    pinned: &Ingredients<Pinned>,
    pool: &ShardPool,
    may: &MayBlock<'_>,
) -> Result<(Ingredients<Snapshot>, Vec<Arc<OpenShard>>), Unlisted> {
    // The base first: it decides how the files of the others are read.
    let base = pinned.base.as_ref().map(|it| snapshot(it, None, pool, may)).transpose().map_err(of(Role::Base))?;
    let listed = |pinned: &Pinned| {
        may.alive();
        Ok(Snapshot::list(pinned.on_disk(may)?, &pinned.choice)?)
    };
    let overlay = pinned.overlay.as_ref().map(listed).transpose().map_err(of(Role::Overlay))?;
    let adapter = |(number, adapter): (usize, &Adapter<Pinned>)| {
        let it = listed(&adapter.it).map_err(of(Role::Adapter(number)))?;
        Ok(Adapter { it, scale: adapter.scale })
    };
    let adapters = pinned.adapters.iter().enumerate().map(adapter).collect::<Result<_, Unlisted>>()?;
    let (own, open) = told(&pinned.own, base.as_ref(), pool, may).map_err(of(Role::Own))?;
    Ok((Ingredients { own, base, overlay, adapters }, open))
}

/// Lists the files of a model that are on this machine. Without a config the headers of its weights are read, because
/// nothing else says what they are: components of the family of `base`, if there is one.
///
/// # Errors
/// When the model is not here, or its small files cannot be used.
pub fn snapshot(
    pinned: &Pinned,
    base: Option<&Snapshot>,
    pool: &ShardPool,
    may: &MayBlock<'_>,
) -> Result<Snapshot, LoadError> {
    Ok(told(pinned, base, pool, may)?.0)
}

/// Like [`snapshot`], with the files whose headers were read.
fn told(
    pinned: &Pinned,
    base: Option<&Snapshot>,
    pool: &ShardPool,
    may: &MayBlock<'_>,
) -> Result<(Snapshot, Vec<Arc<OpenShard>>), LoadError> {
    may.alive();
    let mut snapshot = Snapshot::list(pinned.on_disk(may)?, &pinned.choice)?;
    let open = bare::tell(&mut snapshot, base, pool, may)?;
    Ok((snapshot, open))
}

/// The files that an ingredient gives to a component. A base gives no weights.
pub(super) fn component_files(role: Role, snapshot: &Snapshot, component: &str) -> Result<ComponentFiles, LoadError> {
    match role {
        Role::Own => Ok(snapshot.component(component)?),
        Role::Base => Ok(snapshot.without_weights()),
        Role::Overlay => match snapshot.bare_file()? {
            Some(file) => Ok(snapshot.file(file)),
            None => Ok(snapshot.component(&snapshot.root_site()?.name)?),
        },
        Role::Adapter(_) => adapters::files(snapshot),
    }
}

impl Pinned {
    /// Whether something that is missing can be fetched.
    pub(super) fn is_fetchable(&self, tools: &Tools) -> bool {
        self.pin.is_some() && tools.may_ask(self.network)
    }

    /// The model on this machine.
    pub(crate) fn on_disk(&self, _: &MayBlock<'_>) -> Result<crate::resolve::ResolvedModel, LoadError> {
        Ok(self.address.on_disk(self.pin.as_ref())?)
    }
}
