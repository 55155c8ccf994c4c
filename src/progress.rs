//! How far the pipeline is, and who watches it.

use std::time::Duration;

/// What a load is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Phase {
    /// Finding the model and its files.
    #[default]
    Resolve,
    /// Downloading what is missing.
    Download,
    /// Comparing files with their hashes.
    Verify,
    /// Opening shards and reading headers.
    Open,
    /// Auditing and placing.
    Audit,
    /// Computing what is not there as it is wanted.
    Derive,
    /// Bringing what is lent into memory.
    Prefetch,
    /// Copying onto a card.
    Upload,
}

/// How far a load is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Step {
    /// What it is doing.
    pub phase: Phase,
    /// The file it works on, below the model's directory.
    pub file: String,
    /// Files done.
    pub files_done: usize,
    /// Files in all; 0 while unknown.
    pub files_total: usize,
    /// Bytes done.
    pub bytes_done: u64,
    /// Bytes in all; 0 while unknown.
    pub bytes_total: u64,
    /// Bytes that come in a second; 0 while unknown.
    pub bytes_per_second: u64,
    /// How long it will take; `None` while unknown.
    pub remaining: Option<Duration>,
    /// Files on their way.
    pub files: Vec<FileProgress>,
}

/// A file of a download that runs, for people to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileProgress {
    /// Path below the model's directory.
    pub path: String,
    /// Its length in bytes.
    pub bytes_total: u64,
    /// How far it is.
    pub step: FileStep,
}

/// What a file's download is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FileState {
    /// It waits for its turn.
    #[default]
    Waiting,
    /// Another program downloads it.
    Elsewhere,
    /// What an earlier attempt left is hashed.
    Checking,
    /// Bytes come.
    Downloading,
    /// The connection broke, and another is tried soon.
    Retrying,
    /// It is there.
    Done,
}

/// How far a file is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FileStep {
    /// What is being done.
    pub state: FileState,
    /// Bytes that are there.
    pub bytes_done: u64,
}

/// Watches a load.
pub trait Watcher: Sync {
    /// Called when something moved. Must not block.
    fn step(&self, step: &Step);
    /// Whether the result is of no interest any more.
    fn is_abandoned(&self) -> bool;
}

/// A watcher that does not look.
#[derive(Debug, Clone, Copy)]
pub struct Unwatched;

impl Watcher for Unwatched {
    fn step(&self, _: &Step) {}
    fn is_abandoned(&self) -> bool {
        false
    }
}
