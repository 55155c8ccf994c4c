//! The exact tensors that a component must have.

use std::collections::HashMap;

use crate::{
    axes::Axes,
    header::{Dtype, FLOATS},
    pattern::Pattern,
    quantisation::Packed,
};

/// The use of a tensor, where its memory order depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The same order everywhere: linear weights `[out, in]`, norms, biases, embeddings, tokens.
    Plain,
    /// A convolution kernel, and the order of its dimensions in MLX.
    Kernel(Axes),
}

/// One tensor of a catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Name in the checkpoint.
    pub name: String,
    /// Dimensions in the checkpoint.
    pub shape: Vec<u64>,
    /// What it is for.
    pub role: Role,
    /// How its numbers are stored.
    pub stored: Stored,
}

/// How the numbers of an expected tensor are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored {
    /// As floats.
    Float,
    /// As a tensor of a layer that MLX quantised.
    Packed(Packed),
    /// As a tensor of a layer in a format that MLX does not have.
    Foreign,
}

impl Expected {
    /// Dtypes that it may have on disk; `None` for any.
    #[must_use]
    pub fn dtypes(&self) -> Option<&'static [Dtype]> {
        match &self.stored {
            Stored::Float => Some(&FLOATS),
            Stored::Packed(packed) => Some(packed.scheme.dtypes(packed.role)),
            Stored::Foreign => None,
        }
    }

    /// Whether a tensor of this shape is the expected one. A slot of a packed layer whose shape its scheme leaves open was
    /// compared when the layer was found.
    #[must_use]
    pub fn has_shape(&self, found: &[u64]) -> bool {
        let is_open = match &self.stored {
            Stored::Packed(Packed { scheme, role, logical_shape }) => scheme.shape_of(*role, logical_shape).is_none(),
            Stored::Float | Stored::Foreign => false,
        };
        is_open || self.shape == found
    }
}

/// All tensors of a component, in the order of the model's definition.
#[derive(Debug, Clone, Default)]
pub struct Catalogue {
    tensors: Vec<Expected>,
    by_name: HashMap<String, usize>,
    tolerated: &'static [Pattern],
}

impl Catalogue {
    /// A catalogue of these tensors.
    #[must_use]
    pub fn new(tensors: Vec<Expected>) -> Self {
        let by_name = tensors.iter().enumerate().map(|(at, tensor)| (tensor.name.clone(), at)).collect();
        Self { tensors, by_name, tolerated: &[] }
    }

    /// The tensors.
    #[must_use]
    pub fn tensors(&self) -> &[Expected] {
        &self.tensors
    }

    /// The same, and tensors of names that match `patterns` may be there too: writers save them, and no module has
    /// them.
    #[must_use]
    pub fn tolerating(mut self, patterns: &'static [Pattern]) -> Self {
        self.tolerated = patterns;
        self
    }

    /// Replaces each tensor for which `parts` gives several by those.
    #[must_use]
    pub fn expanded(&self, parts: impl Fn(&Expected) -> Option<Vec<Expected>>) -> Self {
        let tensors =
            self.tensors.iter().flat_map(|expected| parts(expected).unwrap_or_else(|| vec![expected.clone()]));
        Self::new(tensors.collect()).tolerating(self.tolerated)
    }

    /// Keeps the tensors for which `keep` is true.
    #[must_use]
    pub fn only(self, keep: impl Fn(&Expected) -> bool) -> Self {
        let tolerated = self.tolerated;
        Self::new(self.tensors.into_iter().filter(keep).collect()).tolerating(tolerated)
    }

    /// The tensor of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Expected> {
        self.tensors.get(*self.by_name.get(name)?)
    }

    /// How many blocks a list of that name has, such as `layers`.
    #[must_use]
    pub fn blocks(&self, list: &str) -> u64 {
        let index =
            |name: &str| -> Option<u64> { name.strip_prefix(list)?.strip_prefix('.')?.split('.').next()?.parse().ok() };
        self.tensors.iter().filter_map(|tensor| index(&tensor.name)).max().map_or(0, |last| last + 1)
    }

    /// Whether a tensor of that name does no harm although it is not expected.
    #[must_use]
    pub fn tolerates(&self, name: &str) -> bool {
        self.tolerated.iter().any(|pattern| pattern.matches(name).is_some())
    }

    /// Whether a tensor of that name is expected.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// Number of elements of all tensors as they lie on disk.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.shape.iter().product::<u64>()).sum()
    }
}

/// Builds a catalogue line by line, in the manner of a module's constructor.
#[derive(Debug, Default)]
pub(super) struct Builder {
    tensors: Vec<Expected>,
}

impl Builder {
    pub(super) fn plain(&mut self, name: impl Into<String>, shape: &[u64]) {
        self.tensors.push(Expected {
            name: name.into(),
            shape: shape.to_vec(),
            role: Role::Plain,
            stored: Stored::Float,
        });
    }

    /// A vector `{base}.weight`.
    pub(super) fn norm(&mut self, base: &str, width: u64) {
        self.plain(format!("{base}.weight"), &[width]);
    }

    /// A vector `{base}.weight` and a vector `{base}.bias`.
    pub(super) fn norm_with_bias(&mut self, base: &str, width: u64) {
        self.norm(base, width);
        self.plain(format!("{base}.bias"), &[width]);
    }

    /// A matrix `{base}.weight`, `[output, input]`.
    pub(super) fn linear(&mut self, base: &str, output: u64, input: u64) {
        self.plain(format!("{base}.weight"), &[output, input]);
    }

    /// A matrix and its bias.
    pub(super) fn linear_with_bias(&mut self, base: &str, output: u64, input: u64) {
        self.linear(base, output, input);
        self.plain(format!("{base}.bias"), &[output]);
    }

    /// A square kernel `{base}.weight`, `[output, input, size, size]`, and its bias.
    pub(super) fn conv(&mut self, base: &str, output: u64, input: u64, size: u64) {
        self.kernel(base, &[output, input, size, size], Axes::CONV2D);
        self.plain(format!("{base}.bias"), &[output]);
    }

    /// A kernel `{base}.weight` of any convolution; `axes` is the order of its dimensions in MLX.
    pub(super) fn kernel(&mut self, base: &str, shape: &[u64], axes: Axes) {
        self.tensors.push(Expected {
            name: format!("{base}.weight"),
            shape: shape.to_vec(),
            role: Role::Kernel(axes),
            stored: Stored::Float,
        });
    }

    pub(super) fn finish(self) -> Catalogue {
        Catalogue::new(self.tensors)
    }
}
/// What happens to a component that does not match its catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AuditPolicy {
    /// It is refused.
    Strict,
    /// It is lent all the same.
    ReportOnly,
}
