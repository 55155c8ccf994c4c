//! Writes Rust declarations of the functions of mlx-c: `mlx-sys-bindings <mlx-c's root> <file>`. Needs libclang
//! (`LIBCLANG_PATH`); arguments for clang, such as where the compiler's own headers are, in `BINDGEN_EXTRA_CLANG_ARGS`.
//!
//! The types of 16 bits are left out: mlx-c has them on Arm only, and mlx-sys declares them for all machines by hand.

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args_os().skip(1).map(PathBuf::from);
    let (Some(root), Some(file)) = (arguments.next(), arguments.next()) else {
        return Err("usage: mlx-sys-bindings <mlx-c's root> <file>".into());
    };
    let mut headers: Vec<PathBuf> = fs::read_dir(root.join("mlx/c"))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    headers.retain(|path| path.extension().is_some_and(|ending| ending == "h"));
    headers.sort();
    let builder = bindgen::Builder::default()
        .clang_arg(format!("-I{}", root.display()))
        .allowlist_item("(MLX|mlx|_mlx).*")
        .blocklist_item(".*float16.*")
        // The C library's own, of another form on every system; nobody looks into it.
        .blocklist_item("FILE|_IO_.*|__off.*")
        .layout_tests(false)
        .generate_comments(false)
        .merge_extern_blocks(true)
        .disable_header_comment();
    let builder = headers.iter().fold(builder, |builder, header| builder.header(header.to_string_lossy()));
    let head = "// Declarations of mlx-c 0.7.0 (Copyright 2023 Apple Inc., MIT). Written by mlx-sys/bindings: do not edit.\n\n";
    let file_type = "/// The C library's file.\npub type FILE = ::std::ffi::c_void;\n\n";
    fs::write(file, format!("{head}{file_type}{}", builder.generate()?))?;
    Ok(())
}
