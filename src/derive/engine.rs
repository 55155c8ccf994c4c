//! The MLX that computes here. Packages of one version differ in bits, so it is a part of what identifies a component.
//! Only a process that has loaded MLX can tell.

use std::{
    fmt, fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use weightsd_arrays::ArrayError;
use weightsd_segment::file_key;

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
pub(super) struct PackageFile {
    pub(super) path: PathBuf,
    state: String,
}

impl PackageFile {
    pub(super) fn at(path: PathBuf) -> io::Result<Self> {
        Ok(Self { state: file_key(&path)?.to_string(), path })
    }

    pub(super) fn is_unchanged(&self) -> bool {
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
    pub(super) fn is_of(&self, path: &Path) -> bool {
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
