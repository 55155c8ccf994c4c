//! `weightsd`: one program for the daemon and for its command line. What follows is the life of each, in order.

#![forbid(unsafe_code)]

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use tokio::sync::Notify;
use weightsd::{
    cli::{self, Asked, Serve},
    daemon::{
        self, BoundListener, Waiting, Watch,
        process::{self, Hangup},
    },
    handle::Daemon,
    lanes::{self, MayBlock},
    log::Losses,
};

/// What the watchdog allows beyond the grace period.
const WATCHDOG_SLACK: Duration = Duration::from_secs(2);
/// How long the end waits for files that are being closed and deleted.
const FAREWELL: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    match cli::parse() {
        Ok(Asked::Serve { command, socket }) => cli::end(serve(*command, socket)),
        Ok(Asked::Task(errand)) => cli::end(cli::run(errand)),
        Err(code) => code,
    }
}

/// The daemon, from its log to its last task.
fn serve(command: Serve, socket: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    process::hear_signals();
    let log = process::start_log(command.log_file.as_deref(), command.log_format());
    // Before there are threads: taking over a socket changes the environment. Before anything can fail: a client that
    // waits on the socket is told.
    let inherited = BoundListener::inherit(command.activated)?;
    let waiting = inherited.as_ref().and_then(Waiting::of);
    let ended = run(command, socket, inherited, log.losses());
    if let (Err(error), Some(waiting)) = (&ended, waiting) {
        let (message, explanation) = cli::explain(error);
        tracing::error!("cannot start: {message}");
        waiting.tell(message, explanation)?;
    }
    ended
}

/// The daemon, from its settings to its last task.
fn run(
    command: Serve,
    socket: Option<PathBuf>,
    inherited: Option<BoundListener>,
    losses: &Losses,
) -> anyhow::Result<ExitCode> {
    let replace = command.replace;
    let config = command.layers(socket)?.complete()?;
    process::raise_file_limit();
    process::share_arenas();
    let watch = Watch::default();
    watch.start()?;
    let runtime = process::serving_loop(&watch)?;
    let ended = runtime.block_on(async {
        // Handlers are in place before anyone can connect, so no signal is missed.
        let reload = Arc::new(Notify::new());
        let hangup = Hangup::Reloads(Arc::clone(&reload));
        let told_to_stop = process::told_to_stop(watch.clone(), config.grace + WATCHDOG_SLACK, hangup)?;
        let bound = match inherited {
            Some(inherited) => inherited,
            None if replace => BoundListener::take(&config.socket, config.reach()).await?,
            None => BoundListener::bind_for(&config.socket, config.reach())?,
        };
        anyhow::Ok(daemon::run(bound, config, (Daemon::new(losses.clone()), watch), told_to_stop, reload).await?)
    });
    // Threads that are stuck in a dead file system are not waited for.
    runtime.shutdown_background();
    // What was given up is deleted, unless its disk hangs.
    lanes::settled(FAREWELL, &MayBlock::on_a_thread_of_its_own());
    ended.map(|()| ExitCode::SUCCESS)
}
