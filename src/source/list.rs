//! The sources of a daemon. The list decides which of them a spec means.

use std::sync::Arc;

use super::{Source, Specs};

/// The sources that a daemon has.
#[derive(Debug, Clone, Default)]
pub struct SourceList {
    sources: Arc<[Arc<dyn Source>]>,
    offline: bool,
}

impl SourceList {
    /// The list of `sources`. No two of them take the same specs, and none is ever asked when the daemon is `offline`.
    #[must_use]
    pub fn new(sources: Vec<Arc<dyn Source>>, offline: bool) -> Self {
        Self { sources: sources.into(), offline }
    }

    /// The source of ids: of `org/repo`.
    #[must_use]
    pub fn of_ids(&self) -> Option<&Arc<dyn Source>> {
        self.sources.iter().find(|source| source.specs() == Specs::Ids)
    }

    /// The source of addresses that begin with `scheme://`.
    #[must_use]
    pub fn of_scheme(&self, scheme: &str) -> Option<&Arc<dyn Source>> {
        let takes = |source: &&Arc<dyn Source>| matches!(source.specs(), Specs::Scheme(it) if it == scheme);
        self.sources.iter().find(takes)
    }

    /// Whether the settings forbid to ask any source.
    #[must_use]
    pub fn is_offline(&self) -> bool {
        self.offline
    }
}
