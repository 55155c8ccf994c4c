//! From a request to a lease: recalled, warm, or brought here, opened and kept.

use std::{sync::Arc, time::Instant};

use super::{ATTEMPTS, AcquireError, Acquired, Cache, Holder, Lease, is_abandoned};
use crate::{
    component::Component,
    hub::HubError,
    pipeline::{self, LoadError, Needed, Pinned, Prepared, Request, Subject, Verification},
    progress::Step,
    resolve::{Address, ModelKind, ResolvedModel, Selector},
    snapshot::{Extent, FetchReport, Remote, Want},
};

impl Cache {
    /// Loads the component that `request` means, or joins whoever loads it, and leases it to `holder`. `progress` is
    /// called with each step and the number of requests that wait for it.
    ///
    /// # Errors
    /// [`AcquireError`].
    pub async fn acquire(
        self: &Arc<Self>,
        request: Request,
        holder: Holder,
        mut progress: impl FnMut(&Step, usize) + Send,
    ) -> Result<Acquired, AcquireError> {
        let started = Instant::now();
        let work = async {
            let mut mended = false;
            for _ in 0..ATTEMPTS {
                match self.try_acquire(&request, &holder, started, &mut progress).await {
                    Err(AcquireError::Load(error)) if is_abandoned(&error) => {}
                    // What was set aside is missing now, so the next attempt fetches it. Once: a file that is damaged
                    // again as it comes is the fault of a disk or of another program.
                    Err(AcquireError::Load(error)) if !mended && self.is_mended(&request, &error).await => {
                        mended = true;
                    }
                    result => return result,
                }
            }
            Err(AcquireError::Died { operation: "the load" })
        };
        tokio::select! {
            result = work => result,
            () = self.tasks.stopping().cancelled() => Err(AcquireError::Stopping),
        }
    }

    async fn try_acquire(
        self: &Arc<Self>,
        request: &Request,
        holder: &Holder,
        started: Instant,
        progress: &mut (impl FnMut(&Step, usize) + Send),
    ) -> Result<Acquired, AcquireError> {
        let acquired = |lease: Lease, model, warm| {
            let leases = lease.entry().usage().holders.len();
            Acquired { lease, model, warm, leases, resolve: started.elapsed() }
        };
        // A few `stat` calls on local disks: waking another thread for them would take longer than they do.
        let recalled = self.recalls.get(request, |id| self.intact(id));
        if let Some((id, model)) = recalled
            && self.is_current(&model, request.selector.offline).await
            && let Some(lease) = self.lease_loaded(id, holder)
        {
            return Ok(acquired(lease, model, true));
        }
        let subject = self.subject(request, progress).await?;
        let prepared = self.prepared(request, &subject, progress).await?;
        let (id, model) = (prepared.id, Arc::clone(&prepared.model));
        if self.intact(id)
            && let Some(lease) = self.lease_loaded(id, holder)
            && self.is_as_wanted(request, lease.component(), progress).await?
        {
            return Ok(acquired(lease, model, true));
        }
        let component = self.fly(prepared, &request.selector.spec, progress).await?;
        Ok(acquired(self.lease_or_insert(component, holder), model, false))
    }

    /// Whether a loaded component may be lent for `request`. One of the same content can lie over other files than those
    /// that were looked at for this request; if they turn out to be bad, it is dropped.
    async fn is_as_wanted(
        self: &Arc<Self>,
        request: &Request,
        component: &Arc<Component>,
        progress: &mut (impl FnMut(&Step, usize) + Send),
    ) -> Result<bool, AcquireError> {
        if request.verification == Verification::Afterwards {
            return Ok(true);
        }
        let (model, candidates) = (Arc::clone(&component.model), component.candidates());
        match self.verified(component.id, model, candidates, self.own_files(&request.selector), progress).await {
            Ok(()) => Ok(true),
            Err(AcquireError::Load(error)) if matches!(*error, LoadError::Corrupt { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether what a revision meant is still known to be what it means.
    async fn is_current(&self, model: &ResolvedModel, offline: bool) -> bool {
        let hub = &self.config.hub;
        match &model.kind {
            ModelKind::Hub { repo, revision, commit, .. } if revision.as_commit().is_none() => {
                // Whether the hub was asked is part of the answer.
                let was_asked = model.warning.is_none();
                offline
                    || hub.settings().offline
                    || (!was_asked && hub.was_absent().is_some())
                    || (was_asked && hub.known_commit(repo, revision).await.as_ref() == Some(commit))
            }
            ModelKind::Hub { .. } | ModelKind::Directory | ModelKind::File => true,
        }
    }

    /// What `selector` names, and the commit it means.
    ///
    /// # Errors
    /// [`AcquireError`].
    pub async fn pinned(self: &Arc<Self>, selector: &Selector) -> Result<Pinned, AcquireError> {
        let (cache, asked) = (Arc::clone(self), selector.clone());
        let work = self.stage("finding the model", move || pipeline::address(&asked, &cache.config.places));
        let (address, known) = self.in_time("finding the model", work).await??;
        let pin = pipeline::pin(&address, known, selector.offline, &self.config.hub).await?;
        Ok(Pinned { address: Arc::new(address), pin })
    }

    /// What `request` names, looked up; of the models beside its own, what is needed is on this machine.
    async fn subject(
        self: &Arc<Self>,
        request: &Request,
        progress: &mut (impl FnMut(&Step, usize) + Send),
    ) -> Result<Subject, AcquireError> {
        let model = self.pinned(&request.selector).await?;
        let base = match &request.base {
            Some(base) => Some(self.brought(base, Needed::Documents, progress).await?),
            None => None,
        };
        let overlay = match &request.overlay {
            Some(overlay) => Some(self.brought(overlay, Needed::RootWeights, progress).await?),
            None => None,
        };
        let mut adapters = Vec::with_capacity(request.adapters.len());
        for adapter in &request.adapters {
            adapters.push(self.brought(&adapter.selector, Needed::Adapter, progress).await?);
        }
        Ok(Subject { model, base, overlay, adapters })
    }

    /// What `selector` names, with what is needed of it on this machine.
    ///
    /// # Errors
    /// [`AcquireError`].
    pub(crate) async fn brought(
        self: &Arc<Self>,
        selector: &Selector,
        needed: Needed,
        progress: &mut (impl FnMut(&Step, usize) + Send),
    ) -> Result<Pinned, AcquireError> {
        let pinned = self.pinned(selector).await?;
        let (asked, choice) = (pinned.clone(), selector.choice.clone());
        let work = self.stage("finding the model", move || pipeline::has(&asked, &choice, needed));
        let is_fetchable = pinned.pin.is_some() && !self.is_offline(selector);
        match self.in_time("finding the model", work).await? {
            Ok(true) => {}
            Ok(false) if !is_fetchable => {}
            Err(error) if !error.is_missing() || !is_fetchable => return Err(error.into()),
            Ok(false) | Err(_) => {
                let want = Want {
                    components: Vec::new(),
                    extent: match needed {
                        Needed::Documents => Extent::Documents,
                        Needed::RootWeights | Needed::Adapter => Extent::Components,
                    },
                    choice: selector.choice.clone(),
                };
                pipeline::fetch(&pinned, want, &self.fetcher, |step, sharers| progress(step, sharers)).await?;
            }
        }
        Ok(pinned)
    }

    /// The component that `request` means, everything it needs being on this machine, verified if that is wanted.
    async fn prepared(
        self: &Arc<Self>,
        request: &Request,
        subject: &Subject,
        progress: &mut (impl FnMut(&Step, usize) + Send),
    ) -> Result<Prepared, AcquireError> {
        let mut fetched = self.is_offline(&request.selector);
        let want = || Want {
            components: vec![request.component.clone()],
            extent: Extent::Components,
            choice: request.selector.choice.clone(),
        };
        loop {
            let is_fetchable = !fetched && subject.model.pin.is_some();
            let prepared = match self.prepare(request, subject).await? {
                Ok(prepared) if prepared.is_provisional() && is_fetchable => None,
                Ok(prepared) => Some(prepared),
                Err(error) if error.is_missing() && is_fetchable => None,
                Err(error) => return Err(error.into()),
            };
            let Some(prepared) = prepared else {
                fetched = true;
                let progress = |step: &Step, sharers| progress(step, sharers);
                pipeline::fetch(&subject.model, want(), &self.fetcher, progress).await?;
                continue;
            };
            if request.verification == Verification::Afterwards {
                return Ok(prepared);
            }
            let (id, model, candidates) = (prepared.id, Arc::clone(&prepared.model), prepared.candidates());
            self.verified(id, model, candidates, self.own_files(&request.selector), progress).await?;
            return Ok(prepared);
        }
    }

    pub(super) fn is_offline(&self, selector: &Selector) -> bool {
        selector.offline || self.config.hub.settings().offline
    }

    async fn prepare(
        self: &Arc<Self>,
        request: &Request,
        subject: &Subject,
    ) -> Result<Result<Prepared, LoadError>, AcquireError> {
        let (cache, asked, subject) = (Arc::clone(self), request.clone(), subject.clone());
        let work = self.stage("finding the model", move || -> Result<_, LoadError> {
            let begun = std::time::SystemTime::now();
            let prepared = pipeline::prepare(&asked, &subject, &cache.pool)?;
            pipeline::note(&subject.model);
            // Whoever wants it verified first must not be lent it because somebody else asked before.
            if !prepared.is_provisional() && asked.verification == Verification::Afterwards {
                cache.recalls.remember(asked, &prepared, begun);
            }
            if !cache.intact(prepared.id) {
                cache.look_again(&prepared);
            }
            Ok(prepared)
        });
        self.in_time("finding the model", work).await
    }

    /// Forgets what the revision of `selector` means, so that the hub is asked anew.
    ///
    /// # Errors
    /// [`AcquireError`].
    pub async fn look_up_again(self: &Arc<Self>, selector: &Selector) -> Result<(), AcquireError> {
        let (cache, asked) = (Arc::clone(self), selector.clone());
        let work = self.stage("finding the model", move || pipeline::address(&asked, &cache.config.places));
        if let (Address::Hub(address), _) = work.await?? {
            self.config.hub.forget(&address.repo, &address.revision).await;
        }
        Ok(())
    }

    /// A hub model where it is; `None` for a path, and for what the cache alone may answer.
    ///
    /// # Errors
    /// [`AcquireError`].
    pub async fn look(self: &Arc<Self>, selector: &Selector, pinned: &Pinned) -> Result<Option<Remote>, AcquireError> {
        let hub = &self.config.hub;
        let (Address::Hub(address), Some(pin)) = (&*pinned.address, &pinned.pin) else { return Ok(None) };
        if self.is_offline(selector) {
            return Ok(None);
        }
        let remote = Remote::look(&self.fetcher, hub, address, pin, &selector.choice).await;
        Ok(Some(remote.map_err(LoadError::from)?))
    }

    /// Downloads what `want` needs of a hub model, and verifies what was here before.
    ///
    /// # Errors
    /// [`AcquireError`].
    pub async fn pull(
        self: &Arc<Self>,
        selector: &Selector,
        want: Want,
        progress: impl FnMut(&Step, usize) + Send,
    ) -> Result<(Pinned, Option<Arc<FetchReport>>), AcquireError> {
        if self.is_offline(selector) {
            return Err(LoadError::from(HubError::forbidden(
                format!("the files of `{}`", selector.spec),
                selector.offline,
            ))
            .into());
        }
        let pinned = self.pinned(selector).await?;
        let report = pipeline::fetch(&pinned, want, &self.fetcher, progress).await?;
        Ok((pinned, report))
    }

    /// Waits for `work`, for as long as a load may take.
    pub(crate) async fn in_time<T>(
        &self,
        operation: &'static str,
        work: impl Future<Output = Result<T, AcquireError>>,
    ) -> Result<T, AcquireError> {
        let limit = self.config.load_deadline;
        let late = AcquireError::Deadline { operation, limit };
        tokio::time::timeout(limit, work).await.unwrap_or(Err(late))
    }
}
