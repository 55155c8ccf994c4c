//! What becomes of the files under loaded components, and who is told. The system tells of most changes; disks that tell of
//! none (a network's) are asked while somebody holds a component on them.

use std::{
    collections::{BTreeSet, HashSet},
    path::Path,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use weightsd_core::identity::ComponentId;

use super::{Cache, Change, ChangeKind, Entry};
use crate::{
    events::EventKind,
    lanes::{Disks, FileFate, FileNews, FileState, Kind, MayBlock, Task},
    pipeline::Prepared,
};

/// Time for which news are gathered: who rewrites a model does more than one thing to it.
const GATHER: Duration = Duration::from_millis(50);
/// How long a file is gone before its holders are told: there may be a graver word to come.
const SETTLED: Duration = Duration::from_millis(500);
/// How often disks are asked that tell of nothing.
const ASK: Duration = Duration::from_secs(1);
/// How long a disk may take to answer about files that have news; the next news ask again.
const PATIENCE: Duration = Duration::from_secs(10);
/// Names these looks in the log.
const OPERATION: &str = "looking at files that are lent";

/// Withdrawn components that somebody holds, and that are whole.
pub(super) type Departed = Mutex<Vec<Weak<Entry>>>;
/// Disks that are asked.
pub(super) type Asked = Mutex<BTreeSet<Disks>>;

impl Cache {
    /// Whether the component is loaded and its files are as they were; if they are not, it is dropped, and its holders
    /// are told.
    pub(super) fn intact(&self, id: ComponentId, may: &MayBlock<'_>) -> bool {
        self.leases.get(id).is_some_and(|entry| self.is_intact(&entry, may))
    }

    /// The same of an entry, which may have been withdrawn before.
    fn is_intact(&self, entry: &Arc<Entry>, may: &MayBlock<'_>) -> bool {
        let fate = entry.component.fate(may);
        if fate == FileFate::Same {
            return true;
        }
        let was_there = self.leases.withdraw(entry);
        let what = format!("a file of {} of {}", entry.component.name, entry.component.model);
        let tell = |event, kind, message: String| {
            self.daemon().events().push(event, Some(entry.id()), message.clone());
            entry.notify(Change { kind, message });
        };
        if fate == FileFate::Written {
            if was_there || self.has_departed(entry, Departs::Forgotten) {
                tell(EventKind::FileChanged, ChangeKind::Changed, format!("{what} changed on disk"));
            }
        } else if was_there {
            tell(EventKind::Evicted, ChangeKind::Gone, format!("{what} was deleted, moved or replaced"));
            self.has_departed(entry, Departs::Kept);
            // A look that saw it written to meanwhile did not find it among them.
            return self.is_intact(entry, may);
        }
        false
    }

    /// Whether `entry` is among the withdrawn ones whose holders may have more to learn; afterwards it is, or is not.
    pub(super) fn has_departed(&self, entry: &Arc<Entry>, then: Departs) -> bool {
        let mut departed = self.departed.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |other: &Weak<Entry>| std::ptr::eq(other.as_ptr(), Arc::as_ptr(entry));
        let was_among = departed.iter().any(is_it);
        departed.retain(|other| other.strong_count() > 0 && !is_it(other));
        if then == Departs::Kept {
            departed.push(Arc::downgrade(entry));
        }
        was_among
    }

    /// Components that are loaded, and those that were withdrawn while they were whole.
    pub(super) fn lent(&self) -> impl Iterator<Item = Arc<Entry>> + use<> {
        let departed = self.departed.lock().unwrap_or_else(PoisonError::into_inner);
        let departed: Vec<_> = departed.iter().filter_map(Weak::upgrade).collect();
        self.leases.entries().into_iter().chain(departed)
    }

    /// Looks at the loaded components over the paths that are about to be opened. A rewritten file gets a new component
    /// id, so requests for the new id never notice that holders of the old one now read changed bytes.
    pub(super) fn look_again(&self, prepared: &Prepared, may: &MayBlock<'_>) {
        let paths: HashSet<&Path> = prepared.shards().map(|shard| shard.path.as_path()).collect();
        let lends =
            |entry: &Entry| entry.component.sources.iter().any(|source| paths.contains(source.open.file.path()));
        for entry in self.lent().filter(|entry| lends(entry)) {
            self.is_intact(&entry, may);
        }
    }

    /// Tells holders what the system tells of their files, until the daemon stops.
    pub(super) async fn tell_news(self: &Arc<Self>) {
        let news = FileNews::listen();
        let listen = async {
            loop {
                let files = news.next().await;
                self.look_at(&files);
                tokio::time::sleep(GATHER).await;
            }
        };
        tokio::select! {
            () = listen => {}
            () = self.daemon().stopping().cancelled() => {}
        }
    }

    /// Has the components over `files` looked at, each in the lane of its disks.
    fn look_at(self: &Arc<Self>, files: &[Arc<FileState>]) {
        let lies_on = |entry: &Arc<Entry>| files.iter().any(|state| entry.component.lies_on(state));
        for entry in self.lent().filter(lies_on) {
            let cache = Arc::clone(self);
            self.daemon().tasks().spawn("look", async move {
                let (subject, disks) = (entry.component.model.to_string(), entry.component.disks());
                let (kind, limit) = (Kind::Look, Some(PATIENCE));
                let task = Task { operation: OPERATION, subject: &subject, disks: &disks, kind, limit };
                let lanes = cache.daemon().lanes();
                let looked = Arc::clone(&entry);
                let fate = lanes.run(task, move |may| looked.component.fate(may)).await;
                if fate.is_ok_and(|fate| fate == FileFate::Gone) {
                    // The daemon itself moves damaged files, and then says so.
                    tokio::time::sleep(SETTLED).await;
                }
                let looking = Arc::clone(&cache);
                // A disk that does not answer is named by those who load from it.
                let _ = lanes.run(task, move |may| looking.is_intact(&entry, may)).await;
            });
        }
    }

    /// Has the disks of `component` asked from now on, if they do not tell of changes by themselves.
    pub(super) fn ask_where_nobody_tells(self: &Arc<Self>, component: &crate::component::Component) {
        if component.is_watched() {
            return;
        }
        let disks = component.disks();
        if !self.asked.lock().unwrap_or_else(PoisonError::into_inner).insert(disks.clone()) {
            return;
        }
        let cache = Arc::clone(self);
        self.daemon().tasks().spawn("ask", async move {
            tokio::select! {
                () = cache.ask(&disks) => {}
                () = cache.daemon().stopping().cancelled() => {}
            }
        });
    }

    /// Asks `disks` about the components on them that somebody holds, until none is loaded or held.
    async fn ask(self: &Arc<Self>, disks: &Disks) {
        loop {
            tokio::time::sleep(ASK).await;
            let of_these = |entry: &Arc<Entry>| !entry.component.is_watched() && entry.component.disks() == *disks;
            let (held, idle): (Vec<_>, Vec<_>) =
                self.lent().filter(of_these).partition(|entry| entry.idle_since().is_none());
            if held.is_empty() && idle.is_empty() {
                // Looked at once more under the lock, which a component that was just loaded waits for.
                let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
                if !self.lent().any(|entry| of_these(&entry)) {
                    asked.remove(disks);
                    return;
                }
            }
            if held.is_empty() {
                continue;
            }
            let looking = Arc::clone(self);
            let look = move |may: &MayBlock<'_>| {
                for entry in held {
                    looking.is_intact(&entry, may);
                    may.alive();
                }
            };
            // It takes as long as the disk does not answer: nobody is told meanwhile, and one thread waits.
            let task = Task { operation: OPERATION, subject: OPERATION, disks, kind: Kind::Look, limit: None };
            let _ = self.daemon().lanes().run(task, look).await;
        }
    }
}

/// What becomes of an entry that was withdrawn.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Departs {
    /// Its holders are told if there is more to tell.
    Kept,
    /// They know all.
    Forgotten,
}
