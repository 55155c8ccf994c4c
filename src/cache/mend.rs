//! Repairs what a load found unusable: small files and headers that are not what the commit has. They are set aside, so
//! that they count as missing and the next attempt fetches them.

use std::{path::Path, sync::Arc};

use weightsd_core::json;

use super::Cache;
use crate::{
    lanes::MayBlock,
    pipeline::{self, LoadError, Request, Tools, look},
    progress::Unwatched,
    resolve::Selector,
    snapshot::{HashCandidate, OwnFiles, Scope, Verdict, small_candidates},
};

impl Cache {
    /// What happens to a snapshot's own files that are not the commit's: without their source nothing could take their
    /// place.
    pub(super) fn own_files(&self, selector: &Selector) -> OwnFiles {
        if self.tools.may_ask(selector.network) { OwnFiles::SetAside } else { OwnFiles::Leave }
    }

    /// Whether a load that ended with `error` may succeed now, because damaged files of its models were set aside.
    pub(super) async fn is_mended(self: &Arc<Self>, request: &Request, error: &LoadError) -> bool {
        if let LoadError::Corrupt { aside, .. } = error {
            return aside.is_some() && self.tools.may_ask(request.models.own.network);
        }
        let mut mended = false;
        for (_, selector) in request.models.iter() {
            mended |= self.is_mended_in(selector, error).await;
        }
        mended
    }

    /// Whether what ended with `error` can go better now, because damaged files of this model were set aside.
    pub async fn is_mended_in(self: &Arc<Self>, selector: &Selector, error: &LoadError) -> bool {
        error.may_be_damage() && self.tools.may_ask(selector.network) && self.mend(selector, error.path()).await
    }

    /// Compares the small files of a model, and the file that an error names, with their hashes. Returns whether one was
    /// set aside.
    async fn mend(self: &Arc<Self>, selector: &Selector, named: Option<&Path>) -> bool {
        let Ok(trip) = self.tools.trip([selector]).await else { return false };
        let Ok(pinned) = pipeline::pinned(selector, &trip, &self.tools).await else { return false };
        if pinned.pin.is_none() {
            return false;
        }
        let (cache, named) = (Arc::clone(self), named.map(Path::to_owned));
        let work = move |tools: &Tools, may: &MayBlock<'_>| -> Result<_, LoadError> {
            let model = pinned.on_disk(may)?;
            let candidates = small_candidates(&model, &pinned.choice, named.as_deref())?;
            let is_named = |candidate: &HashCandidate| named.as_ref() == Some(&candidate.path);
            // A user's file is set aside only if nobody can use it. One that merely differs is left.
            let (unusable, others): (Vec<_>, Vec<_>) =
                candidates.into_iter().partition(|candidate| is_named(candidate) || !is_json(&candidate.path, may));
            let check = |candidates: &[HashCandidate], own| {
                let check = (Scope::Unattested, own);
                look::verify_files(&model, candidates, check, &tools.attestations, &Unwatched, may)
            };
            let mut verdicts = check(&unusable, OwnFiles::SetAside)?;
            verdicts.extend(check(&others, OwnFiles::Leave)?);
            let _ = cache.found(&model, &verdicts, may);
            Ok(verdicts.iter().any(Verdict::is_set_aside))
        };
        matches!(self.tools.stage(&trip, "looking for damage", work).await, Ok(Ok(true)))
    }
}

/// Whether a small file holds JSON.
fn is_json(path: &Path, _: &MayBlock<'_>) -> bool {
    std::fs::read(path).is_ok_and(|bytes| json::is_json(&bytes))
}
