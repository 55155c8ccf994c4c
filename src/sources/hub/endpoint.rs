//! The hub's address, and the rules for redirects and next pages: which of them lead to the hub, and which requests may
//! carry the token.
//!
//! A mirror passes on what the real hub says, so its redirects and next pages may name the real hub, or leave out the
//! mirror's own path prefix. Both mean the same path on the mirror.

use reqwest::Url;
use weightsd_core::{shown::shown_up_to, spec::RepoId};

use super::settings::WORDS;
use crate::{
    source::{SourceError, SourceProblem},
    sources::route::host,
};

/// The hub's address: scheme, host, port, and a path prefix where a mirror has one.
#[derive(Debug, Clone)]
pub(super) struct Endpoint(Url);

/// Reads the address of a hub.
///
/// # Errors
/// When it is no address of the web, with what is wrong with it.
pub fn check_endpoint(text: &str) -> Result<Url, String> {
    const EXPECTED: &str = "expected an address such as `https://huggingface.co`";
    let endpoint = Url::parse(text).map_err(|error| format!("`{text}` is no address ({error}), {EXPECTED}"))?;
    match matches!(endpoint.scheme(), "http" | "https") && endpoint.has_host() {
        true => Ok(endpoint),
        false => Err(format!("`{text}` is no address of the web, {EXPECTED}")),
    }
}

impl Endpoint {
    pub(super) fn parse(text: &str) -> Result<Self, SourceError> {
        check_endpoint(text)
            .map(Self)
            .map_err(|problem| WORDS.error(SourceProblem::Unusable { setting: "hub_endpoint", problem }))
    }

    /// Host and port.
    pub(super) fn host(&self) -> String {
        host(&self.0)
    }

    /// The address of these path segments below the hub's own.
    pub(super) fn url(&self, segments: &[&str]) -> Url {
        let mut url = self.0.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    /// Whether requests to `url` may carry the token: scheme, host and port are the hub's.
    pub(super) fn owns(&self, url: &Url) -> bool {
        url.origin() == self.0.origin()
    }

    fn prefix(&self) -> &str {
        self.0.path().trim_end_matches('/')
    }

    fn is_below(&self, url: &Url) -> bool {
        self.owns(url) && url.path().strip_prefix(self.prefix()).is_some_and(|rest| rest.starts_with('/'))
    }

    /// The same path and query on the hub.
    fn at_home(&self, url: &Url) -> Url {
        let mut home = self.0.clone();
        home.set_path(&format!("{}{}", self.prefix(), url.path()));
        home.set_query(url.query());
        home
    }

    /// Where a redirect from the last of `seen` leads.
    ///
    /// # Errors
    /// When it leads nowhere, or from https to http.
    pub(super) fn redirected(&self, seen: &[Url], location: &str) -> Result<Url, String> {
        let from = seen.last().unwrap_or(&self.0);
        let next = from.join(location).map_err(|error| format!("a redirect to no address: {error}"))?;
        if !self.is_below(&next) && is_hub_path(&next) {
            let home = self.at_home(&next);
            // A mirror that sends to the real hub for the very same path does not have it.
            if !seen.contains(&home) {
                return Ok(home);
            }
        }
        match (next.scheme(), from.scheme()) {
            ("https", _) | ("http", "http") => Ok(next),
            (scheme, _) => Err(format!("a redirect to a {} address of `{}`", shown_up_to(scheme, 20), host(&next))),
        }
    }

    /// The next page of a listing.
    ///
    /// # Errors
    /// When it is no address, or a page that came before.
    pub(super) fn next_page(&self, seen: &[Url], link: &str) -> Result<Url, String> {
        let from = seen.last().unwrap_or(&self.0);
        let next = from.join(link).map_err(|error| format!("a next page at no address: {error}"))?;
        let next = if self.is_below(&next) { next } else { self.at_home(&next) };
        if seen.contains(&next) { Err("the next page of the listing came before".to_owned()) } else { Ok(next) }
    }
}

/// The repository that an address of the API is about.
pub(super) fn repository(url: &Url) -> Option<RepoId> {
    let segments: Vec<&str> = url.path_segments()?.collect();
    let api = segments.windows(2).position(|pair| pair == ["api", "models"])?;
    match segments[api + 2..] {
        [owner, name, "revision", ..] => RepoId::parse(&format!("{owner}/{name}")).ok(),
        _ => None,
    }
}

/// Whether a path is one of the hub's own: of its API, or of a file in a repository.
fn is_hub_path(url: &Url) -> bool {
    let segments: Vec<&str> = url.path_segments().into_iter().flatten().take(3).collect();
    matches!(segments[..], ["api", ..] | [_, "resolve", ..] | [_, _, "resolve"])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn redirects_to_the_hub_stay_with_the_endpoint() {
        let from = "https://mirror/p/api/models/old/x/revision/main";
        for (location, expected) in [
            // As a hub at the root says it, and as the real one does.
            ("/api/models/new/x/revision/main", "https://mirror/p/api/models/new/x/revision/main"),
            ("https://huggingface.co/api/models/new/x?a=b", "https://mirror/p/api/models/new/x?a=b"),
            ("https://huggingface.co/new/x/resolve/c/f", "https://mirror/p/new/x/resolve/c/f"),
            ("https://mirror/p/api/models/new/x", "https://mirror/p/api/models/new/x"),
            // The mirror does not have it itself.
            (
                "https://huggingface.co/api/models/old/x/revision/main",
                "https://huggingface.co/api/models/old/x/revision/main",
            ),
            ("https://cdn/repos/ab/cd?signed", "https://cdn/repos/ab/cd?signed"),
            ("/cdn/ab", "https://mirror/cdn/ab"),
        ] {
            let endpoint = Endpoint::parse("https://mirror/p").unwrap();
            assert_eq!(endpoint.redirected(&[url(from)], location), Ok(url(expected)), "{location}");
        }
        let endpoint = Endpoint::parse("https://mirror").unwrap();
        for bad in ["http://cdn/x", "file:///etc/passwd", "https://["] {
            assert!(endpoint.redirected(&[url("https://mirror/x")], bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_address_of_the_api_names_its_repository() {
        for (address, expected) in [
            ("https://hub/api/models/new/x/revision/main", Some("new/x")),
            ("https://mirror/p/q/api/models/new/x/revision/a%2Fb?x=y", Some("new/x")),
            ("https://hub/api/models/new/x/tree/main", None),
            ("https://hub/api/models/..%2F/x/revision/main", None),
            ("https://hub/new/x/resolve/main/info.json", None),
            ("https://hub/welcome", None),
        ] {
            assert_eq!(repository(&url(address)).map(|repo| repo.to_string()).as_deref(), expected, "{address}");
        }
    }

    #[test]
    fn the_token_goes_to_one_scheme_host_and_port() {
        let endpoint = Endpoint::parse("https://hub:8443/p").unwrap();
        assert!(endpoint.owns(&url("https://hub:8443/other")));
        for other in ["http://hub:8443/p", "https://hub/p", "https://a.hub:8443/p", "https://hub:8444/p"] {
            assert!(!endpoint.owns(&url(other)), "{other}");
        }
    }

    #[test]
    fn pages_are_taken_from_the_endpoint_and_never_twice() {
        let endpoint = Endpoint::parse("http://mirror").unwrap();
        let first = url("http://mirror/api/models/o/n/tree/c?recursive=true");
        let second = url("http://mirror/api/models/o/n/tree/c?cursor=2");
        for link in ["https://huggingface.co/api/models/o/n/tree/c?cursor=2", "?cursor=2", second.as_str()] {
            assert_eq!(endpoint.next_page(std::slice::from_ref(&first), link), Ok(second.clone()), "{link}");
        }
        assert!(endpoint.next_page(&[first.clone(), second], first.as_str()).is_err());
    }

    #[test]
    fn a_bad_endpoint_is_named() {
        for bad in ["localhost:8080", "hub", "", "ftp://hub", "https://"] {
            let error = Endpoint::parse(bad).unwrap_err();
            assert!(
                matches!(*error.problem, SourceProblem::Unusable { setting: "hub_endpoint", .. }),
                "{bad}: {error}"
            );
        }
    }
}
