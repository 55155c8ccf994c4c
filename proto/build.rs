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
    tonic_prost_build::configure().build_server(false).compile_fds(descriptors.clone())?;
    // The server has the same messages, but for the one that it may have encoded beforehand.
    let server = out.join("server");
    fs::create_dir_all(&server)?;
    tonic_prost_build::configure()
        .build_client(false)
        .out_dir(server)
        .extern_path(".weights.v1", "crate::v1")
        .extern_path(".weights.v1.LoadComponentResponse", "crate::prepared::LoadComponentResponse")
        .compile_fds(descriptors)?;
    Ok(())
}
