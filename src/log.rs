//! The log. A thread of its own writes it, so a reader that does not read, a terminal that is held, a
//! disk that is full and a stream that is closed stop nothing: lines are lost, and counted, and the log says how many as
//! soon as it can be written again.

use std::{
    io::{self, Write},
    panic,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

/// Lines that wait to be written.
const LINES_MAX: usize = 4096;

/// The log. What waits is written when it is dropped, if that takes no longer than a moment.
#[must_use = "what waits to be written is lost when it is dropped"]
pub struct Log {
    losses: Losses,
    _writing: WorkerGuard,
}

/// How many lines were lost. Clones count the same log.
#[derive(Debug, Clone, Default)]
pub struct Losses(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// Lines for which there was no room.
    dropped: OnceLock<ErrorCounter>,
    /// Lines that could not be written.
    failed: AtomicU64,
}

impl Losses {
    /// Lines that were lost since the start.
    #[must_use]
    pub fn lines(&self) -> u64 {
        let dropped = self.0.dropped.get().map_or(0, ErrorCounter::dropped_lines);
        self.0.failed.load(Ordering::Relaxed).saturating_add(u64::try_from(dropped).unwrap_or(u64::MAX))
    }
}

/// The form of the log's lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for programs.
    Json,
}

impl Log {
    /// Starts the log, which is written to `to`; `WEIGHTSD_LOG` says how much. Panics go to the log, too: the usual report
    /// would wait for the reader of standard error.
    pub fn start(to: impl Write + Send + 'static, format: LogFormat, colours: bool) -> Self {
        let losses = Losses::default();
        let writer = Writer { to, format, losses: losses.clone(), told: 0 };
        let builder = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(LINES_MAX).thread_name("log");
        let (lines, writing) = builder.finish(writer);
        let _ = losses.0.dropped.set(lines.error_counter());
        let filter = EnvFilter::try_from_env("WEIGHTSD_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(lines).with_target(false);
        match format {
            LogFormat::Text => log.with_ansi(colours).init(),
            LogFormat::Json => log.json().flatten_event(true).init(),
        }
        panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
        Self { losses, _writing: writing }
    }

    /// How many lines were lost.
    #[must_use]
    pub fn losses(&self) -> &Losses {
        &self.losses
    }
}

/// Writes lines and never fails: a line that cannot be written is counted.
struct Writer<W> {
    to: W,
    format: LogFormat,
    losses: Losses,
    /// Losses that the log has told.
    told: u64,
}

impl<W: Write> Writer<W> {
    fn try_to_write(&mut self, line: &[u8]) -> io::Result<()> {
        let lost = self.losses.lines();
        if lost > self.told {
            let lines = lost - self.told;
            let message = format!("{lines} lines of this log were lost, because nothing could be written");
            match self.format {
                LogFormat::Text => writeln!(self.to, "{message}")?,
                LogFormat::Json => {
                    let time = humantime::format_rfc3339_micros(SystemTime::now());
                    writeln!(self.to, r#"{{"timestamp":"{time}","level":"WARN","message":"{message}"}}"#)?;
                }
            }
            self.told = lost;
        }
        self.to.write_all(line)
    }
}

impl<W: Write> Write for Writer<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.try_to_write(line).is_err() {
            self.losses.0.failed.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        // What cannot be flushed shows with the next line.
        let _ = self.to.flush();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails as often as it is told to.
    struct Failing(usize, Vec<u8>);

    impl Write for Failing {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.0 > 0 {
                self.0 -= 1;
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.1.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_line_about_losses_is_one_for_programs_too() {
        let losses = Losses::default();
        let mut writer = Writer { to: Failing(1, Vec::new()), format: LogFormat::Json, losses, told: 0 };
        for line in ["{}\n", "{}\n"] {
            writer.write_all(line.as_bytes()).unwrap();
        }
        let text = String::from_utf8(writer.to.1).unwrap();
        let first: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert!(first["message"].as_str().unwrap().starts_with("1 lines") && first["level"] == "WARN", "{text}");
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_and_told_once() {
        let losses = Losses::default();
        let mut writer =
            Writer { to: Failing(2, Vec::new()), format: LogFormat::Text, losses: losses.clone(), told: 0 };
        for line in ["one\n", "two\n", "three\n", "four\n"] {
            writer.write_all(line.as_bytes()).unwrap();
        }
        assert_eq!(losses.lines(), 2);
        let text = String::from_utf8(writer.to.1).unwrap();
        assert_eq!(text, "2 lines of this log were lost, because nothing could be written\nthree\nfour\n");
    }
}
