//! Which MLX computes here. Packages of one version differ in bits, so it is a part of what identifies a component. Only a
//! process that has loaded MLX can tell, and the daemon does not carry it: the worker is asked once, and its answer is
//! noted beside the states of the library's files. As long as those are the same files, nobody is asked again.

use std::{
    fmt, fs,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;
use weightsd_arrays::ArrayError;
use weightsd_segment::file_key;

use super::{
    ComputeFailed,
    process::{ASKING_MAX, ask},
};
use crate::{
    handle::Daemon,
    lanes::{Disks, Kind, MayBlock, Task},
};

/// Bytes of a library that are read at once.
const BUFFER_BYTES: usize = 1 << 20;

/// The MLX that computes here: all of it that decides the bits of a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Engine {
    /// MLX's version.
    pub version: String,
    /// `cpu`, `cuda` or `metal`.
    pub backend: String,
    /// The kind of processor, in MLX's words: `x86_64`, `applegpu_g13s`, `sm_90`.
    pub architecture: String,
    /// Hash of the files of MLX's package, in hex.
    pub build: String,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, backend, architecture, build } = self;
        write!(f, "MLX {version}, {backend} {architecture}, build {build}")
    }
}

/// A file of MLX's package, and the state in which it was hashed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct PackageFile {
    path: PathBuf,
    state: String,
}

impl PackageFile {
    fn at(path: PathBuf) -> io::Result<Self> {
        Ok(Self { state: file_key(&path)?.to_string(), path })
    }

    fn is_unchanged(&self) -> bool {
        file_key(&self.path).is_ok_and(|key| key.to_string() == self.state)
    }
}

/// An engine, and the files that it consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installed {
    /// The engine.
    pub engine: Engine,
    /// The library that was loaded, and whatever it brought along.
    files: Vec<PackageFile>,
}

impl Installed {
    /// The engine of this process, which loads MLX for it. Reads every file of MLX's package.
    ///
    /// # Errors
    /// When MLX cannot be loaded, or a file of its package cannot be read.
    pub(super) fn here() -> Result<Self, ArrayError> {
        let found = weightsd_arrays::engine()?;
        let unreadable = |path: &Path| {
            let path = path.to_owned();
            move |error: io::Error| ArrayError::Mlx(format!("cannot read `{}`: {error}", path.display()))
        };
        let mut hash = Sha256::new();
        let mut files = Vec::new();
        for path in found.files {
            let file = PackageFile::at(path.clone()).map_err(unreadable(&path))?;
            let mut content = fs::File::open(&path).map_err(unreadable(&path))?;
            let length = content.metadata().map_err(unreadable(&path))?.len();
            // Names and not paths: a package that was moved computes the same.
            let name = path.file_name().unwrap_or_default().as_encoded_bytes();
            hash.update((name.len() as u64).to_le_bytes());
            hash.update(name);
            hash.update(length.to_le_bytes());
            digest(&mut content, &mut hash).map_err(unreadable(&path))?;
            files.push(file);
        }
        let build = hex::encode(&hash.finalize()[..16]);
        let version = weightsd_core::derive::MLX_VERSION.to_owned();
        Ok(Self { engine: Engine { version, backend: found.backend, architecture: found.architecture, build }, files })
    }

    /// Whether this process would compute with it.
    ///
    /// # Errors
    /// When MLX cannot be loaded.
    pub(super) fn is_here(&self) -> Result<bool, ArrayError> {
        let found = weightsd_arrays::engine()?;
        let paths = self.files.iter().map(|file| &file.path);
        let Engine { backend, architecture, .. } = &self.engine;
        Ok((&found.backend, &found.architecture) == (backend, architecture)
            && paths.eq(found.files.iter())
            && self.is_unchanged())
    }

    /// Whether the library at `path` is still this one.
    fn is_of(&self, path: &Path) -> bool {
        self.files.first().is_some_and(|file| file.path == path) && self.is_unchanged()
    }

    fn is_unchanged(&self) -> bool {
        self.files.iter().all(PackageFile::is_unchanged)
    }
}

fn digest(content: &mut fs::File, hash: &mut Sha256) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match content.read(&mut buffer)? {
            0 => return Ok(()),
            read => hash.update(&buffer[..read]),
        }
    }
}

/// What is known of the engine.
#[derive(Debug, Clone)]
pub enum FoundEngine {
    /// It is here.
    Installed(Arc<Installed>),
    /// Nothing can be computed here.
    Absent {
        /// The engine that was here last. What it computed is still lent.
        last: Option<Engine>,
        /// Why not.
        why: WithoutEngine,
    },
}

/// Why nothing can be computed here.
#[derive(Debug, Clone)]
pub enum WithoutEngine {
    /// There is no library.
    Missing(weightsd_arrays::LoadError),
    /// The worker cannot use the library, in its words.
    Refused(String),
}

impl FoundEngine {
    /// The engine whose results are lent here.
    #[must_use]
    pub fn engine(&self) -> Option<&Engine> {
        match self {
            Self::Installed(installed) => Some(&installed.engine),
            Self::Absent { last, .. } => last.as_ref(),
        }
    }
}

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
            Err(ComputeFailed::Failed { kind: super::FailureKind::NoMlx, message }) => {
                known.refused = PackageFile::at(path).ok().map(|file| (file, message.clone()));
                let last = known.installed.as_ref().map(|installed| installed.engine.clone());
                Ok(FoundEngine::Absent { last, why: WithoutEngine::Refused(message) })
            }
            Err(error) => Err(error),
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
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
