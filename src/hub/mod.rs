//! The hub: on the network, where it says which commit a revision means, which files a commit has, and what they hold;
//! and on this machine, as the folder of a Hugging Face cache ([`RepoStore`]).
//!
//! Revisions are looked up with hf-hub. Listings and contents are fetched here: hf-hub's listing has no sha-256, stops
//! without a word at a relative link, and takes the token to whatever host a link names; its downloads check neither
//! status nor length nor hash, cannot be resumed and have no deadline.

mod error;
mod http;
mod refusal;
mod retry;
mod store;
mod token;

use std::{
    fmt,
    future::Future,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use hf_hub::HFClient;
use moka::future::Cache;
use tokio::{
    runtime::{self, Handle, Runtime},
    sync::Semaphore,
};
use tokio_util::task::AbortOnDropHandle;
use weightsd_core::{
    hub_env::TokenSource,
    listing::{LISTING_BYTES_MAX, Listing},
    spec::{Commit, RepoId, Revision},
};

pub(crate) use self::store::{create_parent, is_absent};
pub use self::{
    error::HubError,
    http::check_endpoint,
    http::{Answer, ByteRange},
    retry::Backoff,
    store::{Blob, BlobLock, FoundFile, Linked, Links, RepoStore, blob_name},
};
use self::{http::Http, refusal::Asked, token::Token};

/// Commits whose listings are kept.
const LISTINGS_KEPT: u64 = 64;
/// Revisions whose commits are kept.
const REVISIONS_KEPT: u64 = 1024;
/// Most pages of a listing.
const PAGES_MAX: usize = 1000;
/// Without a token hf-hub looks for one itself, in places that may not be the ones that the daemon was told. One that no
/// header can hold is not sent.
const NO_TOKEN: &str = "\n";
/// How long an absent hub is not asked again when there is something to fall back on.
const ABSENCE: Duration = Duration::from_secs(30);
/// How long it is waited for when there is something to fall back on.
const BRIEF: Duration = Duration::from_secs(5);

/// How the hub is dealt with.
#[derive(Debug, Clone)]
pub struct HubSettings {
    /// Its address, without a final `/`.
    pub endpoint: String,
    /// Where the token comes from.
    pub token: TokenSource,
    /// Never ask.
    pub offline: bool,
    /// How long what a branch means is believed without asking again.
    pub freshness: Duration,
    /// How long a connection may take.
    pub connect_deadline: Duration,
    /// How long an answer may take to begin.
    pub answer_deadline: Duration,
    /// How long a content may pause.
    pub stall_deadline: Duration,
    /// What is done about failures that may pass.
    pub backoff: Backoff,
    /// Files that are downloaded at once.
    pub files_at_once: usize,
    /// Whether snapshots get symbolic links.
    pub links: Links,
}

/// Whether the caller has something to fall back on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// It has: one try, and not for long.
    Brief,
    /// It has not: tries as the settings say.
    Full,
}

/// See the module.
pub struct Hub {
    settings: HubSettings,
    commits: Cache<(RepoId, Revision), Commit>,
    listings: Cache<(RepoId, Commit), Arc<Listing>>,
    engine: OnceLock<Result<Engine, HubError>>,
    client: Mutex<Option<(Option<Token>, HFClient)>>,
    absent: Mutex<Option<(Instant, HubError)>>,
    downloads: Arc<Semaphore>,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// What is there once something was asked. Threads of its own, so that content does not come in the way of answers to
/// clients.
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
    fn start(settings: &HubSettings) -> Result<Self, HubError> {
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("hub")
            .enable_all()
            .build()
            .map_err(|error| HubError::Unusable { problem: format!("no threads: {error}") })?;
        Ok(Self { http: Http::new(settings)?, runtime: Some(runtime) })
    }
}

impl Hub {
    /// A hub that nothing was asked yet.
    #[must_use]
    pub fn new(settings: HubSettings) -> Self {
        Self {
            commits: Cache::builder().max_capacity(REVISIONS_KEPT).time_to_live(settings.freshness).build(),
            listings: Cache::builder().max_capacity(LISTINGS_KEPT).build(),
            engine: OnceLock::new(),
            client: Mutex::new(None),
            absent: Mutex::new(None),
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

    /// The right to download one file. Whoever has none waits.
    pub async fn download_place(&self) -> Option<tokio::sync::OwnedSemaphorePermit> {
        Arc::clone(&self.downloads).acquire_owned().await.ok()
    }

    fn engine(&self) -> Result<&Engine, HubError> {
        self.engine.get_or_init(|| Engine::start(&self.settings)).as_ref().map_err(Clone::clone)
    }

    /// Where downloads run.
    ///
    /// # Errors
    /// [`HubError::Unusable`].
    pub fn handle(&self) -> Result<Handle, HubError> {
        let runtime = self.engine()?.runtime.as_ref().map(|runtime| runtime.handle().clone());
        runtime.ok_or_else(|| HubError::Unusable { problem: "the daemon is stopping".to_owned() })
    }

    /// The commit that `revision` means, if it was asked for lately.
    pub async fn known_commit(&self, repo: &RepoId, revision: &Revision) -> Option<Commit> {
        self.commits.get(&(repo.clone(), revision.clone())).await
    }

    /// Whether the hub could not be asked a moment ago.
    #[must_use]
    pub fn was_absent(&self) -> Option<HubError> {
        let absent = self.absent.lock().unwrap_or_else(PoisonError::into_inner);
        absent.as_ref().filter(|(since, _)| since.elapsed() < ABSENCE).map(|(_, error)| error.clone())
    }

    /// Forgets what `revision` means, and whether the hub was there, so that it is asked for again.
    pub async fn forget(&self, repo: &RepoId, revision: &Revision) {
        *self.absent.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.commits.invalidate(&(repo.clone(), revision.clone())).await;
    }

    /// Forgets a listing that turned out not to be true.
    pub async fn forget_listing(&self, repo: &RepoId, commit: &Commit) {
        self.listings.invalidate(&(repo.clone(), commit.clone())).await;
    }

    /// The commit that `revision` means now. Callers who ask at the same time share one request.
    ///
    /// # Errors
    /// [`HubError`].
    pub async fn commit(
        self: &Arc<Self>,
        repo: &RepoId,
        revision: &Revision,
        patience: Patience,
    ) -> Result<Commit, HubError> {
        self.online(|| format!("revision `{revision}` of `{repo}`"))?;
        if let Some(error) = self.was_absent().filter(|_| patience == Patience::Brief) {
            return Err(error);
        }
        let key = (repo.clone(), revision.clone());
        let ask = self.on_own_threads(move |hub| async move { hub.ask_commit(&key.0, &key.1, patience).await });
        let result = self.commits.try_get_with((repo.clone(), revision.clone()), ask).await;
        let result = result.map_err(|error| (*error).clone());
        let mut absent = self.absent.lock().unwrap_or_else(PoisonError::into_inner);
        *absent = result.as_ref().err().filter(|error| error.is_absence()).map(|error| (Instant::now(), error.clone()));
        result
    }

    /// The files of a commit. Callers who ask at the same time share one request, and a commit never changes.
    ///
    /// # Errors
    /// [`HubError`].
    pub async fn listing(self: &Arc<Self>, repo: &RepoId, commit: &Commit) -> Result<Arc<Listing>, HubError> {
        self.online(|| format!("the files of `{repo}`"))?;
        let key = (repo.clone(), commit.clone());
        let ask = self.on_own_threads(move |hub| async move {
            let asked = Asked::Revision { repo: key.0.clone(), revision: (&key.1).into() };
            hub.settings.backoff.retry(|| hub.ask_listing(&key.0, &key.1, &asked)).await.map(Arc::new)
        });
        self.listings.try_get_with((repo.clone(), commit.clone()), ask).await.map_err(|error| (*error).clone())
    }

    /// Asks for a file of a commit, or a range of it. One try: whoever reads the body must be ready to begin anew.
    ///
    /// # Errors
    /// [`HubError`].
    pub async fn file(
        &self,
        repo: &RepoId,
        commit: &Commit,
        path: &str,
        range: Option<&ByteRange>,
    ) -> Result<Answer, HubError> {
        self.online(|| format!("`{path}` of `{repo}`"))?;
        let http = &self.engine()?.http;
        let (owner, name) = repo.parts();
        let mut parts = vec![owner, name, "resolve", commit.as_str()];
        parts.extend(path.split('/'));
        let token = Token::read(&self.settings.token);
        let asked = Asked::File { repo: repo.clone(), path: path.to_owned() };
        http.get(http.url(&parts), range, token.as_ref())
            .await
            .map_err(|answer| asked.error(answer, &self.settings.endpoint))
    }

    /// The content of a file, or of a range of it, of exactly `length` bytes; tried again when that may help.
    ///
    /// # Errors
    /// [`HubError`].
    pub async fn bytes(
        self: &Arc<Self>,
        repo: &RepoId,
        commit: &Commit,
        path: &str,
        range: Option<ByteRange>,
        length: u64,
    ) -> Result<Vec<u8>, HubError> {
        let (repo, commit, path) = (repo.clone(), commit.clone(), path.to_owned());
        self.on_own_threads(move |hub| async move {
            let stall = hub.settings.stall_deadline;
            let get = async || {
                let mut answer = hub.file(&repo, &commit, &path, range.as_ref()).await?;
                let from = range.as_ref().map_or(0, |range| range.from);
                if answer.offset != from {
                    let problem = format!("bytes from {} on, and {from} was asked for", answer.offset);
                    return Err(HubError::Malformed { host: answer.host, problem });
                }
                answer.bytes(length, stall).await
            };
            hub.settings.backoff.retry(get).await
        })
        .await
    }

    fn online(&self, what: impl FnOnce() -> String) -> Result<(), HubError> {
        match self.settings.offline {
            true => Err(HubError::forbidden(what(), false)),
            false => Ok(()),
        }
    }

    /// Runs `work` on the hub's threads; it ends when the caller loses interest.
    async fn on_own_threads<T, F>(self: &Arc<Self>, work: impl FnOnce(Arc<Self>) -> F + Send) -> Result<T, HubError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, HubError>> + Send + 'static,
    {
        let work = AbortOnDropHandle::new(self.handle()?.spawn(work(Arc::clone(self))));
        work.await.unwrap_or_else(|_| Err(HubError::Unusable { problem: "the request died".to_owned() }))
    }

    async fn ask_commit(&self, repo: &RepoId, revision: &Revision, patience: Patience) -> Result<Commit, HubError> {
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

    async fn ask_commit_once(&self, repo: &RepoId, revision: &Revision, limit: Duration) -> Result<Commit, HubError> {
        let http = &self.engine()?.http;
        let client = self.client(http)?;
        let (owner, name) = repo.parts();
        let asked = Asked::Revision { repo: repo.clone(), revision: revision.clone() };
        let model = client.model(owner, name);
        let info = match tokio::time::timeout(limit, model.info().revision(revision.as_str()).send()).await {
            Ok(result) => result.map_err(|error| {
                asked.error_of_hf_hub(error, http, &self.settings.endpoint, Token::read(&self.settings.token).is_some())
            })?,
            Err(_) => {
                let problem = format!("no answer within {limit:?}");
                return Err(HubError::Unreachable { host: http.host(), problem });
            }
        };
        info.sha.as_deref().and_then(Commit::parse).ok_or_else(|| HubError::Malformed {
            host: http.host(),
            problem: format!("no commit for revision `{revision}` of `{repo}`"),
        })
    }

    /// hf-hub's client with the present token.
    fn client(&self, http: &Http) -> Result<HFClient, HubError> {
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
        let client = builder.build().map_err(|error| HubError::Unusable { problem: error.to_string() })?;
        *kept = Some((token, client.clone()));
        Ok(client)
    }

    async fn ask_listing(&self, repo: &RepoId, commit: &Commit, asked: &Asked) -> Result<Listing, HubError> {
        let http = &self.engine()?.http;
        let token = Token::read(&self.settings.token);
        let (owner, name) = repo.parts();
        let mut url = http.url(&["api", "models", owner, name, "tree", commit.as_str()]);
        url.set_query(Some("recursive=true&expand=false"));
        let mut listing = Listing::default();
        let mut bytes_left = LISTING_BYTES_MAX;
        for _ in 0..PAGES_MAX {
            let answer = http.get(url.clone(), None, token.as_ref()).await;
            let mut answer = answer.map_err(|answer| asked.error(answer, &self.settings.endpoint))?;
            let page = answer.bytes_to_end(bytes_left, self.settings.stall_deadline).await?;
            bytes_left -= page.len() as u64;
            listing.add_page(&page).map_err(|source| HubError::Listing { repo: repo.to_string(), source })?;
            let Some(next) = answer.next_page() else { return Ok(listing) };
            let malformed = |problem| HubError::Malformed { host: http.host(), problem };
            url = url.join(next).map_err(|error| malformed(format!("a next page at no address: {error}")))?;
            if !http.is_hub(&url) {
                return Err(malformed(format!(
                    "the next page of the listing is on another host, `{}`",
                    http::host(&url)
                )));
            }
        }
        Err(HubError::Malformed { host: http.host(), problem: format!("a listing of more than {PAGES_MAX} pages") })
    }
}
