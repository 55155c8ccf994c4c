//! Puts an answer on a connection, honestly or not.

use std::{
    fs::File,
    io::{self, Read, Write},
    net::TcpStream,
    ops::Range,
    thread,
    time::{Duration, Instant},
};

use super::{
    body::{Piece, Source},
    log::Entry,
    reply::Reply,
    rules::Rule,
};

/// Bytes of a write; what the log may be ahead of the kernel.
const STEP: u64 = 1 << 20;
/// Bytes of a buffer where the kernel does not read the file itself.
const BUFFER: u64 = 256 << 10;
/// How often a connection that stalls looks whether its rule was removed.
const LOOK: Duration = Duration::from_millis(5);

/// Whether there is an answer at all.
#[derive(Debug, Clone)]
pub(super) enum Conduct {
    Answer(Delivery),
    Silence,
    HangUp,
}

/// How an answer is sent.
#[derive(Debug, Clone, Default)]
pub(super) struct Delivery {
    /// Before the first byte.
    pub(super) late: Duration,
    /// Bytes per second.
    pub(super) pace: Option<u64>,
    pub(super) framing: Framing,
    /// After that many bytes of the body.
    pub(super) stop: Option<(u64, Stop)>,
}

/// How a client learns where the body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Framing {
    #[default]
    Length,
    Chunks,
    UntilClose,
}

/// What happens where a body stops early.
#[derive(Debug, Clone)]
pub(super) enum Stop {
    /// It ends as if it were whole.
    End,
    Close,
    Reset,
    /// It goes on when this rule is removed.
    Stall(Rule),
}

/// What may come next on the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    Next,
    Close,
}

/// Reads and throws away, until the client hangs up or the hub shuts the connection.
pub(super) fn silence(stream: &mut TcpStream) {
    let mut buffer = [0; 4096];
    while matches!(stream.read(&mut buffer), Ok(1..)) {}
}

/// As [`silence`], until the rule is removed. Whether it was.
fn stall(stream: &mut TcpStream, rule: &Rule) -> io::Result<bool> {
    let mut buffer = [0; 4096];
    stream.set_read_timeout(Some(LOOK))?;
    while !rule.is_removed() {
        match stream.read(&mut buffer) {
            Ok(1..) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Ok(0) | Err(_) => return Ok(false),
        }
    }
    stream.set_read_timeout(None)?;
    Ok(true)
}

/// Sends an answer.
pub(super) fn send(
    stream: &mut TcpStream,
    reply: &Reply,
    with_body: bool,
    keep_alive: bool,
    delivery: Delivery,
    entry: &Entry,
) -> io::Result<Then> {
    thread::sleep(delivery.late);
    let close = !keep_alive || delivery.framing == Framing::UntilClose;
    entry.answered(reply.status);
    let mut sink = Sink { stream, entry, framing: delivery.framing, pace: delivery.pace.map(Pace::new) };
    if let Some(rate) = delivery.pace {
        sink.small_buffer(rate)?;
    }
    sink.stream.write_all(&head(reply, delivery.framing, close))?;
    let then = if close { Then::Close } else { Then::Next };
    if !with_body {
        return Ok(then);
    }
    let pieces = reply.body.pieces();
    let stops_at = delivery.stop.as_ref().map_or(u64::MAX, |(after, _)| *after);
    sink.pieces(pieces, 0..stops_at)?;
    if delivery.framing == Framing::Chunks {
        sink.stream.write_all(b"0\r\n\r\n")?;
    }
    match delivery.stop {
        None | Some((_, Stop::End)) => return Ok(then),
        Some((after, Stop::Stall(rule))) => {
            if stall(sink.stream, &rule)? {
                sink.pieces(pieces, after..u64::MAX)?;
                return Ok(then);
            }
        }
        Some((_, Stop::Close)) => (),
        // No lingering: closing the last descriptor sends a reset.
        Some((_, Stop::Reset)) => rustix::net::sockopt::set_socket_linger(&*sink.stream, Some(Duration::ZERO))?,
    }
    Ok(Then::Close)
}

fn head(reply: &Reply, framing: Framing, close: bool) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {} {}\r\n", reply.status, reply.reason());
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    match framing {
        // RFC 9110 8.6: a 304 may only name the length of what it stands for, which it does not have.
        Framing::Length if reply.status == 304 => (),
        Framing::Length => head.push_str(&format!("Content-Length: {}\r\n", reply.body.length())),
        Framing::Chunks => head.push_str("Transfer-Encoding: chunked\r\n"),
        Framing::UntilClose => (),
    }
    if close {
        head.push_str("Connection: close\r\n");
    }
    head.push_str("\r\n");
    head.into_bytes()
}

/// A connection on its way through a body.
struct Sink<'a> {
    stream: &'a mut TcpStream,
    entry: &'a Entry,
    framing: Framing,
    pace: Option<Pace>,
}

impl Sink<'_> {
    /// So that what was sent is what has arrived, more or less. The kernel takes what it likes of this.
    fn small_buffer(&self, rate: u64) -> io::Result<()> {
        let bytes = usize::try_from((rate / 20).clamp(4 << 10, 1 << 20)).unwrap_or(4 << 10);
        Ok(rustix::net::sockopt::set_socket_send_buffer_size(&*self.stream, bytes)?)
    }

    /// Sends a part of a body.
    fn pieces(&mut self, pieces: &[Piece], part: Range<u64>) -> io::Result<()> {
        let mut begin = 0;
        for piece in pieces {
            let end = begin + piece.length();
            let (from, to) = (part.start.clamp(begin, end), part.end.clamp(begin, end));
            self.piece(piece, piece.range.start + (from - begin), to - from)?;
            begin = end;
        }
        Ok(())
    }

    /// Sends a part of a piece.
    fn piece(&mut self, piece: &Piece, mut at: u64, length: u64) -> io::Result<()> {
        let end = at + length;
        while at < end {
            let step = self.pace.as_ref().map_or(STEP, Pace::step).min(end - at);
            if let Some(pace) = &mut self.pace {
                pace.wait(step);
            }
            if self.framing == Framing::Chunks {
                self.stream.write_all(format!("{step:x}\r\n").as_bytes())?;
            }
            self.step(piece, at, step)?;
            if self.framing == Framing::Chunks {
                self.stream.write_all(b"\r\n")?;
            }
            at += step;
        }
        Ok(())
    }

    fn step(&mut self, piece: &Piece, at: u64, length: u64) -> io::Result<()> {
        self.entry.sending(length);
        let mut done = 0;
        let result = match &piece.source {
            Source::File(file) => send_file(self.stream, file, at, length, &mut done),
            Source::Memory(_) | Source::Fill(_) => send_bytes(self.stream, piece, at, length, &mut done),
        };
        self.entry.unsent(length - done);
        result
    }
}

fn send_bytes(stream: &mut TcpStream, piece: &Piece, at: u64, length: u64, done: &mut u64) -> io::Result<()> {
    let mut buffer = vec![0; usize::try_from(length.min(BUFFER)).unwrap_or_default()];
    while *done < length {
        let part = usize::try_from((length - *done).min(BUFFER)).unwrap_or_default();
        piece.read(at + *done, &mut buffer[..part])?;
        let mut written = 0;
        while written < part {
            let now = stream.write(&buffer[written..part])?;
            if now == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            written += now;
            *done += now as u64;
        }
    }
    Ok(())
}

#[cfg(target_os = "linux")]
fn send_file(stream: &mut TcpStream, file: &File, at: u64, length: u64, done: &mut u64) -> io::Result<()> {
    let mut offset = at;
    while *done < length {
        let wanted = usize::try_from(length - *done).map_err(io::Error::other)?;
        match rustix::fs::sendfile(&*stream, file, Some(&mut offset), wanted) {
            // Somebody has cut the file off since it was published.
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(sent) => *done += sent as u64,
            Err(rustix::io::Errno::INTR) => (),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn send_file(stream: &mut TcpStream, file: &File, at: u64, length: u64, done: &mut u64) -> io::Result<()> {
    let file = std::sync::Arc::new(file.try_clone()?);
    let piece = Piece { source: Source::File(file), range: at..at + length };
    send_bytes(stream, &piece, at, length, done)
}

/// Spreads bytes over time.
struct Pace {
    rate: u64,
    started: Instant,
    sent: u64,
}

impl Pace {
    fn new(rate: u64) -> Self {
        Self { rate, started: Instant::now(), sent: 0 }
    }

    /// Bytes for a fiftieth of a second.
    fn step(&self) -> u64 {
        (self.rate / 50).clamp(1, BUFFER)
    }

    /// Waits until that many more are due.
    fn wait(&mut self, bytes: u64) {
        let due = Duration::from_secs_f64(self.sent as f64 / self.rate as f64);
        thread::sleep(due.saturating_sub(self.started.elapsed()));
        self.sent += bytes;
    }
}
