//! mlx-c and what is added to it, compiled into one archive. It is the same for all profiles: calls go through it, and
//! nothing is computed in it.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use crate::{Result, Target, made, mlx::Mlx};

/// What this crate adds.
const SHIM: [&str; 3] = ["half.cpp", "ext.cpp", "format.h"];

/// The folder of the archive `libmlxc.a`.
pub(crate) fn mlx_c(source: &Path, mlx: &Mlx, target: &Target, cache: &Path) -> Result<PathBuf> {
    let shim = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or("CARGO_MANIFEST_DIR is not set")?).join("shim");
    let mut files: Vec<PathBuf> = fs::read_dir(source.join("mlx/c"))
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
        .map_err(|error| format!("{}: {error}", source.display()))?;
    files.retain(|path| path.extension().is_some_and(|ending| ending == "cpp"));
    files.sort();
    files.extend(SHIM.iter().filter(|name| name.ends_with(".cpp")).map(|name| shim.join(name)));

    let mut build = cc::Build::new();
    build.cpp(true).std("c++20").opt_level(2).debug(false).pic(true).warnings(false).cargo_metadata(false);
    build.include(source).include(&mlx.include).files(&files);
    // Compilers of 2022 lack <format>, of which mlx-c uses the least; its own name is found first where it exists.
    build.flag("-include").flag(shim.join("format.h"));
    if target.os == "macos" {
        // The headers of a cross compiler may lack these two.
        build.define("INFINITY", "__builtin_inff()").define("NAN", "__builtin_nanf(\"\")");
    }
    let compiler = build.try_get_compiler().map_err(|error| error.to_string())?;

    let mut hash = Sha256::new();
    hash.update(format!("{:?} {:?} {}", compiler.path(), compiler.args(), source.display()));
    let version = compiler.to_command().arg("--version").output().map(|output| output.stdout).unwrap_or_default();
    hash.update(version);
    for name in SHIM {
        hash.update(fs::read(shim.join(name)).map_err(|error| format!("{name}: {error}"))?);
    }
    let key = hex::encode(&hash.finalize()[..6]);
    let folder = cache.join(format!("mlx-c-{}-{}-{key}", target.arch, target.os));
    made(&folder, |partial| {
        build.out_dir(partial).try_compile("mlxc").map_err(|error| {
            format!(
                "mlx-c cannot be compiled: it needs a C++ compiler with C++20 (GCC 12, Clang 15 or newer).\n{error}"
            )
        })
    })?;
    Ok(folder)
}
