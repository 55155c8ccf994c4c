//! How answers are printed.

use std::{
    io::{self, Write as _},
    time::{Duration, SystemTime},
};

use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, presets};
use humansize::{DECIMAL, format_size};
use prost::Message;
use weightsd_proto::json;

/// The form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// Text for people.
    Text,
    /// JSON for programs.
    Json,
}

/// Prints one line or block.
pub(super) fn print(text: impl std::fmt::Display) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{text}")
}

/// Prints a warning of the daemon to standard error, so that it never mixes with the output.
pub(super) fn warn(warning: &str) -> io::Result<()> {
    if warning.is_empty() { Ok(()) } else { writeln!(io::stderr().lock(), "warning: {warning}") }
}

/// Prints a message as JSON.
pub(super) fn print_json(name: &str, message: &impl Message) -> io::Result<()> {
    print(format_args!("{:#}", json::to_json(name, message)))
}

/// Columns of a line where the output goes to no terminal.
const COLUMNS: u16 = 120;

/// The width of the terminal; [`COLUMNS`] when the output goes elsewhere.
fn columns() -> usize {
    let width = terminal_size::terminal_size_of(io::stdout()).map(|(width, _)| usize::from(width.0));
    width.unwrap_or(usize::from(COLUMNS))
}

/// Text indented by `indent` spaces and broken between words where the terminal ends; lines after the first are indented
/// two more.
pub(super) fn wrapped(text: &str, indent: usize) -> String {
    let (first, others) = (" ".repeat(indent), " ".repeat(indent + 2));
    let options = textwrap::Options::new(columns())
        .initial_indent(&first)
        .subsequent_indent(&others)
        .break_words(false)
        .word_separator(textwrap::WordSeparator::AsciiSpace)
        .word_splitter(textwrap::WordSplitter::NoHyphenation)
        .wrap_algorithm(textwrap::WrapAlgorithm::FirstFit);
    textwrap::fill(text, options)
}

/// A table without lines.
pub(super) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    if !table.is_tty() {
        table.set_width(COLUMNS);
    }
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(header);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// Aligns columns of numbers to the right.
pub(super) fn numbers(table: &mut Table, columns: &[usize]) {
    for &column in columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// Keeps a column of names that people copy on one line each.
pub(super) fn unbroken(table: &mut Table, column: usize) {
    if let Some(column) = table.column_mut(column) {
        column.set_constraint(ColumnConstraint::ContentWidth);
    }
}

/// `12.31 GB`: decimal, as the hub shows sizes.
pub(super) fn bytes(bytes: u64) -> String {
    format_size(bytes, DECIMAL)
}

/// The first 12 digits of an id, enough to tell ids apart in practice.
pub(super) fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// `0.31 ms`, `4.2 s`.
pub(super) fn time(duration: Duration) -> String {
    match duration.as_secs_f64() {
        seconds if seconds < 1.0 => format!("{:.2} ms", seconds * 1e3),
        seconds => format!("{seconds:.1} s"),
    }
}

/// `3min 5s`: whole seconds.
pub(super) fn span(duration: Duration) -> String {
    humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string()
}

/// The time since a timestamp.
pub(super) fn since(timestamp: Option<prost_types::Timestamp>) -> Duration {
    let then = timestamp.and_then(|timestamp| SystemTime::try_from(timestamp).ok());
    then.and_then(|then| then.elapsed().ok()).unwrap_or_default()
}

/// The time until a timestamp; zero when it has passed.
pub(super) fn until(timestamp: prost_types::Timestamp) -> Duration {
    let then = SystemTime::try_from(timestamp).ok();
    then.and_then(|then| then.duration_since(SystemTime::now()).ok()).unwrap_or_default()
}
