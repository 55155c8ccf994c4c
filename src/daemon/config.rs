//! The daemon's configuration, complete, with nothing opened yet. [`Config::build`] opens files and folders once the socket
//! is bound, so that no other daemon can be at work in them.

use std::{path::PathBuf, sync::Arc, time::Duration};

use weightsd_core::{
    hub_env::TokenSource,
    places::{self, Platform},
    policy::{Idle, KeepAliveLimits},
};
use weightsd_segment::environment::{not_utf8, variable};

use super::settings::{Settings, SettingsError};
use crate::{
    cache::CacheConfig,
    derive::{Engines, Images},
    lanes::hold_at_most,
    resolve::Places,
    snapshot::Attestations,
    sources,
};

/// Variables that the daemon reads, and that a value which is not UTF-8 would silently switch off.
const VARIABLES: [&str; 12] = [
    "HOME",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HUGGINGFACE_HUB_CACHE",
    "HF_ENDPOINT",
    "HF_TOKEN",
    "HF_TOKEN_PATH",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_RUNTIME_DIR",
    "WEIGHTSD_CONFIG",
    "WEIGHTSD_SOCKET",
];

/// Every value that the daemon works with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Path of the socket.
    pub socket: PathBuf,
    /// Most connections at once.
    pub connections: usize,
    /// How long a shutdown may take.
    pub grace: Duration,
    /// Where models are looked up, and the sources that they come from. No source was asked yet.
    pub places: Places,
    /// How long components stay warm.
    pub keep_alive: KeepAliveLimits,
    /// How long one load may take, downloads and computing not counted.
    pub load_deadline: Duration,
    /// Where the hub's token comes from, for the log.
    token: TokenSource,
    /// The database of attestations; `None` keeps them in memory.
    pub attestations: Option<PathBuf>,
    /// The note about the MLX that computes here; `None` keeps it in memory.
    pub engine: Option<PathBuf>,
    /// The folder of derived images; `None` where there is no home.
    pub image_folder: Option<PathBuf>,
    /// Bytes that images may take together.
    pub image_budget: u64,
    /// What components that nobody holds may take together.
    pub idle: Idle,
    /// Bytes that downloads and images leave free on the disk.
    pub free_space_floor: u64,
    /// Whether components whose files were here before are hashed after they are lent.
    pub verify_afterwards: bool,
    /// Every setting with the value in force.
    pub settings: Settings,
}

impl Settings {
    /// The configuration, with defaults for settings that nobody made. Opens nothing.
    ///
    /// # Errors
    /// When a variable of the environment that counts here cannot be used, or settings contradict each other.
    pub fn complete(mut self) -> Result<Config, SettingsError> {
        if let Some(name) = not_utf8(&VARIABLES) {
            return Err(SettingsError::Variable { name, problem: "its value is not UTF-8".to_owned() });
        }
        let keep_alive = self.keep_alive_limits()?;
        let hub = self.hub()?;
        let sources = sources::open(&hub, &self.source)?;
        let uid = rustix::process::getuid().as_raw();
        let socket = self.socket.get_or_insert_with(|| places::socket(&variable, uid, Platform::current())).clone();
        self.own_cache = self.own_cache.or_else(|| places::own_cache(&variable, Platform::current()));
        let images = || self.own_cache.as_ref().map(|folder| folder.join("images"));
        self.image_folder = self.image_folder.clone().or_else(images);
        self.hub_cache = self.hub_cache.or_else(|| places::hub_cache(&variable).filter(|path| path.is_absolute()));
        Ok(Config {
            socket,
            places: Places {
                home: variable("HOME").map(PathBuf::from),
                hub_cache: self.hub_cache.clone(),
                own_cache: self.own_cache.clone(),
                sources,
            },
            keep_alive,
            load_deadline: self.load_deadline(),
            attestations: self.own_cache.as_ref().map(|folder| folder.join("attestations.redb")),
            engine: self.own_cache.as_ref().map(|folder| folder.join("engine.json")),
            image_folder: self.image_folder.clone(),
            image_budget: self.image_budget().as_u64(),
            idle: Idle {
                components: self.idle_components().get(),
                files: usize::MAX, // Known when the limit of open files was raised.
                memory_bytes: self.idle_memory().as_u64(),
            },
            free_space_floor: self.free_space().as_u64(),
            verify_afterwards: self.verify(),
            connections: self.connections().get(),
            grace: self.grace(),
            token: hub.token,
            settings: self,
        })
    }
}

/// Descriptors of the daemon's own: log, sockets, pipes, the hub's connections, files that are read for a moment.
const OWN_FILES: usize = 128;

/// Files that may be held open beside `connections`. Half of the limit where it is too small for both: the rest is for
/// whoever comes next.
fn files_to_hold(connections: usize) -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    limit.saturating_sub(connections + OWN_FILES).max(limit / 2)
}

impl Config {
    /// Says which settings are in force, one line in all. The hub's token is not a setting, and is not shown.
    pub fn log(&self) {
        let shown: Vec<_> =
            self.settings.shown().into_iter().map(|(name, value)| format!("{name}={value:?}")).collect();
        tracing::info!(token = ?self.token, "settings: {}", shown.join(" "));
    }

    /// Sets up what the cache works with.
    #[must_use]
    pub fn build(self) -> CacheConfig {
        let files = files_to_hold(self.connections);
        hold_at_most(files);
        CacheConfig {
            places: self.places,
            keep_alive: self.keep_alive,
            load_deadline: self.load_deadline,
            attestations: Arc::new(Attestations::new(self.attestations)),
            verify_afterwards: self.verify_afterwards,
            free_space_floor: self.free_space_floor,
            images: Arc::new(Images::new(self.image_folder)),
            engines: Arc::new(Engines::new(self.engine)),
            image_budget: self.image_budget,
            idle: Idle { files: files / 2, ..self.idle },
        }
    }
}
