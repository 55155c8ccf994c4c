//! The way to a source's hosts: through which proxy, and which certificates count beside the system's. Every source takes
//! the same three keys in its section of the configuration file.
//!
//! | key | value |
//! |---|---|
//! | `proxy` | the proxy's address, with `user:password@` where it wants that; `none` for no proxy at all. Without the key the environment counts (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`) |
//! | `no_proxy` | hosts that need no proxy, as in `NO_PROXY`, which counts without the key |
//! | `ca_file` | certificates in PEM that count beside the system's |

use std::{fmt, fs, path::PathBuf};

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::{
    Certificate, ClientBuilder, NoProxy, Proxy, StatusCode, Url,
    header::{HeaderMap, WWW_AUTHENTICATE},
};
use weightsd_segment::environment::variable;

use super::BadSection;
use crate::source::{SourceError, SourceProblem, Words};

/// Longest file of certificates that is read, in bytes.
const CA_BYTES_MAX: u64 = 4_000_000;

/// The way to a source's hosts. `Debug` shows no password.
#[derive(Clone, Default)]
pub struct Route {
    proxy: Through,
    no_proxy: Option<String>,
    ca_file: Option<PathBuf>,
}

/// Through which proxy.
#[derive(Clone, Default)]
enum Through {
    /// The one that the environment names, if it names one.
    #[default]
    Environment,
    /// None.
    Nothing,
    /// This one. May hold a password.
    Proxy(Url),
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route").field("ca_file", &self.ca_file).finish_non_exhaustive()
    }
}

impl Route {
    /// Takes its keys out of a source's section.
    ///
    /// # Errors
    /// When one of them cannot be used. The error shows no password.
    pub fn take(section: &mut toml::Table) -> Result<Self, BadSection> {
        let proxy = match text(section, "proxy")?.as_deref() {
            None => Through::Environment,
            Some("none") => Through::Nothing,
            Some(address) => Through::Proxy(proxy(address)?),
        };
        let ca_file = text(section, "ca_file")?.map(PathBuf::from);
        if let Some(path) = ca_file.as_ref().filter(|path| !path.is_absolute()) {
            return Err(BadSection(format!("`ca_file` is `{}`, expected an absolute path", path.display())));
        }
        Ok(Self { proxy, no_proxy: text(section, "no_proxy")?, ca_file })
    }

    /// A client that goes this way. Reads the certificates.
    ///
    /// # Errors
    /// When the certificates cannot be used.
    pub(super) fn applied(&self, builder: ClientBuilder, words: &'static Words) -> Result<ClientBuilder, SourceError> {
        let unusable = |setting, problem: String| words.error(SourceProblem::Unusable { setting, problem });
        let builder = match &self.proxy {
            Through::Environment => builder,
            Through::Nothing => builder.no_proxy(),
            Through::Proxy(address) => {
                // Its words could hold the password.
                let bad = |_| unusable("`proxy`", "the library does not take this address".to_owned());
                let proxy = Proxy::all(address.clone()).map_err(bad)?;
                builder.proxy(proxy.no_proxy(NoProxy::from_string(&self.exceptions())))
            }
        };
        let Some(path) = &self.ca_file else { return Ok(builder) };
        let bad = |problem: String| unusable("`ca_file`", format!("`{}`: {problem}", path.display()));
        match fs::metadata(path) {
            Ok(found) if !found.is_file() => return Err(bad("it is no regular file".to_owned())),
            Ok(found) if found.len() > CA_BYTES_MAX => {
                return Err(bad(format!("it has more than {CA_BYTES_MAX} bytes")));
            }
            Ok(_) => {}
            Err(error) => return Err(bad(error.to_string())),
        }
        let pem = fs::read(path).map_err(|error| bad(error.to_string()))?;
        let certificates = Certificate::from_pem_bundle(&pem).map_err(|_| bad("it is not PEM".to_owned()))?;
        if certificates.is_empty() {
            return Err(bad("there is no certificate in it".to_owned()));
        }
        Ok(builder.tls_certs_merge(certificates))
    }

    /// Says through which proxy an address is reached.
    pub(super) fn proxies(&self) -> Matcher {
        match &self.proxy {
            Through::Environment => Matcher::from_env(),
            Through::Nothing => Matcher::builder().build(),
            Through::Proxy(address) => Matcher::builder().all(address.as_str()).no(self.exceptions()).build(),
        }
    }

    fn exceptions(&self) -> String {
        let of_environment = || variable("NO_PROXY").or_else(|| variable("no_proxy")).unwrap_or_default();
        self.no_proxy.clone().unwrap_or_else(of_environment)
    }
}

/// The error of a request that got no answer. It names a proxy in between, because nothing else shows that there is one.
pub(super) fn unreachable(
    proxies: &Matcher,
    words: &'static Words,
    url: &Url,
    (is_connect, problem): (bool, String),
) -> SourceError {
    let proxy = through(proxies, url).filter(|_| is_connect);
    let host = host(url);
    words.error(match proxy {
        // What the library says when a tunnel gets status 407.
        Some(proxy) if problem.contains("proxy authorization required") => {
            SourceProblem::ProxyRefused { host, proxy, status: 407 }
        }
        Some(proxy) => SourceProblem::ProxyUnreachable { host, proxy, problem },
        None => SourceProblem::Unreachable { host, problem },
    })
}

/// The error of an answer that a proxy gave in the place of `url`'s host. It says 407; some, such as tinyproxy, say 401 of a
/// wrong password. For https a proxy answers before there is a connection, so what comes over one is the host's own; for
/// http, a challenge for a password is the proxy's, since sources take tokens and signatures alone.
pub(super) fn refused(
    proxies: &Matcher,
    words: &'static Words,
    url: &Url,
    (status, headers): (StatusCode, &HeaderMap),
) -> Option<SourceError> {
    let asks_for_password = || {
        let mut challenges = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|challenge| challenge.to_str().ok());
        challenges.any(|challenge| challenge.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("basic")))
    };
    let is_its_own = match status {
        StatusCode::PROXY_AUTHENTICATION_REQUIRED => true,
        StatusCode::UNAUTHORIZED => url.scheme() == "http" && asks_for_password(),
        _ => false,
    };
    let proxy = through(proxies, url).filter(|_| is_its_own)?;
    Some(words.error(SourceProblem::ProxyRefused { host: host(url), proxy, status: status.as_u16() }))
}

/// Host and port of the proxy through which an address is reached.
pub(super) fn through(proxies: &Matcher, url: &Url) -> Option<String> {
    let proxy = proxies.intercept(&url.as_str().parse().ok()?)?;
    let (host, port) = (proxy.uri().host().unwrap_or_default(), proxy.uri().port_u16());
    let port = port.map(|port| format!(":{port}")).unwrap_or_default();
    Some(format!("{host}{port}"))
}

/// Host and port, which is all that is shown of an address: the rest can hold signatures.
pub(super) fn host(url: &Url) -> String {
    match (url.host_str(), url.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (Some(host), None) => host.to_owned(),
        (None, _) => "an unknown host".to_owned(),
    }
}

/// Reads the address of a proxy.
fn proxy(address: &str) -> Result<Url, BadSection> {
    const EXPECTED: &str = "expected an address such as `http://user:password@proxy:3128`, or `none`";
    let bad = |problem: &str| BadSection(format!("`proxy` {problem}, {EXPECTED}"));
    let url = Url::parse(address).map_err(|error| bad(&format!("is no address ({error})")))?;
    match matches!(url.scheme(), "http" | "https") && url.has_host() {
        true => Ok(url),
        false => Err(bad("is no address of the web")),
    }
}

/// Takes a text out of a section.
pub(super) fn text(section: &mut toml::Table, key: &str) -> Result<Option<String>, BadSection> {
    match section.remove(key) {
        None => Ok(None),
        Some(toml::Value::String(text)) => Ok(Some(text)),
        // Its value is not shown: it may be a password without quotes.
        Some(_) => Err(BadSection(format!("`{key}` is no text, expected one in quotes"))),
    }
}

/// Takes `true` or `false` out of a section.
pub(super) fn switch(section: &mut toml::Table, key: &str) -> Result<Option<bool>, BadSection> {
    match section.remove(key) {
        None => Ok(None),
        Some(toml::Value::Boolean(value)) => Ok(Some(value)),
        Some(_) => Err(BadSection(format!("`{key}` is neither `true` nor `false`"))),
    }
}

/// Refuses what is left of a section, with the keys that there are.
pub(super) fn no_more(section: &toml::Table, known: &str) -> Result<(), BadSection> {
    match section.keys().next() {
        None => Ok(()),
        Some(key) => Err(BadSection(format!("`{key}` is no key of it; there are {known}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(text: &str) -> Result<Route, BadSection> {
        Route::take(&mut text.parse().unwrap())
    }

    #[test]
    fn a_proxy_is_found_for_each_address_and_its_password_is_not_shown() {
        let route = route("proxy = \"http://me:sEcReT@proxy:3128\"\nno_proxy = \"inside.example,10.0.0.0/8\"").unwrap();
        assert!(!format!("{route:?}").contains("sEcReT"));
        let through = |url: &str| super::through(&route.proxies(), &Url::parse(url).unwrap());
        assert_eq!(through("https://bucket.example/x").as_deref(), Some("proxy:3128"));
        assert_eq!(through("http://bucket.example/x").as_deref(), Some("proxy:3128"));
        assert_eq!(through("https://s3.inside.example/x"), None);
        assert_eq!(through("http://10.1.2.3/x"), None);
    }

    #[test]
    fn a_proxy_s_refusal_is_told_from_the_host_s() {
        let proxies = route("proxy = \"http://me:sEcReT@proxy:3128\"").unwrap().proxies();
        let words = &crate::source::fake::WORDS;
        let refused = |url: &str, status: u16, challenge: &str| {
            let headers = HeaderMap::from_iter([(WWW_AUTHENTICATE, challenge.parse().unwrap())]);
            let status = StatusCode::from_u16(status).unwrap();
            super::refused(&proxies, words, &Url::parse(url).unwrap(), (status, &headers))
                .map(|error| error.to_string())
        };
        for (url, status, challenge) in [
            ("http://hub/x", 407, ""),
            ("https://hub/x", 407, ""),
            ("http://hub/x", 401, "Basic realm=\"Tinyproxy\""),
            ("http://hub/x", 401, "basic"),
        ] {
            let said = refused(url, status, challenge).unwrap();
            assert!(
                said.contains("proxy:3128") && said.contains(&status.to_string()) && !said.contains("sEcReT"),
                "{said}"
            );
        }
        for (url, status, challenge) in [
            ("http://hub/x", 401, "Bearer realm=\"hub\""),
            ("http://hub/x", 401, ""),
            ("https://hub/x", 401, "Basic realm=\"a page before the hub\""),
            ("http://hub/x", 403, "Basic"),
        ] {
            assert_eq!(refused(url, status, challenge), None, "{url} {status} {challenge}");
        }
        let none = Matcher::builder().build();
        let asked = (StatusCode::PROXY_AUTHENTICATION_REQUIRED, &HeaderMap::new());
        assert!(super::refused(&none, words, &Url::parse("http://hub/x").unwrap(), asked).is_none());
    }

    #[test]
    fn a_key_that_cannot_be_used_is_named_without_its_value() {
        for (text, word) in [
            ("proxy = \"me:sEcReT@proxy\"", "`proxy`"),
            ("proxy = \"socks9://me:sEcReT@proxy\"", "`proxy`"),
            ("proxy = 3128", "`proxy`"),
            ("ca_file = \"ca.pem\"", "absolute"),
            ("no_proxy = [\"a\"]", "`no_proxy`"),
        ] {
            let error = route(text).unwrap_err().to_string();
            assert!(error.contains(word) && !error.contains("sEcReT"), "{text}: {error}");
        }
        assert!(matches!(route("proxy = \"none\"").unwrap().proxy, Through::Nothing));
    }

    #[test]
    fn certificates_that_cannot_be_read_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        for content in [None, Some("nothing"), Some("-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n")] {
            if let Some(content) = content {
                fs::write(&path, content).unwrap();
            }
            let route = route(&format!("ca_file = {:?}", path.display().to_string())).unwrap();
            let words = &crate::source::fake::WORDS;
            let error = route.applied(reqwest::Client::builder(), words).unwrap_err();
            assert!(error.to_string().contains("ca.pem"), "{content:?}: {error}");
        }
    }
}
