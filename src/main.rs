//! `weightsd`: one program for the daemon and for its command line. What follows is the life of each, in order.

#![forbid(unsafe_code)]

use std::{path::PathBuf, process::ExitCode};

use weightsd::{
    cli::{self, Asked, Serve},
    daemon::{self, BoundListener, process},
};

fn main() -> ExitCode {
    match cli::parse() {
        Ok(Asked::Serve { command, socket }) => cli::end(serve(*command, socket)),
        Ok(Asked::Task(errand)) => cli::end(cli::run(errand)),
        Err(code) => code,
    }
}

/// The daemon, from its log to its last task.
fn serve(command: Serve, socket: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    process::start_log(command.log_file.as_deref());
    // Before there are threads: taking over a socket changes the environment. Before anything can fail: a client that
    // waits on the socket is told.
    let inherited = BoundListener::inherit(command.activated)?;
    let waiting = inherited.as_ref().and_then(BoundListener::waiting);
    let ended = run(command, socket, inherited);
    if let (Err(error), Some(waiting)) = (&ended, waiting) {
        let (message, explanation) = cli::explain(error);
        tracing::error!("cannot start: {message}");
        waiting.tell(message, explanation)?;
    }
    ended
}

/// The daemon, from its settings to its last task.
fn run(command: Serve, socket: Option<PathBuf>, inherited: Option<BoundListener>) -> anyhow::Result<ExitCode> {
    let config = command.settings(socket)?.complete()?;
    process::raise_file_limit();
    process::share_arenas();
    let runtime = process::runtime()?;
    let ended = runtime.block_on(async {
        // Handlers are in place before anyone can connect, so no signal is missed.
        let told_to_stop = process::told_to_stop()?;
        let bound = inherited.map_or_else(|| BoundListener::bind(&config.socket), Ok)?;
        anyhow::Ok(daemon::run(bound, config, told_to_stop).await?)
    });
    // Threads that are stuck in a dead file system are not waited for.
    runtime.shutdown_background();
    ended.map(|()| ExitCode::SUCCESS)
}
