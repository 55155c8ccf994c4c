//! The connection to a store: the crate's client for one bucket, over our own HTTP client, which goes the way that the
//! settings say and keeps of a refusal what may be shown.

use std::{sync::Arc, time::Duration};

use http_body_util::{BodyExt as _, Limited};
use hyper_util::client::proxy::matcher::Matcher;
use object_store::{
    ClientOptions, ObjectStore, RetryConfig,
    aws::AmazonS3Builder,
    azure::MicrosoftAzureBuilder,
    client::{HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService},
    gcp::GoogleCloudStorageBuilder,
    http::HttpBuilder,
};
use reqwest::{Client, StatusCode, Url, header::RETRY_AFTER, redirect};
use weightsd_segment::environment::variable;

use super::{
    profile::{self, ProfileKeys},
    settings::{BucketSettings, Cloud},
};
use crate::{
    source::{SourceError, SourceProblem, Words},
    sources::route::{self, host},
};

/// What this program calls itself.
const USER_AGENT: &str = concat!("weightsd/", env!("CARGO_PKG_VERSION"));
/// Bytes of a refusal that are looked at for the store's reason.
const REFUSAL_BYTES_MAX: usize = 16_000;
/// Longest reason of a store that is shown, in bytes.
const CODE_BYTES_MAX: usize = 60;
/// How long the service that tells a machine of its role may take: on most machines there is none.
const METADATA_DEADLINE: Duration = Duration::from_secs(1);

/// Why a request failed, as far as may be shown. Travels inside the crate's errors.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the request failed")]
pub(super) enum Failure {
    /// No answer.
    Broken(SourceError),
    /// Another status than success.
    Refused(Refusal),
}

/// What a store said instead of an answer.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    pub(super) host: String,
    pub(super) status: StatusCode,
    /// The store's own name for the reason, such as `AccessDenied`.
    pub(super) code: Option<String>,
    pub(super) after: Option<Duration>,
}

/// Makes the crate's HTTP clients.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    client: Client,
    /// For the services of the machine itself, to which no proxy leads.
    metadata: Client,
    proxies: Arc<Matcher>,
    words: &'static Words,
}

impl Connector {
    /// Starts nothing.
    ///
    /// # Errors
    /// When the settings make every request impossible.
    pub(super) fn new(settings: &BucketSettings) -> Result<Self, SourceError> {
        let words = settings.cloud.words();
        let unusable = |_| {
            let setting = "certificates or proxies (SSL_CERT_FILE, SSL_CERT_DIR, HTTPS_PROXY)";
            words.error(SourceProblem::Unusable { setting, problem: "the HTTP client cannot be made".to_owned() })
        };
        let usual = || {
            // A redirect would lead to a host for which the request is not signed.
            let builder = Client::builder().user_agent(USER_AGENT).redirect(redirect::Policy::none());
            builder.pool_idle_timeout(Duration::from_secs(30)).http1_only()
        };
        let client = settings.route.applied(usual().connect_timeout(settings.connect_deadline), words)?;
        let metadata = usual().no_proxy().connect_timeout(METADATA_DEADLINE);
        Ok(Self {
            client: client.build().map_err(unusable)?,
            metadata: metadata.build().map_err(unusable)?,
            proxies: Arc::new(settings.route.proxies()),
            words,
        })
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait::async_trait]
impl HttpService for Connector {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let url = Url::parse(&request.uri().to_string()).ok();
        if url.as_ref().is_some_and(is_of_the_machine) {
            return HttpService::call(&self.metadata, request).await;
        }
        let answer = HttpService::call(&self.client, request).await.map_err(|error| match &url {
            Some(url) => self.broken(url, &error),
            None => error,
        })?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let host = url.as_ref().map(host).unwrap_or_default();
        let of_proxy = |url| route::refused(&self.proxies, self.words, url, (answer.status(), answer.headers()));
        if let Some(refused) = url.as_ref().and_then(of_proxy) {
            return Err(HttpError::new(HttpErrorKind::Unknown, Failure::Broken(refused)));
        }
        let (status, after) = (answer.status(), retry_after(&answer));
        let body = Limited::new(answer.into_body(), REFUSAL_BYTES_MAX).collect().await;
        let code = body.ok().and_then(|body| code(&String::from_utf8_lossy(&body.to_bytes())));
        let refusal = Failure::Refused(Refusal { host, status, code, after });
        Err(HttpError::new(HttpErrorKind::Unknown, refusal))
    }
}

impl Connector {
    fn broken(&self, url: &Url, error: &HttpError) -> HttpError {
        let is_connect = error.kind() == HttpErrorKind::Connect;
        let broken = route::unreachable(&self.proxies, self.words, url, (is_connect, deepest(error)));
        HttpError::new(HttpErrorKind::Unknown, Failure::Broken(broken))
    }
}

/// Whether an address is that of a service by which a cloud tells a machine or container of its role.
fn is_of_the_machine(url: &Url) -> bool {
    matches!(url.host_str(), Some("169.254.169.254" | "169.254.170.2" | "169.254.170.23" | "metadata.google.internal"))
}

/// The last two causes of an error: those before them repeat addresses.
pub(super) fn deepest(error: &(dyn std::error::Error + 'static)) -> String {
    let causes: Vec<String> =
        std::iter::successors(error.source(), |error| error.source()).map(ToString::to_string).collect();
    let last = causes.len().saturating_sub(2);
    let text = causes[last..].join(": ");
    weightsd_core::shown::shown_up_to(if text.is_empty() { "the request failed" } else { &text }, 200)
}

fn retry_after(answer: &HttpResponse) -> Option<Duration> {
    let seconds = answer.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// The reason in a refusal, `<Code>NoSuchBucket</Code>`. The rest of it repeats what was sent, signatures included.
fn code(body: &str) -> Option<String> {
    let (code, _) = body.split_once("<Code>")?.1.split_once("</Code>")?;
    let is_name = code.len() <= CODE_BYTES_MAX && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_name.then(|| code.to_owned())
}

/// The crate's client for a bucket; of the web, for a host.
pub(super) fn open(
    settings: &BucketSettings,
    connector: &Connector,
    place: &str,
) -> Result<Arc<dyn ObjectStore>, object_store::Error> {
    let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    // The deadlines are ours.
    let options = ClientOptions::new().with_timeout_disabled().with_allow_http(true);
    let endpoint = settings.endpoint.as_ref().map(|url| url.as_str().trim_end_matches('/').to_owned());
    Ok(match settings.cloud {
        Cloud::S3 => Arc::new(
            s3(settings, endpoint)
                .with_bucket_name(place)
                .with_retry(retry)
                .with_client_options(options)
                .with_http_connector(connector.clone())
                .build()?,
        ),
        Cloud::Gs => {
            let mut builder = GoogleCloudStorageBuilder::from_env().with_skip_signature(settings.anonymous);
            if let Some(endpoint) = endpoint {
                builder = builder.with_base_url(&endpoint);
            }
            let builder = builder.with_bucket_name(place).with_retry(retry).with_client_options(options);
            Arc::new(builder.with_http_connector(connector.clone()).build()?)
        }
        Cloud::Az => {
            let mut builder = MicrosoftAzureBuilder::from_env().with_skip_signature(settings.anonymous);
            if let Some(endpoint) = endpoint {
                builder = builder.with_endpoint(endpoint);
            }
            let builder = builder.with_container_name(place).with_retry(retry).with_client_options(options);
            Arc::new(builder.with_http_connector(connector.clone()).build()?)
        }
        Cloud::Https => {
            let address = endpoint.unwrap_or_else(|| format!("https://{place}"));
            let builder = HttpBuilder::new().with_url(address).with_retry(retry).with_client_options(options);
            Arc::new(builder.with_http_connector(connector.clone()).build()?)
        }
    })
}

/// Keys of the environment count before those of the profile, as for the AWS tools.
fn s3(settings: &BucketSettings, endpoint: Option<String>) -> AmazonS3Builder {
    let mut builder = AmazonS3Builder::from_env().with_skip_signature(settings.anonymous);
    let of_variables = settings.cloud.has_variable(&|name: &str| variable(name).filter(|_| name != "AWS_PROFILE"));
    let profile = if of_variables { None } else { profile::read() };
    if profile.is_some() {
        builder = builder.with_credentials(Arc::new(ProfileKeys));
    }
    let has = |names: [&str; 2]| names.iter().any(|name| variable(name).is_some());
    let (of_profile, region) = profile.map(|profile| (profile.endpoint, profile.region)).unwrap_or_default();
    let region = settings.region.clone().or(region.filter(|_| !has(["AWS_REGION", "AWS_DEFAULT_REGION"])));
    if let Some(region) = region {
        builder = builder.with_region(region);
    }
    let of_profile = of_profile.filter(|_| !has(["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"]));
    if let Some(endpoint) = endpoint.or(of_profile) {
        builder = builder.with_config(object_store::aws::AmazonS3ConfigKey::S3Endpoint, endpoint);
    }
    builder
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_refusal_only_the_reason_is_kept() {
        let body = "<Error><Code>SignatureDoesNotMatch</Code><AWSAccessKeyId>AKIA</AWSAccessKeyId></Error>";
        assert_eq!(code(body).as_deref(), Some("SignatureDoesNotMatch"));
        for other in ["", "<Code>", "<Code>a b</Code>", "<Code>\u{1b}[31m</Code>"] {
            assert_eq!(code(other), None, "{other:?}");
        }
    }
}
