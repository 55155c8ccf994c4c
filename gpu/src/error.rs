//! What can go wrong between this process and a card.

use thiserror::Error;
use weightsd_core::card::CardId;

/// The driver's number for a card that has too little memory left.
pub(crate) const OUT_OF_MEMORY: u32 = 2;

/// A card cannot be used as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum GpuError {
    /// This machine has no driver, or one that is too old.
    #[error("NVIDIA's driver cannot be opened as `{library}`: {problem}")]
    NoDriver {
        /// The library that was looked for.
        library: String,
        /// Why it cannot be opened.
        problem: String,
    },
    /// The driver works, and has no such card.
    #[error("there is no card {wanted}, only {}", list(known))]
    UnknownCard {
        /// What was asked for.
        wanted: String,
        /// The cards that this process sees.
        known: Vec<CardId>,
    },
    /// The card has not that much memory left.
    #[error("the card has {free} bytes free of {total}, and {needed} are needed")]
    Full {
        /// What is needed.
        needed: u64,
        /// What is free, in bytes.
        free: u64,
        /// The card's memory, in bytes.
        total: u64,
    },
    /// A range that leaves an allocation.
    #[error("{length} bytes at {offset} leave the {bytes} bytes on the card")]
    OutOfRange {
        /// First byte.
        offset: u64,
        /// Length in bytes.
        length: u64,
        /// Length of the whole.
        bytes: u64,
    },
    /// Nothing holds the memory, so nobody handed its descriptor over.
    #[error("the load had no hold, so its memory was not handed over")]
    NotHeld,
    /// The driver refuses a call.
    #[error("{call} failed: {name}")]
    Call {
        /// The call.
        call: &'static str,
        /// The driver's number for the failure.
        code: u32,
        /// The driver's name for it.
        name: String,
    },
}

impl GpuError {
    /// Whether the card has too little memory left.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::Call { code: OUT_OF_MEMORY, .. })
    }

    /// Whether this machine has no card that was meant: no driver, a driver that does not start, or another card.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::NoDriver { .. } | Self::UnknownCard { .. } | Self::Call { call: "cuInit", .. })
    }
}

fn list(cards: &[CardId]) -> String {
    match cards {
        [] => "none at all".to_owned(),
        cards => cards.iter().map(CardId::to_string).collect::<Vec<_>>().join(", "),
    }
}
