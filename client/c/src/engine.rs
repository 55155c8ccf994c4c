//! The thread on which a connection lives.
//!
//! A connection needs somebody who answers its pings and tells the daemon when a lease ends, also while no call is
//! under way. So it has a thread of its own, and a call hands its work over and waits. The thread ends with the last
//! handle that uses the engine; the caller that drops that one waits for it.

use std::{
    io,
    sync::mpsc,
    thread::{self, JoinHandle},
};

use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
};

/// A runtime on a thread of its own.
#[derive(Debug)]
pub(crate) struct Engine {
    handle: Handle,
    /// Dropping it ends the thread.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// The work was lost: it panicked, or its thread did.
#[derive(Debug)]
pub(crate) struct Lost;

/// What a call hears from its work.
pub(crate) enum Heard<S, T> {
    /// A step on the way.
    Step(S),
    /// The end.
    Done(T),
}

impl Engine {
    /// Starts the thread.
    pub(crate) fn start() -> io::Result<Engine> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let work = move || {
            // Ends when the sender is dropped. Dropping the runtime drops every task on it.
            let _ = runtime.block_on(stopped);
        };
        let thread = thread::Builder::new().name("weightsd".into()).spawn(work)?;
        Ok(Engine { handle, stop: Some(stop), thread: Some(thread) })
    }

    /// Does the work on the engine's thread and waits for it. `step` is called on the caller's thread for everything that
    /// the work reports; the work is dropped, and the result is `None`, when `step` says `Wanted::No`.
    #[expect(clippy::disallowed_methods, reason = "the caller waits for the task below, and aborts it")]
    pub(crate) fn run<S, T, F>(
        &self,
        work: impl FnOnce(Steps<S, T>) -> F,
        mut step: impl FnMut(S) -> Wanted,
    ) -> Result<Option<T>, Lost>
    where
        S: Send + 'static,
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let (sender, receiver) = mpsc::channel();
        let steps = Steps(sender);
        let work = work(steps.clone());
        let task = self.handle.spawn(async move { steps.send(Heard::Done(work.await)) });
        // The channel closes without an end when the task panics: each sender is the task's own.
        loop {
            match receiver.recv() {
                Ok(Heard::Step(reported)) => {
                    if step(reported) == Wanted::No {
                        task.abort();
                        return Ok(None);
                    }
                }
                Ok(Heard::Done(result)) => return Ok(Some(result)),
                Err(mpsc::RecvError) => return Err(Lost),
            }
        }
    }

    /// Does work that reports no steps.
    pub(crate) fn wait_for<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Lost> {
        self.run(|_: Steps<(), T>| work, |()| Wanted::Yes)?.ok_or(Lost)
    }

    /// Starts work that nobody waits for.
    #[expect(clippy::disallowed_methods, reason = "the work ends with the engine, whose runtime it runs on")]
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.handle.spawn(work);
    }
}

/// Whether the caller still wants the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    Yes,
    No,
}

/// Where work reports its steps.
pub(crate) struct Steps<S, T>(mpsc::Sender<Heard<S, T>>);

impl<S, T> Clone for Steps<S, T> {
    fn clone(&self) -> Self {
        Steps(self.0.clone())
    }
}

impl<S, T> Steps<S, T> {
    pub(crate) fn report(&self, step: S) {
        self.send(Heard::Step(step));
    }

    fn send(&self, heard: Heard<S, T>) {
        // An error says that the caller has given up, and does not want to hear of it.
        let _ = self.0.send(heard);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has nothing left to wait for.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, sync::Arc};

    use super::*;

    #[test]
    fn steps_are_heard_on_the_callers_thread_and_the_end_comes_last() {
        let engine = Engine::start().unwrap();
        let caller = thread::current().id();
        let mut heard = Vec::new();
        let result = engine.run(
            |steps: Steps<u32, thread::ThreadId>| async move {
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
        assert_ne!(result.unwrap().unwrap(), caller);
        assert_eq!(heard, [1, 2]);
    }

    #[test]
    fn work_that_nobody_wants_is_dropped() {
        let engine = Engine::start().unwrap();
        let witness = Arc::new(());
        let theirs = Arc::clone(&witness);
        let result = engine.run(
            |steps: Steps<(), ()>| async move {
                steps.report(());
                pending::<()>().await;
                drop(theirs);
            },
            |()| Wanted::No,
        );
        assert!(result.unwrap().is_none());
        drop(engine);
        assert_eq!(Arc::strong_count(&witness), 1);
    }

    #[test]
    fn a_panic_is_lost_work_and_the_engine_goes_on() {
        let engine = Engine::start().unwrap();
        assert!(engine.wait_for(async { panic!("as this test wants it") }).is_err());
        assert_eq!(engine.wait_for(async { 7 }).unwrap(), 7);
    }
}
