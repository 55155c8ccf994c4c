//! The hub as a source.

use std::sync::Arc;

use tokio::{runtime::Handle, sync::OwnedSemaphorePermit};
use weightsd_core::{
    listing::Listing,
    spec::{Commit, RepoId, RepoSpec, Revision, SpecError},
};

use super::{Hub, settings::WORDS};
use crate::{
    source::{
        ByteRange, Caches, Content, Limits, Patience, Probe, RepoStore, Source, SourceError, Specs, Store, Words,
    },
    sources::threads,
};

#[async_trait::async_trait]
impl Source for Arc<Hub> {
    fn words(&self) -> &'static Words {
        &WORDS
    }

    fn specs(&self) -> Specs {
        Specs::Ids
    }

    fn parse(&self, spec: &str) -> Result<RepoSpec, SpecError> {
        RepoSpec::parse_id(spec)
    }

    fn store(&self, caches: Caches<'_>, repo: &RepoId) -> Option<Arc<dyn Store>> {
        Some(Arc::new(RepoStore::new(caches.hub?, repo, WORDS.cache_setting).with_links(self.settings.links)))
    }

    fn address(&self) -> String {
        self.settings.endpoint.clone()
    }

    fn has_credentials(&self) -> bool {
        self.has_token()
    }

    fn limits(&self) -> Limits {
        self.settings.limits()
    }

    fn runtime(&self) -> Result<Handle, SourceError> {
        self.handle()
    }

    async fn download_place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.downloads).acquire_owned().await.ok()
    }

    async fn commit(&self, repo: &RepoId, revision: &Revision, patience: Patience) -> Result<Commit, SourceError> {
        Hub::commit(self, repo, revision, patience).await
    }

    async fn known_commit(&self, repo: &RepoId, revision: &Revision) -> Option<Commit> {
        Hub::known_commit(self, repo, revision).await
    }

    async fn last_refusal(&self, repo: &RepoId, revision: &Revision) -> Option<SourceError> {
        Hub::last_refusal(self, repo, revision).await
    }

    fn was_absent(&self) -> bool {
        Hub::was_absent(self).is_some()
    }

    async fn forget(&self, repo: &RepoId, revision: &Revision) {
        Hub::forget(self, repo, revision).await;
    }

    async fn new_name(&self, repo: &RepoId) -> Option<RepoId> {
        Hub::new_name(self, repo).await
    }

    async fn listing(&self, repo: &RepoId, commit: &Commit) -> Result<Arc<Listing>, SourceError> {
        Hub::listing(self, repo, commit).await
    }

    async fn forget_listing(&self, repo: &RepoId, commit: &Commit) {
        self.listings.invalidate(&(repo.clone(), commit.clone())).await;
    }

    async fn file(
        &self,
        repo: &RepoId,
        commit: &Commit,
        path: &str,
        range: Option<&ByteRange>,
    ) -> Result<Content, SourceError> {
        Hub::file(self, repo, commit, path, range).await
    }

    async fn admits(
        &self,
        repo: &RepoId,
        commit: &Commit,
        probe: (Probe, &str),
        token: Option<&str>,
    ) -> Result<(), SourceError> {
        Hub::admits(self, repo, commit, probe, token).await
    }

    async fn bytes(
        &self,
        repo: &RepoId,
        commit: &Commit,
        path: &str,
        range: Option<ByteRange>,
        length: u64,
    ) -> Result<Vec<u8>, SourceError> {
        threads::bytes(self, (repo, commit, path), range, length).await
    }
}
