//! `weightsd serve`.

use std::{
    io::{self, IsTerminal as _},
    path::PathBuf,
    process::ExitCode,
};

use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::args::Serve;
use crate::daemon::{self, BindError, BoundListener, Settings};

/// Exit code after a second signal: the shell's for SIGINT.
const IMPATIENT: i32 = 130;

pub(super) fn run(command: Serve, socket: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    start_log();
    let file = Settings::load(command.config.as_deref())?;
    let flags = Settings { socket, ..command.settings };
    let config = flags.or(file).complete()?;
    // Before there are threads: taking over a socket changes the environment.
    let inherited = match BoundListener::inherit() {
        Err(BindError::NothingInherited) if !command.activated => None,
        inherited => Some(inherited?),
    };
    raise_file_limit();
    let runtime = super::runtime()?;
    let result = runtime.block_on(async {
        // Handlers are in place before anyone can connect, so no signal is missed.
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let bound = inherited.map_or_else(|| BoundListener::bind(&config.socket), Ok)?;
        let shutdown = async move {
            tokio::select! { _ = terminate.recv() => {} _ = interrupt.recv() => {} }
            tokio::spawn(async move {
                tokio::select! { _ = terminate.recv() => {} _ = interrupt.recv() => {} }
                std::process::exit(IMPATIENT);
            });
        };
        anyhow::Ok(daemon::run(bound, config, shutdown).await?)
    });
    // Threads that are stuck in a dead file system are not waited for.
    runtime.shutdown_background();
    result.map(|()| ExitCode::SUCCESS)
}

fn start_log() {
    let filter = EnvFilter::try_from_env("WEIGHTSD_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .init();
}

/// Connections and shards take descriptors, and the usual soft limit (256 on macOS) is soon spent.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    // macOS refuses more than OPEN_MAX even where the hard limit is infinite.
    let wanted = limit.maximum.unwrap_or(u64::MAX).min(10_240);
    if limit.current.is_some_and(|current| current < wanted) {
        limit.current = Some(wanted);
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(%error, "cannot raise the limit of open files");
        }
    }
}
