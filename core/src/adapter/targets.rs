//! Which layers of a component adapters may change, under all names that trainers give them.

use crate::layer_name::layer_of;

/// A component's table.
///
/// Dots, underscores and hyphens are the same in names of blocks and layers, and several of them are one: kohya's names
/// have underscores only, and diffusers' converter writes dots in their place even where there were none. Prefixes are
/// compared as they are written, those first that begin like another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Targets {
    /// Prefixes of bases, taken off one after the other.
    pub prefixes: &'static [&'static str],
    /// Prefixes of bases that are for another component.
    pub others: &'static [&'static str],
    /// Names of lists of blocks, and the list that is meant.
    pub blocks: &'static [(&'static str, &'static str)],
    /// Names of a block's layers, and the layers that are meant: several for a fused one, whose rows are theirs in turn.
    pub layers: &'static [(&'static str, &'static [&'static str])],
    /// Names of layers outside blocks, and the layer that is meant.
    pub singles: &'static [(&'static str, &'static str)],
}

/// A layer that an adapter's base means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The layer's weight in the catalogue, without `.weight`.
    pub layer: String,
    /// Which of how many parts of the output rows is its own.
    pub part: (u64, u64),
}

impl Targets {
    /// `base` without its prefixes.
    #[must_use]
    pub fn stripped<'a>(&self, base: &'a str) -> &'a str {
        self.steps(base).last().unwrap_or(base)
    }

    /// Whether a base says that it is for another component.
    #[must_use]
    pub fn is_of_another(&self, base: &str) -> bool {
        self.steps(base).any(|base| self.others.iter().any(|other| base.starts_with(other)))
    }

    /// The layers that a base means; none when it means no layer of this table. `blocks_of` gives the number of blocks
    /// in a list.
    #[must_use]
    pub fn find(&self, base: &str, blocks_of: impl Fn(&str) -> u64) -> Vec<Target> {
        let base = layer_of(base).unwrap_or(base);
        // What is a prefix may also be the beginning of a name: `transformer` of `transformer_blocks`.
        self.steps(base).find_map(|base| self.find_stripped(base, &blocks_of)).unwrap_or_default()
    }

    /// `base`, then `base` without its first prefix, and so on.
    fn steps<'a>(&self, base: &'a str) -> impl Iterator<Item = &'a str> {
        std::iter::successors(Some(base), |base| self.prefixes.iter().find_map(|prefix| base.strip_prefix(prefix)))
    }

    fn find_stripped(&self, base: &str, blocks_of: impl Fn(&str) -> u64) -> Option<Vec<Target>> {
        let is_single = |written: &str| parts(written).eq(parts(base));
        if let Some((_, layer)) = self.singles.iter().find(|(written, _)| is_single(written)) {
            return Some(vec![Target { layer: (*layer).to_owned(), part: (0, 1) }]);
        }
        self.blocks.iter().find_map(|&(written, list)| {
            let (index, rest) = block(base, written)?;
            if index >= blocks_of(list) {
                return None;
            }
            let (_, layers) = self.layers.iter().find(|(written, _)| parts(written).eq(rest.clone()))?;
            let of = layers.len() as u64;
            let target =
                |(at, layer): (u64, &&str)| Target { layer: format!("{list}.{index}.{layer}"), part: (at, of) };
            Some((0..of).zip(layers.iter()).map(target).collect())
        })
    }
}

/// The parts of a name.
fn parts(name: &str) -> impl Iterator<Item = &str> + Clone {
    name.split(['.', '_', '-']).filter(|part| !part.is_empty())
}

/// The index and the remaining parts of a name that begins with the list of blocks.
fn block<'a>(base: &'a str, written: &str) -> Option<(u64, impl Iterator<Item = &'a str> + Clone)> {
    let mut rest = parts(base);
    if !parts(written).all(|part| rest.next() == Some(part)) {
        return None;
    }
    let digits = rest.next()?;
    let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    Some((digits.parse().ok().filter(|_| is_plain)?, rest))
}
