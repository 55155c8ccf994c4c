//! The sources that ship, and the list of them. A source is a folder beside this file, its `mod` line and its line in
//! `SOURCES`: its [`Source`] implementation says which specs it takes, how messages speak of it, and where its files
//! are kept.

pub mod bucket;
pub mod hub;
mod route;
mod threads;

use std::{collections::BTreeMap, sync::Arc};

use self::hub::HubSettings;
pub use self::route::Route;
use crate::source::{Source, SourceList};

/// Every source: its name in the configuration file, and what sets it up.
const SOURCES: &[(&str, Open)] = &[
    ("hub", hub::open),
    ("s3", bucket::open_s3),
    ("gs", bucket::open_gs),
    ("az", bucket::open_az),
    ("https", bucket::open_https),
];

/// Sets a source up from the settings; without a section of its own it has its defaults. Opens no connection and reads no
/// credentials: both happen when it is first asked.
type Open = fn(&Setup<'_>) -> Result<Arc<dyn Source>, BadSection>;

/// The sections of the configuration file that are called `[source.NAME]`, by name.
pub type Sections = BTreeMap<String, toml::Table>;

/// What a source is set up from.
#[derive(Debug, Clone, Copy)]
pub struct Setup<'a> {
    /// The hub's settings. Those of transfers hold for every source: `offline`, `downloads`, and [`HubSettings::limits`].
    pub hub: &'a HubSettings,
    /// The source's own section of the configuration file. The source reads it strictly: a key that it does not know is an
    /// error.
    pub section: Option<&'a toml::Table>,
}

/// What is wrong with a source's section of the configuration file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadSection(pub String);

/// Why sources cannot be set up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourcesError {
    /// A section that is no source's.
    #[error("`[source.{name}]` is no source's; there are {}", known.join(", "))]
    Unknown {
        /// The section's name.
        name: String,
        /// All sources.
        known: Vec<&'static str>,
    },
    /// A section that its source cannot use.
    #[error("`[source.{name}]` cannot be used")]
    Section {
        /// The source.
        name: &'static str,
        /// Why.
        #[source]
        source: BadSection,
    },
}

/// The sources for a command that works without the daemon: they say where files lie on this machine, and are never asked.
#[must_use]
pub fn never_asked() -> SourceList {
    open(&HubSettings::never_asked(), &Sections::new()).expect("no source needs a section")
}

/// Sets up all sources.
///
/// # Errors
/// When a section of the configuration is no source's, or cannot be used.
pub fn open(hub: &HubSettings, sections: &Sections) -> Result<SourceList, SourcesError> {
    let names = || SOURCES.iter().map(|(name, _)| *name);
    if let Some(name) = sections.keys().find(|name| names().all(|known| known != name.as_str())) {
        return Err(SourcesError::Unknown { name: name.clone(), known: names().collect() });
    }
    let one = |(name, open): &(&'static str, Open)| {
        let setup = Setup { hub, section: sections.get(*name) };
        open(&setup).map_err(|source| SourcesError::Section { name, source })
    };
    let sources = SOURCES.iter().map(one).collect::<Result<_, _>>()?;
    Ok(SourceList::new(sources, hub.offline))
}
