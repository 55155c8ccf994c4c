//! Builds mlx-c, MLX's C API, against a prebuilt MLX, so that mlx-rs works on Linux as on macOS and nobody has to compile
//! MLX. Three things are needed, and each is found or fetched here:
//!
//! - MLX itself ([`mlx`]): an installed one where there is one, otherwise the Python package, pinned by hash;
//! - the sources of mlx-c ([`source`]): they are inside the crate that this one stands in for;
//! - mlx-c compiled ([`compile`]).
//!
//! Settings, all environment variables: `MLX_ROOT`, a folder with MLX's `include` and `lib`; `MLX_BACKEND`, one of `cpu`
//! (Linux's default), `cuda12`, `cuda13`, `metal` (macOS's); `MLX_SYS_CACHE`, where fetched and compiled things are kept
//! (default: `mlx-sys` in cargo's home, because programs that were built find MLX there when they run).

mod compile;
mod mlx;
mod source;

use std::{
    env, fs,
    fs::File,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

/// The version of MLX that mlx-c and mlx-rs are for.
const MLX_VERSION: &str = "0.32.2";

type Result<T> = std::result::Result<T, String>;

/// What is built for.
struct Target {
    /// `x86_64`, `aarch64`.
    arch: String,
    /// `linux`, `macos`.
    os: String,
}

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rerun-if-changed=shim");
    for name in ["MLX_ROOT", "MLX_BACKEND", "MLX_SYS_CACHE"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            for line in problem.lines() {
                println!("cargo::error={line}");
            }
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<()> {
    let target = Target { arch: variable("CARGO_CFG_TARGET_ARCH")?, os: variable("CARGO_CFG_TARGET_OS")? };
    let cache = cache()?;
    // Two builds at once, of two profiles, would fetch and compile into the same folder.
    let lock = File::create(cache.join("lock")).and_then(|file| file.lock().map(|()| file));
    let lock = lock.map_err(|error| format!("cannot lock {}: {error}", cache.display()))?;
    let mlx = mlx::find(&target, &cache)?;
    let source = source::find(&cache)?;
    let archive = compile::mlx_c(&source, &mlx, &target, &cache)?;
    drop(lock);

    let (archive, lib) = (archive.display(), mlx.lib.display());
    // Whoever empties the cache gets it filled again.
    println!("cargo::rerun-if-changed={archive}/libmlxc.a");
    println!("cargo::rerun-if-changed={lib}");
    println!("cargo::rustc-link-search=native={archive}");
    println!("cargo::rustc-link-lib=static=mlxc");
    println!("cargo::rustc-link-search=native={lib}");
    println!("cargo::rustc-link-lib=dylib=mlx");
    println!("cargo::rustc-link-lib=dylib={}", if target.os == "macos" { "c++" } else { "stdc++" });
    // `DEP_MLX_LIB` in the build scripts of dependents: their programs must be told where to look when they run.
    println!("cargo::metadata=lib={lib}");
    println!("cargo::metadata=include={}", mlx.include.display());
    println!("cargo::rustc-link-arg=-Wl,-rpath,{lib}");
    Ok(())
}

fn variable(name: &str) -> Result<String> {
    env::var(name).map_err(|_| format!("{name} is not set: this is cargo's to do"))
}

/// Where fetched and compiled things stay.
fn cache() -> Result<PathBuf> {
    let named = env::var_os("MLX_SYS_CACHE").map(PathBuf::from);
    let home = || {
        let home = env::var_os("CARGO_HOME").map(PathBuf::from);
        Some(home.or_else(|| Some(Path::new(&env::var_os("HOME")?).join(".cargo")))?.join("mlx-sys"))
    };
    let usable = |path: &PathBuf| fs::create_dir_all(path).is_ok() && File::create(path.join("lock")).is_ok();
    let found = named.or_else(home).filter(usable);
    // Where cargo's home cannot be written to, at least this build shall work.
    let found = found.or_else(|| Some(PathBuf::from(env::var_os("OUT_DIR")?).join("cache")).filter(usable));
    let found = found.ok_or("there is no folder to build in: set MLX_SYS_CACHE to one that can be written to")?;
    found.canonicalize().map_err(|error| format!("{}: {error}", found.display()))
}

/// Runs a program; its output where it succeeds, otherwise what it said.
fn run(command: &mut Command) -> Result<Vec<u8>> {
    let shown = format!("{command:?}");
    let output = command.output().map_err(|error| format!("cannot run {shown}: {error}"))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{shown} failed ({}):\n{}", output.status, said.trim_end()))
}

/// Makes `folder` by `make`, which is given another name for it; whoever finds `folder` finds it whole.
fn made(folder: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if folder.exists() {
        return Ok(());
    }
    let mut partial = folder.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let io = |error: std::io::Error| format!("{}: {error}", partial.display());
    if partial.exists() {
        fs::remove_dir_all(&partial).map_err(io)?;
    }
    fs::create_dir_all(&partial).map_err(io)?;
    make(&partial)?;
    fs::rename(&partial, folder).map_err(io)
}
