//! Turns a checkpoint's own names and shapes into those of a family's catalogue. It knows no model: a family gives it a
//! table of [`Rule`]s.
//!
//! Nothing is read or copied. A slice of rows is a part of a range, and a 1x1 convolution that is a linear layer
//! elsewhere is another shape over the same bytes.

mod canonical;
mod overlay;

use crate::{
    axes::Axes,
    layer_name::{layer_of, weight_of},
    pattern::Pattern,
};

pub use self::{
    canonical::{Canonical, RewriteError, Unusable, canonical},
    overlay::{Overlay, OverlayError, overlay},
};

/// What a rule does with the tensors that its pattern matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Another name.
    Rename(&'static str),
    /// Another name, and a kernel of 1x1 becomes a matrix: `[o, i, 1, 1]` or `[o, 1, 1, i]` to `[o, i]`.
    Squeeze(&'static str),
    /// Another name, and a vector becomes a matrix of one row: `[n]` to `[1, n]`.
    Row(&'static str),
    /// Another name, for a kernel that the file holds in MLX's order. The table gives its shape in the order of the
    /// catalogue.
    FromOrder(&'static str, Axes),
    /// A fused layer becomes several: the rows of its weight and bias are dealt out, and so are the parts of a quantised
    /// weight. Any other tensor that the pattern matches keeps its name.
    SplitRows(&'static [(&'static str, u64)]),
    /// The name is that of a layer which stands for several of the catalogue, and which its writer packed so that it cannot
    /// be taken apart. Its tensors keep their names.
    StandsFor(&'static [&'static str]),
    /// The tensor is left out: no module has it.
    Drop,
}

/// One line of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Names that it is for, as a [pattern](crate::pattern).
    pub from: &'static str,
    /// What happens to them. Names are patterns too.
    pub action: Action,
}

impl Rule {
    /// A new name.
    #[must_use]
    pub const fn rename(from: &'static str, to: &'static str) -> Self {
        Self { from, action: Action::Rename(to) }
    }

    /// A new name, and a matrix in place of a 1x1 kernel.
    #[must_use]
    pub const fn squeeze(from: &'static str, to: &'static str) -> Self {
        Self { from, action: Action::Squeeze(to) }
    }

    /// A new name, and a matrix of one row in place of a vector.
    #[must_use]
    pub const fn row(from: &'static str, to: &'static str) -> Self {
        Self { from, action: Action::Row(to) }
    }

    /// A new name for a kernel whose dimensions lie in the order `axes`.
    #[must_use]
    pub const fn from_order(from: &'static str, to: &'static str, axes: Axes) -> Self {
        Self { from, action: Action::FromOrder(to, axes) }
    }

    /// Several tensors in place of one.
    #[must_use]
    pub const fn split_rows(from: &'static str, into: &'static [(&'static str, u64)]) -> Self {
        Self { from, action: Action::SplitRows(into) }
    }

    /// A layer that stands for several.
    #[must_use]
    pub const fn stands_for(from: &'static str, layers: &'static [&'static str]) -> Self {
        Self { from, action: Action::StandsFor(layers) }
    }

    /// No tensor.
    #[must_use]
    pub const fn drop(from: &'static str) -> Self {
        Self { from, action: Action::Drop }
    }
}

/// A component's table: the prefixes that its names may carry, and the rules. The first rule that matches wins, and a
/// name that none matches stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ruleset {
    /// Prefixes that are taken off one after the other, each once, if the name begins with it.
    pub strip: &'static [&'static str],
    /// The rules.
    pub rules: &'static [Rule],
    /// Patterns whose first index counts what another pattern counts from the other end (`~`).
    pub counted: &'static [&'static str],
}

impl Ruleset {
    /// Every name stays.
    pub const NONE: Self = Self { strip: &[], rules: &[], counted: &[] };

    /// The layers of the catalogue for which a layer of this name stands, if a rule says so.
    #[must_use]
    pub fn stands_for(&self, layer: &str) -> Option<Vec<String>> {
        self.rules.iter().find_map(|rule| {
            let from = Pattern(rule.from);
            match rule.action {
                Action::StandsFor(layers) => {
                    let captures = from.matches(layer)?;
                    layers.iter().map(|&to| Pattern(to).fill(&captures, from, 0)).collect()
                }
                // Tensors of it that no rows can be taken of kept their names.
                Action::SplitRows(into) => {
                    let weight = weight_of(layer);
                    let captures = from.matches(&weight)?;
                    let named = |to: &'static str| layer_of(&Pattern(to).fill(&captures, from, 0)?).map(str::to_owned);
                    into.iter().map(|&(to, _)| named(to)).collect()
                }
                _ => None,
            }
        })
    }

    /// `name` without the prefixes.
    #[must_use]
    pub fn stripped<'a>(&self, name: &'a str) -> &'a str {
        self.strip.iter().fold(name, |name, prefix| name.strip_prefix(prefix).unwrap_or(name))
    }
}

/// Rules for one component, with what they need to know of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// The table.
    pub set: &'static Ruleset,
    /// The number of things that `~` counts; `None` takes it from the names in the file.
    pub count: Option<u64>,
}

impl Rules {
    /// Every name stays.
    pub const NONE: Self = Self { set: &Ruleset::NONE, count: None };
}
