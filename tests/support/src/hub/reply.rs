//! An answer before it is sent.

use super::body::Body;

#[derive(Debug, Clone)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Body,
    /// Where in a file the body begins.
    pub(super) offset: u64,
}

impl Reply {
    pub(super) fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Body::default(), offset: 0 }
    }

    pub(super) fn text(status: u16, content_type: &str, text: impl Into<String>) -> Self {
        let mut reply = Self::new(status);
        reply.set("Content-Type", content_type);
        reply.body = Body::bytes(text.into().into_bytes());
        reply
    }

    pub(super) fn json(value: &serde_json::Value) -> Self {
        Self::text(200, "application/json; charset=utf-8", value.to_string())
    }

    pub(super) fn redirect(status: u16, location: &str) -> Self {
        let mut reply = Self::text(status, "text/plain; charset=utf-8", format!("Redirecting to {location}"));
        reply.set("Location", location);
        reply
    }

    /// Sets a header, and replaces what it was.
    pub(super) fn set(&mut self, name: &str, value: impl Into<String>) {
        self.remove(name);
        self.headers.push((name.to_owned(), value.into()));
    }

    /// Changes a header that is there.
    pub(super) fn replace(&mut self, name: &str, value: &str) {
        if self.headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name)) {
            self.set(name, value);
        }
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
    }

    pub(super) fn reason(&self) -> &'static str {
        match self.status {
            200 => "OK",
            206 => "Partial Content",
            301 => "Moved Permanently",
            302 => "Found",
            303 => "See Other",
            304 => "Not Modified",
            307 => "Temporary Redirect",
            308 => "Permanent Redirect",
            400 => "Bad Request",
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "Not Found",
            405 => "Method Not Allowed",
            416 => "Range Not Satisfiable",
            429 => "Too Many Requests",
            500 => "Internal Server Error",
            502 => "Bad Gateway",
            503 => "Service Unavailable",
            504 => "Gateway Timeout",
            _ => "Status",
        }
    }
}
