//! The messages between the daemon and the worker: one order in, then reports out, each a line of JSON.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
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
#[expect(clippy::large_enum_variant, reason = "a process gets one task")]
pub(super) enum Task {
    /// To say which engine it computes with.
    Describe,
    /// To compute an image.
    Compute(Order),
}

/// What the worker computes, from which files, and where it writes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// The engine that computes; `None` where everything is copied or decoded.
    pub engine: Option<Installed>,
    /// The inputs. Slices name them by their place in this list.
    pub files: Vec<OrderedFile>,
    /// The partial image. It exists, and it has its final length.
    pub image: PathBuf,
    /// The first bytes of the image: its safetensors header.
    pub head: Vec<u8>,
    /// The computations, in any order.
    pub jobs: Vec<Job>,
}

/// The version of this program, which daemon and worker must share: one may have been replaced since the other was started.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A task on its way, with the version of the daemon that gives it.
#[derive(Debug, Serialize, Deserialize)]
struct Envelope<T> {
    version: String,
    task: T,
}

/// Why a line is no order that this worker can carry out.
#[derive(Debug, thiserror::Error)]
pub(super) enum OrderError {
    /// The worker is another program than the daemon.
    #[error(
        "the program was replaced while the daemon ran: the daemon is weightsd {theirs}, and the process that computes is {VERSION}"
    )]
    OtherVersion {
        /// The daemon's version.
        theirs: String,
    },
    /// The line is not an order.
    #[error("the order cannot be read: {0}")]
    Malformed(#[from] serde_json::Error),
}

impl Task {
    /// The line that tells a worker.
    pub(super) fn encode(&self) -> serde_json::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(&Envelope { version: VERSION.to_owned(), task: self })?;
        line.push(b'\n');
        Ok(line)
    }

    /// Reads the line. Looks at the version first: a task of another version may have another form.
    ///
    /// # Errors
    /// When a daemon of another version gave it, or it is no task.
    pub(super) fn decode(line: &[u8]) -> Result<Self, OrderError> {
        let Envelope { version, task } = serde_json::from_slice::<Envelope<&RawValue>>(line)?;
        if version != VERSION {
            return Err(OrderError::OtherVersion { theirs: version });
        }
        Ok(serde_json::from_str(task.get())?)
    }
}

/// Why the worker gave up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// An input is not in the state that was ordered.
    Changed,
    /// The worker is another version of the program than the daemon.
    OtherVersion,
    /// The disk is full.
    NoSpace,
    /// A file cannot be read or written.
    Io,
    /// The numbers of the weights do not allow what was ordered.
    Weights,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_of_another_version_is_refused_by_words_and_not_read() {
        assert!(matches!(Task::decode(&Task::Describe.encode().unwrap()), Ok(Task::Describe)));
        let other = br#"{"version": "9.9.9", "task": {"of": ["another", "form"]}}"#;
        let said = Task::decode(other).unwrap_err().to_string();
        assert!(said.contains("weightsd 9.9.9") && said.contains(VERSION), "{said}");
        assert!(matches!(Task::decode(b"{}"), Err(OrderError::Malformed(_))));
    }
}
