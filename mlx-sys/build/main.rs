//! Builds mlx-c, MLX's C API, over a prebuilt MLX, so that mlx-rs works on Linux as on macOS and nobody has to compile
//! MLX. Three things are needed, and each is found or fetched here:
//!
//! - MLX itself ([`mlx`]): the one that `MLX_ROOT` names, otherwise the Python package, pinned by hash;
//! - the sources of mlx-c ([`source`]): they are inside the crate that this one stands in for;
//! - mlx-c compiled ([`compile`]).
//!
//! What comes out is a library in a folder of its own, which programs open when they need it: nothing is linked with it.
//!
//! Settings, all environment variables: `MLX_ROOT`, a folder with MLX's `include` and `lib`; `MLX_BACKEND`, one of `cpu`
//! (Linux's default), `cuda12`, `cuda13`, `metal` (macOS's), or `none`, which builds without any of this;
//! `MLX_SYS_CACHE`, where fetched and compiled things are kept (default: `mlx-sys` in cargo's home, because programs that
//! were built find MLX there when they run).

mod compile;
mod mlx;
mod source;
mod wheels;

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
    /// What the library says of itself.
    build_name: String,
}

impl Target {
    /// The file of a library.
    fn library(&self, name: &str) -> String {
        format!("lib{name}.{}", if self.os == "macos" { "dylib" } else { "so" })
    }
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
    let target = Target {
        arch: variable("CARGO_CFG_TARGET_ARCH")?,
        os: variable("CARGO_CFG_TARGET_OS")?,
        build_name: compile::build_name(source::PACKAGE),
    };
    println!("cargo::rustc-env=MLX_SYS_MLX_VERSION={MLX_VERSION}");
    println!("cargo::rustc-env=MLX_SYS_BUILD={}", target.build_name);
    let folder =
        if env::var("MLX_BACKEND").is_ok_and(|backend| backend == "none") { PathBuf::new() } else { library(&target)? };
    println!("cargo::rustc-env=MLX_SYS_BUILT={}", folder.display());
    Ok(())
}

/// The folder of the library.
fn library(target: &Target) -> Result<PathBuf> {
    let cache = cache()?;
    // Two builds at once, of two profiles, would fetch and compile into the same folder.
    let lock = File::create(cache.join("lock")).and_then(|file| file.lock().map(|()| file));
    let lock = lock.map_err(|error| format!("cannot lock {}: {error}", cache.display()))?;
    let mlx = mlx::find(target, &cache)?;
    let source = source::find(&cache)?;
    let unit = compile::Unit::new(&source)?;
    let folder = compile::library(&unit, &source, &mlx, target, &cache)?;
    drop(lock);
    // A cache that was emptied is filled again.
    println!("cargo::rerun-if-changed={}", folder.join(target.library("mlxc")).display());
    Ok(folder)
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

/// Makes `folder` by `make`, which is given another name for it: a folder that has `file` in it is whole.
fn made(folder: &Path, file: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if folder.join(file).exists() {
        return Ok(());
    }
    let mut partial = folder.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let io = |error: std::io::Error| format!("{}: {error}", partial.display());
    for rest in [folder, &partial] {
        if rest.exists() {
            fs::remove_dir_all(rest).map_err(io)?;
        }
    }
    fs::create_dir_all(&partial).map_err(io)?;
    make(&partial)?;
    fs::rename(&partial, folder).map_err(io)
}
