//! The command line: tables for people, `--json` for programs. Every command but `serve`, `inspect`, `demo`, `install`
//! and `completions` is a client of the daemon.

mod args;
mod audit;
mod demo;
mod events;
mod evict;
mod inspect;
mod install;
mod load;
mod output;
mod progress;
mod pull;
mod resolve;
mod serve;
mod status;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::{CommandFactory as _, Parser as _};
use tokio::runtime::{Builder, Runtime};
use weightsd_client::{Client, ClientError, ConnectOptions};

use self::args::{Args, Command};
use crate::{derive, service::Failure};

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    let args = Args::parse();
    match run(args) {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing helps when standard error is gone too.
            let _ = report(&error);
            ExitCode::FAILURE
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

/// `error: what happened`, its causes, and what to do.
fn report(error: &anyhow::Error) -> io::Result<()> {
    let mut out = io::stderr().lock();
    match (error.downcast_ref::<ClientError>(), error.downcast_ref::<crate::pipeline::LoadError>()) {
        (Some(error), _) => {
            let text = error.daemon().map_or_else(|| error.to_string(), |daemon| daemon.message().to_owned());
            writeln!(out, "error: {text}")?;
            if let Some(hint) = error.hint() {
                writeln!(out, "hint: {hint}")?;
            }
            if let Some(report) = error.audit() {
                writeln!(out, "\n{}", audit::text(report, audit::Detail::Short))?;
            }
            Ok(())
        }
        (None, Some(error)) => {
            let failure = Failure::from(error);
            writeln!(out, "error: {}\nhint: {}", failure.message(), failure.hint())
        }
        (None, None) => writeln!(out, "error: {error:#}"),
    }
}

/// `weightsd ls | head -1` is no failure.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kind = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()).any(kind)
}
