//! The command line: tables for people, `--json` for programs. Every command but `serve`, `config`, `doctor`, `inspect`,
//! `demo`, `install`, `uninstall` and `completions` is a client of the daemon.

mod args;
mod audit;
mod choices;
mod config;
mod demo;
mod doctor;
mod events;
mod evict;
mod explain;
mod failure;
mod inspect;
mod install;
mod load;
mod output;
mod path;
mod progress;
mod pull;
mod resolve;
mod serve;
mod shell;
mod status;
mod top;
mod wait;

use std::{io, path::PathBuf, process::ExitCode};

use clap::{CommandFactory as _, Parser as _};
use weightsd_client::{Client, ConnectOptions};
use weightsd_core::explain::Tier;

use self::args::{Args, Command, Task};
pub use self::{failure::explain, serve::Serve};
use crate::{daemon::process, derive, vram};

/// A parsed command line.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a process has one command line")]
pub enum Asked {
    /// Run the daemon.
    Serve {
        /// The command.
        command: Box<Serve>,
        /// The socket of the flags; `None` when there is no flag.
        socket: Option<PathBuf>,
    },
    /// Do one task and end.
    Task(Errand),
}

/// A task, and the flags that all tasks share.
#[derive(Debug)]
pub struct Errand {
    socket: Option<PathBuf>,
    format: output::Format,
    task: Task,
}

/// Reads the command line.
///
/// # Errors
/// When the program should end now: it printed the help, or it reported a wrong command line. The error is the exit
/// code.
pub fn parse() -> Result<Asked, ExitCode> {
    match Args::try_parse() {
        Ok(Args { command: Command::Serve(command), socket, .. }) => Ok(Asked::Serve { command, socket }),
        Ok(Args { command: Command::Task(task), socket, json }) => {
            let format = if json { output::Format::Json } else { output::Format::Text };
            Ok(Asked::Task(Errand { socket, format, task }))
        }
        Err(shown) => {
            // Nothing helps when the output is gone too.
            let _ = shown.print();
            Err(if shown.use_stderr() { failure::exit_code(Tier::Request) } else { ExitCode::SUCCESS })
        }
    }
}

/// Prints a failure of the task, and returns the exit code.
#[must_use]
pub fn end(result: anyhow::Result<ExitCode>) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing helps when the output is gone too.
            let _ = failure::report(&error);
            failure::exit_code_of(&error)
        }
    }
}

/// Runs the task.
///
/// # Errors
/// When the command cannot be carried out.
pub fn run(errand: Errand) -> anyhow::Result<ExitCode> {
    let Errand { socket, format, task } = errand;
    process::raise_file_limit();
    let connect = async || Client::connect(options(socket.clone())).await;
    match task {
        Task::Load(command) => {
            process::runtime()?.block_on(async { load::run(&connect().await?, command, format).await })
        }
        Task::Path(command) => {
            process::runtime()?.block_on(async { path::run(&connect().await?, command, format).await })
        }
        Task::Pull(command) => {
            process::runtime()?.block_on(async { pull::pull(&connect().await?, command, format).await })
        }
        Task::Verify(command) => {
            process::runtime()?.block_on(async { pull::verify(&connect().await?, command, format).await })
        }
        Task::Wait(command) => process::runtime()?.block_on(wait::run(options(socket), command, format)),
        Task::Doctor(command) => doctor::run(command, socket, format),
        Task::Config(command) => config::run(&command, socket, format),
        Task::Status => process::runtime()?.block_on(async { status::status(&connect().await?, format).await }),
        Task::Top => process::runtime()?.block_on(async { top::run(&connect().await?, format).await }),
        Task::Ls(command) => {
            process::runtime()?.block_on(async { status::list(&connect().await?, &command, format).await })
        }
        Task::Resolve(command) => {
            process::runtime()?.block_on(async { resolve::run(&connect().await?, command, format).await })
        }
        Task::Audit(command) => {
            process::runtime()?.block_on(async { audit::run(&connect().await?, command, format).await })
        }
        Task::Evict(command) => {
            process::runtime()?.block_on(async { evict::run(&connect().await?, command, format).await })
        }
        Task::Explain(command) => {
            process::runtime()?.block_on(async { explain::run(&connect().await?, command, format).await })
        }
        Task::Events(command) => {
            process::runtime()?.block_on(async { events::run(&connect().await?, &command, format).await })
        }
        Task::Inspect(command) => inspect::run(&command, format),
        Task::Demo(command) => demo::run(&command, &process::runtime()?),
        Task::DemoClient(command) => demo::client::run(command, options(socket), &process::runtime()?),
        Task::DeriveWorker => Ok(derive::worker::main()),
        Task::VramLoader => Ok(vram::loader::main()),
        Task::Install(command) => install::install(&command),
        Task::Uninstall(command) => install::uninstall(&command),
        Task::Completions { shell } => {
            clap_complete::generate(shell, &mut Args::command(), "weightsd", &mut io::stdout());
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn options(socket: Option<PathBuf>) -> ConnectOptions {
    let defaults = ConnectOptions::default();
    ConnectOptions { socket: socket.unwrap_or(defaults.socket), ..defaults }
}

/// A closed pipe, as in `weightsd ls | head -1`, is no failure.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kind = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()).any(kind)
}
