//! Writes Rust declarations of the functions of mlx-c: `mlx-sys-bindings <mlx-c's root> <file>`. Needs libclang
//! (`LIBCLANG_PATH`); arguments for clang, such as where the compiler's own headers are, in `BINDGEN_EXTRA_CLANG_ARGS`.
//!
//! The functions are written as calls of `functions!`, which looks them up in a library that is opened at run time. Three
//! things are left out: types of 16 bits, which mlx-c has on Arm only and mlx-sys declares for all machines by hand; a
//! function with any number of arguments, which only mlx-c itself calls; and a variable.

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
};

use bindgen::Builder;

/// Functions that mlx-rs uses as pointers to C functions.
const POINTERS: &str = "mlx_io_gguf_has_metadata_.*";
/// How bindgen begins the declarations of functions, which it writes last.
const BLOCK: &str = "unsafe extern \"C\" {\n";

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args_os().skip(1).map(PathBuf::from);
    let (Some(root), Some(file)) = (arguments.next(), arguments.next()) else {
        return Err("usage: mlx-sys-bindings <mlx-c's root> <file>".into());
    };
    let all = headers(&root)?
        .allowlist_item("(MLX|mlx|_mlx).*")
        .blocklist_item(".*float16.*|_mlx_error|mlx_array_empty")
        .blocklist_function(POINTERS)
        // The C library's own, of another form on every system; nobody looks into it.
        .blocklist_item("FILE|_IO_.*|__off.*");
    let pointers = headers(&root)?.allowlist_recursively(false).allowlist_function(POINTERS);
    let (types, functions) = halves(&all)?;
    let (none, pointers) = halves(&pointers)?;
    if !none.trim().is_empty() {
        return Err(format!("expected functions alone, found {none}").into());
    }
    let text = format!(
        "// Declarations of mlx-c 0.7.0 (Copyright 2023 Apple Inc., MIT). Written by mlx-sys/bindings: do not edit.\n\n\
         use crate::functions::functions;\n\n\
         /// The C library's file.\npub type FILE = ::std::ffi::c_void;\n\n\
         {types}\n\
         functions! {{ \"C-unwind\" declared: Declared {{\n{functions}}}\n\n\
         functions! {{ \"C\" pointers: Pointers {{\n{pointers}}}\n"
    );
    Ok(fs::write(file, text)?)
}

/// What is common to both parts of the file.
fn headers(root: &Path) -> Result<Builder, Box<dyn Error>> {
    let mut headers: Vec<PathBuf> = fs::read_dir(root.join("mlx/c"))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    headers.retain(|path| path.extension().is_some_and(|ending| ending == "h"));
    headers.sort();
    let builder = Builder::default()
        .clang_arg(format!("-I{}", root.display()))
        .layout_tests(false)
        .generate_comments(false)
        .merge_extern_blocks(true)
        .disable_header_comment();
    Ok(headers.iter().fold(builder, |builder, header| builder.header(header.to_string_lossy())))
}

/// The declarations of everything else, and those of functions up to the end of their block.
fn halves(builder: &Builder) -> Result<(String, String), Box<dyn Error>> {
    let text = builder.clone().generate()?.to_string();
    let (types, functions) = text.split_once(BLOCK).ok_or("there is no block of functions")?;
    if functions.contains(BLOCK) {
        return Err("expected one block of functions".into());
    }
    Ok((types.to_owned(), functions.to_owned()))
}
