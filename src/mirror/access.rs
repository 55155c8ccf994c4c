//! Who may have what. The mirror fetches with the daemon's token, and that opens nothing to others: whether a request may have
//! something, the hub is asked with the token of that request, or without one. Its answer counts for as long as a
//! branch's does (`hub_freshness`), and while the hub is away the last one. Repositories that the setting `mirror_allow`
//! names are everybody's, and nobody is asked.

use std::{sync::Arc, time::Duration};

use moka::future::Cache;
use sha2::{Digest as _, Sha256};
use weightsd_core::spec::{Commit, RepoId};

use crate::{
    resolve::{Allowed, RepoAddress},
    source::{Probe, SourceError},
};

/// Answers that are kept.
const KEPT: u64 = 10_000;
/// How long an answer counts without asking again.
const FRESH: Duration = Duration::from_secs(5 * 60);

/// A repository, what of it is asked for, and the hash of a token: tokens are not kept.
type Key = (RepoId, Probe, [u8; 32]);

/// The answers of the hub about who may have what.
#[derive(Debug)]
pub(super) struct Access {
    open: Allowed,
    fresh: Cache<Key, ()>,
    /// Who was let in before, for when the hub is away.
    before: Cache<Key, ()>,
}

impl Access {
    /// `open` are the repositories that are everybody's.
    pub(super) fn new(open: Allowed) -> Self {
        let kept = || Cache::builder().max_capacity(KEPT);
        Self { open, fresh: kept().time_to_live(FRESH).build(), before: kept().build() }
    }

    /// Lets a request with this token have `probe` of a commit, or refuses it. Requests that ask for the same at the same
    /// time cause one question.
    ///
    /// # Errors
    /// When the hub refuses, or cannot be asked and never let such a request in.
    pub(super) async fn check(
        &self,
        address: &RepoAddress,
        commit: &Commit,
        (probe, path): (Probe, &str),
        token: Option<&str>,
    ) -> Result<(), SourceError> {
        if self.open.has_repository(address.repo.as_str()) {
            return Ok(());
        }
        let digest: [u8; 32] = Sha256::digest(token.unwrap_or_default().as_bytes()).into();
        let key = (address.repo.clone(), probe, digest);
        let ask = async {
            let asked = address.source.admits(&address.repo, commit, (probe, path), token).await;
            if asked.is_ok() {
                self.before.insert(key.clone(), ()).await;
            }
            asked
        };
        match self.fresh.try_get_with(key.clone(), ask).await {
            Ok(()) => Ok(()),
            Err(error) if error.is_absence() && self.before.contains_key(&key) => Ok(()),
            Err(error) => {
                if !error.is_absence() {
                    self.before.invalidate(&key).await;
                }
                Err(Arc::unwrap_or_clone(error))
            }
        }
    }
}
