//! A component in the memory of a card: its lease, and the memory, mapped into this process.

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, Mutex, PoisonError},
};

use pyo3::{prelude::*, types::PyTuple};
use tokio::task::JoinHandle;
use weightsd_client::{CardComponent, CardTensors, GpuError, Notice, proto};

use crate::{failure, message::json, state::State};

/// The UUID of the card that `device` means in this process.
#[pyfunction]
pub(crate) fn card(py: Python<'_>, device: &str) -> PyResult<String> {
    let found = weightsd_client::card(device).map_err(|error| failure::raise_gpu(py, &error))?;
    Ok(found.id().to_string())
}

/// Memory of a card, mapped for reading. It is unmapped with this value, which every view keeps.
#[pyclass(frozen, module = "weightsd._native")]
pub(crate) struct CardMemory(CardTensors);

#[pymethods]
impl CardMemory {
    /// The address of its first byte in this process, for kernels.
    fn address(&self) -> u64 {
        self.0.mapping().address()
    }

    /// The card's UUID, and its number in this process.
    fn card(&self) -> (String, u32) {
        (self.0.card().id().to_string(), self.0.card().index())
    }
}

/// A lease on a component in the memory of a card. It ends with [`release`](CardLease::release), or with this value.
#[pyclass(frozen, module = "weightsd._native")]
pub(crate) struct CardLease {
    state: &'static State,
    info: Arc<proto::Component>,
    tensors: CardTensors,
    memory: Py<CardMemory>,
    /// Has the stream that is the lease; `None` once it was released.
    stream: Mutex<Option<JoinHandle<()>>>,
    notices: Arc<Mutex<VecDeque<Notice>>>,
}

/// One tensor: name, dtype, dimensions, first byte, length in bytes, name in the checkpoint.
type Row<'py> = (&'py str, String, Bound<'py, PyTuple>, u64, u64, &'py str);

#[pymethods]
impl CardLease {
    /// The component, as JSON.
    fn info(&self) -> String {
        json("Component", &*self.info)
    }

    /// The tensors, in the order of their names.
    fn table<'py>(&'py self, py: Python<'py>) -> PyResult<Vec<Row<'py>>> {
        let row = |tensor: weightsd_client::CardTensor<'py>| {
            let shape = PyTuple::new(py, tensor.shape())?;
            let (name, dtype) = (tensor.name(), tensor.dtype().to_string());
            Ok((name, dtype, shape, tensor.offset(), tensor.length(), tensor.source_name()))
        };
        self.tensors.iter().map(row).collect()
    }

    /// The memory that they lie in.
    fn memory(&self, py: Python<'_>) -> Py<CardMemory> {
        self.memory.clone_ref(py)
    }

    /// Whether the lease stands: it was not released, and the daemon lives.
    fn stands(&self) -> bool {
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        self.state.is_ours() && stream.as_ref().is_some_and(|stream| !stream.is_finished())
    }

    /// What the daemon has said of the component since the last call, as JSON.
    fn notices(&self) -> Vec<String> {
        let mut notices = self.notices.lock().unwrap_or_else(PoisonError::into_inner);
        notices.drain(..).map(|notice| json("Notice", &notice)).collect()
    }

    /// Ends the lease.
    #[expect(clippy::disallowed_methods, reason = "in a child of fork, nothing of the parent's runtime may be touched")]
    fn release(&self) {
        let Some(stream) = self.stream.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        if self.state.is_ours() {
            stream.abort();
        } else {
            // A child that `fork` made has a copy of the parent's task and none of its threads. The lease is the parent's.
            mem::forget(stream);
        }
    }
}

impl CardLease {
    #[expect(clippy::disallowed_methods, reason = "the lease owns the task, and aborts it when it is released")]
    pub(crate) fn new(py: Python<'_>, state: &'static State, mut component: CardComponent) -> PyResult<CardLease> {
        let mapped: Result<CardTensors, GpuError> = py.detach(|| component.map());
        let tensors = mapped.map_err(|error| failure::raise_gpu(py, &error))?;
        let memory = Py::new(py, CardMemory(tensors.clone()))?;
        let info = component.shared_info();
        let notices = Arc::<Mutex<VecDeque<Notice>>>::default();
        let inbox = Arc::clone(&notices);
        let stream = state.runtime.spawn(async move {
            while let Some(notice) = component.next_notice().await {
                inbox.lock().unwrap_or_else(PoisonError::into_inner).push_back(notice);
            }
        });
        Ok(CardLease { state, info, tensors, memory, stream: Mutex::new(Some(stream)), notices })
    }
}

impl Drop for CardLease {
    fn drop(&mut self) {
        self.release();
    }
}
