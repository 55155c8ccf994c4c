//! What the daemon and the process that computes say to each other: one order, then reports, each a line of JSON.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use weightsd_core::derive::Job;
use weightsd_segment::FileIdentity;

/// A file that is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderedFile {
    /// Where it is.
    pub path: PathBuf,
    /// What it must be.
    pub identity: Identity,
}

/// A [`FileIdentity`] that can be written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity(u64, u64, u64, i64, i64);

impl From<&FileIdentity> for Identity {
    fn from(identity: &FileIdentity) -> Self {
        let FileIdentity { device, inode, length, modified_ns, changed_ns } = *identity;
        Self(device, inode, length, modified_ns, changed_ns)
    }
}

/// What is to be computed, from what, and where it goes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// The files that slices count in.
    pub files: Vec<OrderedFile>,
    /// The file that is written. It is there already, and has its length.
    pub image: PathBuf,
    /// Its beginning.
    pub head: Vec<u8>,
    /// The computations.
    pub jobs: Vec<Job>,
}

/// What kind of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// A file is not the one that was ordered.
    Changed,
    /// The disk is full.
    NoSpace,
    /// A file cannot be read or written.
    Io,
    /// MLX is not here, or not the one that this program was built with.
    NoMlx,
    /// MLX does not do it, or does something else than was planned.
    Mlx,
}

/// How it goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Report {
    /// So many input bytes are done with; the last one was of this tensor.
    Done {
        /// Bytes.
        bytes: u64,
        /// A tensor of the image.
        tensor: String,
    },
    /// The whole image is written and on the disk.
    Finished,
    /// It is given up.
    Failed {
        /// Of which kind.
        kind: FailureKind,
        /// What happened.
        message: String,
    },
}
