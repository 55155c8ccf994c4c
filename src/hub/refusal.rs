//! What a refusal means: the status, the hub's own code for the reason, and what was asked for.

use hf_hub::HFError;
use reqwest::StatusCode;
use weightsd_core::{
    shown::shown_up_to,
    spec::{RepoId, Revision},
};

use super::{
    HubError,
    http::{Http, NoAnswer, Refusal, causes},
};

/// Bytes of the hub's words that are shown.
const MESSAGE_BYTES_MAX: usize = 200;

/// What was asked for.
#[derive(Debug, Clone)]
pub(super) enum Asked {
    /// A revision of a repository, or its files.
    Revision { repo: RepoId, revision: Revision },
    /// A file.
    File { repo: RepoId, path: String },
}

impl Asked {
    fn repo(&self) -> &RepoId {
        match self {
            Self::Revision { repo, .. } | Self::File { repo, .. } => repo,
        }
    }

    pub(super) fn error(&self, answer: NoAnswer, endpoint: &str) -> HubError {
        match answer {
            NoAnswer::Broken(error) => error,
            NoAnswer::Refused(refusal) => self.refused(refusal, endpoint),
        }
    }

    fn refused(&self, refusal: Refusal, endpoint: &str) -> HubError {
        let Refusal { status, code, message, after, host, from_hub, with_token } = refusal;
        let repo = self.repo().to_string();
        if status == StatusCode::TOO_MANY_REQUESTS {
            return HubError::RateLimited { after };
        }
        if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT {
            return HubError::Failing { host, status: status.as_u16(), after };
        }
        if !from_hub {
            return HubError::StorageRefused { host, status: status.as_u16() };
        }
        let code = code.as_deref().unwrap_or_default();
        match (status, code) {
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, "GatedRepo") => {
                HubError::Gated { page: format!("{endpoint}/{repo}"), repo, with_token }
            }
            (StatusCode::UNAUTHORIZED, _) if with_token => HubError::TokenRefused { message },
            (StatusCode::UNAUTHORIZED, _) => HubError::TokenMissing { repo },
            (StatusCode::FORBIDDEN, _) => HubError::Forbidden { repo, message },
            (StatusCode::NOT_FOUND, "RepoNotFound") => HubError::NoRepo { repo },
            (StatusCode::NOT_FOUND, "RevisionNotFound") => match self {
                Self::Revision { revision, .. } => HubError::NoRevision { repo, revision: revision.clone() },
                Self::File { path, .. } => HubError::NoFile { repo, path: path.clone() },
            },
            (StatusCode::NOT_FOUND, _) => match self {
                Self::Revision { .. } => HubError::NoRepo { repo },
                Self::File { path, .. } => HubError::NoFile { repo, path: path.clone() },
            },
            _ => HubError::Malformed { host, problem: format!("status {}", status.as_u16()) },
        }
    }

    /// hf-hub's variants often name another reason than the hub gave, so the status and the hub's code are looked at.
    pub(super) fn error_of_hf_hub(&self, error: HFError, http: &Http, endpoint: &str, with_token: bool) -> HubError {
        let host = http.host();
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
                return HubError::Malformed { host, problem: causes(&source) };
            }
            HFError::Request { source, .. } => return HubError::Unreachable { host, problem: causes(&source) },
            HFError::MalformedResponse { what, .. } => return HubError::Malformed { host, problem: what },
            HFError::Json(error) => return HubError::Malformed { host, problem: error.to_string() },
            other => return HubError::Unusable { problem: shown_up_to(&other.to_string(), MESSAGE_BYTES_MAX) },
        };
        let Some(context) = context else { return HubError::NoRepo { repo: self.repo().to_string() } };
        let message = context.server_message.as_deref().unwrap_or("no reason given");
        let refusal = Refusal {
            status: context.status,
            code: context.error_code,
            message: shown_up_to(message, MESSAGE_BYTES_MAX),
            after,
            host,
            from_hub: true,
            with_token,
        };
        self.refused(refusal, endpoint)
    }
}
