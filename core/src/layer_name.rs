//! The two names of a layer: its own, and its weight's.

/// The end of a weight's name, after the layer's.
pub const WEIGHT: &str = ".weight";
/// The end of a bias's name, after the layer's. A bias is never quantised.
pub const BIAS: &str = ".bias";

/// The layer whose weight has this name; `None` for the name of another tensor.
#[must_use]
pub fn layer_of(weight: &str) -> Option<&str> {
    weight.strip_suffix(WEIGHT)
}

/// The name of a layer's weight.
#[must_use]
pub fn weight_of(layer: &str) -> String {
    format!("{layer}{WEIGHT}")
}
