//! Settings: the command line before the configuration file before the environment before defaults. The file matters for
//! daemons that launchd or systemd start, since those do not see the user's shell. Whatever is wrong with a setting is found
//! here, when it is read.

mod file;
mod kind;
mod layers;
mod origin;
mod table;

use std::{fs, io, path::PathBuf};

use weightsd_core::{
    explain::{Explain, Explanation, Reason},
    hub_env::{self, TokenSource},
    policy::KeepAliveLimits,
};
use weightsd_segment::environment::variable;

use self::kind::{Endpoint, Kind as _};
pub use self::{
    kind::Preload,
    layers::Layers,
    origin::{Origin, Stated},
    table::{Row, Settings, Shown},
};
use crate::{
    source::{Backoff, Links},
    sources::{Route, SourcesError, hub::HubSettings},
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
    /// The configuration file names a setting that there is not.
    #[error("line {line} of the configuration file `{}` sets `{name}`, which is no setting", path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What stands there.
        name: String,
        /// The setting of the most similar name.
        similar: Option<&'static str>,
    },
    /// The configuration file is no TOML, or has a value that is not of its kind.
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
            Self::Unknown { name, similar: Some(similar), .. } => {
                let hint = format!("did you mean `{similar}`? `weightsd config` lists the settings");
                return Explanation::new(Reason::InvalidRequest, name.clone(), hint);
            }
            Self::Unknown { name, similar: None, .. } => {
                (name.clone(), "`weightsd config` lists the settings; leave this line out")
            }
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
            route: Route::default(),
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
