//! What stories about computing share: models that take a while, the folder of images, and the process that computes,
//! which can be stopped in the middle for as long as a story needs.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{sync::mpsc, task::JoinHandle};
use weightsd_client::{Client, ClientError, Component, LoadRequest, Phase, Progress};
use weightsd_fixtures::{Checkpoint, Contents, Dims};

use crate::{
    client_process::checksum,
    harness::{Daemon, Home, PATIENCE, eventually, until},
    processes::{child_with, has_ended},
};

/// How long the process that computes runs, and how long it is stopped, where it is held back.
const RUNS: Duration = Duration::from_millis(1);
const RESTS: Duration = Duration::from_millis(25);

/// A transformer in F32 that takes long enough to be computed for something to happen meanwhile.
pub fn large(seed: u64) -> Checkpoint {
    of_layers(16, Contents::Random { seed })
}

/// Twice as much, to be stopped in the middle on a machine that is busy with other stories.
pub fn larger(seed: u64) -> Checkpoint {
    of_layers(32, Contents::Random { seed })
}

/// A transformer in F32 of about 10 MB a layer, and no other component.
pub fn of_layers(layers: u64, contents: Contents) -> Checkpoint {
    let mut dims = Dims::demo();
    dims.transformer.n_layers = layers;
    transformer(dims, contents)
}

/// A transformer of 1.1 GB, with matrices of up to 40 MB.
#[cfg(target_os = "linux")]
pub fn heavy() -> Checkpoint {
    let mut dims = Dims::true_size();
    (dims.transformer.dim, dims.transformer.n_heads, dims.transformer.n_kv_heads) = (1920, 15, 15);
    (dims.transformer.n_layers, dims.transformer.n_refiner_layers) = (4, 1);
    transformer(dims, Contents::Sparse)
}

/// A transformer in one file, and no other component.
fn transformer(mut dims: Dims, contents: Contents) -> Checkpoint {
    dims.shard_bytes_max.transformer = u64::MAX;
    let mut checkpoint = Checkpoint::new(&dims, contents).unwrap();
    for other in ["text_encoder", "vae"] {
        checkpoint.component_mut(other).retain(|_| false);
    }
    checkpoint
}

/// Writes it as the directory `model` of the home, and returns its path.
pub fn written(home: &Home, checkpoint: &Checkpoint) -> String {
    let model = home.path().join("model");
    checkpoint.write_directory(&model).unwrap();
    model.display().to_string()
}

/// Where images are unless a daemon is told otherwise.
pub fn folder(home: &Home) -> PathBuf {
    home.path().join(".cache/weightsd/images")
}

/// The files in a folder of images with that ending, sorted; what is half-written ends in `partial`.
pub fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = entries.filter(|path| path.extension().is_some_and(|found| found == ending)).collect();
    found.sort();
    found
}

/// The images that can be seen.
pub fn images(folder: &Path) -> Vec<PathBuf> {
    files(folder, "safetensors")
}

/// Nothing is in the folder but what is whole: images, and what they were made from.
#[track_caller]
pub fn assert_tidy(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        let image = path.with_extension("safetensors");
        let is_whole = path == image || (path.extension().is_some_and(|ending| ending == "json") && image.exists());
        assert!(is_whole, "{} is left", path.display());
    }
}

/// FNV-1a of all tensors.
pub fn sum(component: &Component) -> u64 {
    checksum(component.tensors().map(|tensor| tensor.bytes()))
}

/// F32 to BF16, rounded to nearest, ties to even; judged by another implementation than MLX's.
pub fn bf16(bytes: &[u8]) -> Vec<u8> {
    let (words, rest) = bytes.as_chunks::<4>();
    assert!(rest.is_empty());
    words.iter().flat_map(|word| half::bf16::from_f32(f32::from_le_bytes(*word)).to_le_bytes()).collect()
}

/// A load that runs, and what it is told.
pub struct Running {
    told: mpsc::UnboundedReceiver<Progress>,
    load: JoinHandle<Result<Component, ClientError>>,
}

impl Running {
    pub fn start(client: &Client, request: LoadRequest) -> Self {
        let (say, told) = mpsc::unbounded_channel();
        let client = client.clone();
        let load = tokio::spawn(async move {
            let tell = |step: &Progress| drop(say.send(step.clone()));
            client.load(request, tell).await
        });
        Self { told, load }
    }

    /// Stops the process that computes when that many per cent are done, one byte at least. It runs for a moment
    /// only between two looks, so that it is never through before somebody has looked.
    pub async fn stopped_at(&mut self, daemon: &Daemon, parts: u64) -> (Worker, Progress) {
        let worker = Worker::started(daemon).await;
        let is_far = |step: &Progress| {
            step.phase() == Phase::Derive && step.bytes_done > 0 && step.bytes_done * 100 >= step.bytes_total * parts
        };
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            worker.signal(Signal::STOP);
            let mut told = std::iter::from_fn(|| self.told.try_recv().ok());
            if let Some(step) = told.find(is_far) {
                return (worker, step);
            }
            assert!(!self.load.is_finished(), "it ended before it was so far");
            tokio::time::sleep(RESTS).await;
            worker.signal(Signal::CONT);
            tokio::time::sleep(RUNS).await;
        }
        panic!("{parts} of a hundred parts were not done within {PATIENCE:?}");
    }

    /// The next that it is told.
    pub async fn told(&mut self) -> Progress {
        let step = tokio::time::timeout(PATIENCE, self.told.recv()).await;
        step.expect("it is told nothing").expect("it ended")
    }

    pub async fn ended(self) -> Result<Component, ClientError> {
        tokio::time::timeout(PATIENCE, self.load).await.unwrap().unwrap()
    }

    /// Hangs up.
    pub async fn give_up(self) {
        self.load.abort();
        assert!(self.load.await.is_err(), "it had ended");
    }
}

/// The process that computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Worker(pub u32);

impl Worker {
    /// That of a daemon, if there is one.
    pub fn of(daemon: &Daemon) -> Option<Self> {
        child_with(daemon.pid(), "derive-worker").map(Self)
    }

    pub async fn started(daemon: &Daemon) -> Self {
        let mut found = None;
        until("there is a process that computes", async || {
            found = Self::of(daemon);
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    /// Stops it before it has done anything.
    pub async fn stopped_at_once(daemon: &Daemon) -> Self {
        let worker = Self::started(daemon).await;
        worker.signal(Signal::STOP);
        worker
    }

    /// Sends a signal, if it still runs.
    pub fn signal(self, signal: Signal) {
        if !self.has_ended() {
            let _ = kill_process(Pid::from_raw(self.0.cast_signed()).unwrap(), signal);
        }
    }

    /// Whether it has ended, waited for or not.
    pub fn has_ended(self) -> bool {
        has_ended(self.0)
    }

    pub fn ends(self) {
        eventually("the process that computes ends", || self.has_ended());
    }
}

/// The most memory that a process has had, in bytes.
#[cfg(target_os = "linux")]
pub fn peak(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok()).map_or(0, |kilobytes| kilobytes * 1024)
}

/// Looks again and again, more often than anything that is promised takes.
pub fn look(mut condition: impl FnMut() -> bool) {
    while !condition() {
        thread::sleep(Duration::from_micros(200));
    }
}
