//! The worker: reads an order from standard input, streams an image to the disk, and reports on standard output. It ends
//! with the daemon, whose end of standard input closes then.
//!
//! Memory is bounded: tensors whose rows are independent are cut into pieces, and the pieces in progress share a budget.
//! Several threads each read, compute and write one piece at a time, which keeps the disk and all processors busy.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, Read as _, Write as _},
    num::NonZero,
    ops::Range,
    os::unix::fs::FileExt as _,
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use weightsd_arrays::{ArrayError, bytes, filled, mlx_rs};
use weightsd_core::{
    derive::{Delta, Input, Job, Lines, Output, Product, Slice},
    ggml::Encoding,
    header::Dtype,
};
use weightsd_segment::{PinnedFile, advice};

use super::{
    Installed, arithmetic,
    budget::Budget,
    encoded::{self, Rows},
    image_file::ImageFile,
    order::{FailureKind, Order, OrderError, Task, WorkerReport},
};
use crate::disk;

/// The hidden command that runs the worker.
pub const COMMAND: &str = "derive-worker";
/// The same for a worker that only tells its engine, so that lists of processes show which one computes.
pub const TELLING: &str = "tell-engine";
/// Input bytes of a piece, roughly: so large that starting one costs little, and so small that the caches of processors hold
/// what it reads and makes.
const PIECE_BYTES: u64 = 1 << 20;
/// The same where each piece reads something whole beside its rows: factors of adapters, scales of coded layers.
const SHARING_PIECE_BYTES: u64 = 16 << 20;
/// Bytes of freed memory that MLX may keep for the next piece.
const KEPT_BYTES: usize = 128 << 20;
/// Bytes that are copied at once where nothing is computed.
const COPIED_BYTES: usize = 4 << 20;
/// Threads beyond one for each processor: while some wait for the disk, others compute.
const WAITERS: usize = 2;
/// The shortest time between two reports of progress.
const PACE: Duration = Duration::from_millis(100);

/// Runs the worker.
#[must_use]
pub fn main() -> ExitCode {
    match run() {
        Ok(done) => report(&done),
        Err(WorkerFailure { kind, message }) => report(&WorkerReport::Failed { kind, message }),
    }
    ExitCode::SUCCESS
}

/// Why the worker gives up.
#[derive(Debug)]
struct WorkerFailure {
    kind: FailureKind,
    message: String,
}

impl From<ArrayError> for WorkerFailure {
    fn from(error: ArrayError) -> Self {
        let kind = if matches!(error, ArrayError::Unavailable(_)) { FailureKind::NoMlx } else { FailureKind::Mlx };
        Self { kind, message: error.to_string() }
    }
}

impl WorkerFailure {
    fn io(doing: &str, error: &io::Error) -> Self {
        let kind = if disk::is_full(error) { FailureKind::NoSpace } else { FailureKind::Io };
        Self { kind, message: format!("{doing}: {error}") }
    }
}

fn report(report: &WorkerReport) {
    let mut out = io::stdout().lock();
    // A write fails when the daemon is gone, and then this process is about to end.
    let _ = serde_json::to_writer(&mut out, report).map_err(io::Error::from).and_then(|()| out.write_all(b"\n"));
    let _ = out.flush();
}

fn run() -> Result<WorkerReport, WorkerFailure> {
    let malformed = |problem: String| WorkerFailure { kind: FailureKind::Io, message: format!("the order: {problem}") };
    let mut line = Vec::new();
    io::stdin().lock().read_until(b'\n', &mut line).map_err(|error| malformed(error.to_string()))?;
    let task = Task::decode(&line).map_err(|error| {
        let kind =
            if matches!(error, OrderError::OtherVersion { .. }) { FailureKind::OtherVersion } else { FailureKind::Io };
        WorkerFailure { kind, message: error.to_string() }
    })?;
    drop(line);
    let order = match task {
        Task::Describe => return Ok(WorkerReport::Engine(Installed::here()?)),
        Task::Compute(order) => order,
    };
    end_with_the_daemon(&order)?;
    if let Some(engine) = &order.engine
        && !engine.is_here()?
    {
        let message = format!("MLX is not what it was when this was ordered: {}", engine.engine);
        return Err(WorkerFailure { kind: FailureKind::Engine, message });
    }
    let files = order.files.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    let shown = order.image.display();
    let image = File::options().read(true).write(true).open(&order.image);
    let image = image.map_err(|error| WorkerFailure::io(&format!("cannot write `{shown}`"), &error))?;
    image
        .write_all_at(&order.head, 0)
        .map_err(|error| WorkerFailure::io(&format!("cannot write `{shown}`"), &error))?;
    if order.engine.is_some() {
        mlx_rs::memory::set_cache_limit(KEPT_BYTES).map_err(ArrayError::from)?;
    }
    let work = ImageWork::new(&order.jobs, &files, &image);
    work.run()?;
    weightsd_segment::sync(&image).map_err(|error| WorkerFailure::io(&format!("cannot write `{shown}`"), &error))?;
    Ok(WorkerReport::Finished)
}

/// Ends the process when standard input ends: the daemon is gone, and nobody wants the image.
#[expect(clippy::disallowed_methods, reason = "MLX cannot be told to stop, and nobody waits for this process any more")]
fn end_with_the_daemon(order: &Order) -> Result<(), WorkerFailure> {
    let image = order.image.clone();
    let watch = move || {
        let _ = io::stdin().lock().read_to_end(&mut Vec::new());
        let _ = fs::remove_file(image);
        std::process::exit(1);
    };
    let started = thread::Builder::new().name("end of the daemon".to_owned()).spawn(watch);
    started.map(drop).map_err(|error| WorkerFailure::io("cannot start a thread", &error))
}

fn open(ordered: &super::OrderedFile) -> Result<OpenInput, WorkerFailure> {
    let shown = ordered.path.display();
    let file = PinnedFile::open(&ordered.path);
    let file = file.map_err(|error| WorkerFailure::io(&format!("cannot read `{shown}`"), &error))?;
    if *file.identity() != ordered.identity {
        let message = format!("`{shown}` changed before it was read");
        return Err(WorkerFailure { kind: FailureKind::Changed, message });
    }
    let is_passing = file.resident_bytes().is_ok_and(|resident| resident < file.identity().length / 2);
    Ok(OpenInput { file, is_passing })
}

/// A job, or some rows of it.
#[derive(Debug)]
struct Piece<'a> {
    job: &'a Job,
    rows: Option<Range<u64>>,
    /// Bytes of the input that are read.
    input: u64,
    /// Estimated bytes of memory while it is in progress.
    cost: u64,
}

/// Whether rows of a product may be computed apart from the others. The CPU sums each row by itself, in one order, and
/// `tests/python/test_derive_adapters.py` compares the pieces with the whole. Graphics processors promise no such thing:
/// they choose a kernel by the size of the whole.
fn products_are_cut() -> bool {
    mlx_rs::Device::default().get_type().is_ok_and(|kind| matches!(kind, mlx_rs::DeviceType::Cpu))
}

/// Whether a delta computes each row of a weight from rows of the same number.
fn keeps_rows(delta: &Delta) -> bool {
    let is_by_columns = delta.magnitude.as_ref().is_some_and(|magnitude| magnitude.of == Lines::Columns);
    matches!(delta.product, Product::LowRank { .. } | Product::Stacked { .. })
        && !is_by_columns
        && delta.order.is_none()
}

/// The pieces of a job.
fn pieces(job: &Job) -> Vec<Piece<'_>> {
    // MLX does not quantise matrices without rows, and there is nothing to write.
    if job.outputs.iter().all(|output| output.range.is_empty()) {
        return Vec::new();
    }
    let input = job.input_bytes();
    let is_cut = !job.deltas.is_empty() && products_are_cut() && job.deltas.iter().all(keeps_rows);
    let elements = job.input.elements();
    // Codes and blocks become floats: decoded elements are F32, beside what they are rounded to.
    let is_coded = matches!(job.input, Input::Coded { .. } | Input::Encoded { .. });
    // With deltas there are the weight, the result, and the sum and the product in F32; with magnitudes also what their
    // norms are of.
    let is_rescaled = job.deltas.iter().any(|delta| delta.magnitude.is_some());
    let cost = match (job.deltas.is_empty(), is_coded) {
        (true, false) => 4 * input,
        (true, true) => input + 8 * elements,
        (false, _) => input + if is_rescaled { 24 } else { 16 } * elements,
    };
    if (!job.deltas.is_empty() && !is_cut) || !job.keeps_rows() {
        return vec![Piece { job, rows: None, input, cost }];
    }
    let together = job.rows_together().unwrap_or(1);
    let units = (job.rows() / together).max(1);
    // Pieces of codes are measured by the halves that they become.
    let measured = if is_coded { 2 * elements } else { input };
    let is_alone = job.deltas.is_empty() && matches!(job.input, Input::Plain(_) | Input::Encoded { .. });
    let count = measured.div_ceil(if is_alone { PIECE_BYTES } else { SHARING_PIECE_BYTES }).clamp(1, units);
    let bounds = (0..=count).map(|number| units * number / count * together).collect::<Vec<_>>();
    let piece = |bound: &[u64]| {
        let part = input / count;
        let rows = (count > 1).then_some(bound[0]..bound[1]);
        Piece { job, rows, input: part, cost: cost / count }
    };
    let mut pieces: Vec<_> = bounds.windows(2).map(piece).collect();
    if let Some(last) = pieces.last_mut() {
        last.input += input % count;
    }
    pieces
}

/// An input, opened and checked.
struct OpenInput {
    file: PinnedFile,
    /// Whether most of it was not in the page cache before. Its pages are dropped after reading, so that they do not
    /// displace the image, which is wanted next.
    is_passing: bool,
}

/// One order, shared by all threads.
struct ImageWork<'a> {
    pieces: Vec<Piece<'a>>,
    files: &'a [OpenInput],
    image: ImageFile<'a>,
    next: AtomicUsize,
    done: AtomicU64,
    failed: AtomicBool,
    told: Mutex<Instant>,
    budget: Budget,
}

impl<'a> ImageWork<'a> {
    fn new(jobs: &'a [Job], files: &'a [OpenInput], image: &'a File) -> Self {
        Self {
            pieces: jobs.iter().flat_map(pieces).collect(),
            files,
            image: ImageFile::of(image),
            next: AtomicUsize::new(0),
            done: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            told: Mutex::new(Instant::now()),
            budget: Budget::default(),
        }
    }

    /// Computes all pieces. The first failure ends the others early.
    fn run(&self) -> Result<(), WorkerFailure> {
        let threads = thread::available_parallelism().map_or(1, NonZero::get) + WAITERS;
        thread::scope(|scope| {
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(|| self.run_thread())).collect();
            let mut result = Ok(());
            for thread in threads {
                let died = || WorkerFailure { kind: FailureKind::Mlx, message: "a thread died".to_owned() };
                result = result.and(thread.join().unwrap_or_else(|_| Err(died())));
            }
            result
        })
    }

    fn run_thread(&self) -> Result<(), WorkerFailure> {
        while let Some(piece) = self.pieces.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            let _share = self.budget.take(piece.cost);
            if self.failed.load(Ordering::Relaxed) {
                break;
            }
            if let Err(failure) = self.compute(piece) {
                self.failed.store(true, Ordering::Relaxed);
                return Err(failure);
            }
            self.tell(piece);
        }
        Ok(())
    }

    fn compute(&self, piece: &Piece<'_>) -> Result<(), WorkerFailure> {
        if piece.job.is_copy() {
            return self.copy(piece);
        }
        if let (Input::Encoded { slice, .. }, false) = (&piece.job.input, piece.job.needs_engine()) {
            return self.decode(piece, slice);
        }
        let reader = PieceReader { files: self.files, rows: piece.rows.clone() };
        let arrays = arithmetic::outputs(piece.job, &reader)?;
        let outputs = &piece.job.outputs;
        // Bytes have no shape that could be compared; their rows are bytes.
        let is_taken = matches!(piece.job.input, Input::Bytes(_));
        let is_as_planned = |(output, array): (&Output, &mlx_rs::Array)| {
            is_taken || arithmetic::is(array, output.dtype) && shape(output, piece.rows.as_ref()) == array.shape()
        };
        if arrays.len() != outputs.len() || !outputs.iter().zip(&arrays).all(is_as_planned) {
            let found: Vec<_> = arrays.iter().map(|array| (array.dtype(), array.shape())).collect();
            let message = format!("MLX made {found:?}, expected {outputs:?}");
            return Err(WorkerFailure { kind: FailureKind::Mlx, message });
        }
        for (output, array) in outputs.iter().zip(&arrays) {
            let row_bytes = if is_taken { 1 } else { row_bytes(&output.range, &output.shape) };
            let first = piece.rows.as_ref().map_or(0, |rows| rows.start * row_bytes);
            let (bytes, start) = (bytes(array)?, output.range.start + first);
            self.image
                .write(bytes, start)
                .map_err(|error| WorkerFailure::io(&format!("cannot write tensor `{}`", output.name), &error))?;
        }
        Ok(())
    }

    /// Decodes a piece, without MLX.
    fn decode(&self, piece: &Piece<'_>, slice: &Slice) -> Result<(), WorkerFailure> {
        let job = piece.job;
        let rows = piece.rows.clone().unwrap_or(0..job.rows());
        let stored = PieceReader { files: self.files, rows: piece.rows.clone() }.stored(slice, job.rows())?;
        let failure = |message: String| WorkerFailure { kind: FailureKind::Weights, message };
        let name = || job.outputs.first().map_or_else(String::new, |output| output.name.clone());
        let made = encoded::outputs(job, &Rows { bytes: &stored, count: rows.end - rows.start })
            .ok_or_else(|| failure(format!("`{}` cannot be decoded to what was planned", name())))?
            .map_err(|problem| failure(format!("`{}` is no layer of MLX: {problem}", name())))?;
        for (output, bytes) in job.outputs.iter().zip(&made) {
            let first = (output.range.end - output.range.start) / job.rows() * rows.start;
            self.image
                .write(bytes, output.range.start + first)
                .map_err(|error| WorkerFailure::io(&format!("cannot write tensor `{}`", output.name), &error))?;
        }
        Ok(())
    }

    /// Copies the bytes of a piece, without MLX.
    fn copy(&self, piece: &Piece<'_>) -> Result<(), WorkerFailure> {
        let reader = PieceReader { files: self.files, rows: None };
        for (slice, output) in piece.job.input.slices().zip(&piece.job.outputs) {
            let (row, rows) = (row_bytes(&slice.range, &slice.shape), piece.rows.as_ref());
            let bytes = rows.map_or(0..slice.bytes(), |rows| rows.start * row..rows.end * row);
            let mut buffer = vec![0; COPIED_BYTES.min(usize::try_from(slice.bytes()).unwrap_or(COPIED_BYTES))];
            let mut at = bytes.start;
            while at < bytes.end {
                let length = usize::try_from(bytes.end - at).map_or(buffer.len(), |left| left.min(buffer.len()));
                let part = &mut buffer[..length];
                reader.fill(slice, slice.range.start + at, part)?;
                self.image
                    .write(part, output.range.start + at)
                    .map_err(|error| WorkerFailure::io(&format!("cannot write tensor `{}`", output.name), &error))?;
                at += length as u64;
            }
        }
        Ok(())
    }

    fn tell(&self, piece: &Piece<'_>) {
        let bytes = self.done.fetch_add(piece.input, Ordering::Relaxed) + piece.input;
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.elapsed() < PACE {
            return;
        }
        *told = Instant::now();
        let tensor = piece.job.outputs.first().map(|output| output.name.clone()).unwrap_or_default();
        report(&WorkerReport::Done { bytes, tensor });
    }
}

/// The shape of these rows of an output, in MLX's type.
fn shape(output: &Output, rows: Option<&Range<u64>>) -> Vec<i32> {
    let mut shape = output.shape.clone();
    if let (Some(rows), Some(first)) = (rows, shape.first_mut()) {
        *first = rows.end - rows.start;
    }
    shape.into_iter().map(|dimension| i32::try_from(dimension).unwrap_or(-1)).collect()
}

fn row_bytes(range: &Range<u64>, shape: &[u64]) -> u64 {
    let rows = shape.first().copied().unwrap_or(1).max(1);
    (range.end - range.start) / rows
}

/// Reads the rows of one piece.
struct PieceReader<'a> {
    files: &'a [OpenInput],
    rows: Option<Range<u64>>,
}

impl PieceReader<'_> {
    fn read(&self, slice: &Slice, offset: u64, shape: &[u64]) -> Result<mlx_rs::Array, WorkerFailure> {
        filled(slice.dtype, shape, |memory| self.fill(slice, offset, memory))
    }

    /// Bytes of the slice's file.
    fn bytes(&self, slice: &Slice, range: Range<u64>) -> Result<Vec<u8>, WorkerFailure> {
        let too_long = |_| WorkerFailure::from(ArrayError::Shape(slice.shape.clone()));
        let mut memory = vec![0; usize::try_from(range.end - range.start).map_err(too_long)?];
        self.fill(slice, range.start, &mut memory)?;
        Ok(memory)
    }

    /// The bytes of the piece's rows, of a slice that holds `rows` rows.
    fn stored(&self, slice: &Slice, rows: u64) -> Result<Vec<u8>, WorkerFailure> {
        let row = slice.bytes() / rows.max(1);
        let start = slice.range.start;
        match &self.rows {
            Some(piece) => self.bytes(slice, start + piece.start * row..start + piece.end * row),
            None => self.bytes(slice, slice.range.clone()),
        }
    }

    /// Fills `memory` with the bytes of the slice's file from `offset` on.
    fn fill(&self, slice: &Slice, offset: u64, memory: &mut [u8]) -> Result<(), WorkerFailure> {
        let absent =
            || WorkerFailure { kind: FailureKind::Io, message: format!("the order has no file {}", slice.source.0) };
        let OpenInput { file, is_passing } = self.files.get(slice.source.index()).ok_or_else(absent)?;
        let read = file.read_exact_at(memory, offset);
        if *is_passing {
            advice::forget(file.file(), offset..offset + memory.len() as u64);
        }
        read.map_err(|error| {
            let shown = file.path().display();
            match error.kind() {
                io::ErrorKind::UnexpectedEof => {
                    WorkerFailure { kind: FailureKind::Changed, message: format!("`{shown}` became shorter") }
                }
                _ => WorkerFailure::io(&format!("cannot read `{shown}`"), &error),
            }
        })
    }
}

impl arithmetic::Read for PieceReader<'_> {
    type Error = WorkerFailure;

    fn whole(&self, slice: &Slice) -> Result<mlx_rs::Array, WorkerFailure> {
        self.read(slice, slice.range.start, &slice.shape)
    }

    fn rows(&self, slice: &Slice) -> Result<mlx_rs::Array, WorkerFailure> {
        let Some(rows) = &self.rows else { return self.whole(slice) };
        let offset = slice.range.start + rows.start * row_bytes(&slice.range, &slice.shape);
        let mut shape = slice.shape.clone();
        if let Some(first) = shape.first_mut() {
            *first = rows.end - rows.start;
        }
        self.read(slice, offset, &shape)
    }

    fn whole_bytes(&self, slice: &Slice) -> Result<Vec<u8>, WorkerFailure> {
        self.bytes(slice, slice.range.clone())
    }

    fn rows_bytes(&self, slice: &Slice) -> Result<Vec<u8>, WorkerFailure> {
        let Some(rows) = &self.rows else { return self.whole_bytes(slice) };
        let (start, row) = (slice.range.start, row_bytes(&slice.range, &slice.shape));
        self.bytes(slice, start + rows.start * row..start + rows.end * row)
    }

    fn decoded(&self, slice: &Slice, encoding: &Encoding, shape: &[u64]) -> Result<mlx_rs::Array, WorkerFailure> {
        let all = shape.first().copied().unwrap_or(1).max(1);
        let stored = self.stored(slice, all)?;
        let count = self.rows.as_ref().map_or(all, |rows| rows.end - rows.start);
        let mut part = shape.to_vec();
        if let Some(first) = part.first_mut() {
            *first = count;
        }
        filled(Dtype::F32, &part, |memory| {
            encoded::decode_into(encoding, &Rows { bytes: &stored, count }, memory);
            Ok(())
        })
    }

    fn within(&self, rows: &Range<u64>) -> Range<u64> {
        match &self.rows {
            None => rows.clone(),
            Some(piece) => rows.start + piece.start..rows.start + piece.end,
        }
    }
}
