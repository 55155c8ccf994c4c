//! From checkpoint names to module names, by tables.

/// One line of a table: `model.*` to `encoder.*` renames a prefix, a pattern without `*` renames one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rename {
    /// Name in the checkpoint; a final `*` stands for any rest.
    pub from: &'static str,
    /// Name of the module's parameter; a final `*` stands for the same rest.
    pub to: &'static str,
}

/// A table of renames; the first one that matches wins, and a name that none matches stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Naming(pub &'static [Rename]);

impl Naming {
    /// Every name stays.
    pub const NONE: Self = Self(&[]);

    /// The module's name, when it is another one.
    #[must_use]
    pub fn apply(&self, name: &str) -> Option<String> {
        self.0.iter().find_map(|rename| rewrite(rename.from, rename.to, name))
    }

    /// The checkpoint's name, when it is another one.
    #[must_use]
    pub fn reverse(&self, name: &str) -> Option<String> {
        self.0.iter().find_map(|rename| rewrite(rename.to, rename.from, name))
    }
}

fn rewrite(from: &str, to: &str, name: &str) -> Option<String> {
    match (from.strip_suffix('*'), to.strip_suffix('*')) {
        (Some(from), Some(to)) => name.strip_prefix(from).map(|rest| format!("{to}{rest}")),
        _ => (from == name).then(|| to.to_owned()),
    }
}
