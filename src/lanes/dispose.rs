//! What nobody waits for and may block all the same: files are closed, and what is half-written is deleted, by a thread of
//! the disk's own that ends when nothing is left to do.

use std::{
    collections::{BTreeMap, VecDeque},
    panic::{self, AssertUnwindSafe},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use super::MayBlock;

type Disposal = Box<dyn FnOnce(&MayBlock<'_>) + Send>;

/// What is to be done, by device. A device has an entry while it has a thread.
static QUEUES: Mutex<BTreeMap<u64, VecDeque<Disposal>>> = Mutex::new(BTreeMap::new());
static SETTLED: Condvar = Condvar::new();

fn queues() -> MutexGuard<'static, BTreeMap<u64, VecDeque<Disposal>>> {
    QUEUES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does `work`, which touches the disk `device`, soon and on another thread. Never blocks.
#[expect(clippy::disallowed_methods, reason = "without a thread, dropping would block the one that serves")]
pub fn dispose(device: u64, work: impl FnOnce(&MayBlock<'_>) + Send + 'static) {
    let mut queues = queues();
    if let Some(queue) = queues.get_mut(&device) {
        return queue.push_back(Box::new(work));
    }
    queues.insert(device, VecDeque::from([Box::new(work) as Disposal]));
    let started = thread::Builder::new().name("disposal".to_owned()).spawn(move || drain(device));
    if let Err(error) = started {
        // No thread is to be had. What is given up here is closed without the disk being asked, when the process ends.
        tracing::error!(%error, "nothing can be disposed of");
        let given_up = queues.remove(&device);
        drop(queues);
        std::mem::forget(given_up);
    }
}

fn drain(device: u64) {
    loop {
        let mut queues = queues();
        let Some(work) = queues.get_mut(&device).and_then(VecDeque::pop_front) else {
            queues.remove(&device);
            SETTLED.notify_all();
            return;
        };
        drop(queues);
        // A panic was reported where it happened; the others still have to go.
        let _ = panic::catch_unwind(AssertUnwindSafe(|| work(&MayBlock::on_a_thread_of_its_own())));
    }
}

/// Waits until nothing is left to do, for at most `limit`.
pub fn settled(limit: Duration, _: &MayBlock<'_>) {
    wait(limit, BTreeMap::is_empty);
}

/// Waits until nothing is left to do on one disk, for at most `limit`.
pub fn settled_on(device: u64, limit: Duration, _: &MayBlock<'_>) {
    wait(limit, |queues| !queues.contains_key(&device));
}

fn wait(limit: Duration, is_settled: impl Fn(&BTreeMap<u64, VecDeque<Disposal>>) -> bool) {
    let deadline = Instant::now() + limit;
    let mut queues = queues();
    while !is_settled(&queues) {
        let Some(left) = deadline.checked_duration_since(Instant::now()) else { return };
        queues = SETTLED.wait_timeout(queues, left).unwrap_or_else(PoisonError::into_inner).0;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Devices that no disk has.
    const HUNG: u64 = u64::MAX;
    const HEALTHY: u64 = u64::MAX - 1;

    #[test]
    fn a_disk_that_hangs_holds_up_its_own_disposals_only() {
        let own = MayBlock::on_a_thread_of_its_own();
        let (release, hung) = mpsc::channel::<()>();
        let (done, order) = mpsc::channel();
        dispose(HUNG, move |_| {
            let _ = hung.recv();
        });
        for (device, name) in [(HUNG, "second"), (HEALTHY, "other")] {
            let done = done.clone();
            dispose(device, move |_| done.send(name).unwrap());
        }
        assert_eq!(order.recv().unwrap(), "other");
        settled_on(HEALTHY, Duration::from_secs(60), &own);
        settled_on(HUNG, Duration::from_millis(1), &own);
        assert!(order.try_recv().is_err(), "it waits for the disk");
        dispose(HUNG, |_| panic!("a disposal that panics"));
        release.send(()).unwrap();
        assert_eq!(order.recv().unwrap(), "second");
        settled_on(HUNG, Duration::from_secs(60), &own);
        assert!(!queues().contains_key(&HUNG));
    }
}
