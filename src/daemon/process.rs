//! What this process is to the system: its log, its limits, its threads, and the signals that end it.

use std::{
    future::poll_fn,
    io::{self, IsTerminal as _},
    path::Path,
    sync::Mutex,
    task::Poll,
};

use rustix::process::Signal;
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{SignalKind, signal},
};
use tracing_subscriber::{EnvFilter, fmt::writer::BoxMakeWriter};
use weightsd_segment::signals;

use super::log_file::LogFile;

/// Signals that end a program which does nothing about them, and that somebody may send to a daemon.
const ENDING: [(Signal, &str); 7] = [
    (Signal::TERM, "SIGTERM"),
    (Signal::INT, "SIGINT"),
    (Signal::HUP, "SIGHUP"),
    (Signal::QUIT, "SIGQUIT"),
    (Signal::USR1, "SIGUSR1"),
    (Signal::USR2, "SIGUSR2"),
    (Signal::ALARM, "SIGALRM"),
];
/// Exit code after a second signal: the shell's for SIGINT.
const IMPATIENT: i32 = 130;

/// Starts the log, in the file if there is one, on standard error otherwise; `WEIGHTSD_LOG` says how much.
pub fn start_log(file: Option<&Path>) {
    let filter = EnvFilter::try_from_env("WEIGHTSD_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let opened = file.map(LogFile::new).transpose();
    let (writer, problem) = match opened {
        Ok(None) => (BoxMakeWriter::new(io::stderr), None),
        Ok(Some(file)) => (BoxMakeWriter::new(Mutex::new(file)), None),
        Err(error) => (BoxMakeWriter::new(io::stderr), Some(error)),
    };
    let colours = io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(colours).with_target(false).init();
    if let (Some(error), Some(file)) = (problem, file) {
        tracing::warn!(%error, file = %file.display(), "the log cannot be kept in its file");
    }
}

/// Raises the limit of open files as far as it goes.
pub fn raise_file_limit() {
    if let Err(error) = weightsd_segment::file_limit::raise() {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

/// Lets each thread reuse the memory that others free. Call it before there are threads.
pub fn share_arenas() {
    weightsd_segment::heap::share_arenas();
}

/// A runtime with one thread. Work that blocks or computes has other threads, and a request that wakes no other thread is
/// answered sooner.
///
/// # Errors
/// When the system has no place for another poller.
pub fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// Waits for a signal that ends programs, whose handlers are in place when this returns. A second one ends the process at
/// once. A signal that the daemon was started to ignore stays ignored, as `nohup` wants it.
///
/// # Errors
/// When the system refuses a handler, or there is no runtime.
#[expect(
    clippy::disallowed_methods,
    reason = "the second signal comes after the caller has its answer, and must end a process whose tasks hang"
)]
pub fn told_to_stop() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut handlers = Vec::new();
    for (ending, name) in ENDING {
        let is_meant = matches!(ending, Signal::TERM | Signal::INT) || !signals::is_ignored(ending)?;
        if is_meant {
            handlers.push((signal(SignalKind::from_raw(ending.as_raw()))?, name));
        }
    }
    Ok(async move {
        let name = next(&mut handlers).await;
        tracing::info!("{name}");
        tokio::spawn(async move {
            next(&mut handlers).await;
            std::process::exit(IMPATIENT);
        });
    })
}

/// The name of the next signal that comes.
async fn next(handlers: &mut [(tokio::signal::unix::Signal, &'static str)]) -> &'static str {
    poll_fn(|context| {
        let come = handlers.iter_mut().find_map(|(signal, name)| signal.poll_recv(context).is_ready().then_some(*name));
        come.map_or(Poll::Pending, Poll::Ready)
    })
    .await
}
