//! Who does the work of a connection.
//!
//! A call's work is done by the thread that calls, so that a warm load changes threads nowhere. A connection also needs
//! somebody who answers its pings and tells the daemon when a lease ends while no call is under way. That is its keeper,
//! a thread that steps in when no call has been under way for [`GRACE`] and steps back when the next one begins. It ends with
//! the last handle that uses the engine; the caller that drops that one waits for it.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::{
    runtime::{Builder, Runtime},
    sync::{Notify, mpsc},
};

/// How long the keeper waits for the next call before it steps in. A lease that ended is told to the daemon within it.
const GRACE: Duration = Duration::from_millis(5);

/// A runtime, and the thread that keeps it going.
#[derive(Debug)]
pub(crate) struct Engine {
    /// `None` once it is being dropped: the keeper drops the last one, on its thread.
    runtime: Option<Arc<Runtime>>,
    calls: Arc<Calls>,
    keeper: Option<JoinHandle<()>>,
}

/// The work was lost: it panicked.
#[derive(Debug)]
pub(crate) struct Lost;

/// What a call hears from its work.
enum Heard<S, T> {
    /// A step on the way.
    Step(S),
    /// The end.
    Done(T),
}

impl Engine {
    /// Starts the keeper.
    pub(crate) fn start() -> io::Result<Engine> {
        let runtime = Arc::new(Builder::new_current_thread().enable_all().build()?);
        let calls = Arc::new(Calls::new());
        let (kept, counted) = (Arc::clone(&runtime), Arc::clone(&calls));
        let work = move || {
            while counted.wait_for_quiet() {
                kept.block_on(counted.begins.notified());
            }
        };
        let keeper = thread::Builder::new().name("weightsd".into()).spawn(work)?;
        Ok(Engine { runtime: Some(runtime), calls, keeper: Some(keeper) })
    }

    /// Does the work on this thread. `step` is called with everything that the work reports, while the work waits; the work
    /// is dropped, and the result is `None`, when `step` says `Wanted::No`.
    pub(crate) fn run<S, T>(
        &self,
        work: impl AsyncFnOnce(Steps<S>) -> T,
        mut step: impl FnMut(S) -> Wanted,
    ) -> Result<Option<T>, Lost> {
        let (sender, mut steps) = mpsc::unbounded_channel();
        let mut work = pin!(work(Steps(sender)));
        loop {
            // `step` is called outside of the runtime: it may take its time, and call this library.
            let heard = self.drive(async {
                tokio::select! {
                    biased;
                    Some(step) = steps.recv() => Heard::Step(step),
                    result = &mut work => Heard::Done(result),
                }
            })?;
            match heard {
                Heard::Step(reported) => {
                    if step(reported) == Wanted::No {
                        return Ok(None);
                    }
                }
                Heard::Done(result) => {
                    let mut last = std::iter::from_fn(|| steps.try_recv().ok());
                    let is_wanted = last.all(|reported| step(reported) == Wanted::Yes);
                    return Ok(is_wanted.then_some(result));
                }
            }
        }
    }

    /// Does work that reports no steps.
    pub(crate) fn wait_for<T>(&self, work: impl Future<Output = T>) -> Result<T, Lost> {
        self.drive(work)
    }

    fn drive<T>(&self, work: impl Future<Output = T>) -> Result<T, Lost> {
        let _call = self.calls.begin();
        let runtime = self.runtime.as_ref().ok_or(Lost)?;
        // What a panic leaves behind is the work's own, which is dropped here.
        catch_unwind(AssertUnwindSafe(|| runtime.block_on(work))).map_err(|_| Lost)
    }

    /// Starts work that nobody waits for.
    #[expect(clippy::disallowed_methods, reason = "the work ends with the engine, whose runtime it runs on")]
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        if let Some(runtime) = &self.runtime {
            runtime.spawn(work);
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        drop(self.runtime.take());
        self.calls.stop();
        if let Some(keeper) = self.keeper.take() {
            // A thread that panicked has nothing left to wait for.
            let _ = keeper.join();
        }
    }
}

/// The calls that are under way, by which the keeper knows its turn.
#[derive(Debug)]
struct Calls {
    state: Mutex<State>,
    /// Wakes the keeper while it waits for its turn.
    changed: Condvar,
    /// Wakes it while it is at work.
    begins: Notify,
}

#[derive(Debug)]
struct State {
    /// Calls that are under way.
    under_way: usize,
    /// When the last one ended.
    ended: Instant,
    keeper: Keeper,
    is_over: bool,
}

/// What the keeper does.
#[derive(Debug, PartialEq, Eq)]
enum Keeper {
    /// It looks again soon by itself.
    Dozes,
    /// It waits until no call is under way.
    Sleeps,
    /// It does what the connection needs.
    Works,
}

/// A call that is under way.
struct Call<'a>(&'a Calls);

impl Calls {
    fn new() -> Calls {
        let state = State { under_way: 0, ended: Instant::now(), keeper: Keeper::Dozes, is_over: false };
        Calls { state: Mutex::new(state), changed: Condvar::new(), begins: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The thread that panicked changed numbers only, one at a time.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self) -> Call<'_> {
        let mut state = self.state();
        state.under_way += 1;
        if state.keeper == Keeper::Works {
            state.keeper = Keeper::Dozes;
            self.begins.notify_one();
        }
        Call(self)
    }

    fn stop(&self) {
        self.state().is_over = true;
        self.changed.notify_one();
        self.begins.notify_one();
    }

    /// Waits until no call has been under way for [`GRACE`]; false when it is over.
    fn wait_for_quiet(&self) -> bool {
        let mut state = self.state();
        loop {
            if state.is_over {
                return false;
            }
            let rest = GRACE.saturating_sub(state.ended.elapsed());
            if state.under_way > 0 {
                state.keeper = Keeper::Sleeps;
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            } else if rest > Duration::ZERO {
                state.keeper = Keeper::Dozes;
                state = self.changed.wait_timeout(state, rest).unwrap_or_else(PoisonError::into_inner).0;
            } else {
                state.keeper = Keeper::Works;
                return true;
            }
        }
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.under_way -= 1;
        state.ended = Instant::now();
        if state.under_way == 0 && state.keeper == Keeper::Sleeps {
            self.0.changed.notify_one();
        }
    }
}

/// Whether the caller still wants the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    Yes,
    No,
}

/// Where work reports its steps.
pub(crate) struct Steps<S>(mpsc::UnboundedSender<S>);

impl<S> Steps<S> {
    pub(crate) fn report(&self, step: S) {
        // An error says that the caller has given up, and does not want to hear of it.
        let _ = self.0.send(step);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, ready},
        sync::mpsc,
    };

    use super::*;

    #[test]
    fn work_and_steps_are_done_on_the_callers_thread_and_the_end_comes_last() {
        let engine = Engine::start().unwrap();
        let caller = thread::current().id();
        let mut heard = Vec::new();
        let result = engine.run(
            async |steps: Steps<u32>| {
                steps.report(1);
                tokio::task::yield_now().await;
                steps.report(2);
                thread::current().id()
            },
            |step| {
                assert_eq!(thread::current().id(), caller);
                heard.push(step);
                Wanted::Yes
            },
        );
        assert_eq!(result.unwrap().unwrap(), caller);
        assert_eq!(heard, [1, 2]);
    }

    #[test]
    fn a_step_may_use_the_engine() {
        let engine = Engine::start().unwrap();
        let mut inner = 0;
        let work = async |steps: Steps<()>| steps.report(());
        engine
            .run(work, |()| {
                inner = engine.wait_for(ready(7)).unwrap();
                Wanted::Yes
            })
            .unwrap();
        assert_eq!(inner, 7);
    }

    #[test]
    fn work_that_nobody_wants_is_dropped() {
        let engine = Engine::start().unwrap();
        let witness = Arc::new(());
        let theirs = Arc::clone(&witness);
        let result = engine.run(
            async move |steps: Steps<()>| {
                steps.report(());
                pending::<()>().await;
                drop(theirs);
            },
            |()| Wanted::No,
        );
        assert!(result.unwrap().is_none());
        assert_eq!(Arc::strong_count(&witness), 1);
    }

    #[test]
    fn a_result_whose_last_step_nobody_wanted_is_given_up() {
        let engine = Engine::start().unwrap();
        let result = engine.run(async |steps: Steps<()>| steps.report(()), |()| Wanted::No);
        assert!(result.unwrap().is_none());
    }

    #[test]
    fn what_nobody_waits_for_is_done_between_calls_and_during_them() {
        let engine = Engine::start().unwrap();
        let (done, told) = mpsc::channel();
        for round in 0..20 {
            if round % 2 == 0 {
                thread::sleep(2 * GRACE);
            }
            engine.wait_for(tokio::task::yield_now()).unwrap();
            let done = done.clone();
            engine.spawn(async move { done.send(round).unwrap() });
            assert_eq!(told.recv_timeout(Duration::from_secs(10)), Ok(round));
        }
    }

    #[test]
    fn many_threads_work_at_once_and_one_that_waits_holds_up_nobody() {
        let engine = Engine::start().unwrap();
        let (answer, wanted) = tokio::sync::oneshot::channel::<u8>();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| engine.wait_for(wanted).unwrap().unwrap());
            let busy: Vec<_> = (0..4u64)
                .map(|number| {
                    let work = async move {
                        tokio::time::sleep(Duration::from_millis(number)).await;
                        number
                    };
                    let engine = &engine;
                    scope.spawn(move || engine.wait_for(work).unwrap())
                })
                .collect();
            let sum: u64 = busy.into_iter().map(|thread| thread.join().unwrap()).sum();
            answer.send(3).unwrap();
            assert_eq!((sum, waiting.join().unwrap()), (6, 3));
        });
    }

    #[test]
    fn a_panic_is_lost_work_and_the_engine_goes_on() {
        let engine = Engine::start().unwrap();
        assert!(engine.wait_for(async { panic!("as this test wants it") }).is_err());
        assert_eq!(engine.wait_for(async { 7 }).unwrap(), 7);
    }
}
