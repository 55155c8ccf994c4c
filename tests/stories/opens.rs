//! Counts how often files are opened, by whomever and by whichever path. Only Linux tells.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    mem::MaybeUninit,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use rustix::{
    fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags},
    io::Errno,
};

use crate::harness::Home;

#[test]
fn the_count_of_opens_counts() {
    let home = Home::new();
    let path = home.path().join("a");
    fs::write(&path, "some bytes").unwrap();
    let opens = Opens::watch(std::slice::from_ref(&path));
    for _ in 0..3 {
        fs::read(&path).unwrap();
    }
    drop(File::open(&path).unwrap());
    assert_eq!(opens.count(), BTreeMap::from([(path, 4)]));
}

/// Counts how often files are opened, by whom and by which path ever.
pub struct Opens {
    paths: BTreeMap<i32, PathBuf>,
    stop: Arc<AtomicBool>,
    counter: thread::JoinHandle<BTreeMap<i32, usize>>,
}

impl Opens {
    pub fn watch(paths: &[PathBuf]) -> Self {
        let watcher = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).unwrap();
        // The system reports equal events that follow each other once. Reads and closes come between any two opens of
        // one thread, and they are taken from the queue as they come.
        let kinds = WatchFlags::OPEN | WatchFlags::ACCESS | WatchFlags::CLOSE;
        let watch = |path: &PathBuf| (inotify::add_watch(&watcher, path, kinds).unwrap(), path.clone());
        let paths = paths.iter().map(watch).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        Self { paths, stop, counter: thread::spawn(move || count(&watcher, &stopped)) }
    }

    pub fn count(self) -> BTreeMap<PathBuf, usize> {
        self.stop.store(true, Ordering::SeqCst);
        let counts = self.counter.join().unwrap();
        self.paths.into_iter().map(|(watch, path)| (path, counts.get(&watch).copied().unwrap_or(0))).collect()
    }
}

fn count(watcher: &OwnedFd, stopped: &AtomicBool) -> BTreeMap<i32, usize> {
    let mut counts = BTreeMap::new();
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(watcher, &mut buffer);
    loop {
        // Asked before the queue is read: what happened before the stop is counted.
        let last = stopped.load(Ordering::SeqCst);
        loop {
            match reader.next() {
                Ok(event) => {
                    assert!(!event.events().contains(ReadFlags::QUEUE_OVERFLOW));
                    if event.events().contains(ReadFlags::OPEN) {
                        *counts.entry(event.wd()).or_default() += 1;
                    }
                }
                Err(Errno::WOULDBLOCK) => break,
                Err(error) => panic!("{error}"),
            }
        }
        if last {
            return counts;
        }
        thread::yield_now();
    }
}
