//! `include/weightsd.h` is what cbindgen makes of the source.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// The files that have something for C, in the order in which the header has it.
const SOURCES: [&str; 11] = [
    "abi",
    "constants",
    "error",
    "progress",
    "cancellation",
    "options",
    "table",
    "connection",
    "load",
    "component",
    "notice",
];

fn generated() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut config = cbindgen::Config::from_file(root.join("build/cbindgen.toml")).unwrap();
    config.documentation = true;
    let mut builder = cbindgen::Builder::new().with_config(config);
    for source in SOURCES.iter().chain(&["calls"]) {
        builder = builder.with_src(root.join("src").join(source).with_extension("rs"));
    }
    let mut bytes = Vec::new();
    builder.generate().unwrap().write(&mut bytes);
    for_readers_of_c(&String::from_utf8(bytes).unwrap())
}

/// What is a heading for rustdoc is a word in C.
fn for_readers_of_c(header: &str) -> String {
    header.replace("// # Safety\n", "// Must hold:\n")
}

#[test]
fn the_header_is_the_one_that_the_source_makes() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("include/weightsd.h");
    let made = generated();
    if env::var_os("WEIGHTSD_WRITE_HEADER").is_some() {
        fs::write(&path, &made).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(found == made, "{} is old: WEIGHTSD_WRITE_HEADER=1 cargo test -p weightsd-c --test header", path.display());
}
