//! `weightsd doctor`: looks at what the daemon needs, and says what to do about each thing that is wrong. It works without a
//! daemon, and changes nothing.

mod facts;
mod finding;
mod judge;
mod look;
mod machine;

use std::{path::PathBuf, process::ExitCode};

use self::finding::Verdict;
use super::{
    output::{Format, print},
    serve::Doctor,
};
use crate::daemon::{Layers, Settings, process};

/// The exit code when something is to be looked at and nothing has failed.
const WARNED: u8 = 2;

/// Looks and reports.
pub(super) fn run(command: Doctor, socket: Option<PathBuf>, format: Format) -> anyhow::Result<ExitCode> {
    let layers = Layers::read(Settings { socket, ..Settings::default() }, command.config);
    let facts = process::runtime()?.block_on(look::look(layers));
    let findings = judge::judge(&facts);
    print(match format {
        Format::Json => format!("{:#}", finding::as_json(&findings)),
        Format::Text => finding::text(&findings),
    })?;
    Ok(match finding::worst(&findings) {
        Verdict::Ok => ExitCode::SUCCESS,
        Verdict::Warn => WARNED.into(),
        Verdict::Fail => ExitCode::FAILURE,
    })
}

#[cfg(test)]
mod tests;
