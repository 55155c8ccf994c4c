//! How the bytes of a component come into memory while its holders already have it mapped, and how they stay there.
//!
//! It is background work: it goes piece by piece in the lane of its disks, loads of clients go first, and it ends when the
//! last holder that wants it lets go. Holders of one component share it.

use std::{
    collections::HashMap,
    fmt,
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use humansize::{DECIMAL, format_size};
use tokio::sync::watch;
use weightsd_core::{explain::sentence, handoff::Given, identity::ComponentId};
use weightsd_segment::{
    memory_lock::{self, LockedRange},
    pressure::{self, Pressure},
};

use super::Cache;
use crate::{
    component::Component,
    lanes::{Kind, MayBlock, Task, dispose},
};

/// Bytes that are read in one go. Between two goes others have their turn.
const PIECE: u64 = 64 << 20;
/// The longest time for which a piece waits until loads of clients are done.
const YIELD_MAX: Duration = Duration::from_secs(2);
/// How long what was brought into memory is taken to be there.
const BELIEVED: Duration = Duration::from_secs(60);
/// Components that are remembered for that.
const REMEMBERED_MAX: usize = 1024;
/// Names this work in errors.
const OPERATION: &str = "reading ahead";

/// How a holder wants the bytes in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Residency {
    /// Soon.
    Prefetch,
    /// When it touches them.
    Lazy,
    /// Soon, and locked there while it holds the component.
    Pinned,
}

/// How far the bytes are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Brought {
    /// Bytes that are in memory.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
    /// Why no more come, or why they are not locked.
    pub problem: Option<String>,
    /// Whether no more come.
    pub has_ended: bool,
}

type Key = (ComponentId, Given, Residency);

/// What is brought into memory, and what was lately.
#[derive(Debug, Default)]
pub(super) struct Residencies {
    by_key: Mutex<HashMap<Key, Known>>,
    /// Bytes that are locked, or about to be.
    pinned: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Known {
    bringing: Weak<Bringing>,
    /// When all was in memory.
    done: Option<Instant>,
}

/// Work that goes on while somebody has this.
pub struct Bringing {
    brought: watch::Sender<Brought>,
    locked: Mutex<Vec<LockedRange>>,
    share: Option<Share>,
}

/// A part of the budget for locked memory.
struct Share {
    bytes: u64,
    pinned: Arc<AtomicU64>,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.pinned.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl fmt::Debug for Bringing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bringing").field("brought", &*self.brought.borrow()).finish_non_exhaustive()
    }
}

impl Bringing {
    /// How far it is, now and whenever it changes.
    #[must_use]
    pub fn brought(&self) -> watch::Receiver<Brought> {
        self.brought.subscribe()
    }
}

impl Drop for Bringing {
    fn drop(&mut self) {
        let locked = std::mem::take(self.locked.get_mut().unwrap_or_else(PoisonError::into_inner));
        if !locked.is_empty() {
            // Unlocking gigabytes takes a while.
            dispose(0, move |_| drop(locked));
        }
    }
}

impl Cache {
    /// Bytes that are locked in memory.
    #[must_use]
    pub fn pinned_bytes(&self) -> u64 {
        self.residencies.pinned.load(Ordering::Relaxed)
    }

    /// Has the bytes of `component` come into memory as its holder wants it, for as long as the answer is kept. `None` when
    /// there is nothing to be done.
    pub fn bring(
        self: &Arc<Self>,
        component: &Arc<Component>,
        given: Given,
        residency: Residency,
    ) -> Option<Arc<Bringing>> {
        if residency == Residency::Lazy {
            return None;
        }
        let key = (component.id, given, residency);
        let mut by_key = self.residencies.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = by_key.get(&key) {
            if let Some(bringing) = known.bringing.upgrade() {
                return Some(bringing);
            }
            if residency == Residency::Prefetch && known.done.is_some_and(|done| done.elapsed() < BELIEVED) {
                return None;
            }
        }
        by_key.retain(|_, known| {
            known.bringing.strong_count() > 0 || known.done.is_some_and(|at| at.elapsed() < BELIEVED)
        });
        if by_key.len() >= REMEMBERED_MAX {
            return None;
        }
        let pieces = pieces(component);
        let total = pieces.iter().map(|(_, range)| range.end - range.start).sum();
        let (share, problem) = match residency {
            Residency::Pinned => match self.share_of_pinned(total) {
                Ok(share) => (Some(share), None),
                Err(problem) => (None, Some(format!("the component is read ahead and not pinned: {problem}"))),
            },
            Residency::Prefetch | Residency::Lazy => (None, None),
        };
        let brought = watch::Sender::new(Brought { total, problem, ..Brought::default() });
        let bringing = Arc::new(Bringing { brought, locked: Mutex::default(), share });
        by_key.insert(key, Known { bringing: Arc::downgrade(&bringing), done: None });
        let (cache, component, weak) = (Arc::clone(self), Arc::clone(component), Arc::downgrade(&bringing));
        self.daemon().tasks().spawn("residency", async move {
            tokio::select! {
                () = cache.bring_all(key, &component, pieces, weak) => {}
                () = cache.daemon().stopping().cancelled() => {}
            }
        });
        Some(bringing)
    }

    /// A part of what may be locked.
    fn share_of_pinned(&self, bytes: u64) -> Result<Share, String> {
        let pinned = Arc::clone(&self.residencies.pinned);
        let shown = |bytes| format_size(bytes, DECIMAL);
        let before = pinned.fetch_add(bytes, Ordering::Relaxed);
        let share = Share { bytes, pinned };
        let budget = self.config.pin_budget;
        if before + bytes > budget {
            let taken = shown(before);
            return Err(format!(
                "it has {}, {taken} are pinned, and `pin_budget` allows {}",
                shown(bytes),
                shown(budget)
            ));
        }
        let is_root = rustix::process::geteuid().is_root();
        match memory_lock::limit() {
            Some(limit) if before + bytes > limit && !is_root => Err(format!(
                "it has {}, and this process may lock {} (`ulimit -l`, or LimitMEMLOCK= of its unit)",
                shown(bytes),
                shown(limit)
            )),
            _ => Ok(share),
        }
    }

    async fn bring_all(
        &self,
        key: Key,
        component: &Arc<Component>,
        pieces: Vec<(usize, Range<u64>)>,
        bringing: Weak<Bringing>,
    ) {
        let (subject, disks) = (component.model.to_string(), component.disks());
        let (operation, kind, limit) = (OPERATION, Kind::Long, None);
        let mut done = 0;
        for (file, range) in pieces {
            let _ = tokio::time::timeout(YIELD_MAX, self.quiet()).await;
            let Some(wanted) = bringing.upgrade() else { return };
            let (with, of, bytes) = (Arc::clone(&wanted), Arc::clone(component), range.end - range.start);
            let left = wanted.brought.borrow().total - done;
            let work = move |may: &MayBlock<'_>| with.bring_piece(&of, key.1, (file, range), left, may);
            let task = Task { operation, subject: &subject, disks: &disks, kind, limit };
            let problem = match self.daemon().lanes().run(task, work).await {
                Ok(Ok(())) => None,
                Ok(Err(problem)) => Some(problem),
                Err(error) => Some(sentence(&error)),
            };
            if let Some(problem) = problem {
                tracing::info!(id = %component.id, "reading ahead ended: {problem}");
                wanted.brought.send_modify(|brought| (brought.problem, brought.has_ended) = (Some(problem), true));
                return;
            }
            done += bytes;
            wanted.brought.send_modify(|brought| brought.done = done);
        }
        let mut by_key = self.residencies.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = by_key.get_mut(&key) {
            known.done = Some(Instant::now());
        }
        drop(by_key);
        if let Some(wanted) = bringing.upgrade() {
            wanted.brought.send_modify(|brought| brought.has_ended = true);
        }
    }
}

impl Bringing {
    /// Reads one piece, and locks it where that is wanted. `left` bytes are still to come, these included.
    fn bring_piece(
        &self,
        component: &Component,
        given: Given,
        (file, range): (usize, Range<u64>),
        left: u64,
        may: &MayBlock<'_>,
    ) -> Result<(), String> {
        let files = component.given(given);
        let file = files[file];
        if file.is_sparse() {
            return Err(format!("`{}` was never written, for the most part", file.path().display()));
        }
        if pressure::pressure() == Pressure::High {
            return Err("programs of this machine wait for memory".to_owned());
        }
        let available = pressure::available_bytes().filter(|available| *available < left);
        if let (Some(available), None) = (available, &self.share) {
            let (left, available) = (format_size(left, DECIMAL), format_size(available, DECIMAL));
            return Err(format!("{left} are to come, and this machine has {available} of memory left"));
        }
        let named = |error| format!("`{}`: {}", file.path().display(), sentence(&error));
        file.read_ahead(range.clone(), || may.alive()).map_err(named)?;
        if self.share.is_some() {
            let length = usize::try_from(range.end - range.start).map_err(|error| error.to_string())?;
            let locked = LockedRange::new(file.file(), range.start, length);
            let locked = locked.map_err(|error| format!("the component is not pinned: {}", named(error)))?;
            self.locked.lock().unwrap_or_else(PoisonError::into_inner).push(locked);
        }
        Ok(())
    }
}

/// The ranges of the files that `component` lends, by the number of their segment, in pieces.
fn pieces(component: &Component) -> Vec<(usize, Range<u64>)> {
    let mut ranges: Vec<_> =
        component.tensors.iter().map(|tensor| (tensor.at.segment, tensor.at.at.range().clone())).collect();
    ranges.sort_unstable_by_key(|(segment, range)| (segment.0, range.start));
    let mut joined: Vec<(usize, Range<u64>)> = Vec::new();
    for (segment, range) in ranges {
        let segment = segment.0 as usize;
        match joined.last_mut() {
            // Headers and padding between tensors are read along.
            Some((last, joint)) if *last == segment && range.start <= joint.end + (1 << 20) => {
                joint.end = joint.end.max(range.end);
            }
            _ => joined.push((segment, range)),
        }
    }
    let cut = |(segment, range): (usize, Range<u64>)| {
        let starts = range.clone().step_by(PIECE as usize);
        starts.map(move |start| (segment, start..(start + PIECE).min(range.end)))
    };
    joined.into_iter().flat_map(cut).collect()
}
