//! The loader: reads an order from its standard input, which is a socket, copies files onto a card, compares what is there
//! with what it read, sends the descriptor of the memory, and ends. Until then nobody else knows of the memory: a loader that
//! is killed takes it along. It ends with the daemon, too, whose end of the socket closes then.
//!
//! Each thread reads a window of a file into memory that the driver keeps in its place, has it copied onto the card and back
//! from there, and compares the two. Windows are so small that the caches of the processors hold them on that way, and the
//! threads so many that both directions of the link are busy at once.

use std::{
    io::{self, BufRead as _, Read as _, Write as _},
    num::NonZero,
    os::fd::AsFd as _,
    process::ExitCode,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use weightsd_gpu::{Access, Buffer, Context, GpuError, Mapping, Memory, Piece, Stream};
use weightsd_segment::{PinnedFile, descriptors};

use super::{
    LoaderKind,
    order::{Copy, Order, OrderedFile, Report, Timings, VERSION, Versioned},
};

/// The hidden command that runs a loader.
pub const COMMAND: &str = "vram-loader";
/// Bytes of a file that are read, copied and compared at once: few enough to stay in the caches of the processors, and so many
/// that starting a copy costs little.
const WINDOW: u64 = 4 << 20;
/// Threads at most. Each has a window in work, and two buffers of that length.
const THREADS_MAX: usize = 16;
/// The shortest time between two reports of progress.
const PACE: Duration = Duration::from_millis(100);
/// The longest order that is read, in bytes.
const ORDER_BYTES_MAX: u64 = 256 << 20;

/// Runs a loader.
#[must_use]
pub fn main() -> ExitCode {
    let started = Instant::now();
    if let Err(LoaderFailure { kind, message }) = run(started) {
        report(&Report::Failed { kind, message });
    }
    ExitCode::SUCCESS
}

fn report(report: &Report) {
    let mut out = io::stdout().lock();
    // A write fails when the daemon is gone, and then this process is about to end.
    let _ = serde_json::to_writer(&mut out, report).map_err(io::Error::from).and_then(|()| out.write_all(b"\n"));
    let _ = out.flush();
}

/// Why the loader gives up.
#[derive(Debug)]
struct LoaderFailure {
    kind: LoaderKind,
    message: String,
}

impl From<GpuError> for LoaderFailure {
    fn from(error: GpuError) -> Self {
        Self { kind: LoaderKind::from(&error), message: error.to_string() }
    }
}

impl LoaderFailure {
    fn system(doing: &str, error: &dyn std::fmt::Display) -> Self {
        Self { kind: LoaderKind::Failed, message: format!("{doing}: {error}") }
    }
}

fn run(started: Instant) -> Result<(), LoaderFailure> {
    let order = read_order()?;
    end_with_the_daemon()?;
    let files = order.files.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    let windows = windows(&order, &files)?;
    let context = Context::of(weightsd_gpu::find(order.card)?)?;
    let granularity = context.card().granularity()?;
    let has_context = started.elapsed();
    let bytes = order.bytes.next_multiple_of(granularity);
    let memory = Memory::create(&context, bytes)?;
    let mapping = memory.map(Access::ReadWrite)?;
    Work::new(&files, &windows, &mapping).run(&context)?;
    let timings = Timings { context: millis(has_context), copy: millis(started.elapsed().saturating_sub(has_context)) };
    let descriptor = mapping.memory().export()?;
    let sending = |error: io::Error| LoaderFailure::system("cannot hand the memory over", &error);
    descriptors::send(io::stdin().as_fd(), &[descriptor.as_fd()], 1).map_err(sending)?;
    // Said before anything is cleaned up, which nobody has to wait for.
    report(&Report::Sealed { bytes, granularity, timings });
    Ok(())
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn read_order() -> Result<Order, LoaderFailure> {
    let malformed = |problem: &dyn std::fmt::Display| LoaderFailure::system("the order cannot be read", problem);
    let mut line = Vec::new();
    let read = io::stdin().lock().take(ORDER_BYTES_MAX).read_until(b'\n', &mut line);
    read.map_err(|error| malformed(&error))?;
    // The version first: an order of another one may have another form.
    let Versioned { version } = serde_json::from_slice(&line).map_err(|error| malformed(&error))?;
    if version != VERSION {
        let message = format!(
            "the program was replaced while the daemon ran: the daemon is weightsd {version}, and the loader is {VERSION}"
        );
        return Err(LoaderFailure { kind: LoaderKind::OtherVersion, message });
    }
    serde_json::from_slice(&line).map_err(|error| malformed(&error))
}

/// Ends the process when the daemon is gone or wants the memory no more.
#[expect(
    clippy::disallowed_methods,
    reason = "copies cannot be told to stop, and nobody waits for this process any more"
)]
fn end_with_the_daemon() -> Result<(), LoaderFailure> {
    let watch = || {
        let _ = io::stdin().lock().read_to_end(&mut Vec::new());
        std::process::exit(1);
    };
    let started = thread::Builder::new().name("end of the daemon".to_owned()).spawn(watch);
    started.map(drop).map_err(|error| LoaderFailure::system("cannot start a thread", &error))
}

fn open(ordered: &OrderedFile) -> Result<PinnedFile, LoaderFailure> {
    let shown = ordered.path.display();
    let file = PinnedFile::open(&ordered.path);
    let file = file.map_err(|error| LoaderFailure::system(&format!("cannot read `{shown}`"), &error))?;
    if *file.identity() != ordered.identity {
        let message = format!("`{shown}` changed before it was read");
        return Err(LoaderFailure { kind: LoaderKind::Changed, message });
    }
    Ok(file)
}

/// A part of a file that is read at once, and the parts of tensors in it.
struct Window {
    file: usize,
    start: u64,
    length: u64,
    copies: Vec<Copy>,
}

/// Cuts the copies where windows end. A window begins at a multiple of [`WINDOW`].
fn windows(order: &Order, files: &[PinnedFile]) -> Result<Vec<Window>, LoaderFailure> {
    let mut windows: std::collections::BTreeMap<(usize, u64), Vec<Copy>> = std::collections::BTreeMap::new();
    for copy in &order.copies {
        let end = copy.start.checked_add(copy.length);
        let is_within = |file: &PinnedFile| end.is_some_and(|end| end <= file.identity().length);
        if !files.get(copy.file).is_some_and(is_within) {
            let problem = format!("{} bytes at {} leave file {}", copy.length, copy.start, copy.file);
            return Err(LoaderFailure::system("the order cannot be carried out", &problem));
        }
        let (mut start, end, mut offset) = (copy.start, copy.start + copy.length, copy.offset);
        while start < end {
            let window = start / WINDOW;
            let length = ((window + 1) * WINDOW).min(end) - start;
            windows.entry((copy.file, window)).or_default().push(Copy { file: copy.file, start, length, offset });
            (start, offset) = (start + length, offset + length);
        }
    }
    let window = |((file, number), copies): ((usize, u64), Vec<Copy>)| {
        let start = number * WINDOW;
        let length = (files[file].identity().length - start).min(WINDOW);
        Window { file, start, length, copies }
    };
    Ok(windows.into_iter().map(window).collect())
}

fn unreadable(file: &PinnedFile, error: &io::Error) -> LoaderFailure {
    let shown = file.path().display();
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return LoaderFailure { kind: LoaderKind::Changed, message: format!("`{shown}` became shorter") };
    }
    LoaderFailure::system(&format!("cannot read `{shown}`"), error)
}

/// What the threads share.
struct Work<'a> {
    files: &'a [PinnedFile],
    windows: &'a [Window],
    mapping: &'a Mapping,
    next: AtomicUsize,
    done: AtomicU64,
    failed: AtomicBool,
    failure: Mutex<Option<LoaderFailure>>,
    reported: Mutex<Instant>,
}

impl<'a> Work<'a> {
    fn new(files: &'a [PinnedFile], windows: &'a [Window], mapping: &'a Mapping) -> Self {
        Self {
            files,
            windows,
            mapping,
            next: AtomicUsize::new(0),
            done: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            failure: Mutex::new(None),
            reported: Mutex::new(Instant::now()),
        }
    }

    fn run(&self, context: &Arc<Context>) -> Result<(), LoaderFailure> {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        let threads = cores.clamp(1, THREADS_MAX).min(self.windows.len());
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    if let Err(failure) = self.copy_windows(context) {
                        self.failed.store(true, Ordering::Relaxed);
                        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
                    }
                });
            }
        });
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(Ok(()), Err)
    }

    /// Takes windows until none is left, or a thread has failed.
    fn copy_windows(&self, context: &Arc<Context>) -> Result<(), LoaderFailure> {
        let mut stream = Stream::new(context)?;
        let window_bytes = usize::try_from(WINDOW).unwrap_or(usize::MAX);
        let (mut read, mut back) = (Buffer::new(context, window_bytes), Buffer::new(context, window_bytes));
        while !self.failed.load(Ordering::Relaxed) {
            let Some(window) = self.windows.get(self.next.fetch_add(1, Ordering::Relaxed)) else { return Ok(()) };
            self.copy_window(window, &mut stream, read.bytes(), back.bytes())?;
            self.tell(window.copies.iter().map(|copy| copy.length).sum());
        }
        Ok(())
    }

    fn copy_window(
        &self,
        window: &Window,
        stream: &mut Stream,
        read: &mut [u8],
        back: &mut [u8],
    ) -> Result<(), LoaderFailure> {
        let file = &self.files[window.file];
        let place = |at: u64| usize::try_from(at - window.start).expect("`windows` cut every copy where windows end");
        let read = &mut read[..place(window.start + window.length)];
        file.read_exact_at(read, window.start).map_err(|error| unreadable(file, &error))?;
        let piece = |copy: &Copy| {
            let bytes = &read[place(copy.start)..place(copy.start + copy.length)];
            Piece { offset: copy.offset, bytes }
        };
        let pieces: Vec<Piece<'_>> = window.copies.iter().map(piece).collect();
        let mut found = stream.put(self.mapping, &pieces, back)?;
        for (piece, copy) in pieces.iter().zip(&window.copies) {
            let (own, rest) = found.split_at(piece.bytes.len());
            if own != piece.bytes {
                let message = format!(
                    "what is on the card differs from what was read, within {} bytes at {} of file {}",
                    copy.length, copy.start, copy.file
                );
                return Err(LoaderFailure { kind: LoaderKind::Differs, message });
            }
            found = rest;
        }
        Ok(())
    }

    /// Reports progress, unless that was done a moment ago.
    fn tell(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if let Ok(mut reported) = self.reported.try_lock()
            && reported.elapsed() >= PACE
        {
            *reported = Instant::now();
            report(&Report::Done { bytes: done });
        }
    }
}
