//! Requests to the hub and to the hosts that it redirects to: redirects are followed here, so that the token goes to
//! the hub and to nobody else, and what the hub says on the way is kept.

use std::time::Duration;

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::{
    Client, Method, Response, StatusCode, Url,
    header::{
        ACCEPT_ENCODING, AUTHORIZATION, CONTENT_RANGE, ETAG, HeaderMap, HeaderValue, IF_RANGE, LOCATION, RANGE,
        RETRY_AFTER,
    },
    redirect,
};
use weightsd_core::{listing::BlobName, shown::shown_up_to};

use super::{HubSettings, endpoint::Endpoint, settings::WORDS, token::Token};
use crate::{
    source::{Body, ByteRange, Content, Probe, SourceError, SourceProblem},
    sources::route::{self, host},
};

/// Most redirects that are followed.
const REDIRECTS_MAX: usize = 5;
/// Bytes of a host's words that are shown.
const MESSAGE_BYTES_MAX: usize = 200;
/// Longest time that a `Retry-After` is believed.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3600);

/// What this program calls itself.
pub(super) const USER_AGENT: &str = concat!("weightsd/", env!("CARGO_PKG_VERSION"));

/// Sends requests.
#[derive(Debug)]
pub(super) struct Http {
    client: Client,
    endpoint: Endpoint,
    proxies: Matcher,
    answer_deadline: Duration,
}

/// An answer with a good status.
#[derive(Debug)]
pub(super) struct Answer {
    /// The content, its body not read yet.
    pub(super) content: Content,
    /// The address that sends the body.
    pub(super) url: Url,
    /// The address of the next page of a listing, as the `Link` header gives it.
    pub(super) next_page: Option<String>,
}

/// What the hub said beside a refusal.
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) code: Option<String>,
    pub(super) message: String,
    /// The commit that the hub says the answer is about.
    pub(super) commit: Option<String>,
    pub(super) after: Option<Duration>,
    pub(super) host: String,
    pub(super) from_hub: bool,
    pub(super) with_token: bool,
    /// The address that refused, when a redirect led there.
    pub(super) redirected_to: Option<String>,
}

/// What came instead of an answer.
pub(super) enum NoAnswer {
    /// The host cannot be reached, or the answer cannot be used.
    Broken(SourceError),
    /// Another status than success.
    Refused(Refusal),
}

impl From<SourceError> for NoAnswer {
    fn from(error: SourceError) -> Self {
        Self::Broken(error)
    }
}

impl Http {
    pub(super) fn new(settings: &HubSettings) -> Result<Self, SourceError> {
        let endpoint = Endpoint::parse(&settings.endpoint)?;
        let client = settings.route.applied(Client::builder(), &WORDS)?;
        let client = client
            .user_agent(USER_AGENT)
            .connect_timeout(settings.connect_deadline)
            .redirect(redirect::Policy::none())
            .pool_idle_timeout(Duration::from_secs(30))
            .http1_only()
            .build()
            .map_err(|error| {
                WORDS.error(SourceProblem::Unusable {
                    setting: "certificates or proxies (SSL_CERT_FILE, SSL_CERT_DIR, HTTPS_PROXY)",
                    problem: causes(&error),
                })
            })?;
        Ok(Self { client, endpoint, proxies: settings.route.proxies(), answer_deadline: settings.answer_deadline })
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// `GET url`, redirects followed.
    pub(super) async fn get(
        &self,
        url: Url,
        range: Option<&ByteRange>,
        token: Option<&Token>,
    ) -> Result<Answer, NoAnswer> {
        let deadline = self.answer_deadline;
        let sent_to = host(&url);
        let late = |_| {
            WORDS.error(SourceProblem::Unreachable { host: sent_to, problem: format!("no answer within {deadline:?}") })
        };
        tokio::time::timeout(deadline, self.follow(url, range, token)).await.map_err(late)?
    }

    /// Asks whether somebody with this token would get an answer: contents by their head, and without following where the
    /// hub sends for them.
    pub(super) async fn probe(&self, url: Url, probe: Probe, token: Option<&Token>) -> Result<(), NoAnswer> {
        let method = match probe {
            Probe::Info => Method::GET,
            Probe::Content => Method::HEAD,
        };
        let mut request = self.client.request(method, url.clone()).timeout(self.answer_deadline);
        if let Some(authorization) = token.and_then(Token::header) {
            request = request.header(AUTHORIZATION, authorization);
        }
        let response = request.send().await.map_err(|error| self.unreachable(&url, &error))?;
        let status = response.status();
        if status.is_success() || status.is_redirection() {
            return Ok(());
        }
        if let Some(error) = route::refused(&self.proxies, &WORDS, &url, (status, response.headers())) {
            return Err(error.into());
        }
        Err(NoAnswer::Refused(Refusal::new(status, response.headers(), host(&url), true, token.is_some())))
    }

    async fn follow(&self, url: Url, range: Option<&ByteRange>, token: Option<&Token>) -> Result<Answer, NoAnswer> {
        let (mut blob, mut commit) = (None, None);
        let mut seen = vec![url];
        while let [.., url] = &seen[..]
            && seen.len() <= REDIRECTS_MAX + 1
        {
            let from_hub = self.endpoint.owns(url);
            let authorization = token.filter(|_| from_hub).and_then(Token::header);
            let with_token = authorization.is_some();
            let response = self.send(url, range, authorization).await?;
            let headers = response.headers();
            if from_hub {
                let linked = text(headers, "x-linked-etag").or_else(|| text(headers, ETAG.as_str()));
                blob = blob.or_else(|| linked.and_then(|etag| BlobName::parse(bare_etag(etag))));
                commit = commit.or_else(|| text(headers, "x-repo-commit").map(str::to_owned));
            }
            let status = response.status();
            if status.is_redirection() && headers.contains_key(LOCATION) {
                let malformed = |problem: String| WORDS.error(SourceProblem::Malformed { host: host(url), problem });
                let location = text(headers, LOCATION.as_str());
                let location = location.ok_or_else(|| malformed("an unreadable redirect".to_owned()))?;
                let next = self.endpoint.redirected(&seen, location).map_err(malformed)?;
                seen.push(next);
                continue;
            }
            if let Some(error) = route::refused(&self.proxies, &WORDS, url, (status, headers)) {
                return Err(error.into());
            }
            if !status.is_success() {
                let redirected_to = (seen.len() > 1).then(|| where_to(url, from_hub));
                return Err(NoAnswer::Refused(Refusal {
                    redirected_to,
                    ..Refusal::new(status, headers, host(url), from_hub, with_token)
                }));
            }
            let url = url.clone();
            return Ok(answer(response, blob, commit, url)?);
        }
        let problem = format!("more than {REDIRECTS_MAX} redirects");
        Err(WORDS.error(SourceProblem::Malformed { host: self.endpoint.host(), problem }).into())
    }

    async fn send(
        &self,
        url: &Url,
        range: Option<&ByteRange>,
        authorization: Option<HeaderValue>,
    ) -> Result<Response, SourceError> {
        let mut request = self.client.get(url.clone()).header(ACCEPT_ENCODING, "identity");
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if let Some(range) = range {
            request = request.header(RANGE, range_header(range));
            if let Some(validator) = &range.validator {
                request = request.header(IF_RANGE, validator);
            }
        }
        request.send().await.map_err(|error| self.unreachable(url, &error))
    }

    /// Whether a proxy stands between here and the hub.
    pub(super) fn has_proxy(&self) -> bool {
        route::through(&self.proxies, &self.endpoint.url(&[])).is_some()
    }

    /// The error of a request that got no answer.
    pub(super) fn unreachable(&self, url: &Url, error: &reqwest::Error) -> SourceError {
        route::unreachable(&self.proxies, &WORDS, url, (error.is_connect(), causes(error)))
    }
}

/// The part of a redirect's target that may be shown. Addresses of other hosts can hold signatures.
fn where_to(url: &Url, is_hub: bool) -> String {
    let path = if is_hub { shown_up_to(url.path(), MESSAGE_BYTES_MAX) } else { String::new() };
    format!("{}{path}", host(url))
}

impl Refusal {
    fn new(status: StatusCode, headers: &HeaderMap, host: String, from_hub: bool, with_token: bool) -> Self {
        let message = text(headers, "x-error-message").unwrap_or("no reason given");
        Self {
            status,
            code: text(headers, "x-error-code").map(str::to_owned),
            message: shown_up_to(message, MESSAGE_BYTES_MAX),
            commit: text(headers, "x-repo-commit").map(str::to_owned),
            after: retry_after(headers),
            host,
            from_hub,
            with_token,
            redirected_to: None,
        }
    }
}

#[async_trait::async_trait]
impl Body for Response {
    async fn piece(&mut self) -> Result<Option<bytes::Bytes>, String> {
        self.chunk().await.map_err(|error| causes(&error))
    }
}

/// The address of `<address>; rel="next"` in a `Link` header, which may hold several, with commas in their addresses.
fn next_link(header: &str) -> Option<&str> {
    let mut links = header.split('<').filter_map(|link| link.split_once('>'));
    links
        .find(|(_, parameters)| parameters.contains("rel=\"next\"") || parameters.contains("rel=next"))
        .map(|(url, _)| url)
}

fn answer(response: Response, blob: Option<BlobName>, commit: Option<String>, url: Url) -> Result<Answer, SourceError> {
    let host = host(&url);
    let headers = response.headers();
    let length = response.content_length();
    let (offset, total) = if response.status() == StatusCode::PARTIAL_CONTENT {
        let range = text(headers, CONTENT_RANGE.as_str()).unwrap_or_default();
        let parsed = content_range(range).ok_or_else(|| {
            WORDS.error(SourceProblem::Malformed {
                host: host.clone(),
                problem: format!("part of the file, but which? `Content-Range: {}`", shown_up_to(range, 80)),
            })
        })?;
        (parsed.0, parsed.1)
    } else {
        (0, length)
    };
    // A weak validator, or a date, is not good enough for putting parts together.
    let validator = text(headers, ETAG.as_str()).filter(|etag| etag.starts_with('"')).map(str::to_owned);
    let next_page = text(headers, "link").and_then(next_link).map(str::to_owned);
    let content = Content { blob, commit, offset, total, validator, host, words: &WORDS, body: Box::new(response) };
    Ok(Answer { content, url, next_page })
}

/// `bytes 5-9/10` or `bytes 5-9/*`: the first byte, and the length of the file.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.trim().strip_prefix("bytes")?.trim_start().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let total: Option<u64> = if total == "*" { None } else { Some(total.parse().ok()?) };
    (first <= last && total.is_none_or(|total| last < total)).then_some((first, total))
}

fn range_header(range: &ByteRange) -> String {
    match range.to {
        Some(to) => format!("bytes={}-{}", range.from, to.saturating_sub(1)),
        None => format!("bytes={}-", range.from),
    }
}

fn bare_etag(etag: &str) -> &str {
    etag.trim().trim_start_matches("W/").trim_matches('"')
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Seconds, or a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = text(headers, RETRY_AFTER.as_str())?.trim();
    let after = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let at = httpdate::parse_http_date(text).ok()?;
            at.duration_since(std::time::SystemTime::now()).unwrap_or_default()
        }
    };
    Some(after.min(RETRY_AFTER_MAX))
}

/// The causes of an error without the address, which can hold a signature.
pub(super) fn causes(error: &reqwest::Error) -> String {
    let mut text = String::new();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        // Each level of hyper's repeats the word of the next.
        text = if text.is_empty() { error.to_string() } else { format!("{text}: {error}") };
        cause = error.source();
    }
    if text.is_empty() {
        "the request failed".clone_into(&mut text);
    }
    shown_up_to(&text, MESSAGE_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 0-0/*"), Some((0, None)));
        for bad in ["", "bytes 9-5/10", "bytes 5-10/10", "bytes */10", "items 0-1/2", "bytes -1-2/3", "bytes 0-1"] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_hub_may_say_when_in_two_ways() {
        let after = |value: &str| retry_after(&HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]));
        assert_eq!(after("7"), Some(Duration::from_secs(7)));
        assert_eq!(after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert_eq!(after("99999999999"), Some(RETRY_AFTER_MAX));
        assert_eq!(after("soon"), None);
    }

    #[test]
    fn the_next_page_is_found_among_links() {
        for (header, expected) in [
            ("<http://h/a?x=1,2>; rel=\"next\"", Some("http://h/a?x=1,2")),
            ("<http://h/first>; rel=\"first\", <http://h/b>; rel=\"next\"", Some("http://h/b")),
            ("</c?cursor=x>; rel=next", Some("/c?cursor=x")),
            ("<http://h/a>; rel=\"prev\"", None),
            ("nonsense", None),
        ] {
            assert_eq!(next_link(header), expected, "{header}");
        }
    }

    #[test]
    fn etags_are_taken_out_of_their_quotes() {
        assert_eq!(bare_etag("W/\"ab\""), "ab");
        assert_eq!(bare_etag("\"ab\""), "ab");
    }
}
