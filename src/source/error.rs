//! Why the hub gave no answer, or none that can be used.

use std::time::Duration;

use weightsd_core::{
    explain::{Explain, Explanation, Reason},
    listing::ListingError,
    spec::Revision,
};

/// See the module. Says nothing of tokens.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// The daemon, or the request, must not ask.
    #[error("the hub would have to be asked for {what}, and it may not be ({why})")]
    Offline {
        /// For what.
        what: String,
        /// Who forbids it.
        why: &'static str,
    },
    /// No connection, or one that broke, or no answer in time.
    #[error("`{host}` cannot be reached: {problem}")]
    Unreachable {
        /// The host.
        host: String,
        /// What happened.
        problem: String,
    },
    /// No connection to the proxy that stands in between.
    #[error("`{host}` cannot be reached through the proxy `{proxy}`, which the environment names: {problem}")]
    ProxyUnreachable {
        /// The host behind it.
        host: String,
        /// The proxy.
        proxy: String,
        /// What happened.
        problem: String,
    },
    /// 401: the repository is private or does not exist, and there is no token.
    #[error("`{repo}` does not exist, or is private and there is no token ({looked})")]
    TokenMissing {
        /// The repository.
        repo: String,
        /// Where the daemon looked for one.
        looked: String,
    },
    /// 401 with a token.
    #[error("the hub does not accept the token ({message})")]
    TokenRefused {
        /// The hub's words.
        message: String,
    },
    /// 401 or 403: the owner lets nobody in who has not asked.
    #[error("`{repo}` is gated, and {}", if *with_token { "the token's account has no access" } else { "there is no token" })]
    Gated {
        /// The repository.
        repo: String,
        /// The page on which access is asked for.
        page: String,
        /// Whether a token was sent.
        with_token: bool,
    },
    /// 403.
    #[error("the hub forbids access to `{repo}` ({message})")]
    Forbidden {
        /// The repository.
        repo: String,
        /// The hub's words.
        message: String,
    },
    /// 404.
    #[error("the hub has no repository `{repo}`")]
    NoRepo {
        /// The repository.
        repo: String,
    },
    /// 404.
    #[error("`{repo}` has no revision `{revision}`")]
    NoRevision {
        /// The repository.
        repo: String,
        /// The revision.
        revision: Revision,
    },
    /// 404.
    #[error("`{repo}` has no file `{path}`")]
    NoFile {
        /// The repository.
        repo: String,
        /// The file.
        path: String,
        /// The commit that the hub says has no such file; `None` when it does not say.
        commit: Option<String>,
    },
    /// 429.
    #[error("the hub wants fewer requests{}", after.map(|time| format!("; it may be asked again in {} s", time.as_secs())).unwrap_or_default())]
    RateLimited {
        /// When it may be asked again.
        after: Option<Duration>,
    },
    /// 5xx and 408.
    #[error("`{host}` answered with status {status}")]
    Failing {
        /// The host.
        host: String,
        /// The status.
        status: u16,
        /// When it may be asked again.
        after: Option<Duration>,
    },
    /// The host to which the hub sends for the content does not give it.
    #[error("the hub sent to `{host}` for the content, which answered with status {status}")]
    StorageRefused {
        /// The host.
        host: String,
        /// The status.
        status: u16,
    },
    /// 416: the host does not give the part that was asked for.
    #[error("`{host}` does not give the part of the file that was asked for")]
    NoSuchPart {
        /// The host.
        host: String,
    },
    /// An answer that is none.
    #[error("the answer of `{host}` cannot be used: {problem}")]
    Malformed {
        /// The host.
        host: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A listing that is none.
    #[error("the hub's listing of `{repo}` cannot be used")]
    Listing {
        /// The repository.
        repo: String,
        /// What is wrong with it.
        #[source]
        source: ListingError,
    },
    /// Something that no hub has.
    #[error("`{spec}` is a path, and only a Hugging Face id can be downloaded")]
    NotAHubId {
        /// The spec.
        spec: String,
    },
    /// A request that this program cannot make.
    #[error("the hub cannot be asked, because of {setting}: {problem}")]
    Unusable {
        /// The setting that is to blame, or the part of the program.
        setting: &'static str,
        /// Why.
        problem: String,
    },
}

impl Explain for SourceError {
    fn explain(&self) -> Explanation {
        let new = |reason, resource: &str, hint: &'static str| Explanation::new(reason, resource, hint);
        let explanation = match self {
            Self::Offline { .. } => new(
                Reason::Offline,
                "",
                "leave out `--offline`, unset HF_HUB_OFFLINE, or start the daemon with `--offline false`; or ask for what is cached",
            ),
            Self::Unreachable { host, .. } => new(
                Reason::HubUnreachable,
                host,
                "check the network and `hub_endpoint`; what has come already is kept, and the rest follows at the next try",
            ),
            Self::ProxyUnreachable { proxy, .. } => new(
                Reason::HubUnreachable,
                proxy,
                "start the proxy, or restart the daemon without HTTPS_PROXY, HTTP_PROXY and ALL_PROXY (NO_PROXY names hosts \
                 that need none); what has come already is kept",
            ),
            Self::Failing { host, .. } => new(
                Reason::HubFailing,
                host,
                "the fault is on the other side: try again later; what has come already is kept",
            ),
            Self::StorageRefused { host, .. } => {
                new(Reason::HubFailing, host, "the address that the hub gave may have expired: try again")
            }
            Self::NoSuchPart { host } => {
                new(Reason::HubFailing, host, "the host, or a proxy in between, is at fault: try again")
            }
            Self::RateLimited { .. } => {
                new(Reason::RateLimited, "", "wait, or log in: the hub grants more to accounts (`hf auth login`)")
            }
            Self::TokenMissing { repo, .. } => new(
                Reason::TokenMissing,
                repo,
                "check the spelling; for a private repository log in with `hf auth login`: HF_TOKEN counts only where the daemon is started",
            ),
            Self::TokenRefused { .. } => {
                new(Reason::TokenRefused, "", "the token may be expired or revoked: log in again with `hf auth login`")
            }
            Self::Gated { page, with_token: true, .. } => {
                let hint = format!("visit {page} to ask for access, with the account of the token");
                Explanation::new(Reason::Gated, page, hint)
            }
            Self::Gated { page, with_token: false, .. } => {
                let hint = format!(
                    "ask for access at {page}, then log in with that account (`hf auth login`): HF_TOKEN counts only \
                     where the daemon is started"
                );
                Explanation::new(Reason::Gated, page, hint)
            }
            Self::Forbidden { repo, .. } => new(
                Reason::Forbidden,
                repo,
                "ask the owner to let the token's account read it, or log in as another with `hf auth login`",
            ),
            Self::NoRepo { repo } => {
                new(Reason::RepoNotFound, repo, "check the spelling; it may be private: log in to see it")
            }
            Self::NoRevision { repo, revision } => new(
                Reason::RevisionNotFound,
                &format!("{repo}@{revision}"),
                "name a branch, tag or commit that the repository has",
            ),
            Self::NoFile { path, .. } => new(Reason::FileNotFound, path, "the repository may have changed: ask again"),
            Self::Malformed { host: resource, .. } | Self::Listing { repo: resource, .. } => {
                new(Reason::HubMalformed, resource, "is `hub_endpoint` the address of a Hugging Face hub?")
            }
            Self::NotAHubId { spec } => new(Reason::InvalidSpec, spec, "give an id such as `Tongyi-MAI/Z-Image-Turbo`"),
            Self::Unusable { setting, .. } => new(
                Reason::HubUnusable,
                setting,
                "correct the setting and restart the daemon; what is cached can be used as it is",
            ),
        };
        Explanation { retry_after: self.retry_after(), ..explanation }
    }
}

impl SourceError {
    /// The error of what would need the hub, where the request or the daemon's own settings forbid to ask.
    #[must_use]
    pub fn forbidden(what: String, by_request: bool) -> Self {
        Self::Offline { what, why: if by_request { "the request is offline" } else { "the daemon is offline" } }
    }

    /// Whether the same request may succeed in a moment.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::ProxyUnreachable { .. }
                | Self::RateLimited { .. }
                | Self::Failing { .. }
                | Self::StorageRefused { .. }
                | Self::NoSuchPart { .. }
        )
    }

    /// When the hub said that it may be asked again.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { after } | Self::Failing { after, .. } => *after,
            _ => None,
        }
    }

    /// Whether the hub cannot say what a revision means now, so that the commit that was known before still counts. That
    /// is so when it refuses to say, as for a deleted repository or an expired token: what is on this machine stays.
    #[must_use]
    pub fn leaves_last_known(&self) -> bool {
        self.is_absence()
            || matches!(
                self,
                Self::TokenMissing { .. }
                    | Self::TokenRefused { .. }
                    | Self::Gated { .. }
                    | Self::Forbidden { .. }
                    | Self::NoRepo { .. }
                    | Self::NoRevision { .. }
                    | Self::Unusable { .. }
            )
    }

    /// Whether the hub could not be asked, so that what was known before still counts. An answer that is none comes from
    /// something in its place, such as the page on which a network wants its users to log in.
    #[must_use]
    pub fn is_absence(&self) -> bool {
        matches!(
            self,
            Self::Offline { .. }
                | Self::Unreachable { .. }
                | Self::ProxyUnreachable { .. }
                | Self::RateLimited { .. }
                | Self::Failing { .. }
                | Self::Malformed { .. }
        )
    }
}
