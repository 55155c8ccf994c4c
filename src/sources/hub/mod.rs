//! The hub: on the network, where it says which commit a revision means, which files a commit has, and what they hold;
//! and on this machine, as the folder of a Hugging Face cache ([`RepoStore`](crate::source::RepoStore)).
//!
//! Revisions are looked up with hf-hub. Listings and contents are fetched here: hf-hub's listing has no sha-256, stops
//! without a word at a relative link, and takes the token to whatever host a link names; its downloads check neither
//! status nor length nor hash, cannot be resumed and have no deadline.

mod endpoint;
mod http;
mod refusal;
mod settings;
mod source;
mod token;

use std::{
    fmt,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use hf_hub::{HFClient, HFError};
use moka::future::Cache;
use reqwest::StatusCode;
use tokio::{
    runtime::{self, Handle, Runtime},
    sync::Semaphore,
};
use weightsd_core::{
    listing::{LISTING_BYTES_MAX, Listing},
    shown::shown,
    spec::{Commit, RepoId, Revision},
};

pub use self::{
    endpoint::check_endpoint,
    settings::{HubSettings, open},
};
use self::{http::Http, refusal::Asked, settings::WORDS, token::Token};
use crate::{
    source::{ByteRange, Content, Patience, Probe, SourceError, SourceProblem},
    sources::threads,
};

/// Files in the listings that are kept, over all commits. Each takes a few hundred bytes.
const LISTED_FILES_KEPT: u64 = 300_000;
/// Revisions whose commits are kept.
const REVISIONS_KEPT: u64 = 1024;
/// Most pages of a listing.
const PAGES_MAX: usize = 1000;
/// Longest page of a listing that is read, in bytes. The real hub sends 1,000 files at once.
const PAGE_BYTES_MAX: u64 = 32_000_000;
/// Longest description of a revision that is read, in bytes.
const INFO_BYTES_MAX: u64 = 32_000_000;
/// Without a token hf-hub looks for one itself, in places that may not be the ones that the daemon was told. One that no
/// header can hold is not sent.
const NO_TOKEN: &str = "\n";
/// How long an absent hub is not asked again if the last known commit can be used.
const ABSENCE: Duration = Duration::from_secs(30);
/// How long an answer is awaited if the last known commit can be used.
const BRIEF: Duration = Duration::from_secs(5);

/// The connection to one hub. Its threads start with the first request.
pub struct Hub {
    settings: HubSettings,
    commits: Cache<(RepoId, Revision), Commit>,
    listings: Cache<(RepoId, Commit), Arc<Listing>>,
    engine: OnceLock<Result<Engine, SourceError>>,
    client: Mutex<Option<(Option<Token>, HFClient)>>,
    absent: Mutex<Option<(Instant, SourceError)>>,
    /// Revisions that the hub refused to resolve a moment ago.
    refused: Cache<(RepoId, Revision), SourceError>,
    /// The present names of repositories that were renamed.
    renamed: Cache<RepoId, RepoId>,
    downloads: Arc<Semaphore>,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// The threads and clients of a hub, started by the first request. Threads of its own, so that content does not come in
/// the way of answers to clients.
struct Engine {
    http: Http,
    runtime: Option<Runtime>,
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Engine {
    fn start(settings: &HubSettings) -> Result<Self, SourceError> {
        // Before the threads, because threads that have started cannot be ended from here.
        let http = Http::new(settings)?;
        let runtime =
            runtime::Builder::new_multi_thread().worker_threads(2).thread_name("hub").enable_all().build().map_err(
                |error| {
                    WORDS.error(SourceProblem::Unusable { setting: "the limit of threads", problem: error.to_string() })
                },
            )?;
        Ok(Self { http, runtime: Some(runtime) })
    }
}

impl Hub {
    /// A hub that nothing was asked yet.
    #[must_use]
    pub fn new(settings: HubSettings) -> Self {
        Self {
            commits: Cache::builder().max_capacity(REVISIONS_KEPT).time_to_live(settings.freshness).build(),
            listings: Cache::builder()
                .weigher(|_, listing: &Arc<Listing>| u32::try_from(listing.len()).unwrap_or(u32::MAX).max(1))
                .max_capacity(LISTED_FILES_KEPT)
                .build(),
            engine: OnceLock::new(),
            client: Mutex::new(None),
            absent: Mutex::new(None),
            refused: Cache::builder().max_capacity(REVISIONS_KEPT).time_to_live(ABSENCE).build(),
            renamed: Cache::builder().max_capacity(REVISIONS_KEPT).build(),
            downloads: Arc::new(Semaphore::new(settings.files_at_once.max(1))),
            settings,
        }
    }

    /// How it is dealt with.
    #[must_use]
    pub fn settings(&self) -> &HubSettings {
        &self.settings
    }

    /// Whether there is a token now. Reads its file.
    #[must_use]
    pub fn has_token(&self) -> bool {
        Token::read(&self.settings.token).is_some()
    }

    fn engine(&self) -> Result<&Engine, SourceError> {
        self.engine.get_or_init(|| Engine::start(&self.settings)).as_ref().map_err(Clone::clone)
    }

    /// Where downloads run.
    ///
    /// # Errors
    /// When the settings make every request impossible, or the daemon is stopping.
    pub fn handle(&self) -> Result<Handle, SourceError> {
        let runtime = self.engine()?.runtime.as_ref().map(|runtime| runtime.handle().clone());
        runtime.ok_or_else(|| {
            WORDS.error(SourceProblem::Unusable {
                setting: "the shutdown",
                problem: "the daemon is stopping".to_owned(),
            })
        })
    }

    /// The commit that `revision` means, if it was asked for lately.
    pub async fn known_commit(&self, repo: &RepoId, revision: &Revision) -> Option<Commit> {
        self.commits.get(&(repo.clone(), revision.clone())).await
    }

    /// Whether the hub could not be asked a moment ago.
    #[must_use]
    pub fn was_absent(&self) -> Option<SourceError> {
        let absent = self.absent.lock().unwrap_or_else(PoisonError::into_inner);
        absent.as_ref().filter(|(since, _)| since.elapsed() < ABSENCE).map(|(_, error)| error.clone())
    }

    /// Why the hub did not say a moment ago what `revision` means; `None` when it did, or was not asked.
    pub async fn last_refusal(&self, repo: &RepoId, revision: &Revision) -> Option<SourceError> {
        match self.was_absent() {
            Some(error) => Some(error),
            None => self.refused.get(&(repo.clone(), revision.clone())).await,
        }
    }

    /// The name under which the hub keeps a repository that was renamed, if it said so.
    pub async fn new_name(&self, repo: &RepoId) -> Option<RepoId> {
        self.renamed.get(repo).await
    }

    /// Forgets what `revision` means, and whether the hub was away, so that the next request asks again.
    pub async fn forget(&self, repo: &RepoId, revision: &Revision) {
        *self.absent.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.refused.invalidate(&(repo.clone(), revision.clone())).await;
        self.commits.invalidate(&(repo.clone(), revision.clone())).await;
    }

    /// The commit that `revision` means now. Callers who ask at the same time share one request.
    ///
    /// # Errors
    /// When the daemon is offline, and when the hub cannot be reached, refuses to say, or knows no such revision.
    pub async fn commit(
        self: &Arc<Self>,
        repo: &RepoId,
        revision: &Revision,
        patience: Patience,
    ) -> Result<Commit, SourceError> {
        self.online(|| format!("revision `{revision}` of `{repo}`"))?;
        if patience == Patience::Brief
            && let Some(error) = self.last_refusal(repo, revision).await
        {
            return Err(error);
        }
        let key = (repo.clone(), revision.clone());
        let (hub, asked) = (Arc::clone(self), key.clone());
        let ask = async move { hub.ask_commit(&asked.0, &asked.1, patience).await };
        let ask = async { threads::run(self.handle()?, &WORDS, ask).await };
        let result = self.commits.try_get_with(key.clone(), ask).await.map_err(|error| (*error).clone());
        let error = result.as_ref().err();
        let absence = error.filter(|error| error.is_absence()).map(|error| (Instant::now(), error.clone()));
        let is_refusal = error.is_some() && absence.is_none();
        *self.absent.lock().unwrap_or_else(PoisonError::into_inner) = absence;
        match error.filter(|_| is_refusal) {
            Some(error) => self.refused.insert(key, error.clone()).await,
            None => self.refused.invalidate(&key).await,
        }
        result
    }

    /// The files of a commit. Callers who ask at the same time share one request, and a commit never changes.
    ///
    /// # Errors
    /// When the daemon is offline, and when the hub cannot be reached, refuses, or gives a listing that cannot be
    /// used.
    pub async fn listing(self: &Arc<Self>, repo: &RepoId, commit: &Commit) -> Result<Arc<Listing>, SourceError> {
        self.online(|| format!("the files of `{repo}`"))?;
        let key = (repo.clone(), commit.clone());
        let hub = Arc::clone(self);
        let ask = async move { hub.settings.backoff.retry(|| hub.ask_listing(&key.0, &key.1)).await.map(Arc::new) };
        let ask = async { threads::run(self.handle()?, &WORDS, ask).await };
        self.listings.try_get_with((repo.clone(), commit.clone()), ask).await.map_err(|error| (*error).clone())
    }

    /// Asks for a file of a commit, or a range of it. One try: the reader of the body must be ready to begin anew.
    ///
    /// # Errors
    /// When the daemon is offline, and when the hub or the host that it names cannot be reached, refuses, or has no
    /// such file or range.
    pub async fn file(
        &self,
        repo: &RepoId,
        commit: &Commit,
        path: &str,
        range: Option<&ByteRange>,
    ) -> Result<Content, SourceError> {
        self.online(|| format!("`{path}` of `{repo}`"))?;
        let http = &self.engine()?.http;
        let named = self.named(repo).await;
        let (owner, name) = named.parts();
        let mut parts = vec![owner, name, "resolve", commit.as_str()];
        parts.extend(path.split('/'));
        let token = Token::read(&self.settings.token);
        let asked = Asked::File { repo: repo.clone(), path: path.to_owned() };
        let answer = http.get(http.endpoint().url(&parts), range, token.as_ref()).await;
        Ok(answer.map_err(|answer| asked.error(answer, &self.settings))?.content)
    }

    /// Asks the hub whether somebody with this token may have something of a commit. The daemon's own token does not go
    /// along.
    ///
    /// # Errors
    /// When the daemon is offline, and when the hub cannot be reached or refuses.
    pub async fn admits(
        self: &Arc<Self>,
        repo: &RepoId,
        commit: &Commit,
        (probe, path): (Probe, &str),
        token: Option<&str>,
    ) -> Result<(), SourceError> {
        self.online(|| format!("who may have `{repo}`"))?;
        let (repo, commit, path) = (repo.clone(), commit.clone(), path.to_owned());
        let token = token.and_then(Token::given);
        let hub = Arc::clone(self);
        let ask = async move {
            let http = &hub.engine()?.http;
            let named = hub.named(&repo).await;
            let (owner, name) = named.parts();
            let (asked, url) = match probe {
                Probe::Info => {
                    let parts = ["api", "models", owner, name, "revision", commit.as_str()];
                    let revision = Revision::from(&commit);
                    (Asked::Revision { repo: repo.clone(), revision }, http.endpoint().url(&parts))
                }
                Probe::Content => {
                    let mut parts = vec![owner, name, "resolve", commit.as_str()];
                    parts.extend(path.split('/'));
                    (Asked::File { repo: repo.clone(), path: path.clone() }, http.endpoint().url(&parts))
                }
            };
            let answered = http.probe(url, probe, token.as_ref()).await;
            answered.map_err(|answer| asked.error(answer, &hub.settings))
        };
        threads::run(self.handle()?, &WORDS, ask).await
    }

    /// The repository under its present name.
    async fn named(&self, repo: &RepoId) -> RepoId {
        self.new_name(repo).await.unwrap_or_else(|| repo.clone())
    }

    fn online(&self, what: impl FnOnce() -> String) -> Result<(), SourceError> {
        match self.settings.offline {
            true => Err(WORDS.error(SourceProblem::Offline { what: what(), why: "the daemon is offline" })),
            false => Ok(()),
        }
    }

    async fn ask_commit(&self, repo: &RepoId, revision: &Revision, patience: Patience) -> Result<Commit, SourceError> {
        let limit = match patience {
            Patience::Brief => self.settings.answer_deadline.min(BRIEF),
            Patience::Full => self.settings.answer_deadline,
        };
        let ask = || self.ask_commit_once(repo, revision, limit);
        match patience {
            Patience::Brief => ask().await,
            Patience::Full => self.settings.backoff.retry(ask).await,
        }
    }

    async fn ask_commit_once(
        &self,
        repo: &RepoId,
        revision: &Revision,
        limit: Duration,
    ) -> Result<Commit, SourceError> {
        let http = &self.engine()?.http;
        let client = self.client(http)?;
        let named = self.named(repo).await;
        let (owner, name) = named.parts();
        let asked = Asked::Revision { repo: repo.clone(), revision: revision.clone() };
        let model = client.model(owner, name);
        let sha = match tokio::time::timeout(limit, model.info().revision(revision.as_str()).send()).await {
            Ok(Ok(info)) => info.sha,
            // hf-hub follows no redirect of ours: the token would go wherever it leads.
            Ok(Err(error)) if is_redirect(&error) => return self.ask_once_more(repo, revision, &asked).await,
            // Its headers tell whether it is the proxy's, and hf-hub does not have them.
            Ok(Err(error)) if http.has_proxy() && is_about_credentials(&error) => {
                return self.ask_once_more(repo, revision, &asked).await;
            }
            Ok(Err(error)) => return Err(asked.error_of_hf_hub(error, http, &self.settings)),
            Err(_) => {
                let problem = format!("no answer within {limit:?}");
                return Err(WORDS.error(SourceProblem::Unreachable { host: http.endpoint().host(), problem }));
            }
        };
        sha.as_deref().and_then(Commit::parse).ok_or_else(|| self.no_commit(http, repo, revision))
    }

    fn no_commit(&self, http: &Http, repo: &RepoId, revision: &Revision) -> SourceError {
        let problem = format!("no commit for revision `{revision}` of `{repo}`");
        WORDS.error(SourceProblem::Malformed { host: http.endpoint().host(), problem })
    }

    /// Asks without hf-hub: follows the redirect of a renamed repository, and remembers the new name; and sees of a refusal
    /// whether it is a proxy's.
    async fn ask_once_more(&self, repo: &RepoId, revision: &Revision, asked: &Asked) -> Result<Commit, SourceError> {
        #[derive(serde::Deserialize)]
        struct Info {
            id: Option<String>,
            sha: Option<String>,
        }
        let http = &self.engine()?.http;
        let token = Token::read(&self.settings.token);
        let named = self.named(repo).await;
        let (owner, name) = named.parts();
        let url = http.endpoint().url(&["api", "models", owner, name, "revision", revision.as_str()]);
        let answer = http.get(url, None, token.as_ref()).await;
        let mut answer = answer.map_err(|answer| asked.error(answer, &self.settings))?;
        let json = answer.content.bytes_to_end(INFO_BYTES_MAX, self.settings.stall_deadline).await?;
        let malformed = |problem| WORDS.error(SourceProblem::Malformed { host: answer.content.host.clone(), problem });
        let info: Info = serde_json::from_slice(&json).map_err(|error| malformed(shown(&error.to_string())))?;
        // The redirect names the repository: what answers there must call itself by that name.
        let new_name = endpoint::repository(&answer.url)
            .ok_or_else(|| malformed(format!("`{named}` is sent to what is no repository")))?;
        if let Some(other) = info.id.filter(|id| *id != new_name.to_string()) {
            let other = shown(&other);
            return Err(malformed(format!("`{named}` is sent to `{new_name}`, which calls itself `{other}`")));
        }
        let commit = info.sha.as_deref().and_then(Commit::parse);
        let commit = commit.ok_or_else(|| self.no_commit(http, repo, revision))?;
        if new_name != *repo {
            tracing::warn!(%repo, %new_name, "the repository was renamed");
            self.renamed.insert(repo.clone(), new_name).await;
        }
        Ok(commit)
    }

    /// hf-hub's client with the present token.
    fn client(&self, http: &Http) -> Result<HFClient, SourceError> {
        let token = Token::read(&self.settings.token);
        let mut kept = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, client)) = kept.as_ref().filter(|(of, _)| *of == token) {
            return Ok(client.clone());
        }
        let builder = HFClient::builder()
            .endpoint(&self.settings.endpoint)
            .client(http.client().clone())
            .user_agent(http::USER_AGENT)
            .cache_enabled(false)
            .retry_max_attempts(0)
            .token(token.as_ref().map_or(NO_TOKEN, Token::expose));
        let client = builder.build().map_err(|error| {
            WORDS.error(SourceProblem::Unusable { setting: "hub_endpoint", problem: error.to_string() })
        })?;
        *kept = Some((token, client.clone()));
        Ok(client)
    }

    async fn ask_listing(&self, repo: &RepoId, commit: &Commit) -> Result<Listing, SourceError> {
        let http = &self.engine()?.http;
        let asked = Asked::Listing { repo: repo.clone(), commit: commit.clone() };
        let token = Token::read(&self.settings.token);
        let named = self.named(repo).await;
        let (owner, name) = named.parts();
        let mut url = http.endpoint().url(&["api", "models", owner, name, "tree", commit.as_str()]);
        url.set_query(Some("recursive=true&expand=false"));
        let mut listing = Listing::default();
        let mut bytes_left = LISTING_BYTES_MAX;
        let mut seen = Vec::new();
        for _ in 0..PAGES_MAX {
            seen.push(url.clone());
            let answer = http.get(url, None, token.as_ref()).await;
            let mut answer = answer.map_err(|answer| asked.error(answer, &self.settings))?;
            let page =
                answer.content.bytes_to_end(bytes_left.min(PAGE_BYTES_MAX), self.settings.stall_deadline).await?;
            bytes_left -= page.len() as u64;
            listing
                .add_page(&page)
                .map_err(|source| WORDS.error(SourceProblem::Listing { repo: repo.to_string(), source }))?;
            let Some(next) = &answer.next_page else {
                for skipped in listing.skipped() {
                    tracing::warn!(%repo, %commit, "a file is skipped: {skipped}");
                }
                return Ok(listing);
            };
            // A page may be relative to where a redirect led.
            seen.push(answer.url.clone());
            let next = http.endpoint().next_page(&seen, next);
            url = next
                .map_err(|problem| WORDS.error(SourceProblem::Malformed { host: http.endpoint().host(), problem }))?;
        }
        let problem = format!("a listing of more than {PAGES_MAX} pages");
        Err(WORDS.error(SourceProblem::Malformed { host: http.endpoint().host(), problem }))
    }
}

/// Whether a status says that credentials are missing or wrong: the hub's, or those for a proxy.
fn is_about_credentials(error: &HFError) -> bool {
    let (HFError::Http { context }
    | HFError::AuthRequired { context }
    | HFError::RepoNotFound { context: Some(context), .. }) = error
    else {
        return false;
    };
    matches!(context.status, StatusCode::UNAUTHORIZED | StatusCode::PROXY_AUTHENTICATION_REQUIRED)
}

fn is_redirect(error: &HFError) -> bool {
    matches!(error, HFError::Http { context } if context.status.is_redirection())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_setting_that_cannot_work_is_an_error_that_names_it() {
        let endpoint = "localhost:8080".to_owned();
        let settings = HubSettings { endpoint, offline: false, ..HubSettings::never_asked() };
        let hub = Arc::new(Hub::new(settings));
        let repo = RepoId::parse("a/b").unwrap();
        let error = hub.commit(&repo, &Revision::default(), Patience::Full).await.unwrap_err();
        assert!(matches!(*error.problem, SourceProblem::Unusable { setting: "hub_endpoint", .. }), "{error}");
        assert!(error.leaves_last_known());
    }
}
