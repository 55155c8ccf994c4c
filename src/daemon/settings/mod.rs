//! Settings: the command line before the configuration file before defaults. The file matters for daemons that launchd or
//! systemd start, since those do not see the user's shell. Whatever is wrong with a setting is found here, when it is
//! read.

mod kind;
mod table;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use weightsd_core::{
    explain::{Explain, Explanation, Reason},
    hub_env::{self, TokenSource},
    places::{self, Platform},
    policy::KeepAliveLimits,
};
use weightsd_segment::environment::variable;

use self::kind::{Endpoint, Kind as _};
pub use self::table::{Row, Settings};
use crate::{
    source::{Backoff, Links},
    sources::{SourcesError, hub::HubSettings},
};

/// Why the daemon cannot start with these settings.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The configuration file cannot be read.
    #[error("cannot read the configuration file `{}`", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The configuration file has a setting that is unknown, or a value that is not of its kind.
    #[error("the configuration file `{}` is not usable", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Line, setting and what is wrong with it.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A variable has a value that cannot be used.
    #[error("the variable {name} cannot be used: {problem}")]
    Variable {
        /// The variable.
        name: &'static str,
        /// What is wrong with its value.
        problem: String,
    },
    /// A section of the configuration file about a source cannot be used.
    #[error(transparent)]
    Sources(#[from] SourcesError),
    /// The default keep-alive is longer than the longest.
    #[error("`keep_alive` is {}, which is longer than `keep_alive_max`, {}", default.show(), max.show())]
    KeepAlive {
        /// What is granted to clients that do not say.
        default: std::time::Duration,
        /// What is granted at most.
        max: std::time::Duration,
    },
}

impl Explain for SettingsError {
    fn explain(&self) -> Explanation {
        let (resource, hint) = match self {
            Self::Io { path, .. } => (
                path.display().to_string(),
                "make it readable, or name another file with `--config` or WEIGHTSD_CONFIG",
            ),
            Self::File { path, .. } => (
                path.display().to_string(),
                "`weightsd serve --help` lists the settings; in the file they have `_` instead of `-`",
            ),
            Self::Sources(SourcesError::Unknown { name, .. }) => {
                (format!("source.{name}"), "correct the name of the section, or leave it out")
            }
            Self::Sources(SourcesError::Section { name, .. }) => {
                (format!("source.{name}"), "correct the section; the source's documentation says what it takes")
            }
            Self::Variable { name, .. } => ((*name).to_owned(), "correct it, or unset it where the daemon is started"),
            Self::KeepAlive { .. } => {
                ("keep_alive".to_owned(), "raise `keep_alive_max` as well, or lower `keep_alive`")
            }
        };
        Explanation::new(Reason::InvalidRequest, resource, hint)
    }
}

impl Settings {
    /// Reads the file at `named`, or the one in the usual place if there is one.
    ///
    /// # Errors
    /// When the file cannot be read or used. The file in the usual place may be absent, a named one may not.
    pub fn load(named: Option<&Path>) -> Result<Self, SettingsError> {
        let usual = || places::config_file(&variable, Platform::current());
        let Some(path) = named.map(Path::to_owned).or_else(usual) else { return Ok(Self::default()) };
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && named.is_none() => return Ok(Self::default()),
            Err(source) => return Err(SettingsError::Io { path, source }),
        };
        toml::from_str(&text).map_err(|source| SettingsError::File { path, source: Box::new(source) })
    }

    /// One that is only as long as it is because nobody said anything gives way to a shorter maximum.
    pub(super) fn keep_alive_limits(&mut self) -> Result<KeepAliveLimits, SettingsError> {
        let max = self.keep_alive_max();
        match self.keep_alive {
            Some(default) if default > max => Err(SettingsError::KeepAlive { default, max }),
            Some(default) => Ok(KeepAliveLimits { default, max }),
            None => {
                let default = self.keep_alive().min(max);
                self.keep_alive = Some(default);
                Ok(KeepAliveLimits { default, max })
            }
        }
    }

    pub(super) fn hub(&mut self) -> Result<HubSettings, SettingsError> {
        check_certificates()?;
        if self.hub_endpoint.is_none() {
            let named = hub_env::endpoint(&variable);
            let endpoint =
                Endpoint::parse(&named).map_err(|problem| SettingsError::Variable { name: "HF_ENDPOINT", problem })?;
            self.hub_endpoint = Some(endpoint);
        }
        let token = match &self.hub_token_file {
            Some(path) => TokenSource::File(path.clone()),
            None => hub_env::token_source(&variable),
        };
        if let (None, TokenSource::File(path)) = (&self.hub_token_file, &token) {
            self.hub_token_file = Some(path.clone());
        }
        let deadline = self.hub_deadline();
        Ok(HubSettings {
            endpoint: self.hub_endpoint.as_ref().map(|endpoint| endpoint.0.clone()).unwrap_or_default(),
            token,
            offline: *self.offline.get_or_insert_with(|| hub_env::is_offline(&variable)),
            freshness: self.hub_freshness(),
            connect_deadline: deadline,
            answer_deadline: deadline,
            stall_deadline: self.hub_stall(),
            backoff: Backoff {
                tries: self.hub_tries(),
                pause: std::time::Duration::from_millis(300),
                pause_max: std::time::Duration::from_secs(20),
            },
            files_at_once: self.downloads().get(),
            links: if hub_env::avoids_links(&variable) { Links::Avoided } else { Links::Symbolic },
        })
    }
}

/// The library that speaks TLS reads these variables, and fails within a request when they lead nowhere.
fn check_certificates() -> Result<(), SettingsError> {
    for name in ["SSL_CERT_FILE", "SSL_CERT_DIR"] {
        let Some(path) = variable(name).filter(|path| !path.is_empty()) else { continue };
        if let Err(error) = fs::metadata(&path) {
            return Err(SettingsError::Variable { name, problem: format!("`{path}`: {error}") });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
