//! mlx-c and what is added to it, compiled into one library that stands on MLX's. It is the same for all profiles: calls
//! go through it, and nothing is computed in it.

use std::{
    env, fs,
    fs::File,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use sha2::{Digest as _, Sha256};

use crate::{MLX_VERSION, Result, Target, made, mlx::Mlx, run};

/// What this crate adds, after what has to come first.
const FORMAT: &str = include_str!("../shim/format.h");
const SHIM: [&str; 2] = [include_str!("../shim/half.cpp"), include_str!("../shim/ext.cpp")];

/// The oldest macOS for which MLX's package is made, and whose C++ library has what mlx-c needs.
const MACOS_MIN: &str = "14.0";

const COMPILER: &str = "mlx-c cannot be compiled. It needs a C++ compiler with C++20: GCC 12, Clang 15 or newer \
    (Debian: `apt install g++`; macOS: `xcode-select --install`).";

/// The whole program in one text: most of the work is in the headers, which are the same for all files of mlx-c.
pub(crate) struct Unit(String);

impl Unit {
    /// Reads which files mlx-c has at `source`.
    pub(crate) fn new(source: &Path) -> Result<Self> {
        let io = |error: std::io::Error| format!("{}: {error}", source.display());
        let mut names = Vec::new();
        for entry in fs::read_dir(source.join("mlx/c")).map_err(io)? {
            let name = entry.map_err(io)?.file_name().to_string_lossy().into_owned();
            if name.ends_with(".cpp") {
                names.push(name);
            }
        }
        names.sort();
        let files = names.iter().map(|name| format!("#include \"mlx/c/{name}\"\n"));
        let parts = [FORMAT.to_owned()]
            .into_iter()
            .chain(files)
            .chain(["#undef format\n".to_owned()])
            .chain(SHIM.map(str::to_owned));
        Ok(Self(parts.collect()))
    }
}

/// What decides which functions the library has and what they take. The library states it, and a program that opens the
/// library compares it with its own.
pub(crate) fn build_name(package: &str) -> String {
    let mut hash = Sha256::new();
    for part in [FORMAT, SHIM[0], SHIM[1]] {
        hash.update(part);
    }
    format!("{package}, MLX {MLX_VERSION}, {}", hex::encode(&hash.finalize()[..6]))
}

/// The folder of the library. With an MLX that was fetched it has all that MLX needs, and can be moved.
pub(crate) fn library(unit: &Unit, source: &Path, mlx: &Mlx, target: &Target, cache: &Path) -> Result<PathBuf> {
    let scratch = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let file = scratch.join("mlxc.cpp");
    fs::write(&file, &unit.0).map_err(|error| format!("{}: {error}", file.display()))?;

    let mut build = cc::Build::new();
    build.cpp(true).std("c++20").opt_level(1).debug(false).pic(true).warnings(false).cargo_metadata(false);
    build.include(source).include(&mlx.include).file(&file).out_dir(&scratch);
    build.define("MLX_EXT_BUILD", format!("\"{}\"", target.build_name).as_str());
    if target.os == "macos" {
        build.env("MACOSX_DEPLOYMENT_TARGET", MACOS_MIN);
        // The headers of a cross compiler may lack these two.
        build.define("INFINITY", "__builtin_inff()").define("NAN", "__builtin_nanf(\"\")");
    }
    let explained = |error: cc::Error| format!("{COMPILER}\n{error}");
    let compiler = build.try_get_compiler().map_err(explained)?;

    let mut hash = Sha256::new();
    hash.update(format!("{:?} {:?} {}", compiler.path(), compiler.args(), mlx.lib.display()));
    hash.update(compiler.to_command().arg("--version").output().map(|output| output.stdout).unwrap_or_default());
    hash.update(&unit.0);
    let key = hex::encode(&hash.finalize()[..6]);
    let folder = cache.join(format!("library-{}-{}-{}-{key}", mlx.backend, target.arch, target.os));
    let name = target.library("mlxc");
    made(&folder, &name, |partial| {
        let objects = build.try_compile_intermediates().map_err(explained)?;
        let mut link = compiler.to_command();
        link.arg("-shared").arg("-o").arg(partial.join(&name)).args(objects);
        link.arg("-L").arg(&mlx.lib).arg("-lmlx");
        if target.os == "macos" {
            link.arg(format!("-Wl,-install_name,@rpath/{name}"));
        }
        if let Some(package) = &mlx.package {
            copy_libraries(package, partial)?;
            let own = if target.os == "macos" { "@loader_path" } else { "$ORIGIN" };
            link.arg(format!("-Wl,-rpath,{own}/mlx/lib"));
        } else {
            link.arg(format!("-Wl,-rpath,{}", mlx.lib.display()));
        }
        run(&mut link).map_err(|problem| format!("{COMPILER}\n{problem}"))?;
        long_made(&partial.join(&name))
    })?;
    Ok(folder)
}

/// Cargo runs this script again when a file that it watches is newer than the start of the script's last run. So what the
/// script makes itself must not look new.
fn long_made(file: &Path) -> Result<()> {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    File::options()
        .write(true)
        .open(file)
        .and_then(|file| file.set_modified(time))
        .map_err(|error| format!("{}: {error}", file.display()))
}

/// Puts the libraries of a Python package into `to`, in the places in which they find each other: MLX in `mlx/lib`, and
/// what it needs in folders called `*.libs`.
fn copy_libraries(package: &Path, to: &Path) -> Result<()> {
    copy(&package.join("mlx/lib"), &to.join("mlx/lib"))?;
    let io = |error: std::io::Error| format!("{}: {error}", package.display());
    for entry in fs::read_dir(package).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if let Some(name) = path.file_name().filter(|name| name.to_string_lossy().ends_with(".libs")) {
            copy(&path, &to.join(name))?;
        }
    }
    Ok(())
}

/// Copies the files of a folder, by links where the file system has them.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let io = |error: std::io::Error| format!("cannot copy {} to {}: {error}", from.display(), to.display());
    fs::create_dir_all(to).map_err(io)?;
    for entry in fs::read_dir(from).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let Some(name) = path.file_name().filter(|_| path.is_file()) else { continue };
        fs::hard_link(&path, to.join(name)).or_else(|_| fs::copy(&path, to.join(name)).map(drop)).map_err(io)?;
    }
    Ok(())
}
