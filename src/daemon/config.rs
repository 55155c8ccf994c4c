//! What the daemon works with, complete and plain. Nothing in a [`Config`] was opened; [`Config::build`] opens, once the
//! socket is bound and no other daemon can be at work in the same folders.

use std::{path::PathBuf, sync::Arc, time::Duration};

use weightsd_core::policy::KeepAliveLimits;

use super::settings::Settings;
use crate::{
    cache::CacheConfig,
    derive::Images,
    hub::{Hub, HubSettings},
    resolve::Places,
    snapshot::Attestations,
};

/// Every value that the daemon works with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Path of the socket.
    pub socket: PathBuf,
    /// Most connections at once.
    pub connections: usize,
    /// How long a shutdown may take.
    pub grace: Duration,
    /// Where models are looked up.
    pub places: Places,
    /// How long components stay warm.
    pub keep_alive: KeepAliveLimits,
    /// How long one load may take, downloads and computing not counted.
    pub load_deadline: Duration,
    /// How the hub is dealt with.
    pub hub: HubSettings,
    /// The database of attestations; `None` keeps them in memory.
    pub attestations: Option<PathBuf>,
    /// The folder of derived images; `None` where there is no home.
    pub image_folder: Option<PathBuf>,
    /// Bytes that images may take together.
    pub image_budget: u64,
    /// Bytes that downloads and images leave free on the disk.
    pub free_space_floor: u64,
    /// Whether components whose files were here before are hashed after they are lent.
    pub verify_afterwards: bool,
    /// Every setting with the value in force.
    pub settings: Settings,
}

impl Config {
    /// Says which settings are in force, one line in all. The hub's token is not a setting, and is not shown.
    pub fn log(&self) {
        let shown: Vec<_> =
            self.settings.shown().into_iter().map(|(name, value)| format!("{name}={value:?}")).collect();
        tracing::info!(token = ?self.hub.token, "settings: {}", shown.join(" "));
    }

    /// Sets up what the cache works with.
    #[must_use]
    pub fn build(self) -> CacheConfig {
        CacheConfig {
            places: self.places,
            keep_alive: self.keep_alive,
            load_deadline: self.load_deadline,
            hub: Arc::new(Hub::new(self.hub)),
            attestations: Arc::new(Attestations::new(self.attestations)),
            verify_afterwards: self.verify_afterwards,
            free_space_floor: self.free_space_floor,
            images: Arc::new(Images::new(self.image_folder)),
            image_budget: self.image_budget,
        }
    }
}
