//! From a checkpoint on the disk to a derived image on the disk: weightsd against Python's MLX, which loads, casts and
//! saves the same files, and against the disk itself, read and written from one end to the other.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::runtime::Runtime;
use weightsd_client::{Client, ConnectOptions, Hold, LoadRequest, Quantisation};
use weightsd_fixtures::{Checkpoint, Contents, Dims};

use crate::server::{Folder, Server};

const PYTHON: &str = include_str!("../python/derive.py");
/// Bytes that are read or written at once where only the disk is measured.
const CHUNK: usize = 16 << 20;

/// What is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    Cast,
    Quantise,
}

impl Case {
    fn name(self) -> &'static str {
        match self {
            Self::Cast => "F32 to BF16",
            Self::Quantise => "F32 to BF16 to affine 4-bit, groups of 64",
        }
    }
}

/// Whether the input is in memory before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    Cold,
    Warm,
}

/// What a way took.
struct Took {
    time: Duration,
    /// Peak memory beyond that at rest, in bytes.
    peak: u64,
    /// Length of what was written.
    written: u64,
}

pub(crate) fn run(
    program: &Path,
    python: &Path,
    layers: u64,
    input: Input,
    below: Option<&Path>,
) -> anyhow::Result<()> {
    let folder = below.map_or_else(Folder::new, Folder::below)?;
    let mut dims = Dims::tiny();
    dims.transformer = Dims::true_size().transformer;
    dims.transformer.n_layers = layers;
    dims.shard_bytes_max = Dims::true_size().shard_bytes_max;
    let model = folder.path().join("model");
    Checkpoint::new(&dims, Contents::Random { seed: 5 })?.write_directory(&model)?;
    let source = model.join("transformer");
    let shards: Vec<PathBuf> = fs::read_dir(&source)?
        .map(|entry| Ok(entry?.path()))
        .filter(|path: &std::io::Result<PathBuf>| {
            path.as_ref().is_ok_and(|path| path.extension().is_some_and(|ending| ending == "safetensors"))
        })
        .collect::<std::io::Result<_>>()?;
    let bytes: u64 = shards.iter().map(|path| Ok(fs::metadata(path)?.len())).sum::<std::io::Result<u64>>()?;
    println!("{:.1} GB in {} files\n", gigabytes(bytes), shards.len());
    println!("| what | way | seconds | GB/s of input | ratio to Python | ratio to the limit | peak memory MB |");
    println!("|---|---|---|---|---|---|---|");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for case in [Case::Cast, Case::Quantise] {
        prepare(input, &shards)?;
        let ours = weightsd(program, &folder, &model, case, &runtime)?;
        prepare(input, &shards)?;
        let theirs = mlx(python, &folder, &source, case)?;
        prepare(input, &shards)?;
        let read = read(&shards)?;
        prepare(input, &shards)?;
        let write = write(&folder, ours.written)?;
        let limit = read.max(write);
        let row = |way: &str, time: Duration, peak: Option<u64>| {
            let seconds = time.as_secs_f64();
            println!(
                "| {} | {way} | {seconds:.1} | {:.2} | {:.2} | {:.2} | {} |",
                case.name(),
                gigabytes(bytes) / seconds,
                theirs.time.as_secs_f64() / seconds,
                limit.as_secs_f64() / seconds,
                peak.map_or_else(String::new, |peak| format!("{:.0}", peak as f64 / 1e6)),
            );
        };
        row("weightsd", ours.time, Some(ours.peak));
        row("Python mlx: load, convert, save", theirs.time, Some(theirs.peak));
        row("the disk: read the input", read, None);
        row("the disk: write the output", write, None);
    }
    Ok(())
}

fn gigabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}

/// Nothing waits to be written, and of the files everything is in memory or nothing.
fn prepare(input: Input, files: &[PathBuf]) -> anyhow::Result<()> {
    Command::new("sync").status()?;
    let dropped = fs::write("/proc/sys/vm/drop_caches", "3");
    dropped.context("the page cache must be emptied between the ways, which root may do: /proc/sys/vm/drop_caches")?;
    if input == Input::Warm {
        read(files)?;
    }
    Ok(())
}

fn weightsd(program: &Path, folder: &Folder, model: &Path, case: Case, runtime: &Runtime) -> anyhow::Result<Took> {
    let (server, _) = Server::start(program, folder)?;
    thread::sleep(Duration::from_millis(300));
    let idle = peak_of(server.pid());
    let watch = Watch::start(server.pid());
    let (time, image, written) = runtime.block_on(async {
        let options = ConnectOptions { deadline: Duration::from_secs(600), ..server.options() };
        let client = Client::connect(options).await?;
        let mut request = LoadRequest::new(model.display().to_string(), "transformer")
            .hold(Hold::None)
            .deadline(Duration::from_secs(600));
        if case == Case::Quantise {
            let affine = Quantisation { bits: 4, group_size: 64, ..Quantisation::default() };
            request = request.quantise(affine);
        }
        let began = Instant::now();
        let component = client.load(request, |_| {}).await?;
        let took = began.elapsed();
        let image = component.info().image.clone().context("something was computed")?;
        anyhow::Ok((took, image.path, image.bytes))
    })?;
    let peak = watch.stop().saturating_sub(idle);
    drop(server);
    fs::remove_file(image)?;
    Ok(Took { time, peak, written })
}

fn mlx(python: &Path, folder: &Folder, source: &Path, case: Case) -> anyhow::Result<Took> {
    let target = folder.path().join("python");
    fs::create_dir_all(&target)?;
    let kind = if case == Case::Quantise { "quantise" } else { "cast" };
    let mut command = Command::new(python);
    command.args(["-c", PYTHON]).arg(source).arg(&target).arg(kind).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output().with_context(|| format!("{}: run .ci/python first", python.display()))?;
    anyhow::ensure!(output.status.success(), "Python ended with {}", output.status);
    fs::remove_dir_all(&target)?;
    let text = String::from_utf8(output.stdout)?;
    let (time, peak) = text.trim().split_once(' ').context("two numbers")?;
    Ok(Took { time: Duration::from_nanos(time.parse()?), peak: peak.parse()?, written: 0 })
}

/// All files, from one end to the other.
fn read(files: &[PathBuf]) -> anyhow::Result<Duration> {
    let mut buffer = vec![0; CHUNK];
    let began = Instant::now();
    for path in files {
        let mut file = File::open(path)?;
        while file.read(&mut buffer)? > 0 {}
    }
    Ok(began.elapsed())
}

/// As many bytes, onto the disk.
fn write(folder: &Folder, bytes: u64) -> anyhow::Result<Duration> {
    let path = folder.path().join("written");
    let buffer = vec![0x5a; CHUNK];
    let began = Instant::now();
    let mut file = File::create(&path)?;
    let mut left = bytes;
    while left > 0 {
        let piece = left.min(CHUNK as u64);
        file.write_all(&buffer[..usize::try_from(piece)?])?;
        left -= piece;
    }
    file.sync_all()?;
    let took = began.elapsed();
    fs::remove_file(path)?;
    Ok(took)
}

/// Looks at the memory of a daemon and of the processes that it starts.
struct Watch {
    stop: Arc<AtomicBool>,
    peak: Arc<AtomicU64>,
    thread: thread::JoinHandle<()>,
}

impl Watch {
    #[expect(clippy::disallowed_methods, reason = "`stop` joins it")]
    fn start(pid: u32) -> Self {
        let (stop, peak) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (stopped, highest) = (Arc::clone(&stop), Arc::clone(&peak));
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let all: u64 = children(pid).into_iter().chain([pid]).map(peak_of).sum();
                highest.fetch_max(all, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(20));
            }
        });
        Self { stop, peak, thread }
    }

    /// The sum of the highest that each process had at one time or another.
    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.join();
        self.peak.load(Ordering::Relaxed)
    }
}

/// The most memory that a process ever had, in bytes; 0 when it is gone.
fn peak_of(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
}

fn children(pid: u32) -> Vec<u32> {
    let all = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    all.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}
