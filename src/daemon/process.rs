//! What this process is to the system: its limits, its threads, and the signals that end it.

use std::{
    fs::File,
    future::poll_fn,
    io::{self, IsTerminal as _},
    path::Path,
    sync::Arc,
    task::Poll,
    thread,
    time::Duration,
};

use rustix::process::Signal;
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{SignalKind, signal},
    sync::{Notify, oneshot},
};
use weightsd_segment::signals;

use super::{Watch, log_file::LogFile};
use crate::log::{Log, LogFormat};

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

/// Starts the log, in the file if there is one, on standard error otherwise.
pub fn start_log(file: Option<&Path>, format: LogFormat) -> Log {
    match file.map(LogFile::new).transpose() {
        Ok(None) => Log::start(io::stderr(), format, io::stderr().is_terminal()),
        Ok(Some(file)) => Log::start(file, format, false),
        Err(error) => {
            let log = Log::start(io::stderr(), format, io::stderr().is_terminal());
            let file = file.map(|file| file.display().to_string()).unwrap_or_default();
            tracing::warn!(%error, file, "the log cannot be kept in its file");
            log
        }
    }
}

/// Raises the limit of open files as far as it goes.
pub fn raise_file_limit() {
    if let Err(error) = weightsd_segment::file_limit::raise() {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

/// Lets signals come, whatever this process was started with. Call it before there are threads.
pub fn hear_signals() {
    if let Err(error) = signals::unblock() {
        tracing::warn!(%error, "signals that were blocked stay so");
    }
}

/// Lets each thread reuse the memory that others free. Call it before there are threads.
pub fn share_arenas() {
    weightsd_segment::heap::share_arenas();
}

/// The runtime of a command, on one thread.
///
/// # Errors
/// When the system has no place for another poller.
pub fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// The serving loop: one thread, since what blocks or computes has threads of its own, and a request that wakes no other
/// thread is answered sooner. `watch` learns when it waits.
///
/// # Errors
/// When the system has no place for another poller.
pub fn serving_loop(watch: &Watch) -> io::Result<Runtime> {
    let (parks, unparks) = (watch.clone(), watch.clone());
    let mut builder = Builder::new_current_thread();
    builder.on_thread_park(move || parks.parks()).on_thread_unpark(move || unparks.unparks());
    builder.enable_all().build()
}

/// What SIGHUP does.
#[derive(Debug, Clone)]
pub enum Hangup {
    /// It ends the process.
    Ends,
    /// It has the configuration read anew. It still ends a process whose terminal is gone: the terminal sends it then.
    Reloads(Arc<Notify>),
}

/// The terminal that the process was started from, if any.
struct Terminal {
    was_there: bool,
}

impl Terminal {
    fn find() -> Self {
        Self { was_there: Self::is_there() }
    }

    fn is_there() -> bool {
        File::open("/dev/tty").is_ok()
    }

    fn is_gone(&self) -> bool {
        self.was_there && !Self::is_there()
    }
}

/// Waits for a signal that ends programs, whose handlers are in place when this returns. A signal that the daemon was
/// started to ignore stays ignored, as `nohup` wants it. Signals come to a thread of their own, so a serving loop that
/// hangs is no obstacle: the first signal gives `watch` the `patience` to end the process by, the second ends it at once.
///
/// # Errors
/// When the system refuses a handler or a thread.
#[expect(clippy::disallowed_methods, reason = "a process whose tasks hang must end all the same")]
pub fn told_to_stop(
    watch: Watch,
    patience: Duration,
    hangup: Hangup,
) -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let terminal = Terminal::find();
    let (told, stop) = oneshot::channel();
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let mut handlers = {
        let _inside = runtime.enter();
        handlers()?
    };
    let listen = async move {
        loop {
            let name = next(&mut handlers).await;
            tracing::info!("{name}");
            match &hangup {
                Hangup::Reloads(reload) if name == "SIGHUP" && !terminal.is_gone() => reload.notify_one(),
                Hangup::Reloads(_) | Hangup::Ends => break,
            }
        }
        watch.end_within(patience);
        // Nobody serves any more when nobody listens.
        let _ = told.send(());
        next(&mut handlers).await;
        std::process::exit(IMPATIENT);
    };
    thread::Builder::new().name("signals".to_owned()).spawn(move || runtime.block_on(listen))?;
    Ok(async move {
        if stop.await.is_err() {
            std::future::pending().await
        }
    })
}

/// Handlers of the signals that end this daemon, with their names.
fn handlers() -> io::Result<Vec<(tokio::signal::unix::Signal, &'static str)>> {
    let mut handlers = Vec::new();
    for (ending, name) in ENDING {
        let is_meant = matches!(ending, Signal::TERM | Signal::INT) || !signals::is_ignored(ending)?;
        if is_meant {
            handlers.push((signal(SignalKind::from_raw(ending.as_raw()))?, name));
        }
    }
    Ok(handlers)
}

/// The name of the next signal that comes.
async fn next(handlers: &mut [(tokio::signal::unix::Signal, &'static str)]) -> &'static str {
    poll_fn(|context| {
        let come = handlers.iter_mut().find_map(|(signal, name)| signal.poll_recv(context).is_ready().then_some(*name));
        come.map_or(Poll::Pending, Poll::Ready)
    })
    .await
}
