//! Waiting for the daemon: without the interpreter's lock, and ended by a signal or by another thread.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    time::Duration,
};

use pyo3::{exceptions::PyRuntimeError, prelude::*};
use tokio::{runtime::Runtime, task::AbortHandle};
use weightsd_client::{ClientError, Progress};

use crate::{failure, message};

/// How long a signal may go unnoticed while nothing comes from the daemon.
const TICK: Duration = Duration::from_millis(50);

/// Ends a wait of another thread.
#[pyclass(frozen, module = "weightsd._native")]
#[derive(Default)]
pub(crate) struct Cancel(Arc<AtomicBool>);

#[pymethods]
impl Cancel {
    #[new]
    fn new() -> Cancel {
        Cancel::default()
    }

    /// The wait that got this value ends with `weightsd.Cancelled`.
    fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Cancel {
    fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }
}

/// What looks after a wait on Python's side.
pub(crate) struct Care<'py> {
    py: Python<'py>,
    progress: Option<Bound<'py, PyAny>>,
    cancel: Option<Arc<AtomicBool>>,
}

impl<'py> Care<'py> {
    /// `progress` is called with each step as JSON. An exception of it ends the wait.
    pub(crate) fn new(
        py: Python<'py>,
        progress: Option<Bound<'py, PyAny>>,
        cancel: Option<&Bound<'py, Cancel>>,
    ) -> Care<'py> {
        Care { py, progress, cancel: cancel.map(|cancel| cancel.get().flag()) }
    }

    fn look(&self) -> PyResult<()> {
        self.py.check_signals()?;
        match &self.cancel {
            Some(cancel) if cancel.load(Ordering::Relaxed) => Err(failure::cancelled(self.py)),
            _ => Ok(()),
        }
    }

    fn tell(&self, progress: &Progress) -> PyResult<()> {
        let Some(callback) = &self.progress else { return Ok(()) };
        callback.call1((message::json("Progress", progress),)).map(drop)
    }
}

/// Where work reports its steps.
pub(crate) struct Steps<T>(Sender<Said<T>>);

impl<T> Steps<T> {
    pub(crate) fn say(&self, progress: &Progress) {
        // Nobody listens when the wait has ended.
        let _ = self.0.send(Said::Step(Box::new(progress.clone())));
    }
}

enum Said<T> {
    Step(Box<Progress>),
    Done(Result<T, ClientError>),
}

/// Aborts the work when the wait ends before it.
struct Abort(AbortHandle);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Does `work` on the runtime's threads and waits for it.
#[expect(clippy::disallowed_methods, reason = "the wait owns the task, and aborts it when it ends first")]
pub(crate) fn wait<T, F>(runtime: &Runtime, care: &Care<'_>, work: impl FnOnce(Steps<T>) -> F) -> PyResult<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T, ClientError>> + Send + 'static,
{
    let (sender, mut receiver) = mpsc::channel();
    let done = sender.clone();
    let work = work(Steps(sender));
    let task = runtime.spawn(async move {
        let _ = done.send(Said::Done(work.await));
    });
    let _abort = Abort(task.abort_handle());
    loop {
        let (back, said) = care.py.detach(move || next(receiver));
        receiver = back;
        care.look()?;
        match said {
            Ok(Said::Step(step)) => care.tell(&step)?,
            Ok(Said::Done(result)) => return result.map_err(|error| failure::raise(care.py, &error)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(PyRuntimeError::new_err("weightsd: the work ended without a result, which is a fault"));
            }
        }
    }
}

type Next<T> = (Receiver<Said<T>>, Result<Said<T>, RecvTimeoutError>);

/// The next thing that was said. Of several steps only the last: what they say is how far the work is now.
fn next<T>(receiver: Receiver<Said<T>>) -> Next<T> {
    let mut said = receiver.recv_timeout(TICK);
    while let Ok(Said::Step(_)) = said {
        match receiver.try_recv() {
            Ok(later) => said = Ok(later),
            Err(_) => break,
        }
    }
    (receiver, said)
}
