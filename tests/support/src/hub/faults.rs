//! The faults of one request, and what they say about its parts.

use super::{
    fault::{Fault, NextPage},
    rules::Rule,
};

#[derive(Debug, Default)]
pub(super) struct Faults(Vec<(Fault, Rule)>);

impl Faults {
    pub(super) fn new(faults: Vec<(Fault, Rule)>) -> Self {
        Self(faults)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.0.iter().map(|(fault, _)| fault)
    }

    /// Each with the rule that it came from.
    pub(super) fn with_rules(&self) -> impl Iterator<Item = &(Fault, Rule)> {
        self.0.iter()
    }

    pub(super) fn has(&self, fault: &Fault) -> bool {
        self.iter().any(|it| it == fault)
    }

    /// The value of `ETag` for a file with this etag; `None` when there is none to be.
    pub(super) fn etag_header(&self, etag: &str) -> Option<String> {
        if self.has(&Fault::NoEtag) {
            return None;
        }
        let other = self.find(|fault| if let Fault::OtherEtag { etag } = fault { Some(etag.as_str()) } else { None });
        let etag = other.unwrap_or(etag);
        let weak = if self.has(&Fault::WeakEtag) { "W/" } else { "" };
        Some(format!("{weak}\"{etag}\""))
    }

    /// What a listing says about a file's size.
    pub(super) fn listed_size(&self, of: &str, true_size: u64) -> u64 {
        self.find(|fault| match fault {
            Fault::TreeSize { path, size } if path == of => Some(*size),
            _ => None,
        })
        .unwrap_or(true_size)
    }

    pub(super) fn hostile_paths(&self) -> impl Iterator<Item = &str> {
        self.iter().filter_map(|fault| if let Fault::HostilePath { path } = fault { Some(path.as_str()) } else { None })
    }

    pub(super) fn pages(&self) -> Option<(usize, NextPage)> {
        self.find(|fault| if let Fault::Pages { size, next } = fault { Some((*size, *next)) } else { None })
    }

    pub(super) fn xet_hash(&self) -> Option<&str> {
        self.find(|fault| if let Fault::XetHash { hash } = fault { Some(hash.as_str()) } else { None })
    }

    pub(super) fn other_range(&self) -> Option<u64> {
        self.find(|fault| if let Fault::OtherRange { start } = fault { Some(*start) } else { None })
    }

    /// The last one wins, so that a test can change its mind.
    fn find<'a, T>(&'a self, pick: impl Fn(&'a Fault) -> Option<T>) -> Option<T> {
        self.0.iter().rev().find_map(|(fault, _)| pick(fault))
    }
}
