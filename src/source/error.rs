//! Why a source gave no answer, or none that can be used.

use std::{error::Error, fmt, time::Duration};

use weightsd_core::{
    explain::{Explain, Explanation, Reason},
    listing::ListingError,
    spec::Revision,
};

/// How messages speak of a source: the words that differ between one source and another. Each stands within a sentence.
#[derive(Debug, PartialEq, Eq)]
pub struct Words {
    /// The source: `the hub`.
    pub name: &'static str,
    /// What kind of server it is, with its article: `a Hugging Face hub`.
    pub kind: &'static str,
    /// The setting that says where it is: `hub_endpoint`.
    pub endpoint: &'static str,
    /// Where its files are kept: `the Hugging Face cache`.
    pub cache: &'static str,
    /// How another place for them is named: `` `--hub-cache` (`hub_cache`) ``.
    pub cache_setting: &'static str,
    /// How a user gets access: ``log in with `hf auth login` ``.
    pub log_in: &'static str,
    /// Where credentials of the environment count: `HF_TOKEN counts only where the daemon is started`.
    pub credentials: &'static str,
}

impl Words {
    /// The error of a source with these words.
    #[must_use]
    pub fn error(&'static self, problem: SourceProblem) -> SourceError {
        SourceError { words: self, problem: Box::new(problem) }
    }
}

/// A source's failure, in the words of that source ([`Words::error`]). Its text never contains a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceError {
    /// How messages speak of the source.
    pub words: &'static Words,
    /// What happened. Boxed, because failures are rare and results are not.
    pub problem: Box<SourceProblem>,
}

/// Why a source has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceProblem {
    /// The daemon, or the request, must not ask.
    Offline {
        /// For what.
        what: String,
        /// Who forbids it.
        why: &'static str,
    },
    /// There is no connection, it broke, or no answer came in time.
    Unreachable {
        /// The host.
        host: String,
        /// What happened.
        problem: String,
    },
    /// No connection to the proxy that stands in between.
    ProxyUnreachable {
        /// The host behind it.
        host: String,
        /// The proxy.
        proxy: String,
        /// What happened.
        problem: String,
    },
    /// 407, or 401 of a proxy that says so: what stands in between wants other credentials.
    ProxyRefused {
        /// The host behind it.
        host: String,
        /// The proxy.
        proxy: String,
        /// The status.
        status: u16,
    },
    /// 401: the repository is private or does not exist, and there is no token.
    TokenMissing {
        /// The repository.
        repo: String,
        /// Where the daemon looked for one.
        looked: String,
    },
    /// 401 with a token.
    TokenRefused {
        /// The source's words.
        message: String,
    },
    /// 401 or 403: users must ask the owner for access.
    Gated {
        /// The repository.
        repo: String,
        /// The page on which access is asked for.
        page: String,
        /// Whether a token was sent.
        with_token: bool,
    },
    /// 403.
    Forbidden {
        /// The repository.
        repo: String,
        /// The source's words.
        message: String,
    },
    /// 404.
    NoRepo {
        /// The repository.
        repo: String,
    },
    /// 404.
    NoRevision {
        /// The repository.
        repo: String,
        /// The revision.
        revision: Revision,
    },
    /// 404.
    NoFile {
        /// The repository.
        repo: String,
        /// The file.
        path: String,
        /// The commit that the source says has no such file; `None` when it does not say.
        commit: Option<String>,
    },
    /// 429.
    RateLimited {
        /// When it may be asked again.
        after: Option<Duration>,
    },
    /// 5xx and 408.
    Failing {
        /// The host.
        host: String,
        /// The status.
        status: u16,
        /// When it may be asked again.
        after: Option<Duration>,
    },
    /// The host to which the source sends for the content does not give it.
    StorageRefused {
        /// The host.
        host: String,
        /// The status.
        status: u16,
    },
    /// 416: the host does not give the part that was asked for.
    NoSuchPart {
        /// The host.
        host: String,
    },
    /// An answer that is none.
    Malformed {
        /// The host.
        host: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A listing that is none.
    Listing {
        /// The repository.
        repo: String,
        /// What is wrong with it.
        source: ListingError,
    },
    /// The request cannot be made at all.
    Unusable {
        /// The setting, or the part of the program, that prevents it.
        setting: &'static str,
        /// Why.
        problem: String,
    },
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.words.name;
        match &*self.problem {
            SourceProblem::Offline { what, why } => {
                write!(f, "{name} would have to be asked for {what}, and it may not be ({why})")
            }
            SourceProblem::Unreachable { host, problem } => write!(f, "`{host}` cannot be reached: {problem}"),
            SourceProblem::ProxyUnreachable { host, proxy, problem } => write!(
                f,
                "`{host}` cannot be reached through the proxy `{proxy}`, which the environment or `proxy` names: {problem}"
            ),
            SourceProblem::ProxyRefused { host, proxy, status: 407 } => write!(
                f,
                "the proxy `{proxy}` lets nobody through to `{host}` without its user and password (status 407)"
            ),
            SourceProblem::ProxyRefused { host, proxy, status } => write!(
                f,
                "the proxy `{proxy}` does not let the request through to `{host}`: it does not accept the user and \
                 password in its address (status {status}, which asks for a password and not for a token)"
            ),
            SourceProblem::TokenMissing { repo, looked } => {
                write!(f, "`{repo}` does not exist, or is private and there is no token ({looked})")
            }
            SourceProblem::TokenRefused { message } => write!(f, "{name} does not accept the token ({message})"),
            SourceProblem::Gated { repo, with_token: true, .. } => {
                write!(f, "`{repo}` is gated, and the token's account has no access")
            }
            SourceProblem::Gated { repo, with_token: false, .. } => {
                write!(f, "`{repo}` is gated, and there is no token")
            }
            SourceProblem::Forbidden { repo, message } => write!(f, "{name} forbids access to `{repo}` ({message})"),
            SourceProblem::NoRepo { repo } => write!(f, "{name} has no repository `{repo}`"),
            SourceProblem::NoRevision { repo, revision } => write!(f, "`{repo}` has no revision `{revision}`"),
            SourceProblem::NoFile { repo, path, .. } => write!(f, "`{repo}` has no file `{path}`"),
            SourceProblem::RateLimited { after: Some(after) } => {
                write!(f, "{name} wants fewer requests; it may be asked again in {} s", after.as_secs())
            }
            SourceProblem::RateLimited { after: None } => write!(f, "{name} wants fewer requests"),
            SourceProblem::Failing { host, status, .. } => write!(f, "`{host}` answered with status {status}"),
            SourceProblem::StorageRefused { host, status } => {
                write!(f, "{name} sent to `{host}` for the content, which answered with status {status}")
            }
            SourceProblem::NoSuchPart { host } => {
                write!(f, "`{host}` does not give the part of the file that was asked for")
            }
            SourceProblem::Malformed { host, problem } => {
                write!(f, "the answer of `{host}` cannot be used: {problem}")
            }
            SourceProblem::Listing { repo, .. } => write!(f, "{name}'s listing of `{repo}` cannot be used"),
            SourceProblem::Unusable { setting, problem } => {
                write!(f, "{name} cannot be asked, because of {setting}: {problem}")
            }
        }
    }
}

impl Error for SourceError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &*self.problem {
            SourceProblem::Listing { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl Explain for SourceError {
    fn explain(&self) -> Explanation {
        Explanation {
            retry_after: self.retry_after(),
            ..Explanation::new(self.problem.reason(), self.problem.resource(), self.problem.hint(self.words))
        }
    }
}

impl SourceProblem {
    fn reason(&self) -> Reason {
        match self {
            Self::Offline { .. } => Reason::Offline,
            Self::Unreachable { .. } | Self::ProxyUnreachable { .. } => Reason::HubUnreachable,
            Self::TokenMissing { .. } => Reason::TokenMissing,
            Self::TokenRefused { .. } => Reason::TokenRefused,
            Self::Gated { .. } => Reason::Gated,
            Self::Forbidden { .. } => Reason::Forbidden,
            Self::NoRepo { .. } => Reason::RepoNotFound,
            Self::NoRevision { .. } => Reason::RevisionNotFound,
            Self::NoFile { .. } => Reason::FileNotFound,
            Self::RateLimited { .. } => Reason::RateLimited,
            Self::Failing { .. } | Self::StorageRefused { .. } | Self::NoSuchPart { .. } => Reason::HubFailing,
            Self::Malformed { .. } | Self::Listing { .. } => Reason::HubMalformed,
            Self::Unusable { .. } | Self::ProxyRefused { .. } => Reason::HubUnusable,
        }
    }

    fn resource(&self) -> String {
        match self {
            Self::Offline { .. } | Self::TokenRefused { .. } | Self::RateLimited { .. } => String::new(),
            Self::NoRevision { repo, revision } => format!("{repo}@{revision}"),
            Self::ProxyUnreachable { proxy: resource, .. }
            | Self::ProxyRefused { proxy: resource, .. }
            | Self::Gated { page: resource, .. }
            | Self::NoFile { path: resource, .. }
            | Self::Unreachable { host: resource, .. }
            | Self::Failing { host: resource, .. }
            | Self::StorageRefused { host: resource, .. }
            | Self::NoSuchPart { host: resource }
            | Self::Malformed { host: resource, .. }
            | Self::TokenMissing { repo: resource, .. }
            | Self::Forbidden { repo: resource, .. }
            | Self::NoRepo { repo: resource }
            | Self::Listing { repo: resource, .. } => resource.clone(),
            Self::Unusable { setting, .. } => (*setting).to_owned(),
        }
    }

    fn hint(&self, words: &Words) -> String {
        let Words { kind, endpoint, log_in, credentials, .. } = words;
        match self {
            Self::Offline { .. } => {
                "leave out `--offline`, unset HF_HUB_OFFLINE, or start the daemon with `--offline false`; \
                                     or ask for what is cached"
                    .to_owned()
            }
            Self::Unreachable { .. } => format!(
                "check the network and `{endpoint}`; what has come already is kept, and the rest follows at the next try"
            ),
            Self::ProxyUnreachable { .. } => {
                "start the proxy, or restart the daemon without HTTPS_PROXY, HTTP_PROXY and \
                                              ALL_PROXY, and without `proxy` in the source's section (NO_PROXY and \
                                              `no_proxy` name hosts that need none); what has come already is kept"
                    .to_owned()
            }
            Self::ProxyRefused { .. } => {
                "write them into the proxy's address, as `http://user:password@host:port`: in \
                                          `proxy` of the source's section, or in HTTPS_PROXY, and restart the daemon"
                    .to_owned()
            }
            Self::Failing { .. } => {
                "the fault is on the other side: try again later; what has come already is kept".to_owned()
            }
            Self::StorageRefused { .. } => "the address that the source gave may have expired: try again".to_owned(),
            Self::NoSuchPart { .. } => "the host, or a proxy in between, is at fault: try again".to_owned(),
            Self::RateLimited { .. } => format!("wait; accounts are granted more requests: {log_in}"),
            Self::TokenMissing { .. } => {
                format!("check the spelling; for a private repository {log_in}: {credentials}")
            }
            Self::TokenRefused { .. } => format!("the token may be expired or revoked: {log_in}"),
            Self::Gated { page, with_token: true, .. } => {
                format!("visit {page} to ask for access, with the account of the token")
            }
            Self::Gated { page, with_token: false, .. } => {
                format!("ask for access at {page}, then {log_in}, with that account: {credentials}")
            }
            Self::Forbidden { .. } => {
                format!("ask the owner to let the token's account read it; or {log_in}, as another account")
            }
            Self::NoRepo { .. } => {
                format!("check the spelling; a private repository shows only to its accounts: {log_in}")
            }
            Self::NoRevision { .. } => "name a branch, tag or commit that the repository has".to_owned(),
            Self::NoFile { .. } => "the repository may have changed: ask again".to_owned(),
            Self::Malformed { .. } | Self::Listing { .. } => format!("is `{endpoint}` the address of {kind}?"),
            Self::Unusable { .. } => {
                "correct the setting and restart the daemon; what is cached can be used as it is".to_owned()
            }
        }
    }
}

impl SourceError {
    /// Whether the same request may succeed in a moment.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            &*self.problem,
            SourceProblem::Unreachable { .. }
                | SourceProblem::ProxyUnreachable { .. }
                | SourceProblem::RateLimited { .. }
                | SourceProblem::Failing { .. }
                | SourceProblem::StorageRefused { .. }
                | SourceProblem::NoSuchPart { .. }
        )
    }

    /// When the source said that it may be asked again.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match &*self.problem {
            SourceProblem::RateLimited { after } | SourceProblem::Failing { after, .. } => *after,
            _ => None,
        }
    }

    /// Whether the source cannot say what a revision means now, so that the commit that was known before still counts. That
    /// is so when it refuses to say, as for a deleted repository or an expired token: what is on this machine stays.
    #[must_use]
    pub fn leaves_last_known(&self) -> bool {
        self.is_absence()
            || matches!(
                &*self.problem,
                SourceProblem::TokenMissing { .. }
                    | SourceProblem::TokenRefused { .. }
                    | SourceProblem::Gated { .. }
                    | SourceProblem::Forbidden { .. }
                    | SourceProblem::NoRepo { .. }
                    | SourceProblem::NoRevision { .. }
                    | SourceProblem::Unusable { .. }
                    | SourceProblem::ProxyRefused { .. }
            )
    }

    /// Whether the source could not be asked, so that what was known before still counts. A malformed answer counts as
    /// absence: something else answers, such as the page on which a network wants its users to log in.
    #[must_use]
    pub fn is_absence(&self) -> bool {
        matches!(
            &*self.problem,
            SourceProblem::Offline { .. }
                | SourceProblem::Unreachable { .. }
                | SourceProblem::ProxyUnreachable { .. }
                | SourceProblem::RateLimited { .. }
                | SourceProblem::Failing { .. }
                | SourceProblem::Malformed { .. }
        )
    }
}
