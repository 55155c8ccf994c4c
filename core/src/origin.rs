//! Where a tensor of a component comes from: the tensor of the file, and what was done to it.

use crate::axes::Axes;

/// How a tensor was made from the tensor in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// All of it, under another name.
    Renamed,
    /// The whole tensor in another shape, perhaps under another name.
    Reshaped,
    /// All of it, a kernel whose dimensions lie in the file in this order. It is described in the checkpoint's order,
    /// like any other.
    Ordered(Axes),
    /// Some of its rows.
    Rows {
        /// The first one.
        first: u64,
        /// How many.
        count: u64,
        /// How many it has.
        of: u64,
    },
}

/// The tensor in the file that another one was made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Name in the file, with its prefix.
    pub name: Box<str>,
    /// What was done.
    pub operation: Operation,
}
