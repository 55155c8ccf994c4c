//! The file of the library that has MLX's C API in it: where it lies, and how it is opened and asked.

use std::{
    env,
    error::Error as _,
    ffi::{CStr, c_char},
    fs,
    path::{Path, PathBuf},
};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use thiserror::Error;

/// The version of MLX that the library stands on.
pub const MLX_VERSION: &str = env!("MLX_SYS_MLX_VERSION");
/// The environment variable that names the library's folder.
const FOLDER_VARIABLE: &str = "WEIGHTSD_MLX";
/// Where the library lies, seen from the folder of the program, when both were moved.
const INSTALLED: &str = "../lib/weightsd";

/// The library's file.
const FILE: &str = if cfg!(target_vendor = "apple") { "libmlxc.dylib" } else { "libmlxc.so" };
/// What the library must say of itself: everything that decides what its functions take.
pub(crate) const BUILD: &str = env!("MLX_SYS_BUILD");
/// The folder in which this build made the library; empty when it made none.
const BUILT: &str = env!("MLX_SYS_BUILT");

/// MLX cannot be used in this process.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LoadError {
    /// There is no library in any of the places.
    #[error("MLX is not on this machine: there is no {}", among(.looked))]
    Missing {
        /// The files that were looked for.
        looked: Vec<PathBuf>,
    },
    /// The system does not open it: it, or a library that it needs, is missing or damaged.
    #[error("MLX cannot be loaded from `{}`: {problem}", path.display())]
    Unloadable {
        /// The library.
        path: PathBuf,
        /// The system's words, which name the file that is missing or damaged.
        problem: String,
    },
    /// It was not made by this build.
    #[error("`{}` is not the library that this program was built with: it says {found:?}, expected {BUILD:?}", path.display())]
    Foreign {
        /// The library.
        path: PathBuf,
        /// What it says of itself; `None` when it says nothing.
        found: Option<String>,
    },
    /// It stands on another MLX.
    #[error("`{}` stands on MLX {found}, expected {MLX_VERSION}", path.display())]
    Version {
        /// The library.
        path: PathBuf,
        /// The version of MLX.
        found: String,
    },
    /// It lacks a function.
    #[error("`{}` has no function `{function}`", path.display())]
    Incomplete {
        /// The library.
        path: PathBuf,
        /// The first function that is missing.
        function: String,
    },
}

fn among(looked: &[PathBuf]) -> String {
    let shown: Vec<_> = looked.iter().map(|path| format!("`{}`", path.display())).collect();
    shown.join(", nor ")
}

/// What a user can do about any [`LoadError`].
pub const REMEDY: &str = "build weightsd again (`cargo build` fetches MLX, unless MLX_BACKEND is `none`); or copy the \
    folder in which that build has put MLX (`library-*` in ~/.cargo/mlx-sys) to `lib/weightsd` beside the program's \
    folder; or name that folder in WEIGHTSD_MLX";

/// An open library.
pub(crate) struct File {
    pub(crate) path: PathBuf,
    library: Library,
}

impl File {
    pub(crate) fn open(path: &Path) -> Result<Self, LoadError> {
        // All that the library needs is looked up now: a function that MLX lacks would end the process when it is
        // called, much later.
        // SAFETY: what runs is the code that starts MLX, which expects nothing of us.
        let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) };
        let library = library.map_err(|error| {
            // The system's words are the cause.
            let cause = error.source().map_or_else(|| error.to_string(), ToString::to_string);
            LoadError::Unloadable { path: path.to_owned(), problem: cause }
        })?;
        Ok(Self { path: path.to_owned(), library })
    }

    /// The function of this name, which ends with a zero.
    ///
    /// # Safety
    /// `F` is the type of the function.
    pub(crate) unsafe fn function<F: Copy>(&self, name: &str) -> Result<F, LoadError> {
        // SAFETY: the caller's promise.
        match unsafe { self.library.get::<F>(name.as_bytes()) } {
            Ok(symbol) => Ok(*symbol),
            Err(_) => {
                let function = name.trim_end_matches('\0').to_owned();
                Err(LoadError::Incomplete { path: self.path.clone(), function })
            }
        }
    }

    /// The words that a function without arguments returns. `None` without such a function.
    pub(crate) fn words(&self, name: &str) -> Option<String> {
        // SAFETY: functions of these names are the shim's, and they return texts that nobody changes.
        let words = unsafe { self.function::<unsafe extern "C" fn() -> *const c_char>(name).ok()?() };
        // SAFETY: as above.
        Some(unsafe { CStr::from_ptr(words) }.to_string_lossy().into_owned())
    }
}

/// The files of the package that the library at `mlxc` stands on, `mlxc` first: MLX at `mlx`, its kernels for Metal, and
/// the libraries that a Python package brings along in folders called `*.libs`. What the system has is not among them.
pub(crate) fn package(mlxc: &Path, mlx: &Path) -> Vec<PathBuf> {
    let entries = |folder: &Path| {
        let mut found: Vec<_> =
            fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        found.sort();
        found
    };
    let beside = mlxc.parent().map(entries).unwrap_or_default();
    let is_brought = |path: &&PathBuf| path.extension().is_some_and(|ending| ending == "libs");
    let brought = beside.iter().filter(is_brought).flat_map(|folder| entries(folder));
    let kernels = Some(mlx.with_file_name("mlx.metallib")).filter(|path| path.exists());
    [mlxc.to_owned(), mlx.to_owned()].into_iter().chain(kernels).chain(brought).collect()
}

/// The file that [`load`](crate::load) would load. Only looks whether it is there.
///
/// # Errors
/// When the library is in none of the places where it may be.
pub fn find() -> Result<PathBuf, LoadError> {
    let folders = match env::var_os(FOLDER_VARIABLE).filter(|folder| !folder.is_empty()) {
        // Who names a folder means that one.
        Some(folder) => vec![PathBuf::from(folder)],
        None => {
            let program = env::current_exe().ok();
            let installed = program.as_deref().and_then(Path::parent).map(|folder| folder.join(INSTALLED));
            let built = Some(PathBuf::from(BUILT)).filter(|_| !BUILT.is_empty());
            installed.into_iter().chain(built).collect()
        }
    };
    let looked: Vec<_> = folders.into_iter().map(|folder| folder.join(FILE)).collect();
    match looked.iter().find(|path| path.exists()) {
        Some(path) => Ok(path.clone()),
        None => Err(LoadError::Missing { looked }),
    }
}
