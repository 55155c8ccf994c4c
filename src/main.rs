//! `weightsd`: see `weightsd --help`, and [`weightsd::cli`].

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    weightsd::cli::main()
}
