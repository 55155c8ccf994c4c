//! What a failure means, by its status, the store's own code for the reason, and what was asked for.

use std::error::Error;

use reqwest::StatusCode;
use weightsd_core::spec::{Commit, RepoId};

use super::{
    connect::{Failure, Refusal, deepest},
    settings::BucketSettings,
};
use crate::source::{SourceError, SourceProblem};

/// What was asked for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Asked<'a> {
    /// The objects of a bucket below a folder.
    Listing(&'a RepoId),
    /// An object of a commit.
    File(&'a RepoId, &'a Commit, &'a str),
}

impl Asked<'_> {
    fn repo(self) -> String {
        match self {
            Self::Listing(repo) | Self::File(repo, ..) => repo.to_string(),
        }
    }

    /// The error to report.
    pub(super) fn error(self, error: &object_store::Error, settings: &BucketSettings) -> SourceError {
        let words = settings.cloud.words();
        match failure(error) {
            Some(Failure::Broken(error)) => error.clone(),
            Some(Failure::Refused(refusal)) => words.error(self.refused(refusal, settings)),
            None => words.error(self.other(error, settings)),
        }
    }

    fn refused(self, refusal: &Refusal, settings: &BucketSettings) -> SourceProblem {
        let Refusal { host, status, code, after } = refusal.clone();
        let code = code.unwrap_or_default();
        let message = || if code.is_empty() { format!("status {}", status.as_u16()) } else { code.clone() };
        match status {
            StatusCode::TOO_MANY_REQUESTS => SourceProblem::RateLimited { after },
            StatusCode::REQUEST_TIMEOUT => SourceProblem::Failing { host, status: status.as_u16(), after },
            status if status.is_server_error() => SourceProblem::Failing { host, status: status.as_u16(), after },
            StatusCode::RANGE_NOT_SATISFIABLE => SourceProblem::NoSuchPart { host },
            StatusCode::PRECONDITION_FAILED => self.changed(),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if !settings.has_credentials() => {
                SourceProblem::TokenMissing { repo: self.repo(), looked: settings.looked() }
            }
            StatusCode::UNAUTHORIZED => SourceProblem::TokenRefused { message: message() },
            StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST if is_about_keys(&code) => {
                SourceProblem::TokenRefused { message: message() }
            }
            StatusCode::FORBIDDEN => SourceProblem::Forbidden { repo: self.repo(), message: message() },
            StatusCode::NOT_FOUND => match self {
                Self::File(_, commit, path) if code != "NoSuchBucket" => {
                    SourceProblem::NoFile { repo: self.repo(), path: path.to_owned(), commit: Some(commit.to_string()) }
                }
                _ => SourceProblem::NoRepo { repo: self.repo() },
            },
            status => SourceProblem::Malformed {
                host,
                problem: match status.is_redirection() {
                    true => format!("status {} sends elsewhere; is `region` the bucket's?", status.as_u16()),
                    false => message(),
                },
            },
        }
    }

    /// Something failed before or after the request itself.
    fn other(self, error: &object_store::Error, settings: &BucketSettings) -> SourceProblem {
        match error {
            object_store::Error::Precondition { .. } => self.changed(),
            object_store::Error::NotFound { .. } => SourceProblem::NoRepo { repo: self.repo() },
            // What tells a machine of its role does not answer: there are no credentials.
            _ if !settings.has_credentials() && !settings.anonymous => {
                SourceProblem::TokenMissing { repo: self.repo(), looked: settings.looked() }
            }
            error => SourceProblem::Malformed { host: settings.cloud.words().name.to_owned(), problem: deepest(error) },
        }
    }

    /// The object is not what the listing of its commit says.
    fn changed(self) -> SourceProblem {
        match self {
            Self::File(repo, commit, _) => {
                SourceProblem::NoRevision { repo: repo.to_string(), revision: commit.into() }
            }
            Self::Listing(repo) => SourceProblem::NoRepo { repo: repo.to_string() },
        }
    }
}

fn is_about_keys(code: &str) -> bool {
    // The last one is Microsoft's, for all of these.
    const CODES: [&str; 6] = [
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "ExpiredToken",
        "InvalidToken",
        "RequestTimeTooSkewed",
        "AuthenticationFailed",
    ];
    CODES.contains(&code)
}

/// Our own account of what happened, inside the crate's error.
fn failure(error: &object_store::Error) -> Option<&Failure> {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(failure) = error.downcast_ref() {
            return Some(failure);
        }
        cause = error.source();
    }
    None
}

/// A failure in the middle of a content, as text without addresses.
pub(super) fn text(error: &object_store::Error) -> String {
    match failure(error) {
        Some(Failure::Broken(error)) => error.to_string(),
        Some(Failure::Refused(refusal)) => format!("status {}", refusal.status.as_u16()),
        None => deepest(error),
    }
}
