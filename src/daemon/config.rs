//! The daemon's configuration, complete, with nothing opened yet. [`Config::build`] opens files and folders once the socket
//! is bound, so that no other daemon can be at work in them.

use std::{path::PathBuf, sync::Arc, time::Duration};

use weightsd_core::{
    derive::Alignment,
    hub_env::TokenSource,
    places::{self, Platform},
    policy::{Idle, KeepAliveLimits},
};
use weightsd_segment::environment::{not_utf8, variable};

use super::{
    listener::Reach,
    metrics::MetricsPlace,
    settings::{Layers, Origin, Preload, Settings, SettingsError, Shown, Stated},
};
use crate::{
    cache::CacheConfig,
    derive::{Engines, Images},
    guests::Guests,
    lanes::hold_at_most,
    live::Live,
    mirror::MirrorPlace,
    resolve::{Allowed, Places},
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
    /// How long a daemon that nobody needs stays where the service manager starts the next one; `None`: for ever.
    pub idle_exit: Option<Duration>,
    /// How long a shutdown may take.
    pub grace: Duration,
    /// Where models are looked up, and the sources that they come from. No source was asked yet.
    pub places: Places,
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
    /// Whether misaligned tensors get an image in layout MLX.
    pub align_images: bool,
    /// What components that nobody holds may take together.
    pub idle: Idle,
    /// Whether what was loaded before is loaded again.
    pub restore: bool,
    /// Bytes that may be locked in memory together.
    pub pin_budget: u64,
    /// Other users whom the daemon serves.
    pub guests: Guests,
    /// Where metrics are served; `None`: nowhere.
    pub metrics: Option<MetricsPlace>,
    /// Where the mirror is served; `None`: nowhere.
    pub mirror: Option<MirrorPlace>,
    /// Repositories that the mirror gives to everybody.
    pub mirror_allow: Allowed,
    /// What may change while the daemon runs.
    pub changing: Changing,
    /// Every setting with the value in force and its origin.
    pub stated: Vec<Stated>,
    /// Where the settings come from.
    pub layers: Layers,
}

/// The settings that may change while the daemon runs: those of [`Settings::LIVE`]. Clones are the same values.
#[derive(Debug, Clone)]
pub struct Changing {
    /// How long components stay warm.
    pub keep_alive: Live<KeepAliveLimits>,
    /// Bytes that images may take together.
    pub image_budget: Live<u64>,
    /// Bytes that components may take together in the memory of one card.
    pub vram_budget: Live<u64>,
    /// Bytes that downloads and images leave free on the disk.
    pub free_space_floor: Live<u64>,
    /// Whether components whose files were here before are hashed after they are lent.
    pub verify_afterwards: Live<bool>,
    /// Which models may be lent.
    pub allowed: Live<Arc<Allowed>>,
    /// Components that the daemon loads by itself.
    pub preload: Live<Vec<Preload>>,
}

impl Changing {
    fn of(said: &mut Settings, keep_alive: KeepAliveLimits) -> Self {
        let allowed: Arc<Allowed> = Arc::new(said.allow.clone().into());
        Self {
            keep_alive: keep_alive.into(),
            image_budget: said.image_budget().as_u64().into(),
            vram_budget: said.vram_budget.map_or(u64::MAX, |budget| budget.as_u64()).into(),
            free_space_floor: said.free_space().as_u64().into(),
            verify_afterwards: said.verify().into(),
            allowed: allowed.into(),
            preload: said.preload.clone().into(),
        }
    }

    /// Takes over the values of `other`.
    pub(super) fn become_like(&self, other: &Self) {
        self.keep_alive.set(other.keep_alive.get());
        self.image_budget.set(other.image_budget.get());
        self.vram_budget.set(other.vram_budget.get());
        self.free_space_floor.set(other.free_space_floor.get());
        self.verify_afterwards.set(other.verify_afterwards.get());
        self.allowed.set(other.allowed.get());
        self.preload.set(other.preload.get());
    }
}

impl Layers {
    /// The configuration, with defaults for settings that nobody made. Opens nothing but the certificates' place.
    ///
    /// # Errors
    /// When a variable of the environment that counts here cannot be used, or settings contradict each other.
    pub fn complete(self) -> Result<Config, SettingsError> {
        let mut said = self.said();
        if let Some(name) = not_utf8(&VARIABLES) {
            return Err(SettingsError::Variable { name, problem: "its value is not UTF-8".to_owned() });
        }
        let keep_alive = said.keep_alive_limits()?;
        let hub = said.hub()?;
        let sources = sources::open(&hub, &said.source)?;
        let uid = rustix::process::getuid().as_raw();
        let socket = said.socket.get_or_insert_with(|| places::socket(&variable, uid, Platform::current())).clone();
        said.own_cache = said.own_cache.or_else(|| places::own_cache(&variable, Platform::current()));
        let images = || said.own_cache.as_ref().map(|folder| folder.join("images"));
        said.image_folder = said.image_folder.clone().or_else(images);
        said.hub_cache = said.hub_cache.or_else(|| places::hub_cache(&variable).filter(|path| path.is_absolute()));
        let changing = Changing::of(&mut said, keep_alive);
        Ok(Config {
            socket,
            places: Places {
                home: variable("HOME").map(PathBuf::from),
                hub_cache: said.hub_cache.clone(),
                own_cache: said.own_cache.clone(),
                sources,
                allowed: changing.allowed.clone(),
            },
            load_deadline: said.load_deadline(),
            attestations: said.own_cache.as_ref().map(|folder| folder.join("attestations.redb")),
            engine: said.own_cache.as_ref().map(|folder| folder.join("engine.json")),
            image_folder: said.image_folder.clone(),
            align_images: said.align_images(),
            restore: said.restore(),
            connections: said.connections().get(),
            idle_exit: said.idle_exit,
            grace: said.grace(),
            idle: Idle {
                components: said.idle_components().get(),
                files: usize::MAX, // Known when the limit of open files was raised.
                memory_bytes: said.idle_memory().as_u64(),
            },
            pin_budget: said.pin_budget().as_u64(),
            token: hub.token,
            metrics: said.metrics_listen.clone(),
            mirror: said.mirror_listen,
            mirror_allow: said.mirror_allow.clone().into(),
            guests: Guests {
                uids: said.allow_uids.iter().map(|id| id.0).collect(),
                gids: said.allow_gids.iter().map(|id| id.0).collect(),
                rights: said.guests_may.clone(),
            },
            changing,
            stated: stated(said.shown(), self.origins()),
            layers: self,
        })
    }
}

/// Puts together what belongs to one setting.
fn stated(shown: Vec<(&'static str, Shown)>, origins: Vec<Origin>) -> Vec<Stated> {
    let one = |((name, value), origin)| {
        // What has no value comes from nowhere.
        let origin = if value == Shown::Nothing { Origin::Default } else { origin };
        Stated { name, value, origin }
    };
    shown.into_iter().zip(origins).map(one).collect()
}

/// Descriptors of the daemon's own: log, sockets, pipes, the hub's connections, files that are read for a moment.
const OWN_FILES: usize = 128;

/// Files that may be held open beside `connections`. Half of the limit where it is too small for both: the rest is for
/// those who come next.
fn files_to_hold(connections: usize) -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    limit.saturating_sub(connections + OWN_FILES).max(limit / 2)
}

impl Config {
    /// Who can connect to the socket.
    #[must_use]
    pub fn reach(&self) -> Reach {
        if self.guests.are_there() { Reach::Everybody } else { Reach::Owner }
    }

    /// Where the hub's token comes from.
    #[must_use]
    pub fn token(&self) -> &TokenSource {
        &self.token
    }

    /// Says which settings are in force, one line in all. The hub's token is not a setting, and is not shown.
    pub fn log(&self) {
        let shown: Vec<_> =
            self.stated.iter().map(|Stated { name, value, .. }| format!("{name}={:?}", value.to_string())).collect();
        tracing::info!(token = ?self.token, "settings: {}", shown.join(" "));
    }

    /// Sets up what the cache works with.
    #[must_use]
    pub fn build(self) -> CacheConfig {
        let files = files_to_hold(self.connections);
        hold_at_most(files);
        CacheConfig {
            places: self.places,
            keep_alive: self.changing.keep_alive,
            load_deadline: self.load_deadline,
            attestations: Arc::new(Attestations::new(self.attestations)),
            verify_afterwards: self.changing.verify_afterwards,
            free_space_floor: self.changing.free_space_floor,
            images: Arc::new(Images::new(self.image_folder)),
            engines: Arc::new(Engines::new(self.engine)),
            image_budget: self.changing.image_budget,
            vram_budget: self.changing.vram_budget,
            alignment: if self.align_images { Alignment::Mended } else { Alignment::AsStored },
            idle: Idle { files: files / 2, ..self.idle },
            pin_budget: self.pin_budget,
        }
    }
}
