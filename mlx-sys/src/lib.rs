//! The C API of MLX, as the crate of this name on crates.io declares it, built by another road: see `build/main.rs`.
//! [`ext`] is what this crate adds.
//!
//! No program is linked with the library: it is opened on first use ([`load`]), so that only the processes that compute
//! carry MLX, and a program runs where there is none.

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

mod functions;

#[allow(
    non_upper_case_globals,
    non_camel_case_types,
    non_snake_case,
    missing_docs,
    unreachable_pub,
    clippy::all,
    reason = "generated, with C's names"
)]
mod bindings;
mod half;
mod library;

pub mod ext;

#[cfg(test)]
#[path = "../build/wheels.rs"]
mod wheels;

pub use bindings::*;
pub use half::*;
pub use library::{LoadError, MLX_VERSION, REMEDY, find};

/// The addresses of all functions.
pub(crate) struct Functions {
    pub(crate) declared: bindings::Declared,
    pub(crate) pointers: bindings::Pointers,
    pub(crate) halves: half::Halves,
    pub(crate) extensions: ext::Extensions,
    /// Last, and never closed: threads of MLX may run in it until the process ends.
    file: library::File,
}

impl Functions {
    fn load(path: &Path) -> Result<Self, LoadError> {
        let file = library::File::open(path)?;
        let found = file.words("mlx_ext_build\0");
        if found.as_deref() != Some(library::BUILD) {
            return Err(LoadError::Foreign { path: path.to_owned(), found });
        }
        // MLX's own words, in case that its library was replaced.
        let found = file.words("mlx_ext_version\0").unwrap_or_default();
        if found != MLX_VERSION {
            return Err(LoadError::Version { path: path.to_owned(), found });
        }
        Ok(Self {
            declared: bindings::Declared::find(&file)?,
            pointers: bindings::Pointers::find(&file)?,
            halves: half::Halves::find(&file)?,
            extensions: ext::Extensions::find(&file)?,
            file,
        })
    }
}

static LOADED: OnceLock<Result<Functions, LoadError>> = OnceLock::new();

/// Loads MLX into this process, where it stays; says from which file. A caller of any other function of this crate
/// without having called this one has it called then.
///
/// # Errors
/// When there is no library, when it or something that it needs cannot be loaded, or when it is not the one of this
/// build. Asking again gives the same answer.
pub fn load() -> Result<&'static Path, &'static LoadError> {
    loaded().as_ref().map(|functions| functions.file.path.as_path())
}

/// What computes in this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Engine {
    /// `cpu`, `cuda` or `metal`.
    pub backend: String,
    /// The kind of processor, in MLX's words; empty where it has none.
    pub architecture: String,
    /// The library that was loaded, and then the files that MLX's package has beside it. What the system itself has (the C
    /// library, those of a driver) is not among them.
    pub files: Vec<PathBuf>,
}

/// Loads MLX and says what it computes with.
///
/// # Errors
/// As [`load`].
pub fn engine() -> Result<Engine, &'static LoadError> {
    let Functions { file, .. } = loaded().as_ref()?;
    let words = |function: &str| file.words(function).unwrap_or_default();
    Ok(Engine {
        backend: words("mlx_ext_backend\0"),
        architecture: words("mlx_ext_architecture\0"),
        files: library::package(&file.path, Path::new(&words("mlx_ext_library\0"))),
    })
}

fn loaded() -> &'static Result<Functions, LoadError> {
    LOADED.get_or_init(|| Functions::load(&find()?))
}

/// For the functions of this crate.
#[inline]
pub(crate) fn loaded_functions() -> &'static Functions {
    match LOADED.get() {
        Some(Ok(functions)) => functions,
        _ => load_or_panic(),
    }
}

#[cold]
fn load_or_panic() -> &'static Functions {
    match loaded() {
        Ok(functions) => functions,
        Err(error) => panic!("{error}: {REMEDY}"),
    }
}

/// The seed that mlx-rs takes from Apple's systems.
#[cfg(not(target_vendor = "apple"))]
#[unsafe(no_mangle)]
extern "C" fn mach_approximate_time() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command};

    use super::{library::BUILD, *};

    /// What is wrong with a library that is made of this C program.
    fn problem(program: &str) -> Option<LoadError> {
        let folder = tempfile::tempdir().unwrap();
        let (source, library) = (folder.path().join("library.c"), folder.path().join("library"));
        fs::write(&source, program).unwrap();
        let made = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status().unwrap();
        assert!(made.success());
        Functions::load(&library).err()
    }

    fn says(build: &str, version: &str) -> String {
        format!(
            "const char *mlx_ext_build(void) {{ return \"{build}\"; }}\n\
             const char *mlx_ext_version(void) {{ return \"{version}\"; }}\n"
        )
    }

    #[test]
    fn the_library_of_another_build_is_refused() {
        assert!(matches!(problem(""), Some(LoadError::Foreign { found: None, .. })));
        let other = problem(&says("another", MLX_VERSION));
        assert!(matches!(other, Some(LoadError::Foreign { found: Some(found), .. }) if found == "another"));
    }

    #[test]
    fn another_version_of_mlx_is_refused() {
        let other = problem(&says(BUILD, "0.1.0")).unwrap();
        assert!(other.to_string().ends_with(&format!("stands on MLX 0.1.0, expected {MLX_VERSION}")), "{other}");
    }

    #[test]
    fn the_function_that_is_missing_is_named() {
        let incomplete = problem(&says(BUILD, MLX_VERSION));
        assert!(matches!(incomplete, Some(LoadError::Incomplete { function, .. }) if function.starts_with("mlx_")));
    }

    #[test]
    fn what_is_no_library_is_refused_by_its_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "no library").unwrap();
        let error = Functions::load(file.path()).err().unwrap();
        assert!(error.to_string().contains(&*file.path().to_string_lossy()), "{error}");
    }
}
