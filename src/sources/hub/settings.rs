//! How the hub is dealt with, and how messages speak of it.

use std::{sync::Arc, time::Duration};

use weightsd_core::hub_env::TokenSource;

use super::Hub;
use crate::{
    source::{Backoff, Limits, Links, Source, Words},
    sources::{
        BadSection, Setup,
        route::{self, Route},
    },
};

/// How messages speak of the hub.
pub(super) const WORDS: Words = Words {
    name: "the hub",
    kind: "a Hugging Face hub",
    endpoint: "hub_endpoint",
    cache: "the Hugging Face cache",
    cache_setting: "`--hub-cache` (`hub_cache`)",
    log_in: "log in with `hf auth login`",
    credentials: "HF_TOKEN counts only where the daemon is started",
};

/// How the hub is dealt with.
#[derive(Debug, Clone)]
pub struct HubSettings {
    /// Its address, without a final `/`.
    pub endpoint: String,
    /// Where the token comes from.
    pub token: TokenSource,
    /// Never ask.
    pub offline: bool,
    /// How long what a branch means is believed without asking again.
    pub freshness: Duration,
    /// How long a connection may take.
    pub connect_deadline: Duration,
    /// How long an answer may take to begin.
    pub answer_deadline: Duration,
    /// How long a content may pause.
    pub stall_deadline: Duration,
    /// What is done about failures that may pass.
    pub backoff: Backoff,
    /// Files that are downloaded at once.
    pub files_at_once: usize,
    /// Whether snapshots get symbolic links.
    pub links: Links,
    /// The way to its hosts.
    pub route: Route,
}

impl HubSettings {
    /// Settings of a hub that is never asked.
    pub(crate) fn never_asked() -> Self {
        Self {
            endpoint: String::new(),
            token: TokenSource::None,
            offline: true,
            freshness: Duration::ZERO,
            connect_deadline: Duration::ZERO,
            answer_deadline: Duration::ZERO,
            stall_deadline: Duration::ZERO,
            backoff: Backoff { tries: 0, pause: Duration::ZERO, pause_max: Duration::ZERO },
            files_at_once: 1,
            links: Links::Symbolic,
            route: Route::default(),
        }
    }

    /// What holds for the transfers of every source.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits { stall: self.stall_deadline, backoff: self.backoff }
    }
}

/// Sets the hub up. Asks nothing.
///
/// # Errors
/// When its section of the configuration has other keys than those of the way to its hosts, or one of these cannot be used.
pub fn open(setup: &Setup<'_>) -> Result<Arc<dyn Source>, BadSection> {
    let mut section = setup.section.cloned().unwrap_or_default();
    let route = Route::take(&mut section)?;
    route::no_more(&section, "`proxy`, `no_proxy` and `ca_file`; the hub's other settings are called `hub_..`")?;
    Ok(Arc::new(Arc::new(Hub::new(HubSettings { route, ..setup.hub.clone() }))))
}
