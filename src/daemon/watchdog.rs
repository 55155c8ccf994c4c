//! The watchdog: a thread that ends the process when the serving loop hangs, or a shutdown does. The system starts the
//! daemon again, and clients keep what they have mapped.
//!
//! It watches from the first connection to the end. A loop that is parked is well, so an idle daemon is left asleep; a loop
//! that is busy is asked for a sign of life, which it gives between two tasks. Time is counted in looks of the watchdog
//! itself: a machine that slept, or a process that was stopped, loses none of it.

use std::{
    convert::Infallible,
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, Thread},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

/// Exit code of a daemon that its watchdog ended (EX_SOFTWARE of sysexits.h).
pub(super) const EXIT_CODE: i32 = 70;
/// Time between two looks while the loop is busy.
const LOOK: Duration = Duration::from_secs(1);
/// How long the log gets for its last line.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// Looks without a sign of life after which the loop hangs. Nothing on it takes a second.
const LOOKS_MAX: u32 = 30;

/// What the watchdog and the serving loop know of each other. Clones mean the same loop.
#[derive(Debug, Clone, Default)]
pub struct Watch(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Whether the loop waits for something to do.
    is_parked: AtomicBool,
    /// Whether the watchdog sleeps until the loop has something to do.
    is_asleep: AtomicBool,
    watchdog: OnceLock<Thread>,
    asked: Notify,
    /// Signs of life.
    signs: AtomicU64,
    /// When the process has to be gone, once it was told to stop.
    end: OnceLock<Instant>,
}

impl Watch {
    /// Call it before the loop waits.
    pub fn parks(&self) {
        self.0.is_parked.store(true, Ordering::SeqCst);
    }

    /// Call it when the loop has something to do.
    pub fn unparks(&self) {
        self.0.is_parked.store(false, Ordering::SeqCst);
        if self.0.is_asleep.swap(false, Ordering::SeqCst) {
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(watchdog) = self.0.watchdog.get() {
            watchdog.unpark();
        }
    }

    /// Gives signs of life when asked for them. Runs on the loop.
    pub(super) async fn give_signs(&self) -> Infallible {
        loop {
            self.0.asked.notified().await;
            self.0.signs.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// The process has to be gone after `patience`.
    pub fn end_within(&self, patience: Duration) {
        // Told a second time, it keeps the first.
        let _ = self.0.end.set(Instant::now() + patience);
        self.wake();
    }

    /// Starts the watchdog, which ends the process.
    ///
    /// # Errors
    /// When no thread is to be had.
    #[expect(clippy::disallowed_methods, reason = "nothing else ends a process whose serving loop hangs")]
    pub fn start(&self) -> io::Result<()> {
        self.start_with(LOOK, |what| {
            tracing::error!("{what}; ending the process");
            // The log is written by another thread.
            thread::sleep(LAST_WORDS);
            std::process::exit(EXIT_CODE)
        })
    }

    fn start_with(&self, look: Duration, bark: impl FnOnce(&'static str) + Send + 'static) -> io::Result<()> {
        let watch = self.clone();
        let thread =
            thread::Builder::new().name("watchdog".to_owned()).spawn(move || bark(watch.until_it_hangs(look)))?;
        let _ = self.0.watchdog.set(thread.thread().clone());
        Ok(())
    }

    /// Returns when something hangs, with what.
    fn until_it_hangs(&self, look: Duration) -> &'static str {
        let mut silent = 0;
        let mut signs = self.0.signs.load(Ordering::SeqCst);
        loop {
            let end = self.0.end.get().copied();
            if end.is_some_and(|end| end <= Instant::now()) {
                return "the shutdown hangs";
            }
            let now = self.0.signs.load(Ordering::SeqCst);
            if now != signs || self.0.is_parked.load(Ordering::SeqCst) {
                (signs, silent) = (now, 0);
            } else if silent >= LOOKS_MAX {
                return "the serving loop hangs";
            }
            if silent == 0 && end.is_none() && self.sleeps() {
                continue;
            }
            silent += 1;
            self.0.asked.notify_one();
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            thread::sleep(left.map_or(look, |left| left.min(look)));
        }
    }

    /// Sleeps while the loop is parked. Returns whether it slept.
    fn sleeps(&self) -> bool {
        self.0.is_asleep.store(true, Ordering::SeqCst);
        // Looked at after the word was given: a loop that unparks from here on wakes this thread.
        if !self.0.is_parked.load(Ordering::SeqCst) || self.0.end.get().is_some() {
            self.0.is_asleep.store(false, Ordering::SeqCst);
            return false;
        }
        // May return without a reason, which costs one more look.
        thread::park();
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tokio::runtime::{Builder, Runtime};

    use super::*;

    const SHORT: Duration = Duration::from_millis(5);

    fn watched() -> (Watch, Runtime, mpsc::Receiver<&'static str>) {
        let (watch, (said, heard)) = (Watch::default(), mpsc::channel());
        let (parks, unparks) = (watch.clone(), watch.clone());
        let mut builder = Builder::new_current_thread();
        let runtime =
            builder.enable_all().on_thread_park(move || parks.parks()).on_thread_unpark(move || unparks.unparks());
        let runtime = runtime.build().unwrap();
        watch.start_with(SHORT, move |what| said.send(what).unwrap()).unwrap();
        (watch, runtime, heard)
    }

    #[test]
    fn a_loop_that_is_blocked_is_found_out() {
        let (watch, runtime, heard) = watched();
        runtime.block_on(async {
            let hangs = async {
                tokio::time::sleep(SHORT * 3).await;
                assert!(heard.try_recv().is_err());
                // What a file system that hangs would do to it.
                assert_eq!(heard.recv_timeout(SHORT * LOOKS_MAX * 100).unwrap(), "the serving loop hangs");
            };
            tokio::select! { () = hangs => {} never = watch.give_signs() => match never {} }
        });
    }

    #[test]
    fn a_loop_that_is_busy_or_idle_is_left_alone() {
        let (watch, runtime, heard) = watched();
        runtime.block_on(async {
            let works = async {
                let busy_until = Instant::now() + SHORT * LOOKS_MAX * 4;
                while Instant::now() < busy_until {
                    tokio::task::yield_now().await;
                }
                // Nothing to do but to wait for another thread: then the watchdog sleeps, too.
                let asleep = watch.clone();
                let sees_sleep = move || {
                    while !asleep.0.is_asleep.load(Ordering::SeqCst) {
                        thread::sleep(SHORT);
                    }
                };
                #[expect(clippy::disallowed_methods, reason = "a thread of a test")]
                tokio::task::spawn_blocking(sees_sleep).await.unwrap();
                tokio::time::sleep(SHORT * LOOKS_MAX * 4).await;
            };
            tokio::select! { () = works => {} never = watch.give_signs() => match never {} }
        });
        assert!(heard.try_recv().is_err());
    }

    #[test]
    fn a_shutdown_that_takes_too_long_is_found_out_even_when_nothing_moves() {
        let (watch, runtime, heard) = watched();
        runtime.block_on(async { tokio::time::sleep(SHORT * 3).await });
        watch.end_within(SHORT);
        assert_eq!(heard.recv_timeout(Duration::from_secs(60)).unwrap(), "the shutdown hangs");
    }
}
