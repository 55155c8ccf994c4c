//! Object stores as sources.

use std::sync::Arc;

use tokio::{runtime::Handle, sync::OwnedSemaphorePermit};
use weightsd_core::{
    listing::Listing,
    shown::shown,
    spec::{Commit, RepoId, RepoSpec, Revision, SpecError},
};

use super::{Buckets, commit_of, place, settings::Cloud};
use crate::{
    source::{
        ByteRange, Caches, Content, Limits, Patience, RepoStore, Source, SourceError, SourceProblem, Specs, Store,
        Words,
    },
    sources::threads,
};

/// The folder of the own cache in which files of object stores lie.
const FOLDER: &str = "models";
/// Hosts whose pages show models that are named by their ids.
const HUBS: [&str; 3] = ["huggingface.co", "www.huggingface.co", "hf.co"];

#[async_trait::async_trait]
impl Source for Arc<Buckets> {
    fn words(&self) -> &'static Words {
        self.settings.cloud.words()
    }

    fn specs(&self) -> Specs {
        Specs::Scheme(self.settings.cloud.scheme())
    }

    fn parse(&self, spec: &str) -> Result<RepoSpec, SpecError> {
        parse(self.settings.cloud, spec)
    }

    fn store(&self, caches: Caches<'_>, repo: &RepoId) -> Option<Arc<dyn Store>> {
        Some(Arc::new(RepoStore::new(&caches.own?.join(FOLDER), repo, self.words().cache_setting)))
    }

    fn address(&self) -> String {
        self.settings.endpoint.as_ref().map(ToString::to_string).unwrap_or_default()
    }

    fn has_credentials(&self) -> bool {
        self.settings.has_credentials()
    }

    fn limits(&self) -> Limits {
        self.settings.limits
    }

    fn runtime(&self) -> Result<Handle, SourceError> {
        self.handle()
    }

    async fn download_place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.downloads).acquire_owned().await.ok()
    }

    async fn commit(&self, repo: &RepoId, revision: &Revision, patience: Patience) -> Result<Commit, SourceError> {
        let shelf = self.shelf(repo, patience).await?;
        commit_of(&shelf, repo, revision, self.settings.cloud)
    }

    async fn known_commit(&self, repo: &RepoId, revision: &Revision) -> Option<Commit> {
        self.shelves.get(repo).await?.commit(revision)
    }

    async fn forget(&self, repo: &RepoId, _: &Revision) {
        self.shelves.invalidate(repo).await;
    }

    async fn listing(&self, repo: &RepoId, commit: &Commit) -> Result<Arc<Listing>, SourceError> {
        let shelf = self.shelf_of(repo, commit).await?;
        let snapshot = shelf.snapshot(commit).map(|snapshot| Arc::new(snapshot.listing.clone()));
        let gone = || SourceProblem::NoRevision { repo: repo.to_string(), revision: commit.into() };
        snapshot.ok_or_else(|| self.words().error(gone()))
    }

    async fn forget_listing(&self, repo: &RepoId, _: &Commit) {
        self.shelves.invalidate(repo).await;
    }

    async fn file(
        &self,
        repo: &RepoId,
        commit: &Commit,
        path: &str,
        range: Option<&ByteRange>,
    ) -> Result<Content, SourceError> {
        self.content(repo, commit, path, range).await
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

/// Reads `scheme://bucket/folder`, with `@` and a commit behind it, or without. Of other texts behind an `@` nobody could
/// say whether they are part of the folder's name.
fn parse(cloud: Cloud, spec: &str) -> Result<RepoSpec, SpecError> {
    // Not shown: it may hold a signature.
    let address = || format!("{}://…", cloud.scheme());
    if cloud == Cloud::Https && spec.contains(['?', '#']) {
        return Err(SpecError::Address { text: address(), problem: "a folder of the web has no `?` and no `#`" });
    }
    let (scheme, rest) = spec.split_once("://").unwrap_or_default();
    let (rest, revision) = match rest.rsplit_once('@') {
        Some((before, commit)) if Commit::parse(commit).is_some() => (before, Some(Revision::parse(commit)?)),
        _ => (rest, None),
    };
    let repo = RepoId::parse_address(&format!("{}://{rest}", scheme.to_ascii_lowercase()))?;
    let (host, folder) = repo.parts();
    if cloud == Cloud::Https {
        if HUBS.contains(&host.to_ascii_lowercase().as_str()) {
            return Err(SpecError::Url { text: shown(spec) });
        }
        if folder.is_empty() {
            let problem = "it names a host, expected a folder: `https://host/folder/`";
            return Err(SpecError::Address { text: shown(spec), problem });
        }
    }
    place(cloud, &repo)?;
    Ok(RepoSpec { repo, revision })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_with_their_commits() {
        let commit = "c".repeat(40);
        for (spec, repo, revision) in [
            ("s3://bucket/a/b/", "s3://bucket/a/b", None),
            ("S3://bucket", "s3://bucket", None),
            (&format!("s3://bucket/a@{commit}"), "s3://bucket/a", Some(commit.as_str())),
            ("s3://bucket/a@b", "s3://bucket/a@b", None),
            ("s3://bucket/x.safetensors", "s3://bucket/x.safetensors", None),
        ] {
            let found = parse(Cloud::S3, spec).unwrap();
            assert_eq!(
                (found.repo.as_str(), found.revision.as_ref().map(Revision::as_str)),
                (repo, revision),
                "{spec}"
            );
        }
        for bad in ["s3://", "s3:///a", "s3://bucket//a", "s3://me:sEcReT@bucket/a", "s3://bucket/../a"] {
            let error = parse(Cloud::S3, bad).unwrap_err().to_string();
            assert!(!error.contains("sEcReT"), "{error}");
        }
    }

    #[test]
    fn a_page_of_the_hub_is_no_folder_of_the_web() {
        for page in ["https://huggingface.co/org/repo", "https://hf.co/org/repo/tree/main"] {
            assert!(matches!(parse(Cloud::Https, page), Err(SpecError::Url { .. })), "{page}");
        }
        for bad in ["https://host", "https://host/a?signature=sEcReT", "https://host/a#b"] {
            let error = parse(Cloud::Https, bad).unwrap_err().to_string();
            assert!(!error.contains("sEcReT"), "{error}");
        }
        assert_eq!(parse(Cloud::Https, "https://host:8443/a/b/").unwrap().repo.parts(), ("host:8443", "a/b"));
    }
}
