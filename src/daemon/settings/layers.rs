//! What each place says about the settings, the strongest first. The daemon keeps them, so that the file can be read anew
//! while it runs.

use std::path::{Path, PathBuf};

use weightsd_segment::environment::variable;

use super::{
    Origin, Settings, SettingsError, Shown,
    file::{self, ConfigFile},
    origin,
};

/// The variable that names the socket; on the command line `--socket` stands for it.
const SOCKET_VARIABLE: &str = "WEIGHTSD_SOCKET";

/// The settings of the command line and of the configuration file.
#[derive(Debug, Clone, Default)]
pub struct Layers {
    flags: Settings,
    /// The configuration file that was named.
    named: Option<PathBuf>,
    file: Option<ConfigFile>,
}

impl Layers {
    /// Reads the configuration file: the named one, or the one in the usual place if it is there. Blocks.
    ///
    /// # Errors
    /// When the file cannot be read or used, or a named one is not there.
    pub fn read(flags: Settings, named: Option<PathBuf>) -> Result<Self, SettingsError> {
        let file = ConfigFile::read(named.as_deref())?;
        Ok(Self { flags, named, file })
    }

    /// The same flags with the configuration file as it is now. Blocks.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_again(&self) -> Result<Self, SettingsError> {
        Self::read(self.flags.clone(), self.named.clone())
    }

    /// The configuration file that counts, whether it is there or not; `None` where there is no home.
    #[must_use]
    pub fn place(&self) -> Option<PathBuf> {
        file::place(self.named.as_deref())
    }

    /// The configuration file that was read; `None` when there was none.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.file.as_ref().map(|file| file.path.as_path())
    }

    /// What somebody said, without what is found and without defaults.
    #[must_use]
    pub fn said(&self) -> Settings {
        let file = self.file.as_ref().map(|file| file.settings.clone());
        self.flags.clone().or(file.unwrap_or_default())
    }

    /// Where the value of each setting comes from, in the order of the table.
    #[must_use]
    pub fn origins(&self) -> Vec<Origin> {
        let flags = self.flags.shown();
        let origin = |(name, flag): (&'static str, Shown)| {
            if flag != Shown::Nothing {
                let is_variable = name == "socket" && variable(SOCKET_VARIABLE).as_ref() == Some(&flag.to_string());
                return if is_variable { Origin::Environment(SOCKET_VARIABLE.to_owned()) } else { Origin::Flag };
            }
            let line = self.file.as_ref().and_then(|file| Some((&file.path, *file.lines.get(name)?)));
            match line {
                Some((path, line)) => Origin::File { path: path.clone(), line },
                None => origin::found(name, &variable),
            }
        };
        flags.into_iter().map(origin).collect()
    }
}
