//! Berths: who may run in a lane, and what becomes of a thread from which nothing is heard.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::{Kind, Lanes, Task};

/// Threads of one lane that may be stuck; then they keep their berths, and nobody else runs.
const STUCK_MAX: usize = 16;
/// Threads that may be stuck over one subject: a single model that hangs must not close the disk that it lies on.
const STUCK_OVER_ONE_MAX: usize = 4;

/// The berths for one set of disks and one kind of work.
#[derive(Debug)]
pub(super) struct Lane {
    berths: Arc<Semaphore>,
    /// Subjects of the threads that are stuck.
    stuck: Mutex<Vec<String>>,
    /// Is told when a thread is stuck no more.
    freed: Notify,
}

impl Lane {
    pub(super) fn new(kind: Kind) -> Self {
        Self { berths: Arc::new(Semaphore::new(kind.berths())), stuck: Mutex::default(), freed: Notify::new() }
    }

    /// Threads that are stuck.
    pub(super) fn stuck(&self) -> usize {
        self.stuck_subjects().len()
    }

    fn stuck_subjects(&self) -> MutexGuard<'_, Vec<String>> {
        self.stuck.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether enough threads are stuck over one subject.
    fn is_closed_to(&self, subject: &str) -> bool {
        self.stuck_subjects().iter().filter(|stuck| *stuck == subject).count() >= STUCK_OVER_ONE_MAX
    }

    /// A berth of this lane, and one of `all` lanes.
    pub(super) async fn acquire(&self, subject: &str, all: &Arc<Semaphore>) -> Berths {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if self.is_closed_to(subject) {
                // Not in the queue: those behind it may have another subject.
                freed.await;
                continue;
            }
            let lane = Arc::clone(&self.berths).acquire_owned().await.expect("a lane is never closed");
            if self.is_closed_to(subject) {
                continue;
            }
            let all = Arc::clone(all).acquire_owned().await.expect("lanes are never closed");
            return Berths { lane: Some(lane), all: Some(all) };
        }
    }
}

/// What a running job holds.
#[derive(Debug, Default)]
pub(super) struct Berths {
    lane: Option<OwnedSemaphorePermit>,
    all: Option<OwnedSemaphorePermit>,
}

/// What becomes of a job that is overdue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overdue {
    /// It counts as stuck and holds no berth any more.
    Stuck,
    /// So many are stuck that it keeps its berth of the lane.
    Keeps,
}

/// Work that runs.
#[derive(Debug)]
pub(super) struct Job {
    kind: Kind,
    operation: &'static str,
    subject: String,
    lane: Arc<Lane>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// When the work was last heard of.
    heard: Instant,
    berths: Berths,
    /// Whether it is counted among the stuck threads of its lane.
    is_stuck: bool,
}

impl Job {
    pub(super) fn new(task: &Task<'_>, lane: Arc<Lane>, berths: Berths) -> Self {
        Self {
            kind: task.kind,
            operation: task.operation,
            subject: task.subject.to_owned(),
            lane,
            state: Mutex::new(State { heard: Instant::now(), berths, is_stuck: false }),
        }
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    pub(super) fn operation(&self) -> &'static str {
        self.operation
    }

    pub(super) fn subject(&self) -> &str {
        &self.subject
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn alive(&self) {
        self.state().heard = Instant::now();
    }

    /// When it counts as stuck, if nothing is heard until then; `None` when it gave back all that it can.
    pub(super) fn overdue_at(&self) -> Option<Instant> {
        let state = self.state();
        state.berths.all.is_some().then(|| state.heard + self.kind.patience())
    }

    /// Gives back what it holds: all of it if the lane has room for another stuck thread.
    pub(super) fn give_back(&self) -> Overdue {
        let mut stuck = self.lane.stuck_subjects();
        let mut state = self.state();
        state.berths.all = None;
        if stuck.len() >= STUCK_MAX {
            return Overdue::Keeps;
        }
        stuck.push(self.subject.clone());
        state.berths.lane = None;
        state.is_stuck = true;
        Overdue::Stuck
    }

    /// Its thread has ended.
    pub(super) fn leave(&self) {
        let mut stuck = self.lane.stuck_subjects();
        let mut state = self.state();
        if mem::take(&mut state.is_stuck)
            && let Some(index) = stuck.iter().position(|subject| *subject == self.subject)
        {
            stuck.swap_remove(index);
            self.lane.freed.notify_waiters();
        }
        state.berths = Berths::default();
    }
}

/// Ends a job when it is dropped, also in a panic, and when its work never begins.
pub(super) struct Leaving {
    lanes: Arc<Lanes>,
    job: Arc<Job>,
}

impl Leaving {
    pub(super) fn new(lanes: Arc<Lanes>, job: Arc<Job>) -> Self {
        Self { lanes, job }
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.lanes.leave(&self.job);
    }
}
