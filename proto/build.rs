//! Compiles the `.proto` files with protox (a compiler in Rust), so that no `protoc` is needed to build.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

const FILES: &[&str] = &[
    "weights/v1/audit.proto",
    "weights/v1/component.proto",
    "weights/v1/error.proto",
    "weights/v1/event.proto",
    "weights/v1/model.proto",
    "weights/v1/status.proto",
    "weights/v1/weights_service.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    for file in FILES {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
