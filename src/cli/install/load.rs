//! Has the service manager take what was written, and asks the daemon that it starts then.

use std::{
    io::Write,
    path::Path,
    process::{Command, Output},
    thread,
    time::Duration,
};

use weightsd_client::{Client, ConnectOptions};
use weightsd_core::shown::shown;

use super::plan::Step;
use crate::{cli::failure::UsageError, daemon::process};

/// How often a step is taken that has to succeed: launchd refuses an agent while the earlier one ends.
const TRIES: usize = 3;
/// Pause before it is taken again.
const AGAIN: Duration = Duration::from_secs(1);
/// How long the daemon may take to start and answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// What helps when the service manager does not do as it is told.
const HINT: &str =
    "run the command where you are logged in, and see what it says; `--no-load` leaves the service manager alone";

/// Takes the steps, and says which.
///
/// # Errors
/// When one fails that must not.
pub(super) fn load(steps: &[Step], out: &mut impl Write) -> anyhow::Result<()> {
    for step in steps {
        let command = step.words.join(" ");
        let mut failure = run(step);
        for _ in 1..TRIES {
            if failure.is_none() || step.may_fail {
                break;
            }
            thread::sleep(AGAIN);
            failure = run(step);
        }
        match failure {
            None => writeln!(out, "ran {command}")?,
            Some(problem) if step.may_fail => writeln!(out, "ran {command}, which did nothing: {problem}")?,
            Some(problem) => {
                let problem = format!(
                    "the files are written, and the service manager did not take them: `{command}` failed: {problem}"
                );
                return Err(UsageError::new(problem, HINT).into());
            }
        }
    }
    Ok(())
}

/// Why a step failed, in the words of its command.
fn run(step: &Step) -> Option<String> {
    let (program, arguments) = step.words.split_first()?;
    match Command::new(program).args(arguments).output() {
        Ok(Output { status, .. }) if status.success() => None,
        Ok(Output { status, stderr, .. }) => {
            let said = String::from_utf8_lossy(&stderr);
            let said = said.trim();
            Some(if said.is_empty() { status.to_string() } else { shown(said) })
        }
        Err(error) => Some(error.to_string()),
    }
}

/// Asks the daemon on the socket who it is, which starts it.
///
/// # Errors
/// When it does not answer.
pub(super) fn check(socket: &Path, out: &mut impl Write) -> anyhow::Result<()> {
    let options = ConnectOptions { socket: socket.to_owned(), deadline: PATIENCE };
    let status = process::runtime()?.block_on(async { Client::connect(options).await?.status().await })?;
    Ok(writeln!(out, "weightsd {} (pid {}) answers on {}", status.version, status.pid, socket.display())?)
}
