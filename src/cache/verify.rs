//! Loaded components are compared with the hashes of their files: before they are lent when a request asks for that,
//! otherwise once afterwards, one at a time. A damaged component is not lent any more, and its holders are told.

use std::{path::Path, sync::Arc, time::Duration};

use weightsd_core::identity::ComponentId;
use weightsd_segment::FileIdentity;

use super::{Cache, Change, ChangeKind, Entry};
use crate::{
    component::Component,
    events::EventKind,
    flight::{Joined, Work, WorkContext},
    pipeline::{AcquireError, LoadError, Progress, blocking, look},
    progress::{Step, Watcher},
    resolve::ResolvedModel,
    snapshot::{Finding, HashCandidate, OwnFiles, Scope, Verdict},
};

/// A component that is dropped within this time is not hashed.
const PATIENCE: Duration = Duration::from_secs(2);

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

impl Cache {
    /// Compares the files of a component with their hashes, unless they were compared before.
    pub(super) async fn verified(
        self: &Arc<Self>,
        id: ComponentId,
        model: &Arc<ResolvedModel>,
        candidates: Vec<HashCandidate>,
        own: OwnFiles,
        progress: Progress<'_>,
    ) -> Result<(), AcquireError> {
        let waiter = match self.verifications.join(id, || None) {
            Joined::Done(()) => return Ok(()),
            Joined::Waiting(waiter) => waiter,
            Joined::First(waiter, leader) => {
                let (cache, model, watcher) = (Arc::clone(self), Arc::clone(model), Reporter(leader.context()));
                let work = async move {
                    let (attestations, of) = (Arc::clone(&cache.tools.attestations), Arc::clone(&model));
                    let check =
                        move || look::verify_files(&of, &candidates, (Scope::Unattested, own), &attestations, &watcher);
                    let verdicts = blocking("the verification", check).await??;
                    cache.found(&model, &verdicts).map_err(AcquireError::from)
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
    pub fn found(&self, model: &ResolvedModel, verdicts: &[Verdict]) -> Result<(), LoadError> {
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
                self.forget_images_of(&blob.to_string());
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
        for entry in self.entries().into_iter().filter(is_over) {
            self.leases.withdraw(&entry);
            entry.notify(Change { kind: ChangeKind::Corrupt, message: message.clone() });
        }
    }

    /// Hashes the files of a component in the background, if they never were.
    pub(super) fn verify_afterwards(self: &Arc<Self>, component: &Arc<Component>) {
        if !self.config.verify_afterwards || !component.sources.iter().any(|source| source.file.expected.is_some()) {
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

    async fn verify_now(self: &Arc<Self>, component: &Arc<Component>) {
        let (attestations, known) = (Arc::clone(&self.tools.attestations), Arc::clone(component));
        if let Ok(Some(_)) = blocking("attestations", move || known.was_verified(&attestations)).await {
            return;
        }
        let (id, model) = (component.id, Arc::clone(&component.model));
        let what = format!("{} of {model}", component.name);
        match self.verified(id, &model, component.candidates(), OwnFiles::Leave, &|_, _| {}).await {
            Ok(()) => self.daemon().events().push(EventKind::Verified, Some(id), what),
            Err(error) => tracing::warn!(%id, %error, "{what} was not found good"),
        }
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
