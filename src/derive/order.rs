//! The messages between the daemon and the worker: one order in, then reports out, each a line of JSON.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use weightsd_core::derive::Job;
use weightsd_segment::FileIdentity;

use super::Installed;

/// An input of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderedFile {
    /// An absolute path.
    pub path: PathBuf,
    /// The state in which the file was planned; the worker refuses any other.
    pub identity: FileIdentity,
}

/// What the worker is asked for: the line on its standard input.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Task {
    /// To say which engine it computes with.
    Describe,
    /// To compute an image.
    Compute(Order),
}

/// What the worker computes, from which files, and where it writes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// The engine that the image is for; the worker refuses to be another.
    pub engine: Installed,
    /// The inputs. Slices name them by their place in this list.
    pub files: Vec<OrderedFile>,
    /// The partial image. It exists, and it has its final length.
    pub image: PathBuf,
    /// The first bytes of the image: its safetensors header.
    pub head: Vec<u8>,
    /// The computations, in any order.
    pub jobs: Vec<Job>,
}

/// Why the worker gave up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// An input is not in the state that was ordered.
    Changed,
    /// The disk is full.
    NoSpace,
    /// A file cannot be read or written.
    Io,
    /// MLX is missing, or it is not the one that this program was built with.
    NoMlx,
    /// MLX is another one than was ordered.
    Engine,
    /// MLX failed, or made something else than was planned.
    Mlx,
}

/// A line of the worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum WorkerReport {
    /// The engine of the worker.
    Engine(Installed),
    /// Progress.
    Done {
        /// Input bytes that are done.
        bytes: u64,
        /// The tensor that was finished last.
        tensor: String,
    },
    /// The whole image is on the disk.
    Finished,
    /// The worker gives up.
    Failed {
        /// Why, for programs.
        kind: FailureKind,
        /// Why, in words.
        message: String,
    },
}
