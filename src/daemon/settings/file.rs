//! The configuration file: its settings, and the line of each.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use toml::de::DeTable;
use weightsd_core::places::{self, Platform};
use weightsd_segment::environment::variable;

use super::{Settings, SettingsError};

/// Longest configuration file in bytes. One with a comment on every setting has a few thousand.
const BYTES_MAX: usize = 1024 * 1024;
/// The section that the sources read.
const SOURCE: &str = "source";

/// A configuration file that was read.
#[derive(Debug, Clone)]
pub(super) struct ConfigFile {
    pub(super) path: PathBuf,
    pub(super) settings: Settings,
    /// The line of each setting, from 1.
    pub(super) lines: BTreeMap<String, usize>,
}

/// The file that counts: the named one, or the one in the usual place. `None` where there is no home.
pub(super) fn place(named: Option<&Path>) -> Option<PathBuf> {
    named.map(Path::to_owned).or_else(|| places::config_file(&variable, Platform::current()))
}

impl ConfigFile {
    /// Reads the file at `named`, or the one in the usual place if there is one. Blocks.
    ///
    /// # Errors
    /// When the file cannot be read or used. The file in the usual place may be absent, a named one may not.
    pub(super) fn read(named: Option<&Path>) -> Result<Option<Self>, SettingsError> {
        let Some(path) = place(named) else { return Ok(None) };
        let text = match fs::read_to_string(&path) {
            Ok(text) if text.len() > BYTES_MAX => Err(io::Error::other(format!("more than {BYTES_MAX} bytes"))),
            read => read,
        };
        match text {
            Ok(text) => Self::parse(path, &text).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound && named.is_none() => Ok(None),
            Err(source) => Err(SettingsError::Io { path, source }),
        }
    }

    fn parse(path: PathBuf, text: &str) -> Result<Self, SettingsError> {
        let unusable = |source| SettingsError::File { path: path.clone(), source: Box::new(source) };
        let table = DeTable::parse(text).map_err(unusable)?;
        let line = |at: usize| text[..at].matches('\n').count() + 1;
        let keys = table.get_ref().keys().map(|key| (key.get_ref().to_string(), line(key.span().start)));
        let lines: BTreeMap<String, usize> = keys.collect();
        let known: Vec<&'static str> = Settings::table().into_iter().map(|row| row.name).collect();
        let is_unknown = |name: &str| name != SOURCE && !known.contains(&name);
        // The first line that is wrong, as a reader goes through the file.
        let unknown = lines.iter().filter(|(name, _)| is_unknown(name)).min_by_key(|(_, line)| **line);
        if let Some((name, &line)) = unknown {
            let similar = similar(name, &known);
            return Err(SettingsError::Unknown { path, line, name: name.clone(), similar });
        }
        let settings = toml::from_str(text).map_err(unusable)?;
        Ok(Self { path, settings, lines })
    }
}

/// The setting that somebody may have meant by `name`.
fn similar(name: &str, known: &[&'static str]) -> Option<&'static str> {
    let written = name.to_lowercase().replace('-', "_");
    let distance = |known: &&'static str| strsim::damerau_levenshtein(&written, known);
    let nearest = known.iter().min_by_key(|known| distance(known))?;
    // A third of the letters may be wrong; beyond that the word is another one.
    (distance(nearest) * 3 <= nearest.len().max(3)).then_some(*nearest)
}
