//! How object stores are dealt with, and how messages speak of them.

use std::time::Duration;

use reqwest::Url;
use weightsd_core::places::Env;
use weightsd_segment::environment::variable;

use crate::{
    source::{Limits, Words},
    sources::{
        BadSection, Setup,
        route::{self, Route},
    },
};

/// Which kind of store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cloud {
    /// Amazon S3, and what speaks its protocol.
    S3,
    /// Google Cloud Storage.
    Gs,
    /// Azure Blob Storage.
    Az,
    /// Folders of the web that WebDAV lists.
    Https,
}

const S3: Words = Words {
    name: "the S3 store",
    kind: "an S3 store",
    endpoint: "endpoint` in `[source.s3]",
    cache: "weightsd's own cache",
    cache_setting: "`own_cache`",
    log_in: "give the daemon credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile in ~/.aws, or a role",
    credentials: "variables count only where the daemon is started",
};

const GS: Words = Words {
    name: "Google Cloud Storage",
    kind: "a Google Cloud Storage",
    endpoint: "endpoint` in `[source.gs]",
    log_in: "give the daemon credentials: `gcloud auth application-default login`, GOOGLE_APPLICATION_CREDENTIALS, or a role",
    ..S3
};

const AZ: Words = Words {
    name: "Azure Blob Storage",
    kind: "an Azure Blob Storage",
    endpoint: "endpoint` in `[source.az]",
    log_in: "give the daemon AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_KEY, or an identity",
    ..S3
};

const HTTPS: Words = Words {
    name: "the web folder's host",
    kind: "a host that lists folders by WebDAV (PROPFIND)",
    endpoint: "endpoint` in `[source.https]",
    log_in: "folders that want a password cannot be read",
    credentials: "publish the folder for the daemon's machine",
    ..S3
};

impl Cloud {
    /// The scheme of its specs.
    pub(super) fn scheme(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Gs => "gs",
            Self::Az => "az",
            Self::Https => "https",
        }
    }

    /// How messages speak of it.
    pub(super) fn words(self) -> &'static Words {
        match self {
            Self::S3 => &S3,
            Self::Gs => &GS,
            Self::Az => &AZ,
            Self::Https => &HTTPS,
        }
    }

    /// Variables that hold its credentials, or say where they are.
    fn variables(self) -> &'static [&'static str] {
        match self {
            Self::S3 => &[
                "AWS_ACCESS_KEY_ID",
                "AWS_PROFILE",
                "AWS_WEB_IDENTITY_TOKEN_FILE",
                "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
                "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            ],
            Self::Gs => &["GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_KEY"],
            Self::Az => &[
                "AZURE_STORAGE_ACCOUNT_KEY",
                "AZURE_STORAGE_SAS_KEY",
                "AZURE_STORAGE_TOKEN",
                "AZURE_CLIENT_ID",
                "AZURE_FEDERATED_TOKEN_FILE",
            ],
            Self::Https => &[],
        }
    }

    /// Whether a variable of the environment leads to credentials.
    pub(super) fn has_variable(self, env: Env<'_>) -> bool {
        self.variables().iter().any(|name| env(name).is_some_and(|value| !value.is_empty()))
    }
}

/// How a store is dealt with.
#[derive(Debug, Clone)]
pub(super) struct BucketSettings {
    pub(super) cloud: Cloud,
    /// Another address than the cloud's own, without a final `/`.
    pub(super) endpoint: Option<Url>,
    /// The region of an S3 store.
    pub(super) region: Option<String>,
    /// Whether requests go without credentials.
    pub(super) anonymous: bool,
    /// Whether the store's etags of the usual form are MD5s.
    pub(super) checksums: bool,
    pub(super) route: Route,
    pub(super) offline: bool,
    /// How long a listing is believed without asking again.
    pub(super) freshness: Duration,
    pub(super) connect_deadline: Duration,
    pub(super) answer_deadline: Duration,
    pub(super) limits: Limits,
    pub(super) files_at_once: usize,
}

impl BucketSettings {
    /// Reads `[source.NAME]` of the configuration file.
    pub(super) fn read(cloud: Cloud, setup: &Setup<'_>) -> Result<Self, BadSection> {
        const KEYS: &str = "`endpoint`, `region`, `anonymous`, `checksums`, `proxy`, `no_proxy` and `ca_file`";
        let mut section = setup.section.cloned().unwrap_or_default();
        let route = Route::take(&mut section)?;
        let endpoint = route::text(&mut section, "endpoint")?.map(|text| endpoint(&text)).transpose()?;
        let region = route::text(&mut section, "region")?;
        let anonymous = route::switch(&mut section, "anonymous")?.unwrap_or(false);
        let checksums = route::switch(&mut section, "checksums")?.unwrap_or(true);
        route::no_more(&section, KEYS)?;
        Ok(Self {
            cloud,
            endpoint,
            region,
            anonymous,
            checksums,
            route,
            offline: setup.hub.offline,
            freshness: setup.hub.freshness,
            connect_deadline: setup.hub.connect_deadline,
            answer_deadline: setup.hub.answer_deadline,
            limits: setup.hub.limits(),
            files_at_once: setup.hub.files_at_once,
        })
    }

    /// Whether anything leads to credentials; a machine may still have a role that nobody has to name.
    pub(super) fn has_credentials(&self) -> bool {
        !self.anonymous
            && (self.cloud.has_variable(&variable) || (self.cloud == Cloud::S3 && super::profile::read().is_some()))
    }

    /// Where credentials are looked for.
    pub(super) fn looked(&self) -> String {
        match self.cloud {
            _ if self.anonymous => "`anonymous` is set in its section".to_owned(),
            Cloud::S3 => "AWS_ACCESS_KEY_ID, the profile in ~/.aws, and the roles of this machine".to_owned(),
            Cloud::Gs => {
                "GOOGLE_APPLICATION_CREDENTIALS, gcloud's default credentials, and the machine's role".to_owned()
            }
            Cloud::Az => {
                "AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_KEY, and the identities of this machine".to_owned()
            }
            Cloud::Https => "none are sent".to_owned(),
        }
    }
}

fn endpoint(text: &str) -> Result<Url, BadSection> {
    const EXPECTED: &str = "expected an address such as `https://minio.example:9000`";
    let bad = |problem: String| BadSection(format!("`endpoint` {problem}, {EXPECTED}"));
    let url = Url::parse(text.trim_end_matches('/')).map_err(|error| bad(format!("is no address ({error})")))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(bad("is no address of the web".to_owned()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(bad("holds a name or a password".to_owned()));
    }
    Ok(url)
}
