//! The prebuilt MLX.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    MLX_VERSION, Result, Target, made, run,
    wheels::{self, Wheel},
};

/// Where an MLX is.
pub(crate) struct Mlx {
    /// Its name in names of folders: of a package the backend.
    pub(crate) backend: String,
    /// Its headers.
    pub(crate) include: PathBuf,
    /// The folder of its library.
    pub(crate) lib: PathBuf,
    /// The root of the Python package that was fetched.
    pub(crate) package: Option<PathBuf>,
}

const WHEELS: &str = include_str!("wheels.txt");

const WAYS_OUT: &str = "Either let it be fetched: this needs Python 3.9 or newer with pip (on Debian: \
    `apt install python3-pip`) and a package index that pip can reach. Or install MLX, and set MLX_ROOT to the folder \
    that has its `include` and `lib`; in a Python environment with MLX that is \
    `python3 -c 'import mlx.core, os; print(os.path.dirname(mlx.core.__file__))'`. Or build without MLX: with \
    MLX_BACKEND=none weightsd lends what needs no computing.";

/// The MLX that the user names, or the Python package. Others that are installed are left alone: they move under the
/// programs that were built with them, and compute other bits.
pub(crate) fn find(target: &Target, cache: &Path) -> Result<Mlx> {
    if let Some(root) = env::var_os("MLX_ROOT").map(PathBuf::from) {
        return check(&root, target, "own").map_err(|problem| format!("MLX_ROOT is {}: {problem}", root.display()));
    }
    let default = || if target.os == "macos" { "metal".into() } else { "cpu".into() };
    let backend = env::var("MLX_BACKEND").unwrap_or_else(|_| default());
    fetched(&wheel(target, &backend)?, target, &backend, cache)
        .map_err(|problem| format!("MLX {MLX_VERSION} is not to be had.\n{problem}\n{WAYS_OUT}"))
}

/// Whether the MLX below `root` is the right one.
fn check(root: &Path, target: &Target, backend: &str) -> Result<Mlx> {
    let (include, lib) = (root.join("include"), root.join("lib"));
    let version = include.join("mlx/version.h");
    let header = fs::read_to_string(&version).map_err(|error| format!("{}: {error}", version.display()))?;
    let number = |part: &str| {
        let line = header.lines().find_map(|line| line.trim().strip_prefix(&format!("#define MLX_VERSION_{part} ")));
        line.unwrap_or("?").trim().to_owned()
    };
    let found = [number("MAJOR"), number("MINOR"), number("PATCH")].join(".");
    if found != MLX_VERSION {
        return Err(format!("it is MLX {found}, expected {MLX_VERSION}"));
    }
    let library = lib.join(target.library("mlx"));
    if !library.exists() {
        return Err(format!("there is no {}", library.display()));
    }
    Ok(Mlx { backend: backend.to_owned(), include, lib, package: None })
}

fn wheel(target: &Target, backend: &str) -> Result<Wheel<'static>> {
    let key = format!("{}-{}", target.arch, target.os);
    let macos = Command::new("sw_vers").arg("-productVersion").output().ok();
    let macos = macos.and_then(|output| wheels::numbers(&String::from_utf8_lossy(&output.stdout)));
    wheels::choose(WHEELS, &key, backend, macos).map_err(|known| {
        format!(
            "there is no prebuilt MLX with the backend `{backend}` for {key} (there are: {}).\n{WAYS_OUT}",
            known.join(", ")
        )
    })
}

/// Lets pip fetch the package, which compares the hash, and unpacks it.
fn fetched(wheel: &Wheel<'_>, target: &Target, backend: &str, cache: &Path) -> Result<Mlx> {
    let Wheel { package, version, platform, sha256, .. } = wheel;
    let folder = cache.join(format!("{package}-{version}-{}", &sha256[..12]));
    made(&folder, "requirements.txt", |partial| {
        let io = |error: std::io::Error| format!("{}: {error}", partial.display());
        let (requirements, download) = (partial.join("requirements.txt"), partial.join("download"));
        fs::write(&requirements, format!("{package}=={version} --hash=sha256:{sha256}\n")).map_err(io)?;
        let python = env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned());
        // The Python version is any for which there is a package: nothing of it is run.
        let options = ["--no-deps", "--require-hashes", "--only-binary=:all:", "--python-version=3.13", "--quiet"];
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip", "download"]).args(options).arg(format!("--platform={platform}"));
        run(pip.arg("--dest").arg(&download).arg("--requirement").arg(&requirements))?;
        let mut files = fs::read_dir(&download).map_err(io)?.filter_map(|entry| Some(entry.ok()?.path()));
        let file = files.next().ok_or("pip has fetched nothing")?;
        run(Command::new(&python).args(["-m", "zipfile", "-e"]).arg(&file).arg(partial))?;
        fs::remove_dir_all(&download).map_err(io)?;
        check(&partial.join("mlx"), target, backend).map(drop)
    })?;
    Ok(Mlx { package: Some(folder.clone()), ..check(&folder.join("mlx"), target, backend)? })
}
