//! What happens to the files that are held open, as far as the system tells: which of them have news, and what it means for
//! those who read the file.
//!
//! News are counted, not kept: a look at the file decides what they mean. Writing is told by name, so a change of times or
//! permissions that comes with other news is no change of the content.

use std::{
    collections::BTreeMap,
    io, mem,
    os::{fd::BorrowedFd, unix::fs::MetadataExt as _},
    path::Path,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak},
    thread,
    time::Duration,
};

use tokio::io::{Interest, unix::AsyncFd};
use weightsd_segment::{
    FileIdentity, PinnedFile,
    lookout::{Lookout, News, Told, Watched},
};

use super::MayBlock;

/// The system stamps a file a moment before it tells of that. A look in between waits this often, for so long.
const MOMENT: (usize, Duration) = (4, Duration::from_millis(5));

/// What became of a file that is held open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FileFate {
    /// It has the content that it had, under the name that it had.
    Same,
    /// It has the content that it had, and its name is gone or leads to another file.
    Gone,
    /// Its content was written to, cut, or may have been.
    Written,
}

/// What is known of one file that is held open.
#[derive(Debug)]
pub struct FileState {
    /// `None` where the system does not tell of changes.
    watched: Option<Watched>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The last identity that the file is known to have had with its first content.
    known: FileIdentity,
    is_written: bool,
    /// Whether its name led elsewhere when that was looked at last.
    is_gone: bool,
    /// How often there were news of attributes and names, and how many of these were looked into.
    told: u64,
    seen: u64,
    /// Whether it is among the files with news that nobody was told of.
    is_fresh: bool,
}

impl FileState {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the system tells of its changes.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.watched.is_some()
    }

    pub(super) fn known(&self) -> FileIdentity {
        self.state().known
    }

    /// Counts news. Returns whether they are the first since somebody was told.
    fn tell(&self, news: News) -> bool {
        let mut state = self.state();
        state.is_written |= news.written;
        state.told += u64::from(news.attributes || news.renamed);
        !mem::replace(&mut state.is_fresh, true)
    }

    /// What became of `file`, whose state this is.
    pub(super) fn fate(&self, file: &PinnedFile, _: &MayBlock<'_>) -> FileFate {
        for _ in 0..MOMENT.0 {
            REGISTRY.take_news();
            if let Some(fate) = self.judge(file) {
                return fate;
            }
            thread::sleep(MOMENT.1);
        }
        // Writing through a mapping stamps the file, and the system tells nobody.
        self.state().is_written = true;
        FileFate::Written
    }

    /// `None` where its times changed and nobody said why.
    fn judge(&self, file: &PinnedFile) -> Option<FileFate> {
        let (told, has_news, is_written, was_gone) = {
            let state = self.state();
            (state.told, state.told > state.seen, state.is_written, state.is_gone)
        };
        // No lock is held across what follows: it asks the disk.
        let metadata = if is_written { None } else { file.file().metadata().ok() };
        let Some(metadata) = metadata else { return Some(FileFate::Written) };
        let now = FileIdentity::of(&metadata);
        let name = match metadata.nlink() {
            0 => FileFate::Gone,
            _ if has_news || self.watched.is_none() => name_of(file.path(), now),
            _ if was_gone => FileFate::Gone,
            _ => FileFate::Same,
        };
        let mut state = self.state();
        if now.length != state.known.length {
            state.is_written = true;
            return Some(FileFate::Written);
        }
        // Taking the last name away stamps a file, too.
        let changed_ns = if metadata.nlink() == 0 { now.changed_ns } else { state.known.changed_ns };
        if !has_news && now != (FileIdentity { changed_ns, ..state.known }) {
            return None;
        }
        state.known = now;
        state.seen = state.seen.max(told);
        state.is_gone = name == FileFate::Gone;
        Some(name)
    }
}

fn name_of(path: &Path, file: FileIdentity) -> FileFate {
    match std::fs::metadata(path) {
        Ok(there) if (there.dev(), there.ino()) == (file.device, file.inode) => FileFate::Same,
        // Nobody is told that a file is gone because its folder cannot be read for a moment.
        Err(error) if error.kind() != io::ErrorKind::NotFound => FileFate::Same,
        Ok(_) | Err(_) => FileFate::Gone,
    }
}

/// All files that are held open.
static REGISTRY: LazyLock<Registry> = LazyLock::new(Registry::new);

struct Registry {
    /// `None` where the system has none.
    lookout: Option<Lookout>,
    files: Mutex<Files>,
}

#[derive(Default)]
struct Files {
    by_watch: BTreeMap<Watched, Vec<Weak<FileState>>>,
    /// Those with news that nobody was told of.
    fresh: Vec<Weak<FileState>>,
}

impl Registry {
    fn new() -> Self {
        let lookout = Lookout::new();
        if let Err(error) = &lookout {
            tracing::warn!(%error, "the system tells of no changes of files; they are looked at again and again");
        }
        Self { lookout: lookout.ok(), files: Mutex::default() }
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self, file: &PinnedFile) -> Arc<FileState> {
        let known = *file.identity();
        let state = |watched| {
            let state =
                Mutex::new(State { known, is_written: false, is_gone: false, told: 0, seen: 0, is_fresh: false });
            Arc::new(FileState { watched, state })
        };
        // What happens to a remote file elsewhere is told by nobody.
        let Some(lookout) = self.lookout.as_ref().filter(|_| weightsd_segment::is_local_file(file.file())) else {
            return state(None);
        };
        // Under the lock, so that nobody removes the watch of the same file meanwhile. Local files answer from memory.
        let mut files = self.files();
        match lookout.add(std::os::fd::AsFd::as_fd(file)) {
            Ok(watched) => {
                let state = state(Some(watched));
                files.by_watch.entry(watched).or_default().push(Arc::downgrade(&state));
                state
            }
            Err(error) => {
                drop(files);
                tracing::debug!(%error, path = %file.path().display(), "changes of this file are not told");
                state(None)
            }
        }
    }

    /// To be called before the file is closed: another one may get its number.
    fn forget(&self, state: &Arc<FileState>) {
        let Some(watched) = state.watched else { return };
        let mut files = self.files();
        let Some(same) = files.by_watch.get_mut(&watched) else { return };
        same.retain(|other| !std::ptr::eq(other.as_ptr(), Arc::as_ptr(state)));
        if same.is_empty() {
            files.by_watch.remove(&watched);
            self.remove(watched);
        }
    }

    fn remove(&self, watched: Watched) {
        if let Some(lookout) = &self.lookout {
            lookout.remove(watched);
        }
    }

    /// Counts what the system has to tell.
    fn take_news(&self) {
        let Some(lookout) = &self.lookout else { return };
        let mut files = self.files();
        loop {
            match lookout.next() {
                Ok(None) => return,
                Ok(Some(told)) => told.into_iter().for_each(|told| self.take(&mut files, told)),
                Err(error) => return tracing::warn!(%error, "news of files cannot be read"),
            }
        }
    }

    fn take(&self, files: &mut Files, told: Told) {
        let Files { by_watch, fresh } = files;
        let tell = |states: &Vec<Weak<FileState>>, news: News| -> Vec<_> {
            let is_first = |state: &&Weak<FileState>| state.upgrade().is_some_and(|state| state.tell(news));
            states.iter().filter(is_first).cloned().collect()
        };
        let (watched, news) = match told {
            Told::Of(watched, news) => (watched, news),
            // All are looked at. What nobody told of counts as written.
            Told::Lost => {
                return fresh.extend(by_watch.values().flat_map(|states| tell(states, News::default())));
            }
        };
        let Some(states) = by_watch.get(&watched) else { return };
        fresh.extend(tell(states, news));
        if news.written {
            // There is nothing more to learn, and a program that writes gigabytes would be told of at each page.
            by_watch.remove(&watched);
            self.remove(watched);
        }
    }
}

/// Begins to watch a file that is held open.
pub(super) fn watch(file: &PinnedFile, _: &MayBlock<'_>) -> Arc<FileState> {
    REGISTRY.watch(file)
}

/// Ends it, before the file is closed.
pub(super) fn forget(state: &Arc<FileState>) {
    REGISTRY.forget(state);
}

/// Waits for news of files that are held open. One task of a process does.
#[derive(Debug)]
pub struct FileNews(Option<AsyncFd<BorrowedFd<'static>>>);

impl FileNews {
    /// Listens from now on.
    #[must_use]
    #[expect(
        deprecated,
        reason = "what took its place is unsafe: the descriptor must stay open, and this one does for ever"
    )]
    pub fn listen() -> Self {
        let lookout = REGISTRY.lookout.as_ref();
        let listen = |lookout: &'static Lookout| {
            AsyncFd::with_interest(std::os::fd::AsFd::as_fd(lookout), Interest::READABLE)
                .inspect_err(|error| tracing::warn!(%error, "news of files are not waited for"))
                .ok()
        };
        Self(lookout.and_then(listen))
    }

    /// The files with news since the last call: at least one, so it waits.
    pub async fn next(&self) -> Vec<Arc<FileState>> {
        let Some(descriptor) = &self.0 else { return std::future::pending().await };
        loop {
            REGISTRY.take_news();
            let fresh = mem::take(&mut REGISTRY.files().fresh);
            let fresh: Vec<_> = fresh.iter().filter_map(Weak::upgrade).collect();
            fresh.iter().for_each(|state| state.state().is_fresh = false);
            if !fresh.is_empty() {
                return fresh;
            }
            match descriptor.readable().await {
                Ok(mut ready) => ready.clear_ready(),
                Err(_) => return std::future::pending().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File, OpenOptions},
        os::unix::fs::PermissionsExt as _,
        time::SystemTime,
    };

    use super::*;
    use crate::lanes::HeldFile;

    struct Scene {
        folder: tempfile::TempDir,
        file: HeldFile,
    }

    impl Scene {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("a"), "12345678").unwrap();
            let file = HeldFile::open(folder.path().join("a"), &MayBlock::on_a_thread_of_its_own()).unwrap();
            Self { folder, file }
        }

        fn fate(&self) -> FileFate {
            self.file.fate(&MayBlock::on_a_thread_of_its_own())
        }

        fn path(&self, name: &str) -> std::path::PathBuf {
            self.folder.path().join(name)
        }
    }

    /// As the command of that name does.
    fn touch(path: &Path) {
        let times = fs::FileTimes::new().set_accessed(SystemTime::now()).set_modified(SystemTime::UNIX_EPOCH);
        File::open(path).unwrap().set_times(times).unwrap();
    }

    #[test]
    fn attributes_and_more_names_are_no_change() {
        let scene = Scene::new();
        assert!(scene.file.is_watched());
        assert_eq!(scene.fate(), FileFate::Same);
        fs::set_permissions(scene.path("a"), fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(scene.fate(), FileFate::Same);
        touch(&scene.path("a"));
        assert_eq!(scene.fate(), FileFate::Same);
        fs::hard_link(scene.path("a"), scene.path("b")).unwrap();
        assert_eq!(scene.fate(), FileFate::Same);
        fs::remove_file(scene.path("b")).unwrap();
        assert_eq!(scene.fate(), FileFate::Same);
        // What comes afterwards is judged as before.
        OpenOptions::new().write(true).open(scene.path("a")).unwrap().set_len(3).unwrap();
        assert_eq!(scene.fate(), FileFate::Written);
    }

    #[test]
    fn a_name_that_leads_elsewhere_leaves_the_content() {
        let scene = Scene::new();
        fs::hard_link(scene.path("a"), scene.path("b")).unwrap();
        fs::write(scene.path("new"), "x").unwrap();
        fs::rename(scene.path("new"), scene.path("a")).unwrap();
        assert_eq!(scene.fate(), FileFate::Gone);
        let other = Scene::new();
        fs::remove_file(other.path("a")).unwrap();
        assert_eq!(other.fate(), FileFate::Gone);
        let moved = Scene::new();
        fs::rename(moved.path("a"), moved.path("b")).unwrap();
        assert_eq!(moved.fate(), FileFate::Gone);
        fs::write(moved.path("b"), "y").unwrap();
        assert_eq!(moved.fate(), FileFate::Written);
    }

    #[test]
    fn writing_in_place_is_a_change_also_with_the_time_set_back() {
        let scene = Scene::new();
        let before = fs::metadata(scene.path("a")).unwrap().modified().unwrap();
        let file = OpenOptions::new().write(true).open(scene.path("a")).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"x", 0).unwrap();
        file.set_modified(before).unwrap();
        assert_eq!(scene.fate(), FileFate::Written);
        assert_eq!(scene.fate(), FileFate::Written, "it stays so");
    }

    #[test]
    fn a_file_that_is_held_twice_is_watched_until_both_are_dropped() {
        let scene = Scene::new();
        let again = HeldFile::open(scene.path("a"), &MayBlock::on_a_thread_of_its_own()).unwrap();
        drop(again);
        crate::lanes::settled(Duration::from_secs(10), &MayBlock::on_a_thread_of_its_own());
        touch(&scene.path("a"));
        assert_eq!(scene.fate(), FileFate::Same, "nobody would have told");
        OpenOptions::new().write(true).open(scene.path("a")).unwrap().set_len(3).unwrap();
        assert_eq!(scene.fate(), FileFate::Written);
    }
}
