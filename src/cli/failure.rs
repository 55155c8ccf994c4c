//! How the command line ends when it fails: what it prints, and its exit code.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use weightsd_client::ClientError;
use weightsd_core::explain::{Explain, Explanation, Reason, Tier, sentence};
use weightsd_segment::descriptors;

use super::audit;
use crate::{
    daemon::{BindError, SettingsError},
    pipeline::LoadError,
    private::FolderError,
};

/// A refusal by the command line itself, of arguments that clap accepts.
#[derive(Debug, thiserror::Error)]
#[error("{problem}")]
pub(super) struct UsageError {
    problem: String,
    hint: &'static str,
}

impl UsageError {
    pub(super) fn new(problem: impl Into<String>, hint: &'static str) -> Self {
        Self { problem: problem.into(), hint }
    }
}

impl Explain for UsageError {
    fn explain(&self) -> Explanation {
        Explanation::new(Reason::InvalidRequest, "", self.hint)
    }
}

/// The exit codes of sysexits.h, where one fits.
pub(super) fn exit_code(tier: Tier) -> ExitCode {
    const USAGE: u8 = 64;
    const UNAVAILABLE: u8 = 69;
    const SOFTWARE: u8 = 70;
    match tier {
        Tier::Request => USAGE.into(),
        Tier::Condition => ExitCode::FAILURE,
        Tier::Unavailable => UNAVAILABLE.into(),
        Tier::Bug => SOFTWARE.into(),
    }
}

/// Somebody pressed Ctrl-C.
#[derive(Debug, thiserror::Error)]
#[error("interrupted; what was downloaded is kept, and the same command goes on from there")]
pub(super) struct Interrupted;

/// Awaits `work`, or fails with [`Interrupted`] when somebody presses Ctrl-C first.
pub(super) async fn unless_interrupted<T, E>(work: impl Future<Output = Result<T, E>>) -> anyhow::Result<T>
where
    anyhow::Error: From<E>,
{
    tokio::select! {
        result = work => Ok(result?),
        signal = tokio::signal::ctrl_c() => {
            signal?;
            Err(Interrupted.into())
        }
    }
}

/// The exit code of a failure.
pub(super) fn exit_code_of(error: &anyhow::Error) -> ExitCode {
    const INTERRUPTED: u8 = 130; // As the shell says it of a program that SIGINT ends.
    if error.is::<Interrupted>() { INTERRUPTED.into() } else { exit_code(tier(error)) }
}

/// The tier of the error; the environment's, for errors that do not explain themselves.
fn tier(error: &anyhow::Error) -> Tier {
    match error.downcast_ref::<ClientError>() {
        Some(error) => error.tier(),
        None => local(error).map_or(Tier::Condition, |error| error.explain().reason.tier()),
    }
}

/// The error with its causes, and what it means to the person who gets it.
#[must_use]
pub fn explain(error: &anyhow::Error) -> (String, Explanation) {
    let unknown = || Explanation::new(Reason::Internal, "", "see the daemon's log");
    (format!("{error:#}"), local(error).map_or_else(unknown, Explain::explain))
}

/// Prints the error, its causes and its hint.
pub(super) fn report(error: &anyhow::Error) -> io::Result<()> {
    let mut out = io::stderr().lock();
    if let Some(error) = error.downcast_ref::<ClientError>() {
        let text = error.daemon().map_or_else(|| sentence(error), |daemon| daemon.message().to_owned());
        writeln!(out, "error: {text}")?;
        if let Some(hint) = error.hint() {
            writeln!(out, "hint: {hint}")?;
        }
        if let Some(report) = error.audit() {
            writeln!(out, "\n{}", audit::text(report, audit::Detail::Short))?;
        }
        return Ok(());
    }
    match local(error) {
        Some(explained) => writeln!(out, "error: {error:#}\nhint: {}", explained.explain().hint),
        None if descriptors::are_exhausted(error.as_ref()) => {
            writeln!(out, "error: {error:#}\nhint: {}", descriptors::EXHAUSTED_HINT)
        }
        None => writeln!(out, "error: {error:#}"),
    }
}

/// The error that explains itself, when it arose in this process.
fn local(error: &anyhow::Error) -> Option<&dyn Explain> {
    error
        .downcast_ref::<LoadError>()
        .map(|error| error as &dyn Explain)
        .or_else(|| error.downcast_ref::<UsageError>().map(|error| error as &dyn Explain))
        .or_else(|| error.downcast_ref::<BindError>().map(|error| error as &dyn Explain))
        .or_else(|| error.downcast_ref::<SettingsError>().map(|error| error as &dyn Explain))
        .or_else(|| error.downcast_ref::<FolderError>().map(|error| error as &dyn Explain))
}
