//! Loaded components are compared with the hashes of their files: before they are lent when a request asks for that,
//! otherwise once afterwards, one at a time. A damaged component is not lent any more, and its holders are told.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use weightsd_core::{explain::sentence, identity::ComponentId};
use weightsd_segment::FileIdentity;

use super::{ATTEMPTS, Cache, Change, ChangeKind, Entry, changes::Departs};
use crate::{
    component::Component,
    events::EventKind,
    flight::{Joined, Work, WorkContext},
    lanes::{Disks, Kind, MayBlock, Task},
    pipeline::{AcquireError, LoadError, Progress, Tools, Trip, look},
    progress::{Step, Watcher},
    resolve::ResolvedModel,
    snapshot::{Finding, HashCandidate, OwnFiles, Scope, Verdict},
};

/// A component that is dropped within this time is not hashed.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a load waits for the database of attestations.
const DATABASE_PATIENCE: Duration = Duration::from_secs(1);

/// What is to be compared with hashes.
pub(super) struct Check {
    /// The component.
    pub(super) id: ComponentId,
    /// Its files.
    pub(super) candidates: Vec<HashCandidate>,
    /// What becomes of files of the snapshot's own.
    pub(super) own: OwnFiles,
    /// The disks that they lie on.
    pub(super) disks: Disks,
}

/// The shared work of hashing a component's files. Its output is the news that all are good.
#[derive(Debug, Clone)]
pub(super) struct VerifyWork;

impl Work for VerifyWork {
    type Key = ComponentId;
    type Step = Step;
    type Output = ();
    type Error = AcquireError;

    fn died() -> AcquireError {
        AcquireError::Died { operation: "the verification" }
    }
}

/// What hashing found, and what the cache made of it.
#[derive(Debug)]
pub struct Hashed {
    /// What was found, in the order of the files.
    pub verdicts: Vec<Verdict>,
    /// Why files are not what they should be, if one is not.
    pub fault: Option<Arc<LoadError>>,
}

/// The hashing of files that callers named.
#[derive(Debug, Clone)]
pub(super) struct HashWork;

impl Work for HashWork {
    /// The model's path, how it is checked, and the files.
    type Key = (PathBuf, String, Vec<String>);
    type Step = Step;
    type Output = Arc<Hashed>;
    type Error = AcquireError;

    fn died() -> AcquireError {
        AcquireError::Died { operation: "the verification" }
    }
}

impl Cache {
    /// Hashes files of a model, once for all who ask for the same meanwhile, and acts on what is found.
    ///
    /// # Errors
    /// When a file cannot be read or moved, or changes meanwhile.
    pub async fn hash(
        self: &Arc<Self>,
        trip: &Trip,
        (model, candidates): (&Arc<ResolvedModel>, Vec<HashCandidate>),
        check: (Scope, OwnFiles),
        progress: Progress<'_>,
    ) -> Result<Arc<Hashed>, AcquireError> {
        let names = candidates.iter().map(|candidate| candidate.name.clone()).collect();
        let key = (model.path.clone(), format!("{check:?}"), names);
        let mut result = Err(HashWork::died());
        for _ in 0..ATTEMPTS {
            let waiter = match self.hashings.join(key.clone(), || None) {
                Joined::Done(hashed) => return Ok(hashed),
                Joined::Waiting(waiter) => waiter,
                Joined::First(waiter, leader) => {
                    let (cache, model, candidates) = (Arc::clone(self), Arc::clone(model), candidates.clone());
                    let (watcher, trip) = (Hashing(leader.context()), trip.with(&Disks::default()));
                    let tools = Arc::clone(&self.tools);
                    let hash = move |tools: &Tools, may: &MayBlock<'_>| -> Result<_, LoadError> {
                        let verdicts =
                            look::verify_files(&model, &candidates, check, &tools.attestations, &watcher, may)?;
                        let fault = cache.found(&model, &verdicts, may).err().map(Arc::new);
                        Ok(Arc::new(Hashed { verdicts, fault }))
                    };
                    let work = async move { Ok(tools.long(&trip, "the verification", hash).await??) };
                    self.daemon().tasks().spawn("hash", leader.run(work));
                    waiter
                }
            };
            result = waiter.wait(|step, sharers| progress(step, sharers)).await;
            // What it joined was given up by everyone else in this moment.
            if !result.as_ref().is_err_and(AcquireError::is_abandoned) {
                break;
            }
        }
        result
    }

    /// Compares the files of a component with their hashes, unless they were compared before.
    pub(super) async fn verified(
        self: &Arc<Self>,
        check: Check,
        model: &Arc<ResolvedModel>,
        progress: Progress<'_>,
    ) -> Result<(), AcquireError> {
        let Check { id, candidates, own, disks } = check;
        let waiter = match self.verifications.join(id, || None) {
            Joined::Done(()) => return Ok(()),
            Joined::Waiting(waiter) => waiter,
            Joined::First(waiter, leader) => {
                let (cache, model, watcher) = (Arc::clone(self), Arc::clone(model), Reporter(leader.context()));
                let work = async move {
                    let trip = Trip::on(disks, model.to_string(), cache.tools.deadline());
                    let tools = Arc::clone(&cache.tools);
                    let check = move |tools: &Tools, may: &MayBlock<'_>| -> Result<(), LoadError> {
                        let how = (Scope::Unattested, own);
                        let verdicts =
                            look::verify_files(&model, &candidates, how, &tools.attestations, &watcher, may)?;
                        cache.found(&model, &verdicts, may)
                    };
                    Ok(tools.long(&trip, "the verification", check).await??)
                };
                self.daemon().tasks().spawn("verify", leader.run(work));
                waiter
            }
        };
        waiter.wait(|step, sharers| progress(step, sharers)).await
    }

    /// Acts on verdicts: drops components over files that are not what their names say, and tells their holders.
    ///
    /// # Errors
    /// When a file is not what it should be, with the first of them.
    pub fn found(&self, model: &ResolvedModel, verdicts: &[Verdict], may: &MayBlock<'_>) -> Result<(), LoadError> {
        let mut first = None;
        for verdict in verdicts {
            let (found, aside) = match &verdict.finding {
                Finding::Bad { found, aside } => (found, aside.clone()),
                Finding::Differs { found } => (found, None),
                Finding::Good(_) | Finding::Unnamed | Finding::Missing => continue,
            };
            let Some(blob) = &verdict.blob else { continue };
            first.get_or_insert_with(|| LoadError::Corrupt {
                name: verdict.name.clone(),
                expected: blob.to_string(),
                found: found.clone(),
                aside: aside.clone(),
            });
            if matches!(verdict.finding, Finding::Bad { .. }) {
                self.drop_over(model, verdict, aside.as_deref());
                self.forget_images_of(&blob.to_string(), may);
            }
        }
        first.map_or(Ok(()), Err)
    }

    /// Drops the components over a file that is damaged.
    fn drop_over(&self, model: &ResolvedModel, verdict: &Verdict, aside: Option<&Path>) {
        let fate = match aside {
            Some(aside) => format!("was moved to `{}`", aside.display()),
            None => "was left where it is".to_owned(),
        };
        let message = format!("`{}` of {model} is not what its hash says, and {fate}", verdict.name);
        self.daemon().events().push(EventKind::Quarantined, None, message.clone());
        let inode = verdict.identity.map(|identity| (identity.device, identity.inode));
        let is_it = |identity: &FileIdentity| Some((identity.device, identity.inode)) == inode;
        let is_over =
            |entry: &Arc<Entry>| entry.component.sources.iter().any(|source| is_it(source.open.file.identity()));
        for entry in self.lent().filter(is_over) {
            self.leases.withdraw(&entry);
            self.has_departed(&entry, Departs::Forgotten);
            entry.notify(Change { kind: ChangeKind::Corrupt, message: message.clone() });
        }
        let has_it = |component: &Component| component.sources.iter().any(|source| is_it(source.open.file.identity()));
        self.withdraw_from_cards(has_it, &message);
    }

    /// Hashes the files of a component in the background, if they never were.
    pub(super) fn verify_afterwards(self: &Arc<Self>, component: &Arc<Component>) {
        if !self.config.verify_afterwards.get()
            || !component.sources.iter().any(|source| source.file.expected.is_some())
        {
            return;
        }
        let (cache, component) = (Arc::clone(self), Arc::clone(component));
        self.daemon().tasks().spawn("verify afterwards", async move {
            let work = async {
                tokio::time::sleep(PATIENCE).await;
                let Ok(_turn) = cache.verifying.acquire().await else { return };
                if cache.leases.contains(component.id) {
                    cache.verify_now(&component).await;
                }
            };
            tokio::select! {
                () = work => {}
                () = cache.daemon().stopping().cancelled() => {}
            }
        });
    }

    /// When a component's files were found good, also by an earlier daemon. A database that does not answer costs no load
    /// more than a moment.
    pub(super) async fn was_verified(self: &Arc<Self>, component: &Arc<Component>) -> Option<SystemTime> {
        const OPERATION: &str = "attestations";
        let (lanes, folder) = (self.daemon().lanes(), self.tools.attestations.path().map(Path::to_owned));
        let disks = lanes.locate(OPERATION, folder.into_iter().collect(), Some(DATABASE_PATIENCE)).await.ok()?;
        let (attestations, component) = (Arc::clone(&self.tools.attestations), Arc::clone(component));
        let (subject, kind, limit) = (OPERATION, Kind::Look, Some(DATABASE_PATIENCE));
        let task = Task { operation: OPERATION, subject, disks: &disks, kind, limit };
        lanes.run(task, move |may| component.was_verified(&attestations, may)).await.ok().flatten()
    }

    async fn verify_now(self: &Arc<Self>, component: &Arc<Component>) {
        if self.was_verified(component).await.is_some() {
            return;
        }
        let (id, model) = (component.id, Arc::clone(&component.model));
        let what = format!("{} of {model}", component.name);
        let (candidates, disks) = (component.candidates(), component.disks());
        match self.verified(Check { id, candidates, own: OwnFiles::Leave, disks }, &model, &|_, _| {}).await {
            Ok(()) => self.daemon().events().push(EventKind::Verified, Some(id), what),
            Err(error) => tracing::warn!(%id, error = sentence(&error), "{what} was not found good"),
        }
    }
}

/// Passes steps on, and gives up with the last who waits, like [`Reporter`].
struct Hashing(WorkContext<HashWork>);

impl Watcher for Hashing {
    fn step(&self, step: &Step) {
        self.0.report(step.clone());
    }

    fn is_abandoned(&self) -> bool {
        self.0.is_abandoned()
    }
}

/// Passes steps on, and stops the work when nobody waits.
struct Reporter(WorkContext<VerifyWork>);

impl Watcher for Reporter {
    fn step(&self, step: &Step) {
        self.0.report(step.clone());
    }

    fn is_abandoned(&self) -> bool {
        self.0.is_abandoned()
    }
}
