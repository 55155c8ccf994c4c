//! The build script of every package that makes programs with MLX in them: they find MLX's library where the build found
//! it, or, when they were moved together with it, in `lib/weightsd` beside their own folder.

use std::env;

fn main() {
    println!("cargo::rerun-if-env-changed=DEP_MLX_LIB");
    // Absent where MLX is an optional dependency that is not wanted.
    let Ok(lib) = env::var("DEP_MLX_LIB") else { return };
    let own = match env::var("CARGO_CFG_TARGET_OS").as_deref() {
        Ok("macos") => "@executable_path",
        _ => "$ORIGIN",
    };
    println!("cargo::rustc-link-arg=-Wl,-rpath,{own}/../lib/weightsd");
    println!("cargo::rustc-link-arg=-Wl,-rpath,{lib}");
}
