//! The two names that every layer has: its own, and that of its weight.

/// What follows a layer's name in that of its weight.
pub const WEIGHT: &str = ".weight";
/// What follows a layer's name in that of its bias, which is never quantised.
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
