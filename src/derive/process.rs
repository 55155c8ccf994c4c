//! The daemon's side of the worker: starts it, gives it an order, follows its reports.

use std::{path::PathBuf, process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, Command},
    time::timeout,
};
use weightsd_core::{
    budget::NoRoom,
    explain::{Explain, Explanation, Reason},
};

use super::{
    FailureKind, ImageError, Installed, Order, WithoutEngine,
    images::NO_ROOM,
    order::{self, WorkerReport},
    worker::{COMMAND, TELLING},
};
use crate::{
    handle::Daemon,
    lanes::{Disks, Kind, LaneError, MayBlock, Task},
    program::this_program,
};

/// How long the worker may be silent: enough for the largest product on a slow machine, and for a slow disk.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(15 * 60);
/// How long it may take to find out which MLX computes here: its library is read once, from a slow disk perhaps.
pub(super) const ASKING_MAX: Duration = Duration::from_secs(60);
/// How often progress is repeated while nothing moves.
pub(crate) const PULSE: Duration = Duration::from_secs(5);

/// The hint when the program's file is no longer the one that the daemon runs.
const REPLACED: &str = "stop the daemon and start it again, so that the program that is installed now serves";

/// Why an image was not made.
#[derive(Debug, thiserror::Error)]
pub enum ComputeFailed {
    /// The disk or the budget has no room for the image.
    #[error("there is no room for the derived image")]
    NoRoom(#[from] NoRoom),
    /// The image cannot be written or published.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// MLX is missing.
    #[error(transparent)]
    NoMlx(#[from] weightsd_arrays::LoadError),
    /// The worker cannot be started.
    #[error("the process that computes cannot be started")]
    Start(#[source] std::io::Error),
    /// The worker gave up and said why.
    #[error("{message}")]
    Failed {
        /// Why, for programs.
        kind: FailureKind,
        /// Why, in words.
        message: String,
    },
    /// The worker ended without a result.
    #[error("the process that computes ended without a result ({how})")]
    Died {
        /// Its exit status, or the line that could not be read.
        how: String,
    },
    /// The daemon is stopping.
    #[error("weightsd is stopping")]
    Stopping,
    /// Nobody could tell in time which MLX computes here.
    #[error("which MLX computes here was not found out within {ASKING_MAX:?}")]
    EngineUnknown,
    /// The disk of the images does not answer.
    #[error(transparent)]
    Disk(LaneError),
    /// The worker hangs.
    #[error("the process that computes said nothing for {SILENCE_MAX:?}")]
    Silent,
    /// An input changed while it was read.
    #[error("`{}` changed while it was being read", path.display())]
    Changed {
        /// The input.
        path: PathBuf,
    },
}

impl Explain for ComputeFailed {
    fn explain(&self) -> Explanation {
        if self.is_without_mlx() {
            let hint =
                format!("{}; what needs no computing (`--layout source`) is lent without MLX", weightsd_arrays::REMEDY);
            return Explanation::new(Reason::NoMlx, "", hint);
        }
        if let Self::Disk(error) = self {
            return error.explain();
        }
        let (reason, hint) = match self {
            _ if self.is_full() => (Reason::NoSpace, NO_ROOM),
            Self::Failed { kind: FailureKind::Engine, .. } => {
                (Reason::ComputingDied, "MLX's library was replaced meanwhile: try again")
            }
            Self::Changed { .. } | Self::Failed { kind: FailureKind::Changed, .. } => {
                (Reason::FileChanged, "somebody writes to the model's files: try again when they are done")
            }
            Self::Failed { kind: FailureKind::Weights, .. } => (
                Reason::CannotConvert,
                "ask for plain floats (`--dequantise`), which have room for such numbers; or the file is damaged",
            ),
            Self::Failed { kind: FailureKind::OtherVersion, .. } => (Reason::OwnFiles, REPLACED),
            Self::Start(error) if error.kind() == std::io::ErrorKind::NotFound => (Reason::OwnFiles, REPLACED),
            Self::Stopping => (Reason::ShuttingDown, "connect again once the daemon is back"),
            Self::Image(_) | Self::NoRoom(_) | Self::Failed { kind: FailureKind::Io, .. } => {
                (Reason::OwnFiles, "see the daemon's log, and who may write to its cache")
            }
            Self::NoMlx(_)
            | Self::Failed { .. }
            | Self::Start(_)
            | Self::Silent
            | Self::EngineUnknown
            | Self::Disk(_) => (Reason::ComputingFailed, "report it with the daemon's log"),
            Self::Died { .. } => (
                Reason::ComputingDied,
                "it may have been killed for want of memory: see the system's log, and try again",
            ),
        };
        Explanation::new(reason, "", hint)
    }
}

impl From<LaneError> for ComputeFailed {
    fn from(error: LaneError) -> Self {
        match error {
            LaneError::Stopping => Self::Stopping,
            error => Self::Disk(error),
        }
    }
}

impl ComputeFailed {
    /// Whether nothing can be computed, because MLX is missing or has another version.
    #[must_use]
    pub const fn is_without_mlx(&self) -> bool {
        matches!(self, Self::NoMlx(_) | Self::Failed { kind: FailureKind::NoMlx, .. })
    }

    /// Whether the same tensors may be lent from where they lie instead, if they were only to be copied: the image
    /// cannot be had, and the files are what they were.
    #[must_use]
    pub fn concerns_the_image(&self) -> bool {
        match self {
            Self::NoRoom(_) | Self::Image(_) | Self::Disk(_) | Self::Start(_) | Self::Died { .. } | Self::Silent => {
                true
            }
            Self::Failed { kind, .. } => matches!(kind, FailureKind::NoSpace | FailureKind::Io),
            Self::NoMlx(_) | Self::EngineUnknown | Self::Stopping | Self::Changed { .. } => false,
        }
    }

    /// Whether the disk is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            Self::NoRoom(_) => true,
            Self::Image(error) => error.is_full(),
            Self::Failed { kind, .. } => *kind == FailureKind::NoSpace,
            _ => false,
        }
    }
}

impl From<WithoutEngine> for ComputeFailed {
    fn from(why: WithoutEngine) -> Self {
        match why {
            WithoutEngine::Missing(missing) => Self::NoMlx(missing),
            WithoutEngine::Refused(message) => Self::Failed { kind: FailureKind::NoMlx, message },
        }
    }
}

/// Asks a worker which engine it computes with.
///
/// # Errors
/// When the worker cannot be started, gives up, ends early, or is silent for [`SILENCE_MAX`].
pub(super) async fn ask(daemon: &Daemon) -> Result<Installed, ComputeFailed> {
    match work(&order::Task::Describe, daemon, |_, _| {}).await? {
        Done::Described(installed) => Ok(installed),
        Done::Computed => Err(ComputeFailed::Died { how: "it did not say what it computes with".to_owned() }),
    }
}

/// Starts a worker. Its program is read from a disk, too.
async fn start(name: &'static str, daemon: &Daemon) -> Result<Child, ComputeFailed> {
    const OPERATION: &str = "starting the process that computes";
    let spawn = move |may: &MayBlock<'_>| -> std::io::Result<Child> {
        let mut command = Command::new(this_program(may)?);
        command.arg(name).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true);
        // On some of Apple's processors MLX multiplies F32 with 11 bits of precision unless told otherwise. Results are
        // shared and kept, so they do not depend on that.
        command.env("MLX_ENABLE_TF32", "0");
        command.spawn()
    };
    let (disks, limit) = (Disks::default(), Some(SILENCE_MAX));
    let task = Task { operation: OPERATION, subject: name, disks: &disks, kind: Kind::Load, limit };
    daemon.lanes().run(task, spawn).await?.map_err(ComputeFailed::Start)
}

/// Lets a worker carry out `order`. Calls `progress` with the input bytes that are done and the last tensor, at least every
/// [`PULSE`]. Dropping the future ends the worker.
///
/// # Errors
/// When the worker cannot be started, gives up, ends early, or is silent for [`SILENCE_MAX`].
pub(crate) async fn compute(
    order: Order,
    daemon: &Daemon,
    progress: impl FnMut(u64, &str),
) -> Result<(), ComputeFailed> {
    work(&order::Task::Compute(order), daemon, progress).await.map(drop)
}

/// What a worker has done.
enum Done {
    Described(Installed),
    Computed,
}

async fn work(task: &order::Task, daemon: &Daemon, mut progress: impl FnMut(u64, &str)) -> Result<Done, ComputeFailed> {
    let command = if matches!(task, order::Task::Describe) { TELLING } else { COMMAND };
    let mut child = start(command, daemon).await?;
    let missing = || ComputeFailed::Start(std::io::ErrorKind::BrokenPipe.into());
    // Kept open: its end tells the worker that nobody wants the result any more.
    let mut input = child.stdin.take().ok_or_else(missing)?;
    let mut output = BufReader::new(child.stdout.take().ok_or_else(missing)?).lines();
    let line = task.encode().map_err(|error| ComputeFailed::Start(error.into()))?;
    // A worker that died before it read the whole order is noticed below.
    let _ = input.write_all(&line).await;
    let _ = input.flush().await;
    let (mut done, mut last) = (0, String::new());
    let mut quiet = Duration::ZERO;
    while quiet < SILENCE_MAX {
        let Ok(next) = timeout(PULSE, output.next_line()).await else {
            quiet += PULSE;
            progress(done, &last);
            continue;
        };
        quiet = Duration::ZERO;
        let Some(line) = next.ok().flatten() else {
            let how = child.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string());
            return Err(ComputeFailed::Died { how });
        };
        match serde_json::from_str(&line) {
            Ok(WorkerReport::Done { bytes, tensor }) => {
                (done, last) = (bytes, tensor);
                progress(done, &last);
            }
            Ok(WorkerReport::Finished) => {
                // Ends the worker before its input ends: it would take that for the end of the daemon and delete the
                // image, which is about to be published.
                let _ = child.kill().await;
                return Ok(Done::Computed);
            }
            Ok(WorkerReport::Engine(installed)) => return Ok(Done::Described(installed)),
            Ok(WorkerReport::Failed { kind, message }) => return Err(ComputeFailed::Failed { kind, message }),
            Err(error) => return Err(ComputeFailed::Died { how: format!("it said {line:?}: {error}") }),
        }
    }
    Err(ComputeFailed::Silent)
}
