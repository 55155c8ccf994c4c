//! Which layers of a component an adapter's base means, under all names that trainers give them.

use std::collections::BTreeMap;

use crate::layer_name::{BIAS, layer_of, weight_of};

/// The names of one component's layers.
///
/// Dots, underscores and hyphens are the same in names of blocks and layers, and several of them are one: kohya's names
/// have underscores only, and diffusers' converter writes dots in their place even where there were none. Prefixes are
/// compared as they are written, and a longer one comes before those it begins with. A layer that the component has under
/// the adapter's own name needs no entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Targets {
    /// Prefixes of bases, taken off one after the other.
    pub prefixes: &'static [&'static str],
    /// Prefixes of bases that are for another component.
    pub others: &'static [&'static str],
    /// Names of lists of blocks, and the component's list.
    pub blocks: &'static [(&'static str, &'static str)],
    /// Names of a block's layers, and the component's layers: several for a fused one, whose rows are theirs in turn.
    pub layers: &'static [(&'static str, &'static [&'static str])],
    /// Names of layers outside blocks, and the component's layer.
    pub singles: &'static [(&'static str, &'static str)],
}

/// A layer that an adapter may change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetLayer {
    /// Name of its weight in the catalogue, without `.weight`.
    pub layer: String,
    /// Its share of a fused layer's rows.
    pub share: Share,
}

/// Part `at` of `of` parts that together make the rows of a fused layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Counts from 0.
    pub at: usize,
    /// 1 for a layer that is not fused.
    pub of: usize,
}

/// Which tensor of a layer is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// `<layer>.weight`, or the layer itself where it is a bare tensor.
    Weight,
    /// `<layer>.bias`.
    Bias,
}

/// The tensors of the component that an adapter changes, under their catalogue names.
#[derive(Debug, Clone, Default)]
pub struct Weights {
    shapes: BTreeMap<String, Vec<u64>>,
    /// Layers by the parts of their names.
    layers: BTreeMap<String, String>,
}

impl Weights {
    /// From names and shapes; those of a packed layer's weight unpacked, and without its scales and biases.
    pub fn new(tensors: impl IntoIterator<Item = (String, Vec<u64>)>) -> Self {
        let shapes: BTreeMap<_, _> = tensors.into_iter().collect();
        let layers = shapes.keys().map(|name| stem(name).0).map(|layer| (joined(layer), layer.to_owned())).collect();
        Self { shapes, layers }
    }

    /// Name and shape of a layer's tensor, when the component has it.
    #[must_use]
    pub fn tensor(&self, layer: &str, side: Side) -> Option<(&str, &[u64])> {
        let named = |name: &str| self.shapes.get_key_value(name).map(|(name, shape)| (name.as_str(), shape.as_slice()));
        match side {
            Side::Weight => named(&weight_of(layer)).or_else(|| named(layer)),
            Side::Bias => named(&format!("{layer}{BIAS}")),
        }
    }

    fn layer(&self, name: impl Iterator<Item = impl AsRef<str>>) -> Option<&String> {
        let parts: Vec<_> = name.collect();
        let parts: Vec<&str> = parts.iter().map(AsRef::as_ref).collect();
        self.layers.get(&parts.join("."))
    }
}

/// A tensor's name without its side.
pub(super) fn stem(name: &str) -> (&str, Side) {
    match (layer_of(name), name.strip_suffix(BIAS)) {
        (Some(layer), _) => (layer, Side::Weight),
        (_, Some(layer)) => (layer, Side::Bias),
        _ => (name, Side::Weight),
    }
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

    /// The layers of the component that a base means, in the order of their rows; none when the component has no such
    /// layer.
    #[must_use]
    pub fn find(&self, base: &str, weights: &Weights) -> Vec<TargetLayer> {
        let base = stem(base).0;
        // What is a prefix may also be the beginning of a name: `transformer` of `transformer_blocks`.
        let layers = self.steps(base).find_map(|base| self.find_stripped(base, weights)).unwrap_or_default();
        let of = layers.len();
        let target = |(at, layer)| TargetLayer { layer, share: Share { at, of } };
        layers.into_iter().enumerate().map(target).collect()
    }

    /// `base`, then `base` without its first prefix, and so on.
    fn steps<'a>(&self, base: &'a str) -> impl Iterator<Item = &'a str> {
        std::iter::successors(Some(base), |base| self.prefixes.iter().find_map(|prefix| base.strip_prefix(prefix)))
    }

    fn find_stripped(&self, base: &str, weights: &Weights) -> Option<Vec<String>> {
        let single = self.singles.iter().find(|(written, _)| parts(written).eq(parts(base)));
        if let Some(layer) = single.and_then(|(_, layer)| weights.layer(parts(layer))) {
            return Some(vec![layer.clone()]);
        }
        let in_blocks = self.blocks.iter().find_map(|&(written, list)| {
            let (index, rest) = block(base, written)?;
            let named = self.layers.iter().find(|(written, _)| parts(written).eq(rest.clone()));
            let of_block = |layer: &str| {
                let name = parts(list).chain([index]).chain(parts(layer));
                weights.layer(name).cloned()
            };
            match named {
                Some((_, layers)) => layers.iter().map(|layer| of_block(layer)).collect::<Option<Vec<_>>>(),
                None => weights.layer(parts(list).chain([index]).chain(rest)).map(|layer| vec![layer.clone()]),
            }
        });
        in_blocks.or_else(|| Some(vec![weights.layer(parts(base))?.clone()]))
    }
}

/// The parts of a name.
fn parts(name: &str) -> impl Iterator<Item = &str> + Clone {
    name.split(['.', '_', '-']).filter(|part| !part.is_empty())
}

/// A name with one dot between its parts.
pub(super) fn joined(name: &str) -> String {
    parts(name).collect::<Vec<_>>().join(".")
}

/// The index and the remaining parts of a name that begins with the list of blocks.
fn block<'a>(base: &'a str, written: &str) -> Option<(&'a str, impl Iterator<Item = &'a str> + Clone)> {
    let mut rest = parts(base);
    if !parts(written).all(|part| rest.next() == Some(part)) {
        return None;
    }
    let digits = rest.next()?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then_some((digits, rest))
}
