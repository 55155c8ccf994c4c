//! Numbers of files, in two spaces that are never mixed: the files that a component is read from, and the files that it
//! is lent in.

use std::ops::Index;

use serde::{Deserialize, Serialize};

/// Number of a file that a component is read from: its own files, a file laid over it, adapters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SourceId(pub u32);

impl SourceId {
    /// Position in a list of all sources.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Number of a file that a component is lent in: sources that hold a lent tensor, and the file of what was computed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(pub u32);

/// The files that a component is read from. Adding one gives it its number; none is ever removed.
#[derive(Debug, Clone)]
pub struct Sources<T>(Vec<T>);

impl<T> Default for Sources<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Sources<T> {
    /// Adds a file.
    pub fn add(&mut self, file: T) -> SourceId {
        self.0.push(file);
        SourceId(u32::try_from(self.0.len() - 1).expect("each source is an open file, and a process has few of them"))
    }

    /// All files, in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter()
    }
}

impl<T> FromIterator<T> for Sources<T> {
    fn from_iter<I: IntoIterator<Item = T>>(files: I) -> Self {
        let mut sources = Self::default();
        for file in files {
            sources.add(file);
        }
        sources
    }
}

/// The file of a number that this list gave.
impl<T> Index<SourceId> for Sources<T> {
    type Output = T;

    fn index(&self, id: SourceId) -> &T {
        &self.0[id.index()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_means_the_file_that_got_it() {
        let mut sources = Sources::default();
        let numbers = ["a", "b"].map(|name| sources.add(name));
        assert_eq!(numbers, [SourceId(0), SourceId(1)]);
        assert_eq!(numbers.map(|id| sources[id]), ["a", "b"]);
        assert_eq!(sources.iter().copied().collect::<Vec<_>>(), ["a", "b"]);
    }
}
