//! Why a component is not in a card's memory.

use std::{io, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use weightsd_core::{
    card::NoVram,
    explain::{Explain, Explanation, Reason},
};
use weightsd_gpu::GpuError;

use crate::lanes::LaneError;

/// How long a loader may be silent: the driver may have to start, and a slow disk to answer.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(5 * 60);

/// Why a loader gave up, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LoaderKind {
    /// This machine has no driver, or no such card.
    Absent,
    /// The card has too little memory left.
    Full,
    /// A file is not the one that was ordered.
    Changed,
    /// What is on the card is not what was read.
    Differs,
    /// The loader is another version of the program than the daemon.
    OtherVersion,
    /// The driver, the system or a disk failed.
    Failed,
}

/// Why a component is not in a card's memory.
#[derive(Debug, thiserror::Error)]
pub enum VramFailed {
    /// The loader gave up and said why.
    #[error("{message}")]
    Loader {
        /// Why, for programs.
        kind: LoaderKind,
        /// Why, in words.
        message: String,
    },
    /// The budget has no room.
    #[error(transparent)]
    NoRoom(#[from] NoVram),
    /// No memory could be so long.
    #[error("its tensors are longer together than the memory of any card")]
    TooLong,
    /// The loader cannot be started.
    #[error("the process that fills the card cannot be started")]
    Start(#[source] io::Error),
    /// The loader ended without a result.
    #[error("the process that fills the card ended without a result ({how})")]
    Died {
        /// Its exit status, or what it said.
        how: String,
    },
    /// The loader hangs.
    #[error("the process that fills the card said nothing for {SILENCE_MAX:?}")]
    Silent,
    /// An input changed while it was copied.
    #[error("`{}` changed while it was copied onto the card", path.display())]
    Changed {
        /// The input.
        path: PathBuf,
    },
    /// Nobody waits for it any more.
    #[error("nobody waits for it any more")]
    Abandoned,
    /// The daemon is stopping.
    #[error("weightsd is stopping")]
    Stopping,
    /// A disk does not answer.
    #[error(transparent)]
    Disk(LaneError),
}

impl VramFailed {
    /// Whether the card itself has too little memory left.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Loader { kind: LoaderKind::Full, .. })
    }
}

impl From<LaneError> for VramFailed {
    fn from(error: LaneError) -> Self {
        match error {
            LaneError::Stopping => Self::Stopping,
            error => Self::Disk(error),
        }
    }
}

impl Explain for VramFailed {
    fn explain(&self) -> Explanation {
        let (reason, hint) = match self {
            Self::Loader { kind: LoaderKind::Absent, .. } => (
                Reason::NoCard,
                "`nvidia-smi -L` on the daemon's machine lists its cards; without a device the component is lent in \
                 ordinary memory",
            ),
            Self::Loader { kind: LoaderKind::Full, .. } | Self::NoRoom(_) | Self::TooLong => (
                Reason::NoVram,
                "`weightsd status` shows who has the card's memory: end a holder, evict (`weightsd evict`), or raise \
                 `vram_budget`",
            ),
            Self::Loader { kind: LoaderKind::Changed, .. } | Self::Changed { .. } => {
                (Reason::FileChanged, "somebody writes to the model's files: try again when they are done")
            }
            Self::Loader { kind: LoaderKind::Differs, .. } => (
                Reason::CardFailed,
                "look for errors of the card (`nvidia-smi -q -d ECC`, the system's log), and try again",
            ),
            Self::Loader { kind: LoaderKind::OtherVersion, .. } => (
                Reason::OwnFiles,
                "stop the daemon and start it again, so that the program that is installed now serves",
            ),
            Self::Start(_) => (Reason::OwnFiles, "see the daemon's log"),
            Self::Loader { kind: LoaderKind::Failed, .. } | Self::Died { .. } | Self::Silent => {
                (Reason::CardFailed, "see the daemon's log and the system's, and try again")
            }
            Self::Abandoned => (Reason::Abandoned, "ask again"),
            Self::Stopping => (Reason::ShuttingDown, "connect again once the daemon is back"),
            Self::Disk(error) => return error.explain(),
        };
        Explanation::new(reason, "", hint)
    }
}

impl From<&GpuError> for LoaderKind {
    fn from(error: &GpuError) -> Self {
        match error {
            error if error.is_absent() => Self::Absent,
            error if error.is_full() => Self::Full,
            _ => Self::Failed,
        }
    }
}
