//! The command line: tables for people, `--json` for programs. Every command but `serve`, `inspect`, `demo`, `install`
//! and `completions` is a client of the daemon.

mod args;
mod audit;
mod demo;
mod events;
mod evict;
mod failure;
mod inspect;
mod install;
mod load;
mod output;
mod progress;
mod pull;
mod resolve;
mod serve;
mod status;

use std::{io, process::ExitCode};

use clap::{CommandFactory as _, Parser as _};
use tokio::runtime::{Builder, Runtime};
use weightsd_client::{Client, ConnectOptions};
use weightsd_core::explain::Tier;

use self::args::{Args, Command};
use crate::derive;

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(shown) => {
            // Nothing helps when the output is gone too; the same holds below.
            let _ = shown.print();
            return if shown.use_stderr() { failure::exit_code(Tier::Request) } else { ExitCode::SUCCESS };
        }
    };
    match run(args) {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = failure::report(&error);
            failure::exit_code(failure::tier(&error))
        }
    }
}

fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Args { socket, json, command } = args;
    let format = if json { output::Format::Json } else { output::Format::Text };
    let connect = async || Client::connect(options(socket.clone())).await;
    match command {
        Command::Serve(command) => serve::run(*command, socket),
        Command::Load(command) => runtime()?.block_on(async { load::run(&connect().await?, command, format).await }),
        Command::Pull(command) => runtime()?.block_on(async { pull::pull(&connect().await?, command, format).await }),
        Command::Verify(command) => {
            runtime()?.block_on(async { pull::verify(&connect().await?, command, format).await })
        }
        Command::Status => runtime()?.block_on(async { status::status(&connect().await?, format).await }),
        Command::Ls(command) => runtime()?.block_on(async { status::list(&connect().await?, &command, format).await }),
        Command::Resolve(command) => {
            runtime()?.block_on(async { resolve::run(&connect().await?, command, format).await })
        }
        Command::Audit(command) => runtime()?.block_on(async { audit::run(&connect().await?, command, format).await }),
        Command::Evict(command) => runtime()?.block_on(async { evict::run(&connect().await?, command, format).await }),
        Command::Events(command) => {
            runtime()?.block_on(async { events::run(&connect().await?, &command, format).await })
        }
        Command::Inspect(command) => inspect::run(&command, format),
        Command::Demo(command) => demo::run(&command, &runtime()?),
        Command::DemoClient(command) => demo::client::run(command, options(socket), &runtime()?),
        Command::DeriveWorker => Ok(derive::worker::main()),
        Command::Install(command) => install::run(&command),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Args::command(), "weightsd", &mut io::stdout());
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn options(socket: Option<std::path::PathBuf>) -> ConnectOptions {
    let defaults = ConnectOptions::default();
    ConnectOptions { socket: socket.unwrap_or(defaults.socket), ..defaults }
}

/// One thread, for the daemon too: what blocks or computes has threads of its own, and a request that wakes no other
/// thread is answered sooner.
fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// `weightsd ls | head -1` is no failure.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kind = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()).any(kind)
}
