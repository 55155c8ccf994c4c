//! The sources of mlx-c. The crate that this one stands in for has them inside, so cargo can fetch them; only that crate
//! cannot be named as a dependency, since this one is built in its place. A manifest outside the workspace can name it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{Result, run};

/// The name and version are in the manifest; the lock file beside it pins the content.
const MANIFEST: &str = include_str!("upstream/Cargo.toml.in");
const LOCK: &str = include_str!("upstream/Cargo.lock.in");
/// The folder that cargo unpacks it to.
pub(crate) const PACKAGE: &str = "mlx-sys-0.7.0";

/// The root of mlx-c.
pub(crate) fn find(cache: &Path) -> Result<PathBuf> {
    let folder = cache.join("upstream");
    let io = |error: std::io::Error| format!("{}: {error}", folder.display());
    fs::create_dir_all(&folder).map_err(io)?;
    for (name, text) in [("Cargo.toml", MANIFEST), ("Cargo.lock", LOCK), ("lib.rs", "")] {
        fs::write(folder.join(name), text).map_err(io)?;
    }
    // Without the network first: mostly it is there.
    metadata(&folder, &["--offline"])
        .or_else(|_| metadata(&folder, &[]))
        .map_err(|problem| format!("the sources of mlx-c, which are in the crate {PACKAGE}, cannot be had.\n{problem}"))
}

fn metadata(folder: &Path, options: &[&str]) -> Result<PathBuf> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["metadata", "--format-version=1", "--locked"]).args(options).arg("--manifest-path");
    let output = run(command.arg(folder.join("Cargo.toml")).current_dir(folder))?;
    let text = String::from_utf8_lossy(&output);
    // The one path that ends so; a parser of JSON would have to be built first.
    let end = format!("{PACKAGE}/Cargo.toml\"");
    let until = text.find(&end).ok_or_else(|| format!("cargo does not say where {PACKAGE} is"))?;
    let start = text[..until].rfind('"').map_or(0, |quote| quote + 1);
    let root = PathBuf::from(&text[start..until]).join(PACKAGE).join("src/mlx-c");
    if root.join("mlx/c/mlx.h").exists() { Ok(root) } else { Err(format!("there is no mlx-c at {}", root.display())) }
}
