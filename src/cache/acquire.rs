//! From a request to a lease: recalled, kept already, or loaded.

use std::{sync::Arc, time::Instant};

use weightsd_core::identity::ComponentId;

use super::{ATTEMPTS, Acquired, Cache, Holder, Lease, verify::Check};
use crate::{
    component::Component,
    lanes::{Kind, MayBlock},
    pipeline::{
        self, AcquireError, Desk, LoadError, Pinned, Prepared, Progress, Request, Shared, Tools, Trip, Verification,
    },
    resolve::{Address, ModelKind, Network, RepoAddress, ResolvedModel, Selector, Warning},
};

impl Cache {
    /// Leases the component that `request` means to `holder`, and loads it first where it is not kept. `progress` is told
    /// each step and the number of requests that wait for it.
    ///
    /// # Errors
    /// When the load fails or takes too long, and when the daemon stops.
    pub async fn acquire(
        self: &Arc<Self>,
        request: Request,
        holder: Holder,
        progress: impl Fn(&crate::progress::Step, usize) + Send + Sync,
    ) -> Result<Acquired, AcquireError> {
        self.acquire_this(None, request, holder, progress).await
    }

    /// The same for a caller that has the component `wanted`, if there is one, and has no use for another one.
    ///
    /// # Errors
    /// Also when `request` means another component by now.
    pub async fn acquire_this(
        self: &Arc<Self>,
        wanted: Option<ComponentId>,
        request: Request,
        holder: Holder,
        progress: impl Fn(&crate::progress::Step, usize) + Send + Sync,
    ) -> Result<Acquired, AcquireError> {
        let (request, progress): (_, Progress<'_>) = (&request, &progress);
        let counter = Counter { cache: self, request, wanted, holder, started: Instant::now(), progress };
        tokio::select! {
            result = counter.serve() => result.and_then(|acquired| met(counter.request, acquired)),
            () = self.daemon().stopping().cancelled() => Err(AcquireError::Stopping),
        }
    }

    /// Whether the revisions of `models` are still known to mean these commits.
    async fn are_current(&self, models: &[Arc<ResolvedModel>], network: Network) -> bool {
        for model in models {
            if !self.is_current(model, network).await {
                return false;
            }
        }
        true
    }

    async fn is_current(&self, model: &ResolvedModel, network: Network) -> bool {
        match &model.kind {
            ModelKind::Repo { address: RepoAddress { source, repo, revision, .. }, commit }
                if revision.as_commit().is_none() =>
            {
                // Whether the source was asked is part of the answer.
                let was_asked = !matches!(model.warning, Some(Warning::LastKnown { .. }));
                !self.tools.may_ask(network)
                    || (!was_asked && source.last_refusal(repo, revision).await.is_some())
                    || (was_asked && source.known_commit(repo, revision).await.as_ref() == Some(commit))
            }
            ModelKind::Repo { .. } | ModelKind::Directory | ModelKind::File => true,
        }
    }

    /// Forgets what the revision of `selector` means, so that its source is asked anew.
    ///
    /// # Errors
    /// When the selector names nothing.
    pub async fn look_up_again(&self, selector: &Selector) -> Result<(), AcquireError> {
        let asked = selector.clone();
        let trip = self.tools.trip([selector]).await?;
        let look = move |tools: &Tools, may: &MayBlock<'_>| pipeline::pinned_here(&asked, &tools.places, may);
        let Pinned { address, .. } = self.tools.stage(&trip, super::FINDING, look).await??;
        if let Address::Repo(RepoAddress { source, repo, revision, .. }) = &*address {
            source.forget(repo, revision).await;
        }
        Ok(())
    }
}

/// Refuses a component if some of its tensors do not have the dtype that the request names. Requests that name a dtype
/// and requests that get it as the usual one share a component, so each request is checked.
fn met(request: &Request, acquired: Acquired) -> Result<Acquired, AcquireError> {
    let component = acquired.lease.component();
    match &component.unmet {
        Some(unmet) if request.names_dtype() => {
            Err(LoadError::Derive { component: component.name.clone(), source: unmet.clone() }.into())
        }
        _ => Ok(acquired),
    }
}

/// The desk of one request: where it meets others.
struct Counter<'a> {
    cache: &'a Arc<Cache>,
    request: &'a Request,
    /// The only component that is of use; `None`: any.
    wanted: Option<ComponentId>,
    holder: Holder,
    started: Instant,
    progress: Progress<'a>,
}

impl Counter<'_> {
    async fn serve(&self) -> Result<Acquired, AcquireError> {
        let mut mended = false;
        for _ in 0..ATTEMPTS {
            if let Some(recalled) = self.recall().await? {
                return Ok(recalled);
            }
            match pipeline::load(self.request, self, self.progress).await {
                Err(error) if error.is_abandoned() => {}
                // A file that was set aside is missing now, so the next attempt fetches it. This happens once: a disk or
                // another program is at fault if the file is damaged again.
                Err(AcquireError::Load(error)) if !mended && self.cache.is_mended(self.request, &error).await => {
                    mended = true;
                }
                // The request that asked first named a dtype that the component cannot have; this one did not.
                Err(AcquireError::Load(error)) if error.is_unmet_dtype() && !self.request.names_dtype() => {}
                result => return result,
            }
        }
        Err(AcquireError::Died { operation: "the load" })
    }

    async fn recall(&self) -> Result<Option<Acquired>, AcquireError> {
        let Some(known) = self.cache.recalls.known(self.request) else { return Ok(None) };
        let (cache, request) = (Arc::clone(self.cache), self.request.clone());
        let trip = Trip::on(known.disks.clone(), request.models.own.spec.clone(), self.cache.tools.deadline());
        let look = move |may: &MayBlock<'_>| {
            let recalled = cache.recalls.get(&request, |id| cache.intact(id, may), may)?;
            // The setting may have changed since. What it refuses now is refused where the model is found.
            let places = &cache.tools.places;
            let models = || request.models.iter().zip(&recalled.models);
            let is_allowed = models().all(|((_, selector), model)| places.allow(selector, (&**model).into()).is_ok());
            is_allowed.then_some(recalled)
        };
        let recalled = trip.run(self.cache.daemon().lanes(), super::FINDING, Kind::Look, look).await?;
        let Some(recalled) = recalled else { return Ok(None) };
        let is_current = self.cache.are_current(&recalled.models, self.request.models.own.network).await;
        let lease = if is_current && self.wanted.is_none_or(|wanted| wanted == recalled.id) {
            self.cache.leases.lease(recalled.id, &self.holder)
        } else {
            None
        };
        Ok(lease.map(|lease| self.acquired(lease, Arc::clone(&recalled.models[0]), true)))
    }

    fn acquired(&self, lease: Lease, model: Arc<ResolvedModel>, warm: bool) -> Acquired {
        let leases = lease.entry().usage().holders.len();
        Acquired { lease, model, warm, leases, resolve: self.started.elapsed() }
    }

    /// Whether a component that is kept may be lent. One of the same content can lie over other files than those that were
    /// looked at for this request; if they turn out to be damaged, it is dropped.
    async fn is_as_wanted(&self, component: &Arc<Component>) -> Result<bool, AcquireError> {
        if self.request.verification == Verification::Afterwards {
            return Ok(true);
        }
        let check = Check {
            id: component.id,
            candidates: component.candidates(),
            own: self.cache.own_files(&self.request.models.own),
            disks: component.disks(),
        };
        match self.cache.verified(check, &component.model, self.progress).await {
            Ok(()) => Ok(true),
            Err(AcquireError::Load(error)) if matches!(*error, LoadError::Corrupt { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Desk for Counter<'_> {
    type Lent = Acquired;

    fn tools(&self) -> &Arc<Tools> {
        &self.cache.tools
    }

    async fn verify(&self, prepared: &Prepared) -> Result<(), AcquireError> {
        let check = Check {
            id: prepared.id,
            candidates: prepared.candidates(),
            own: self.cache.own_files(&self.request.models.own),
            disks: prepared.trip.disks().clone(),
        };
        self.cache.verified(check, prepared.model(), self.progress).await
    }

    async fn share<W, F>(&self, prepared: Prepared, work: W) -> Result<Acquired, AcquireError>
    where
        W: FnOnce(Prepared, Shared) -> F + Send + 'static,
        F: Future<Output = Result<Component, AcquireError>> + Send + 'static,
    {
        let (id, model) = (prepared.id, Arc::clone(prepared.model()));
        if let Some(wanted) = self.wanted.filter(|wanted| *wanted != id) {
            return Err(AcquireError::Another { wanted, found: id });
        }
        let (prepared, kept) = self.cache.looked_up(prepared).await?;
        if kept
            && let Some(lease) = self.cache.leases.lease(id, &self.holder)
            && self.is_as_wanted(lease.component()).await?
        {
            return Ok(self.acquired(lease, model, true));
        }
        let component = self.cache.load(prepared, work, self.progress).await?;
        Ok(self.acquired(self.cache.leases.lease_or_keep(component.id, component, &self.holder), model, false))
    }
}
