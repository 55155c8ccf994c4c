//! What a refusal means, by its status, the hub's own code for the reason, and what was asked for.

use hf_hub::HFError;
use reqwest::StatusCode;
use weightsd_core::{
    shown::shown_up_to,
    spec::{Commit, RepoId, Revision},
};

use super::{
    HubSettings,
    http::{Http, NoAnswer, Refusal, causes},
    settings::WORDS,
    token::{Token, looked},
};
use crate::source::{SourceError, SourceProblem};

/// Bytes of the hub's words that are shown.
const MESSAGE_BYTES_MAX: usize = 200;

/// What was asked for.
#[derive(Debug, Clone)]
pub(super) enum Asked {
    /// A revision of a repository, or its files.
    Revision { repo: RepoId, revision: Revision },
    /// The files of a commit.
    Listing { repo: RepoId, commit: Commit },
    /// A file.
    File { repo: RepoId, path: String },
}

impl Asked {
    fn repo(&self) -> &RepoId {
        match self {
            Self::Revision { repo, .. } | Self::Listing { repo, .. } | Self::File { repo, .. } => repo,
        }
    }

    pub(super) fn error(&self, answer: NoAnswer, settings: &HubSettings) -> SourceError {
        match answer {
            NoAnswer::Broken(error) => error,
            NoAnswer::Refused(refusal) => self.refused(refusal, settings),
        }
    }

    fn refused(&self, refusal: Refusal, settings: &HubSettings) -> SourceError {
        let Refusal { status, code, message, commit, after, host, from_hub, with_token, redirected_to } = refusal;
        let repo = self.repo().to_string();
        if status == StatusCode::TOO_MANY_REQUESTS {
            return WORDS.error(SourceProblem::RateLimited { after });
        }
        if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT {
            return WORDS.error(SourceProblem::Failing { host, status: status.as_u16(), after });
        }
        if status == StatusCode::RANGE_NOT_SATISFIABLE {
            return WORDS.error(SourceProblem::NoSuchPart { host });
        }
        if !from_hub {
            return WORDS.error(SourceProblem::StorageRefused { host, status: status.as_u16() });
        }
        let via = redirected_to.as_ref().map(|to| format!(" after a redirect to `{to}`")).unwrap_or_default();
        let malformed = |what: &str| {
            WORDS.error(SourceProblem::Malformed {
                host: host.clone(),
                problem: format!("status {}{via}{what}", status.as_u16()),
            })
        };
        let code = code.as_deref().unwrap_or_default();
        match (status, code) {
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, "GatedRepo") => {
                WORDS.error(SourceProblem::Gated { page: format!("{}/{repo}", settings.endpoint), repo, with_token })
            }
            (StatusCode::UNAUTHORIZED, _) if with_token => WORDS.error(SourceProblem::TokenRefused { message }),
            (StatusCode::UNAUTHORIZED, _) => {
                WORDS.error(SourceProblem::TokenMissing { repo, looked: looked(&settings.token) })
            }
            (StatusCode::FORBIDDEN, _) => WORDS.error(SourceProblem::Forbidden { repo, message }),
            (StatusCode::NOT_FOUND, "RepoNotFound") => WORDS.error(SourceProblem::NoRepo { repo }),
            (StatusCode::NOT_FOUND, "RevisionNotFound") => match self {
                Self::Revision { revision, .. } => {
                    WORDS.error(SourceProblem::NoRevision { repo, revision: revision.clone() })
                }
                Self::Listing { commit, .. } => {
                    WORDS.error(SourceProblem::NoRevision { repo, revision: commit.into() })
                }
                Self::File { path, .. } => {
                    WORDS.error(SourceProblem::NoFile { repo, path: path.clone(), commit: None })
                }
            },
            (StatusCode::NOT_FOUND, _) => match self {
                Self::File { path, .. } if code == "EntryNotFound" => {
                    WORDS.error(SourceProblem::NoFile { repo, path: path.clone(), commit })
                }
                Self::Revision { .. } if via.is_empty() => WORDS.error(SourceProblem::NoRepo { repo }),
                Self::Revision { .. } => malformed(""),
                Self::Listing { .. } => malformed(&format!(
                    " and no reason, where the files of `{repo}` should be listed (/api/models/../tree)"
                )),
                Self::File { path, .. } => malformed(&format!(" and no reason, where `{path}` of `{repo}` should be")),
            },
            _ => malformed(""),
        }
    }

    /// hf-hub's variants often name another reason than the hub gave, so the status and the hub's code are looked at.
    pub(super) fn error_of_hf_hub(&self, error: HFError, http: &Http, settings: &HubSettings) -> SourceError {
        let host = http.endpoint().host();
        let (context, after) = match error {
            HFError::Http { context }
            | HFError::AuthRequired { context }
            | HFError::Forbidden { context }
            | HFError::Conflict { context } => (Some(context), None),
            HFError::RateLimited { retry_after, context } => (Some(context), retry_after),
            HFError::RepoNotFound { context, .. }
            | HFError::RevisionNotFound { context, .. }
            | HFError::EntryNotFound { context, .. } => (context, None),
            HFError::Request { source, .. } if source.is_decode() || source.is_body() => {
                return WORDS.error(SourceProblem::Malformed { host, problem: causes(&source) });
            }
            HFError::Request { source, .. } => return http.unreachable(&http.endpoint().url(&[]), &source),
            HFError::MalformedResponse { what, .. } => {
                return WORDS.error(SourceProblem::Malformed { host, problem: what });
            }
            HFError::Json(error) => return WORDS.error(SourceProblem::Malformed { host, problem: error.to_string() }),
            other => {
                let problem = shown_up_to(&other.to_string(), MESSAGE_BYTES_MAX);
                return WORDS.error(SourceProblem::Unusable { setting: "the library hf-hub", problem });
            }
        };
        let Some(context) = context else {
            return WORDS.error(SourceProblem::NoRepo { repo: self.repo().to_string() });
        };
        let message = context.server_message.as_deref().unwrap_or("no reason given");
        let refusal = Refusal {
            status: context.status,
            code: context.error_code,
            message: shown_up_to(message, MESSAGE_BYTES_MAX),
            commit: None,
            after,
            host,
            from_hub: true,
            with_token: Token::read(&settings.token).is_some(),
            redirected_to: None,
        };
        self.refused(refusal, settings)
    }
}
