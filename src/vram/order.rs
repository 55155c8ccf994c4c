//! The messages between the daemon and a loader: one order in, then reports out, each a line of JSON; and the descriptor of
//! the memory, over the socket that is the loader's standard input.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use weightsd_core::{card::CardId, place::Placed};
use weightsd_segment::FileIdentity;

use super::{LoaderKind, VramFailed};
use crate::component::{Component, Lent, Segment};

/// The version of this program, which daemon and loader must share: one may have been replaced since the other was started.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The beginning of every order, whatever version it has.
#[derive(Debug, Deserialize)]
pub(super) struct Versioned {
    pub(super) version: String,
}

/// What a loader puts onto which card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    pub(super) version: String,
    pub(super) card: CardId,
    /// Bytes of the allocation.
    pub(super) bytes: u64,
    /// The files that are read. Copies name them by their place in this list.
    pub(super) files: Vec<OrderedFile>,
    pub(super) copies: Vec<Copy>,
}

/// A file that is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OrderedFile {
    /// An absolute path.
    pub(super) path: PathBuf,
    /// The loader refuses any other state.
    pub(super) identity: FileIdentity,
}

/// A tensor, from its file to its place on the card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Copy {
    pub(super) file: usize,
    pub(super) start: u64,
    pub(super) length: u64,
    /// First byte on the card.
    pub(super) offset: u64,
}

impl Order {
    /// The order that puts `component` onto `card`, each tensor where [`super::arrange`] has it.
    ///
    /// # Errors
    /// When no memory could be so long.
    pub fn new(component: &Component, card: CardId) -> Result<Self, VramFailed> {
        let arrangement = super::arrange(component)?;
        let file = |segment: &Segment| OrderedFile {
            path: segment.file().path().to_owned(),
            identity: segment.file().known_identity(),
        };
        let copy = |(tensor, &offset): (&Placed<Lent>, &u64)| Copy {
            file: tensor.at.segment.0 as usize,
            start: tensor.at.at.range().start,
            length: tensor.at.at.bytes(),
            offset,
        };
        Ok(Self {
            version: VERSION.to_owned(),
            card,
            bytes: arrangement.bytes,
            files: component.segments.iter().map(file).collect(),
            copies: component.tensors.iter().zip(&arrangement.offsets).map(copy).collect(),
        })
    }

    /// Bytes that are copied.
    #[must_use]
    pub fn copied_bytes(&self) -> u64 {
        self.copies.iter().map(|copy| copy.length).sum()
    }
}

/// A line of a loader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Report {
    /// Bytes that are on the card and were compared.
    Done {
        /// So far.
        bytes: u64,
    },
    /// Everything is on the card, was compared, and the descriptor was sent.
    Sealed {
        /// Bytes of the allocation: at least as many as were ordered.
        bytes: u64,
        /// The card gives memory in multiples of this, in bytes.
        granularity: u64,
        /// Where the time went, for the log.
        timings: Timings,
    },
    /// The loader gives up.
    Failed {
        /// Why, for programs.
        kind: LoaderKind,
        /// Why, in words.
        message: String,
    },
}

/// Where a loader's time went, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Timings {
    /// Starting the driver and making the context.
    pub(super) context: u64,
    /// Reading, copying and comparing.
    pub(super) copy: u64,
}
