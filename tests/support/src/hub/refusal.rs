//! An answer that is a status and no content.

use serde::Deserialize;

use super::reply::Reply;

/// An answer, or why there is none.
pub(super) type OrRefusal<T> = Result<T, Box<Refusal>>;

/// A status with the headers by which clients tell causes apart.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refusal {
    status: u16,
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    retry_after: Option<String>,
    #[serde(default)]
    commit: Option<String>,
    #[serde(default)]
    content_type: Option<String>,
    #[serde(default)]
    body: Option<String>,
}

impl Refusal {
    /// A bare status.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self { status, code: None, message: None, retry_after: None, commit: None, content_type: None, body: None }
    }

    /// A page for people, as proxies answer, instead of JSON.
    #[must_use]
    pub fn html_page(status: u16) -> Self {
        Self::status(status).body("text/html", "<!DOCTYPE html><html><body><h1>Service unavailable</h1></body></html>")
    }

    /// What an expired signature of a CDN gets.
    #[must_use]
    pub fn access_denied() -> Self {
        Self::status(403).body("application/xml", "<Error><Code>AccessDenied</Code></Error>")
    }

    /// `X-Error-Code`.
    #[must_use]
    pub fn code(mut self, code: &str) -> Self {
        self.code = Some(code.to_owned());
        self
    }

    /// `X-Error-Message`, and `error` in the JSON body.
    #[must_use]
    pub fn message(mut self, message: &str) -> Self {
        self.message = Some(message.to_owned());
        self
    }

    /// `Retry-After`: seconds, or a date.
    #[must_use]
    pub fn retry_after(mut self, when: impl ToString) -> Self {
        self.retry_after = Some(when.to_string());
        self
    }

    /// `X-Repo-Commit`.
    #[must_use]
    pub fn commit(mut self, commit: &str) -> Self {
        self.commit = Some(commit.to_owned());
        self
    }

    /// The body, instead of JSON.
    #[must_use]
    pub fn body(mut self, content_type: &str, body: &str) -> Self {
        self.content_type = Some(content_type.to_owned());
        self.body = Some(body.to_owned());
        self
    }

    pub(super) fn reply(&self) -> Reply {
        let body = self.body.clone().unwrap_or_else(|| {
            let error = self.message.as_deref().or(self.code.as_deref()).unwrap_or("refused");
            serde_json::json!({ "error": error }).to_string()
        });
        let content_type = self.content_type.as_deref().unwrap_or("application/json; charset=utf-8");
        let mut reply = Reply::text(self.status, content_type, body);
        for (name, value) in [
            ("X-Error-Code", &self.code),
            ("X-Error-Message", &self.message),
            ("Retry-After", &self.retry_after),
            ("X-Repo-Commit", &self.commit),
        ] {
            if let Some(value) = value {
                reply.set(name, value);
            }
        }
        reply
    }
}
