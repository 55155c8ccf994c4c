//! A crowd asks for one cold component at once, and every shard is opened once.

use std::{
    collections::{BTreeMap, BTreeSet},
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
use weightsd_client::proto::{EventKind, ListComponentsRequest};

use crate::{
    client_process::{ClientProcess, Job, Manner},
    harness::{Home, events},
};

const REPO: &str = "test/z-image";
const PROCESSES: usize = 100;

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_processes_open_each_shard_once() {
    let home = Home::new();
    let hub = home.tiny(REPO);
    let shards = hub.written.weight_files_of("transformer");
    assert!(shards.len() > 1);
    let daemon = home.daemon();
    let client = daemon.client().await;
    let job = Job { model: REPO.into(), component: "transformer".into(), source_layout: false };
    let manner = Manner { waits: true, ..Manner::default() };
    let mut crowd: Vec<_> = (0..PROCESSES).map(|_| ClientProcess::start_so(&home, &job, &manner)).collect();
    crowd.iter_mut().for_each(ClientProcess::connected);
    assert_eq!(client.status().await.unwrap().components, 0, "the component is cold");

    let opens = Opens::watch(&shards);
    crowd.iter_mut().for_each(ClientProcess::go);
    let held: Vec<_> = crowd.iter_mut().map(ClientProcess::held).collect();
    let opened = opens.count();

    assert!(held.iter().all(|held| held.error.is_none()), "{held:?}");
    assert_eq!(held.iter().map(|held| held.checksum).collect::<BTreeSet<_>>().len(), 1);
    assert_eq!(opened, shards.iter().map(|shard| (shard.clone(), 1)).collect::<BTreeMap<_, _>>());
    let components = client.list(ListComponentsRequest::default()).await.unwrap().components;
    assert_eq!((components.len(), components[0].requests), (1, PROCESSES as u64));
    let holders: BTreeSet<u32> = components[0].holders.iter().map(|holder| holder.pid).collect();
    assert_eq!(holders, crowd.iter().map(ClientProcess::pid).collect());
    assert_eq!(events(&client, EventKind::Loaded).await.len(), 1);
    // The system's other word for it: one descriptor a shard.
    let descriptors = descriptors_of(daemon.pid());
    for shard in &shards {
        let file = fs::canonicalize(shard).unwrap();
        assert_eq!(descriptors.iter().filter(|descriptor| **descriptor == file).count(), 1, "{}", shard.display());
    }
}

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

/// What the descriptors of a process are.
pub fn descriptors_of(pid: u32) -> Vec<PathBuf> {
    let folder = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    // One that was closed since is none.
    folder.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok()).collect()
}

/// Counts how often files are opened, by whom and by which path ever.
struct Opens {
    paths: BTreeMap<i32, PathBuf>,
    stop: Arc<AtomicBool>,
    counter: thread::JoinHandle<BTreeMap<i32, usize>>,
}

impl Opens {
    fn watch(paths: &[PathBuf]) -> Self {
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

    fn count(self) -> BTreeMap<PathBuf, usize> {
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
