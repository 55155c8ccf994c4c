//! Which engine this machine has. The daemon does not carry MLX, so the worker is asked once, and its answer is noted
//! beside the states of the library's files. As long as those are the same files, nobody is asked again.

use std::{
    fs,
    io::{self, Write as _},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Semaphore;

use super::{
    ComputeFailed, FailureKind,
    engine::{FoundEngine, Installed, PackageFile, WithoutEngine},
    process::{ASKING_MAX, ask},
};
use crate::{
    handle::Daemon,
    lanes::{Disks, Kind, MayBlock, Task},
};

/// Finds the engine of this machine.
#[derive(Debug)]
pub struct Engines {
    /// The file that the answer is kept in.
    note: Option<PathBuf>,
    known: Mutex<Known>,
    /// One at a time asks the worker.
    turn: Semaphore,
}

/// What was found out since the start.
#[derive(Debug, Default)]
struct Known {
    installed: Option<Arc<Installed>>,
    /// A library that the worker could not use, and its words.
    refused: Option<(PackageFile, String)>,
}

impl Engines {
    /// Keeps what it finds out in the file `note`; `None` keeps it in memory.
    #[must_use]
    pub fn new(note: Option<PathBuf>) -> Self {
        Self { note, known: Mutex::default(), turn: Semaphore::new(1) }
    }

    /// The engine of this machine, now.
    ///
    /// # Errors
    /// When the worker cannot be started, or dies.
    pub async fn find(self: &Arc<Self>, daemon: &Daemon) -> Result<FoundEngine, ComputeFailed> {
        let _turn = self.turn.acquire().await.map_err(|_| ComputeFailed::Stopping)?;
        let here = Arc::clone(self);
        let library = match run(daemon, move |may| here.look(may)).await? {
            Looked::Found(found) => return Ok(found),
            Looked::Unknown(library) => library,
        };
        let answer = ask(daemon).await;
        let here = Arc::clone(self);
        run(daemon, move |may| here.learn(library, answer, may)).await?
    }

    /// What is known without asking the worker.
    fn look(&self, _: &MayBlock<'_>) -> Looked {
        let mut known = self.known();
        if known.installed.is_none() {
            known.installed = self.noted().map(Arc::new);
        }
        let last = || known.installed.as_ref().map(|installed| installed.engine.clone());
        let path = match weightsd_arrays::find() {
            Ok(path) => path,
            Err(missing) => {
                return Looked::Found(FoundEngine::Absent { last: last(), why: WithoutEngine::Missing(missing) });
            }
        };
        if let Some(installed) = known.installed.as_ref().filter(|installed| installed.is_of(&path)) {
            return Looked::Found(FoundEngine::Installed(Arc::clone(installed)));
        }
        if let Some((_, words)) = known.refused.as_ref().filter(|(file, _)| file.path == path && file.is_unchanged()) {
            let why = WithoutEngine::Refused(words.clone());
            return Looked::Found(FoundEngine::Absent { last: last(), why });
        }
        Looked::Unknown(path)
    }

    /// Takes the worker's answer about the library at `path`.
    fn learn(
        &self,
        path: PathBuf,
        answer: Result<Installed, ComputeFailed>,
        _: &MayBlock<'_>,
    ) -> Result<FoundEngine, ComputeFailed> {
        let mut known = self.known();
        match answer {
            Ok(installed) => {
                let installed = Arc::new(installed);
                known.installed = Some(Arc::clone(&installed));
                self.note(&installed);
                Ok(FoundEngine::Installed(installed))
            }
            Err(ComputeFailed::Failed { kind: FailureKind::NoMlx, message }) => {
                known.refused = PackageFile::at(path).ok().map(|file| (file, message.clone()));
                let last = known.installed.as_ref().map(|installed| installed.engine.clone());
                Ok(FoundEngine::Absent { last, why: WithoutEngine::Refused(message) })
            }
            Err(error) => Err(error),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn noted(&self) -> Option<Installed> {
        serde_json::from_slice(&fs::read(self.note.as_ref()?).ok()?).ok()
    }

    /// Failing costs another question after the next start.
    fn note(&self, installed: &Installed) {
        let Some(path) = &self.note else { return };
        let written = serde_json::to_vec(installed).map_err(io::Error::from).and_then(|json| {
            let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
            fs::create_dir_all(folder)?;
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            file.write_all(&json)?;
            file.persist(path)?;
            Ok(())
        });
        if let Err(error) = written {
            tracing::warn!(path = %path.display(), %error, "which MLX computes here cannot be noted");
        }
    }
}

/// What is known without asking the worker.
enum Looked {
    Found(FoundEngine),
    /// Nothing is known of the library at this path.
    Unknown(PathBuf),
}

/// Looks at MLX's library and at the note, wherever they lie.
async fn run<T: Send + 'static>(
    daemon: &Daemon,
    work: impl FnOnce(&MayBlock<'_>) -> T + Send + 'static,
) -> Result<T, ComputeFailed> {
    const OPERATION: &str = "looking which MLX computes here";
    let (disks, limit) = (Disks::default(), Some(ASKING_MAX));
    let task = Task { operation: OPERATION, subject: OPERATION, disks: &disks, kind: Kind::Load, limit };
    Ok(daemon.lanes().run(task, work).await?)
}
