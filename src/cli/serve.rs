//! The flags of `serve`, and of the commands that look at the same settings: `config`, `doctor`. Doc comments on fields are
//! their help texts.

use std::path::PathBuf;

use clap::ValueEnum;

use crate::{
    daemon::{Layers, Settings, SettingsError},
    log::LogFormat,
};

/// `weightsd serve`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Settings are taken from the command line, then from the configuration file (TOML, the same names with `_`), then from \
defaults; `weightsd config` shows which counts. Durations are written like `10min` or `1h 30min`. Set WEIGHTSD_LOG=debug for \
more to read.

Examples:
  weightsd serve
  weightsd serve --hub-cache /data/hub --keep-alive 1h
  weightsd serve --allow 'Tongyi-MAI/*' --preload Tongyi-MAI/Z-Image-Turbo#transformer
  weightsd serve --replace
  weightsd serve --offline")]
pub struct Serve {
    #[command(flatten)]
    pub(super) stating: Stating,
    /// Fail unless launchd or systemd hands over a socket
    #[arg(long, conflicts_with = "replace")]
    pub activated: bool,
    /// Take over from the daemon that serves on the socket, if there is one; clients notice nothing
    #[arg(long)]
    pub replace: bool,
    /// Write the log to this file, and begin a new one when it is large [default: standard error]
    #[arg(long, value_name = "PATH")]
    pub log_file: Option<PathBuf>,
    /// The form of the log's lines
    #[arg(long, value_enum, env = "WEIGHTSD_LOG_FORMAT", default_value_t = Lines::Text)]
    pub(super) log_format: Lines,
}

/// The form of the log's lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Lines {
    /// For people
    Text,
    /// One JSON object a line, for programs
    Json,
}

impl Serve {
    /// The form of the log's lines.
    #[must_use]
    pub fn log_format(&self) -> LogFormat {
        match self.log_format {
            Lines::Text => LogFormat::Text,
            Lines::Json => LogFormat::Json,
        }
    }

    /// The settings of the flags and of the configuration file.
    ///
    /// # Errors
    /// When the configuration file cannot be read or used.
    pub fn layers(&self, socket: Option<PathBuf>) -> Result<Layers, SettingsError> {
        self.stating.layers(socket)
    }
}

/// The flags that make settings. Alone they are those of `weightsd config`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
It shows what `weightsd serve` would work with here: with the same flags, in the same environment. A daemon that the system \
started has another environment.

Examples:
  weightsd config
  weightsd config --keep-alive 1h --json | jq '.settings[] | select(.name == \"keep_alive\")'
  weightsd config --config /etc/weightsd.toml")]
pub(super) struct Stating {
    /// Configuration file [default: weightsd/config.toml in the usual place]
    #[arg(long, env = "WEIGHTSD_CONFIG", value_name = "PATH")]
    pub(super) config: Option<PathBuf>,
    #[command(flatten)]
    pub(super) settings: Settings,
}

impl Stating {
    /// The settings of the flags and of the configuration file.
    pub(super) fn layers(&self, socket: Option<PathBuf>) -> Result<Layers, SettingsError> {
        Layers::read(Settings { socket, ..self.settings.clone() }, self.config.clone())
    }
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit codes: 0 all is well, 2 something is to be looked at, 1 something does not work.

Examples:
  weightsd doctor
  weightsd doctor --json | jq '.findings[] | select(.verdict != \"ok\")'")]
pub(super) struct Doctor {
    /// Configuration file [default: weightsd/config.toml in the usual place]
    #[arg(long, env = "WEIGHTSD_CONFIG", value_name = "PATH")]
    pub(super) config: Option<PathBuf>,
}
