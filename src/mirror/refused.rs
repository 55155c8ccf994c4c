//! What keeps a request from its answer, in the hub's terms, and the bodies of answers.

use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::{
    Response, StatusCode,
    body::Bytes,
    header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER},
};
use serde_json::{Value, json};
use weightsd_core::{
    explain::{Explain, Explanation, Reason, sentence},
    shown::{shown_up_to, without_paths},
};

use crate::{
    pipeline::{AcquireError, LoadError},
    source::SourceError,
};

/// The body of an answer.
pub(super) type Body = BoxBody<Bytes, std::io::Error>;

/// Longest message of a refusal, in bytes.
const MESSAGE_BYTES_MAX: usize = 400;
/// When a client may ask again, in seconds, where nothing else says.
const AGAIN: u64 = 5;

/// What keeps a request from its answer, in the hub's terms.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) status: StatusCode,
    /// `X-Error-Code`, by which clients tell reasons.
    code: Option<&'static str>,
    pub(super) message: String,
    again: Option<u64>,
}

/// No body.
pub(super) fn empty() -> Body {
    Full::default().map_err(|never| match never {}).boxed()
}

/// An answer in JSON.
pub(super) fn json_of(value: &Value) -> Response<Body> {
    let body = Full::from(value.to_string()).map_err(|never| match never {}).boxed();
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    response
}

impl Refused {
    pub(super) fn new(status: StatusCode, code: Option<&'static str>, message: &str) -> Self {
        let message = shown_up_to(&without_paths(message), MESSAGE_BYTES_MAX);
        Self { status, code, message, again: None }
    }

    /// The same, of what may pass: the client may ask again.
    pub(super) fn passing(self) -> Self {
        Self { again: Some(AGAIN), ..self }
    }

    pub(super) fn response(&self) -> Response<Body> {
        let mut response = json_of(&json!({"error": self.message}));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        if let Some(code) = self.code {
            headers.insert("x-error-code", HeaderValue::from_static(code));
        }
        let plain: String = self.message.chars().map(|letter| if letter.is_ascii() { letter } else { '?' }).collect();
        if let Ok(message) = HeaderValue::from_str(&plain) {
            headers.insert("x-error-message", message);
        }
        if let Some(again) = self.again {
            headers.insert(RETRY_AFTER, HeaderValue::from(again));
        }
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        response
    }

    /// A failure by its reason, with the status and code that the hub gives it.
    fn of(message: &str, explanation: &Explanation) -> Self {
        let (status, code) = match explanation.reason {
            Reason::RepoNotFound | Reason::TokenMissing => (StatusCode::UNAUTHORIZED, Some("RepoNotFound")),
            Reason::RepoNotCached | Reason::RevisionNotCached | Reason::Offline => {
                (StatusCode::SERVICE_UNAVAILABLE, None)
            }
            Reason::RevisionNotFound => (StatusCode::NOT_FOUND, Some("RevisionNotFound")),
            Reason::FileNotFound => (StatusCode::NOT_FOUND, Some("EntryNotFound")),
            Reason::Gated => (StatusCode::FORBIDDEN, Some("GatedRepo")),
            Reason::TokenRefused => (StatusCode::UNAUTHORIZED, None),
            Reason::Forbidden | Reason::NotAllowed => (StatusCode::FORBIDDEN, None),
            Reason::InvalidSpec | Reason::InvalidRequest => (StatusCode::BAD_REQUEST, None),
            Reason::RateLimited => (StatusCode::TOO_MANY_REQUESTS, None),
            reason if reason.is_retryable() => (StatusCode::SERVICE_UNAVAILABLE, None),
            _ => (StatusCode::INTERNAL_SERVER_ERROR, None),
        };
        let is_passing = matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS);
        let asked = explanation.retry_after.map(|after| after.as_secs().max(1));
        Self { again: asked.or(is_passing.then_some(AGAIN)), ..Self::new(status, code, message) }
    }
}

impl From<SourceError> for Refused {
    fn from(error: SourceError) -> Self {
        Self::of(&sentence(&error), &error.explain())
    }
}

impl From<AcquireError> for Refused {
    fn from(error: AcquireError) -> Self {
        Self::of(&sentence(&error), &error.explain())
    }
}

impl From<LoadError> for Refused {
    fn from(error: LoadError) -> Self {
        Self::of(&sentence(&error), &error.explain())
    }
}
