//! Which requests a rule is about.

use serde::{Deserialize, Serialize};

use super::request::Request;

/// What a request was about, and where it arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The hub, below `/api/` but for `/api/resolve-cache/`.
    Api,
    /// The hub, for a file: `/{repo}/resolve/…` and `/api/resolve-cache/…`.
    Resolve,
    /// The host that large files come from.
    Cdn,
    /// A host that nobody should send a token to ([`Hub::stranger`](super::Hub::stranger)).
    Stranger,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Place {
    #[default]
    Any,
    Hub,
    Api,
    Resolve,
    Cdn,
    Stranger,
}

/// Matches requests by side, by a part of their path, and by method.
///
/// In JSON: `{"side": "any|hub|api|resolve|cdn|stranger", "path": "…", "method": "GET"}`, and each may be left out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct On {
    side: Place,
    path: String,
    method: Option<String>,
}

impl On {
    /// Requests anywhere whose decoded path contains this; an empty part is in every path.
    pub fn any(path: impl Into<String>) -> Self {
        Self::new(Place::Any, path)
    }

    /// Requests to the hub: [`Side::Api`] and [`Side::Resolve`].
    pub fn hub(path: impl Into<String>) -> Self {
        Self::new(Place::Hub, path)
    }

    /// Requests of [`Side::Api`].
    pub fn api(path: impl Into<String>) -> Self {
        Self::new(Place::Api, path)
    }

    /// Requests of [`Side::Resolve`].
    pub fn resolve(path: impl Into<String>) -> Self {
        Self::new(Place::Resolve, path)
    }

    /// Requests of [`Side::Cdn`].
    pub fn cdn(path: impl Into<String>) -> Self {
        Self::new(Place::Cdn, path)
    }

    /// Requests of [`Side::Stranger`].
    pub fn stranger(path: impl Into<String>) -> Self {
        Self::new(Place::Stranger, path)
    }

    /// Only those with this method.
    #[must_use]
    pub fn method(mut self, method: &str) -> Self {
        self.method = Some(method.to_owned());
        self
    }

    fn new(side: Place, path: impl Into<String>) -> Self {
        Self { side, path: path.into(), method: None }
    }

    pub(super) fn matches(&self, side: Side, request: &Request) -> bool {
        self.matches_parts(side, &request.method, &request.path)
    }

    pub(super) fn matches_parts(&self, side: Side, method: &str, path: &str) -> bool {
        let here = match self.side {
            Place::Any => true,
            Place::Hub => matches!(side, Side::Api | Side::Resolve),
            Place::Api => side == Side::Api,
            Place::Resolve => side == Side::Resolve,
            Place::Cdn => side == Side::Cdn,
            Place::Stranger => side == Side::Stranger,
        };
        here && path.contains(&self.path) && self.method.as_deref().is_none_or(|wanted| wanted == method)
    }
}
