//! Names the shared library, and lays out a prefix beside the built libraries, in which C programs find everything:
//! `target/<profile>/weightsd-c`, with `include` and `lib`. The libraries in it are links to what cargo is about to build;
//! the pkg-config and CMake files find themselves, so that the folder may be copied anywhere (`client/c/install`).

use std::{env, error::Error, fs, io, os::unix::fs::symlink, path::PathBuf};

/// What a program needs beside the static library; `rustc --print native-static-libs` lists it.
const LINUX: &[&str] = &["-lgcc_s", "-lutil", "-lrt", "-lpthread", "-lm", "-ldl", "-lc"];
const MACOS: &[&str] = &["-framework Security", "-framework CoreFoundation", "-liconv", "-lSystem", "-lc", "-lm"];

struct Target {
    /// Name of the shared library that programs are linked with.
    shared: &'static str,
    /// Its name in programs, which changes with the ABI.
    soname: &'static str,
    /// What cargo calls it.
    built: &'static str,
    name_it: &'static str,
    with_static: &'static [&'static str],
}

const ON_LINUX: Target = Target {
    shared: "libweightsd.so",
    soname: "libweightsd.so.1",
    built: "libweightsd_c.so",
    name_it: "-Wl,-soname,libweightsd.so.1",
    with_static: LINUX,
};
const ON_MACOS: Target = Target {
    shared: "libweightsd.dylib",
    soname: "libweightsd.1.dylib",
    built: "libweightsd_c.dylib",
    name_it: "-Wl,-install_name,@rpath/libweightsd.1.dylib",
    with_static: MACOS,
};

fn main() -> Result<(), Box<dyn Error>> {
    for watched in ["build", "include", "Cargo.toml"] {
        println!("cargo::rerun-if-changed={watched}");
    }
    let target = if env::var("CARGO_CFG_TARGET_OS")? == "macos" { ON_MACOS } else { ON_LINUX };
    println!("cargo::rustc-cdylib-link-arg={}", target.name_it);

    let source = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    // target/<profile>/build/<package>-<hash>/out
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let profile = out.ancestors().nth(3).ok_or("OUT_DIR lies in a target folder")?;
    let prefix = profile.join("weightsd-c");
    let library = prefix.join("lib");
    // An earlier build may have laid out more.
    match fs::remove_dir_all(&prefix) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    fs::create_dir_all(library.join("pkgconfig"))?;
    fs::create_dir_all(library.join("cmake/weightsd"))?;
    fs::create_dir_all(prefix.join("include"))?;

    for header in ["weightsd.h", "weightsd.hpp"] {
        symlink(source.join("include").join(header), prefix.join("include").join(header))?;
    }
    // What cargo is about to build need not be there yet.
    symlink(profile.join("deps").join(target.built), library.join(target.soname))?;
    symlink(target.soname, library.join(target.shared))?;
    symlink(profile.join("deps/libweightsd_c.a"), library.join("libweightsd.a"))?;

    let version = env::var("CARGO_PKG_VERSION")?;
    for (template, place) in [
        ("weightsd.pc.in", "pkgconfig/weightsd.pc"),
        ("weightsd-static.pc.in", "pkgconfig/weightsd-static.pc"),
        ("weightsd-config.cmake.in", "cmake/weightsd/weightsd-config.cmake"),
        ("weightsd-config-version.cmake.in", "cmake/weightsd/weightsd-config-version.cmake"),
    ] {
        let text = fs::read_to_string(source.join("build").join(template))?;
        let text = text
            .replace("@VERSION@", &version)
            .replace("@SONAME@", target.soname)
            .replace("@STATIC_LIBS@", &target.with_static.join(" "))
            .replace("@STATIC_LIBS_LIST@", &target.with_static.join(";"));
        fs::write(library.join(place), text)?;
    }
    Ok(())
}
