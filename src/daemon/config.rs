//! Configuration: defaults, overridden by a file, overridden by the command line. The file matters for daemons that
//! launchd or systemd start, since those do not see the user's shell.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytesize::ByteSize;
use serde::{Deserialize, Deserializer};
use weightsd_core::{
    explain::{Explain, Explanation, Reason},
    hub_env::{self, TokenSource},
    places::{self, Platform},
    policy::KeepAliveLimits,
};

use crate::{
    cache::CacheConfig,
    derive::Images,
    hub::{Backoff, Hub, HubSettings, Links},
    resolve::Places,
    snapshot::Attestations,
};

/// Keep-alives over this are cut: a century is for ever.
const KEEP_ALIVE_CEILING: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// What the daemon works with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Path of the socket.
    pub socket: PathBuf,
    /// The cache's part.
    pub cache: CacheConfig,
    /// Most connections at once.
    pub connections: usize,
    /// How long a shutdown may take.
    pub grace: Duration,
}

/// What can be set, in the configuration file (TOML) and on the command line of `serve` (with `-` for `_`). Durations are
/// written like `10min` or `1h 30min`, sizes like `2GB`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, clap::Args)]
#[serde(deny_unknown_fields, default)]
pub struct ConfigFile {
    /// Path of the socket.
    #[arg(skip)]
    pub socket: Option<PathBuf>,
    /// The Hugging Face cache [default: as huggingface_hub finds it]
    #[arg(long, value_name = "DIR", value_parser = absolute)]
    pub hub_cache: Option<PathBuf>,
    /// The folder for what weightsd itself keeps [default: weightsd in the user's caches]
    #[arg(long, value_name = "DIR", value_parser = absolute)]
    pub own_cache: Option<PathBuf>,
    /// The folder for what has to be computed; a tmpfs keeps it in memory [default: images in own_cache]
    #[arg(long, value_name = "DIR", value_parser = absolute)]
    pub image_folder: Option<PathBuf>,
    /// What derived images may take together; the least recently used go [default: 100GB]
    #[arg(long, value_name = "SIZE")]
    pub image_budget: Option<ByteSize>,
    /// How long components stay warm when the client does not say [default: 10min]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    #[serde(deserialize_with = "duration")]
    pub keep_alive: Option<Duration>,
    /// The longest keep-alive that a client is granted [default: 1day]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    #[serde(deserialize_with = "duration")]
    pub keep_alive_max: Option<Duration>,
    /// How long one load may take, downloads and computing not counted [default: 2min]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    #[serde(deserialize_with = "duration")]
    pub load_deadline: Option<Duration>,
    /// How long a shutdown may take [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    #[serde(deserialize_with = "duration")]
    pub grace: Option<Duration>,
    /// Most connections at once [default: 1024]
    #[arg(long, value_name = "N")]
    pub connections: Option<usize>,
    /// Never ask the hub [default: as HF_HUB_OFFLINE says]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub offline: Option<bool>,
    /// Address of the hub [default: HF_ENDPOINT, or `https://huggingface.co`]
    #[arg(long, value_name = "URL")]
    pub hub_endpoint: Option<String>,
    /// File that holds the hub's token [default: as huggingface_hub finds it]
    #[arg(long, value_name = "PATH", value_parser = absolute)]
    pub hub_token_file: Option<PathBuf>,
    /// How long what a branch means is believed without asking the hub again [default: 5min]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    #[serde(deserialize_with = "duration")]
    pub hub_freshness: Option<Duration>,
    /// How long a connection to the hub, and the beginning of an answer, may take [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    #[serde(deserialize_with = "duration")]
    pub hub_deadline: Option<Duration>,
    /// How long a download may pause before another connection is tried [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    #[serde(deserialize_with = "duration")]
    pub hub_stall: Option<Duration>,
    /// How often the hub is asked again after a failure that may pass [default: 4]
    #[arg(long, value_name = "N")]
    pub hub_tries: Option<usize>,
    /// Files that are downloaded at once [default: 4]
    #[arg(long, value_name = "N")]
    pub downloads: Option<usize>,
    /// What downloads and derived images leave free on the disk [default: 1GB]
    #[arg(long, value_name = "SIZE")]
    pub free_space: Option<ByteSize>,
    /// Hash files that were here before, once, after they are lent [default: true]
    #[arg(long, value_name = "BOOL", action = clap::ArgAction::Set)]
    pub verify: Option<bool>,
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text).map(Some).map_err(serde::de::Error::custom)
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    std::path::absolute(text).map_err(|error| error.to_string())
}

/// Why the configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFileError {
    /// It cannot be read.
    #[error("cannot read the configuration file `{}`", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not what is expected.
    #[error("the configuration file `{}` is not usable", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<toml::de::Error>,
    },
}

impl Explain for ConfigFileError {
    fn explain(&self) -> Explanation {
        let (path, hint) = match self {
            Self::Io { path, .. } => {
                (path, "make it readable, or name another file with `--config` or WEIGHTSD_CONFIG")
            }
            Self::Toml { path, .. } => {
                (path, "`weightsd serve --help` lists the settings; in the file they have `_` for `-`")
            }
        };
        Explanation::new(Reason::InvalidRequest, path.display().to_string(), hint)
    }
}

impl ConfigFile {
    /// Reads the file at `named`, or the one in the usual place if there is one.
    ///
    /// # Errors
    /// [`ConfigFileError`]; a file in the usual place may be absent, a named one may not.
    pub fn load(named: Option<&Path>) -> Result<Self, ConfigFileError> {
        let usual = || places::config_file(&variable, Platform::current());
        let Some(path) = named.map(Path::to_owned).or_else(usual) else { return Ok(Self::default()) };
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && named.is_none() => return Ok(Self::default()),
            Err(source) => return Err(ConfigFileError::Io { path, source }),
        };
        toml::from_str(&text).map_err(|source| ConfigFileError::Toml { path, source: Box::new(source) })
    }

    /// The values of `self` where it has some, of `other` where not.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            socket: self.socket.or(other.socket),
            hub_cache: self.hub_cache.or(other.hub_cache),
            own_cache: self.own_cache.or(other.own_cache),
            image_folder: self.image_folder.or(other.image_folder),
            image_budget: self.image_budget.or(other.image_budget),
            keep_alive: self.keep_alive.or(other.keep_alive),
            keep_alive_max: self.keep_alive_max.or(other.keep_alive_max),
            load_deadline: self.load_deadline.or(other.load_deadline),
            grace: self.grace.or(other.grace),
            connections: self.connections.or(other.connections),
            offline: self.offline.or(other.offline),
            hub_endpoint: self.hub_endpoint.or(other.hub_endpoint),
            hub_token_file: self.hub_token_file.or(other.hub_token_file),
            hub_freshness: self.hub_freshness.or(other.hub_freshness),
            hub_deadline: self.hub_deadline.or(other.hub_deadline),
            hub_stall: self.hub_stall.or(other.hub_stall),
            hub_tries: self.hub_tries.or(other.hub_tries),
            downloads: self.downloads.or(other.downloads),
            free_space: self.free_space.or(other.free_space),
            verify: self.verify.or(other.verify),
        }
    }

    /// The configuration, with defaults where nothing is said.
    #[must_use]
    pub fn complete(self) -> Config {
        let max = self.keep_alive_max.unwrap_or(Duration::from_secs(24 * 3600)).min(KEEP_ALIVE_CEILING);
        let default = self.keep_alive.unwrap_or(Duration::from_secs(10 * 60)).min(max);
        let hub = Arc::new(Hub::new(self.hub()));
        let own_cache = self.own_cache.or_else(|| places::own_cache(&variable, Platform::current()));
        let image_folder = self.image_folder.or_else(|| own_cache.as_ref().map(|folder| folder.join("images")));
        let attestations = Arc::new(Attestations::new(own_cache.map(|folder| folder.join("attestations.redb"))));
        let hub_cache = self.hub_cache.or_else(|| places::hub_cache(&variable)).filter(|path| path.is_absolute());
        Config {
            socket: self.socket.unwrap_or_else(default_socket),
            cache: CacheConfig {
                places: Places { home: variable("HOME").map(PathBuf::from), hub_cache },
                keep_alive: KeepAliveLimits { default, max },
                load_deadline: self.load_deadline.unwrap_or(Duration::from_secs(120)),
                hub,
                attestations,
                verify_afterwards: self.verify.unwrap_or(true),
                images: Arc::new(Images::new(image_folder)),
                image_budget: self.image_budget.unwrap_or(ByteSize::gb(100)).as_u64(),
                free_space_floor: self.free_space.unwrap_or(ByteSize::gb(1)).as_u64(),
            },
            connections: self.connections.unwrap_or(1024).max(1),
            grace: self.grace.unwrap_or(Duration::from_secs(5)),
        }
    }

    /// How the hub is dealt with, with defaults where nothing is said.
    #[must_use]
    pub fn hub(&self) -> HubSettings {
        let seconds = Duration::from_secs;
        let endpoint = self.hub_endpoint.as_deref().map(|endpoint| endpoint.trim_end_matches('/').to_owned());
        let token = self.hub_token_file.clone().map(TokenSource::File);
        let deadline = self.hub_deadline.unwrap_or(seconds(10));
        HubSettings {
            endpoint: endpoint.unwrap_or_else(|| hub_env::endpoint(&variable)),
            token: token.unwrap_or_else(|| hub_env::token_source(&variable)),
            offline: self.offline.unwrap_or_else(|| hub_env::is_offline(&variable)),
            freshness: self.hub_freshness.unwrap_or(seconds(5 * 60)),
            connect_deadline: deadline,
            answer_deadline: deadline,
            stall_deadline: self.hub_stall.unwrap_or(seconds(30)),
            backoff: Backoff {
                tries: self.hub_tries.unwrap_or(4),
                pause: Duration::from_millis(300),
                pause_max: seconds(20),
            },
            files_at_once: self.downloads.unwrap_or(4),
            links: if hub_env::avoids_links(&variable) { Links::Avoided } else { Links::Symbolic },
        }
    }
}

/// The socket of this user on this system.
#[must_use]
fn default_socket() -> PathBuf {
    places::socket(&variable, rustix::process::getuid().as_raw(), Platform::current())
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_strictly() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        fs::write(&path, "hub_cache = \"/models\"\nkeep_alive = \"1h 30min\"\n").unwrap();
        let file = ConfigFile::load(Some(&path)).unwrap();
        let config = file.or(ConfigFile { grace: Some(Duration::ZERO), ..ConfigFile::default() }).complete();
        assert_eq!(config.cache.places.hub_cache, Some(PathBuf::from("/models")));
        assert_eq!(config.cache.keep_alive.default, Duration::from_secs(5400));
        assert_eq!(config.grace, Duration::ZERO);
        for bad in ["keep_alve = \"1h\"", "keep_alive = 5", "keep_alive = \"soon\"", "["] {
            fs::write(&path, bad).unwrap();
            assert!(matches!(ConfigFile::load(Some(&path)), Err(ConfigFileError::Toml { .. })), "{bad}");
        }
        assert!(matches!(ConfigFile::load(Some(&folder.path().join("none"))), Err(ConfigFileError::Io { .. })));
    }
}
