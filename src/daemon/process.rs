//! What this process is to the system: its log, its limits, its threads, and the signals that end it.

use std::io::{self, IsTerminal as _};

use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{SignalKind, signal},
};
use tracing_subscriber::EnvFilter;

/// Exit code after a second signal: the shell's for SIGINT.
const IMPATIENT: i32 = 130;

/// Starts the log on standard error; `WEIGHTSD_LOG` says how much.
pub fn start_log() {
    let filter = EnvFilter::try_from_env("WEIGHTSD_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .init();
}

/// Raises the limit of open files as far as it goes: connections and shards take descriptors, and the usual soft limit
/// (256 on macOS) is soon spent.
pub fn raise_file_limit() {
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

/// Makes memory that one thread frees good for the others; before there are threads.
pub fn share_arenas() {
    weightsd_segment::heap::share_arenas();
}

/// One thread: what blocks or computes has threads of its own, and a request that wakes no other thread is answered
/// sooner.
///
/// # Errors
/// When the system has no place for another poller.
pub fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// Waits for SIGTERM or SIGINT, whose handlers are in place when this returns. A second signal ends the process at once.
///
/// # Errors
/// When the system refuses a handler, or there is no runtime.
pub fn told_to_stop() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! { _ = terminate.recv() => {} _ = interrupt.recv() => {} }
        tokio::spawn(async move {
            tokio::select! { _ = terminate.recv() => {} _ = interrupt.recv() => {} }
            std::process::exit(IMPATIENT);
        });
    })
}
