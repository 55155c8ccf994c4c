//! A stream of events.

use std::sync::Arc;

use pyo3::prelude::*;
use tokio::sync::Mutex;

use crate::{
    message::json,
    state::State,
    wait::{Cancel, Care, wait},
};

/// Events, as they come. It ends with this value.
#[pyclass(frozen, module = "weightsd._native")]
pub(crate) struct Events {
    state: &'static State,
    /// `None` in a child that `fork` made, and after the end.
    stream: Arc<Mutex<weightsd_client::Events>>,
}

impl Events {
    pub(crate) fn new(state: &'static State, events: weightsd_client::Events) -> Events {
        Events { state, stream: Arc::new(Mutex::new(events)) }
    }
}

#[pymethods]
impl Events {
    /// The next event, a `WatchEventsResponse` as JSON; `None` when no more will come.
    #[pyo3(signature = (*, cancel = None))]
    fn next<'py>(&self, py: Python<'py>, cancel: Option<&Bound<'py, Cancel>>) -> PyResult<Option<String>> {
        let stream = Arc::clone(&self.stream);
        let care = Care::new(py, None, cancel);
        wait(&self.state.runtime, &care, |_| async move {
            let next = stream.lock().await.next().await?;
            Ok(next.map(|event| json("WatchEventsResponse", &event)))
        })
    }
}
