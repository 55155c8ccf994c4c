//! Configuration: defaults, overridden by a file, overridden by the command line. The file matters for daemons that
//! launchd or systemd start, since those do not see the user's shell.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Deserializer};
use weightsd_core::{
    places::{self, Platform},
    policy::KeepAliveLimits,
};

use crate::{cache::CacheConfig, resolve::Places};

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

/// The configuration file, TOML. Durations are written like `10min` or `1h 30min`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConfigFile {
    /// Path of the socket.
    pub socket: Option<PathBuf>,
    /// The Hugging Face cache.
    pub hub_cache: Option<PathBuf>,
    /// How long components stay warm when the client does not say.
    #[serde(deserialize_with = "duration")]
    pub keep_alive: Option<Duration>,
    /// The longest keep-alive that a client is granted.
    #[serde(deserialize_with = "duration")]
    pub keep_alive_max: Option<Duration>,
    /// How long one load may take.
    #[serde(deserialize_with = "duration")]
    pub load_deadline: Option<Duration>,
    /// How long a shutdown may take.
    #[serde(deserialize_with = "duration")]
    pub grace: Option<Duration>,
    /// Most connections at once.
    pub connections: Option<usize>,
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text).map(Some).map_err(serde::de::Error::custom)
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
            keep_alive: self.keep_alive.or(other.keep_alive),
            keep_alive_max: self.keep_alive_max.or(other.keep_alive_max),
            load_deadline: self.load_deadline.or(other.load_deadline),
            grace: self.grace.or(other.grace),
            connections: self.connections.or(other.connections),
        }
    }

    /// The configuration, with defaults where nothing is said.
    #[must_use]
    pub fn complete(self) -> Config {
        let max = self.keep_alive_max.unwrap_or(Duration::from_secs(24 * 3600)).min(KEEP_ALIVE_CEILING);
        let default = self.keep_alive.unwrap_or(Duration::from_secs(10 * 60)).min(max);
        let hub_cache = self.hub_cache.or_else(|| places::hub_cache(&variable)).filter(|path| path.is_absolute());
        Config {
            socket: self.socket.unwrap_or_else(default_socket),
            cache: CacheConfig {
                places: Places { home: variable("HOME").map(PathBuf::from), hub_cache },
                keep_alive: KeepAliveLimits { default, max },
                load_deadline: self.load_deadline.unwrap_or(Duration::from_secs(120)),
            },
            connections: self.connections.unwrap_or(1024).max(1),
            grace: self.grace.unwrap_or(Duration::from_secs(5)),
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
