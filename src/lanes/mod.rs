//! Where work that may block runs: on threads of its own, in berths that are counted by disk.
//!
//! The threads that answer requests make no call that a file system may keep waiting. Such work gets a [`MayBlock`], which
//! is only made here, and runs in the lane of the disks that it touches. A disk that hangs fills its own lane and no other.
//! A thread from which nothing was heard for its patience (`Kind`) counts as stuck and gives its berth back, so the lane goes
//! on. When too many threads of a lane are stuck, no other one joins them: requests wait, without a thread, until the disk
//! answers or their time is over, and then the error names the disk.

mod berth;
mod dispose;
mod held;
mod locate;
mod lookout;

use std::{
    fmt, mem,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use dashmap::DashMap;
use tokio_util::sync::CancellationToken;
use weightsd_core::explain::{Explain, Explanation, Reason};
use weightsd_segment::mounts::Mounts;

use self::berth::{Job, Lane, Overdue};
pub use self::{
    dispose::{dispose, settled, settled_on},
    held::{HeldFile, SealedFile, TooManyOpen, hold_at_most},
    lookout::{FileFate, FileNews, FileState},
};

/// Lanes that are kept when nothing runs in them.
const LANES_KEPT: usize = 64;

/// The right to block, for as long as some work runs on a thread that serves nobody. It also tells that the work is alive.
#[derive(Debug)]
pub struct MayBlock<'a> {
    job: Option<&'a Job>,
}

impl MayBlock<'_> {
    /// The right of a thread that no request waits for: of a command, of a test, of a disposal.
    #[must_use]
    pub const fn on_a_thread_of_its_own() -> Self {
        Self { job: None }
    }

    /// Says that the work goes on. Long work calls it after each piece, or counts as stuck.
    pub fn alive(&self) {
        if let Some(job) = self.job {
            job.alive();
        }
    }
}

/// The disks that some work touches, by device number, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Disks(Vec<u64>);

impl FromIterator<u64> for Disks {
    fn from_iter<I: IntoIterator<Item = u64>>(devices: I) -> Self {
        let mut devices: Vec<_> = devices.into_iter().collect();
        devices.sort_unstable();
        devices.dedup();
        Self(devices)
    }
}

impl Disks {
    /// These and those.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        self.0.iter().chain(&other.0).copied().collect()
    }
}

/// Kinds of work. Each has berths of its own, so that quick looks do not wait behind long reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A few `stat` calls.
    Look,
    /// A stage of a load. Each may hold a header of megabytes, so their number bounds what strangers' files can cost.
    Load,
    /// Hashing, syncing, deleting.
    Long,
    /// What downloads do on the disk that they come to. They do not wait for the hashing of other models.
    Fetch,
}

impl Kind {
    /// Berths of one lane.
    const fn berths(self) -> usize {
        match self {
            Self::Look | Self::Load | Self::Fetch => 4,
            Self::Long => 2,
        }
    }

    /// Berths of all lanes together. More than one lane has, so that one hung disk never takes all of them.
    const fn berths_in_all(self) -> usize {
        match self {
            Self::Look => 32,
            Self::Load => 8,
            Self::Long => 6,
            Self::Fetch => 16,
        }
    }

    /// How long a thread may say nothing before it counts as stuck.
    const fn patience(self) -> Duration {
        match self {
            Self::Look | Self::Load => Duration::from_secs(1),
            // A sync of gigabytes on a slow disk says nothing while it works.
            Self::Long | Self::Fetch => Duration::from_secs(10),
        }
    }
}

/// What some work is, for its lane and for errors about it.
#[derive(Debug, Clone, Copy)]
pub struct Task<'a> {
    /// What it does, as errors name it.
    pub operation: &'static str,
    /// What it is about. One subject gets a part of a lane.
    pub subject: &'a str,
    /// The disks that it touches.
    pub disks: &'a Disks,
    /// Its kind.
    pub kind: Kind,
    /// How long it may take; `None` where the caller decides by hanging up.
    pub limit: Option<Duration>,
}

/// Why work was not done.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LaneError {
    /// It took too long.
    #[error("{operation} took longer than {limit:?}: {disk} answers slowly or not at all")]
    Late {
        /// What.
        operation: &'static str,
        /// What is allowed.
        limit: Duration,
        /// The disks, in words.
        disk: String,
    },
    /// It panicked.
    #[error("{operation} died: this is a fault of weightsd, and its log says more")]
    Died {
        /// What.
        operation: &'static str,
    },
    /// The daemon stops.
    #[error("weightsd is stopping")]
    Stopping,
}

impl Explain for LaneError {
    fn explain(&self) -> Explanation {
        match self {
            Self::Late { operation, .. } => Explanation::new(
                Reason::Deadline,
                *operation,
                "see whether that disk or network file system is well; where it is only slow, raise `load_deadline` in \
                 the configuration file",
            ),
            Self::Died { operation } => {
                Explanation::new(Reason::Internal, *operation, "report it with the daemon's log")
            }
            Self::Stopping => Explanation::new(Reason::ShuttingDown, "", "connect again once the daemon is back"),
        }
    }
}

/// The lanes of a daemon.
pub struct Lanes {
    lanes: DashMap<(Disks, Kind), Arc<Lane>>,
    berths: [Arc<tokio::sync::Semaphore>; 4],
    running: Mutex<Vec<Arc<Job>>>,
    mounts: Mutex<(Arc<Mounts>, Option<Instant>)>,
    stopping: CancellationToken,
}

impl fmt::Debug for Lanes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lanes").field("lanes", &self.lanes.len()).finish_non_exhaustive()
    }
}

impl Lanes {
    /// Lanes whose callers are let go when `stopping` is cancelled, whatever their work waits for.
    #[must_use]
    pub fn new(stopping: CancellationToken) -> Self {
        let berths = [Kind::Look, Kind::Load, Kind::Long, Kind::Fetch];
        Self {
            lanes: DashMap::new(),
            berths: berths.map(|kind| Arc::new(tokio::sync::Semaphore::new(kind.berths_in_all()))),
            running: Mutex::default(),
            mounts: Mutex::default(),
            stopping,
        }
    }

    /// Does `work` on a thread that may block, when a berth of its lane is free. Work that has begun goes on when nobody
    /// waits for it any more.
    ///
    /// # Errors
    /// When it takes longer than it may, panics, and when the daemon stops.
    #[expect(clippy::disallowed_methods, reason = "this is where work that may block gets its thread")]
    pub async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        task: Task<'_>,
        work: impl FnOnce(&MayBlock<'_>) -> T + Send + 'static,
    ) -> Result<T, LaneError> {
        let Task { operation, limit, .. } = task;
        let whole = async {
            let job = self.enter(&task).await;
            let leaving = berth::Leaving::new(Arc::clone(self), Arc::clone(&job));
            let thread = tokio::task::spawn_blocking(move || {
                job.alive();
                let result = work(&MayBlock { job: Some(&job) });
                drop(leaving);
                result
            });
            thread.await.map_err(|_| LaneError::Died { operation })
        };
        let timed = async {
            match limit {
                None => whole.await,
                Some(limit) => tokio::time::timeout(limit, whole)
                    .await
                    .unwrap_or_else(|_| Err(LaneError::Late { operation, limit, disk: self.names(task.disks) })),
            }
        };
        tokio::select! {
            biased;
            () = self.stopping.cancelled() => Err(LaneError::Stopping),
            result = timed => result,
        }
    }

    /// The disks in words: where they are mounted.
    fn names(&self, disks: &Disks) -> String {
        let mounts = self.mounts();
        let name = |device: &u64| {
            let place = mounts.place(*device).map(|at| format!("`{}`", at.display()));
            place.unwrap_or_else(|| format!("device {device:#x}"))
        };
        match disks.0.as_slice() {
            [] => "the disk".to_owned(),
            [one] => format!("the disk at {}", name(one)),
            several => {
                format!("one of the disks at {}", several.iter().map(name).collect::<Vec<_>>().join(" and "))
            }
        }
    }

    fn lane(&self, task: &Task<'_>) -> Arc<Lane> {
        let key = (task.disks.clone(), task.kind);
        if let Some(lane) = self.lanes.get(&key) {
            return Arc::clone(&lane);
        }
        if self.lanes.len() >= LANES_KEPT {
            self.lanes.retain(|_, lane| Arc::strong_count(lane) > 1 || lane.stuck() > 0);
        }
        Arc::clone(&self.lanes.entry(key).or_insert_with(|| Arc::new(Lane::new(task.kind))))
    }

    fn running(&self) -> MutexGuard<'_, Vec<Arc<Job>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a berth, and gives back those of stuck threads meanwhile.
    async fn enter(self: &Arc<Self>, task: &Task<'_>) -> Arc<Job> {
        let lane = self.lane(task);
        let all = &self.berths[task.kind as usize];
        let acquired = lane.acquire(task.subject, all);
        tokio::pin!(acquired);
        loop {
            tokio::select! {
                biased;
                berths = &mut acquired => {
                    let job = Arc::new(Job::new(task, Arc::clone(&lane), berths));
                    self.running().push(Arc::clone(&job));
                    return job;
                }
                () = self.overdue(task.kind) => self.reclaim(task.kind),
            }
        }
    }

    /// Returns when the first of the running jobs of that kind is overdue.
    async fn overdue(&self, kind: Kind) {
        let first = self.running().iter().filter(|job| job.kind() == kind).filter_map(|job| job.overdue_at()).min();
        match first {
            Some(at) => tokio::time::sleep_until(at.into()).await,
            // Every berth is on its way back: somebody leaves, or has just come.
            None => tokio::time::sleep(kind.patience()).await,
        }
    }

    /// Takes the berths of jobs that are overdue back.
    fn reclaim(&self, kind: Kind) {
        let now = Instant::now();
        let mut stuck = Vec::new();
        self.running().retain(|job| match job.kind() == kind && job.overdue_at().is_some_and(|at| at <= now) {
            true => {
                let overdue = job.give_back();
                if overdue == Overdue::Stuck {
                    stuck.push(Arc::clone(job));
                }
                overdue == Overdue::Keeps
            }
            false => true,
        });
        for job in stuck {
            tracing::warn!(
                operation = job.operation(), subject = job.subject(), silent = ?job.kind().patience(),
                "a thread waits for a disk that does not answer; its place is given to another one"
            );
        }
    }

    /// Called when the work of a job ends.
    fn leave(&self, job: &Arc<Job>) {
        self.running().retain(|running| !Arc::ptr_eq(running, job));
        job.leave();
    }

    /// The disks of `paths`, all links followed. A path that does not exist lies where its last directory lies.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn locate(
        self: &Arc<Self>,
        subject: &str,
        paths: Vec<PathBuf>,
        limit: Option<Duration>,
    ) -> Result<Disks, LaneError> {
        let started = Instant::now();
        let left = || limit.map(|limit| limit.saturating_sub(started.elapsed()));
        let mut found = Disks::default();
        let mut todo = paths;
        // Links from disk to disk may lead in a circle, which the stage that opens the path finds out.
        for _ in 0..locate::DISKS_MAX {
            if todo.is_empty() {
                break;
            }
            let mounts = self.mounts();
            let disk = |path: &PathBuf| mounts.of(path).map_or(locate::UNKNOWN, |mount| mount.device);
            let first = disk(&todo[0]);
            let (here, rest): (Vec<_>, Vec<_>) = mem::take(&mut todo).into_iter().partition(|path| disk(path) == first);
            todo = rest;
            let (lanes, disks) = (Arc::clone(self), Disks::from_iter([first]));
            let task = Task { operation: "finding the disk", subject, disks: &disks, kind: Kind::Look, limit: left() };
            let walk = move |may: &MayBlock<'_>| {
                let mounts = lanes.fresh_mounts(may);
                here.into_iter().filter_map(|path| locate::leaves(path, first, &mounts, may)).collect::<Vec<_>>()
            };
            let onward = self.run(task, walk).await?;
            if first != locate::UNKNOWN {
                found = found.and(&disks);
            }
            todo.extend(onward);
        }
        Ok(found)
    }

    fn mounts(&self) -> Arc<Mounts> {
        Arc::clone(&self.mounts.lock().unwrap_or_else(PoisonError::into_inner).0)
    }

    /// The table of mounts, read anew when it is old.
    fn fresh_mounts(&self, _: &MayBlock<'_>) -> Arc<Mounts> {
        let read = self.mounts.lock().unwrap_or_else(PoisonError::into_inner).1;
        if read.is_none_or(|at| at.elapsed() > locate::TABLE_FRESH) {
            match Mounts::read() {
                Ok(mounts) => {
                    *self.mounts.lock().unwrap_or_else(PoisonError::into_inner) =
                        (Arc::new(mounts), Some(Instant::now()));
                }
                Err(error) => tracing::warn!(%error, "the table of mounts cannot be read"),
            }
        }
        self.mounts()
    }
}

#[cfg(test)]
mod tests;
