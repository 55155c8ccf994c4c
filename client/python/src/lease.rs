//! A lease, with the files and the table of the component that it is for.

use std::{
    collections::VecDeque,
    fs::File,
    mem,
    os::fd::AsRawFd as _,
    sync::{Arc, Mutex, PoisonError},
};

use pyo3::{prelude::*, types::PyTuple};
use tokio::task::JoinHandle;
use weightsd_client::{Component, LeaseState, LeaseWatch, Notice, Tensors, proto};

use crate::{failure, message::json, state::State};

/// A lease. It ends with [`release`](Lease::release), or with this value.
#[pyclass(frozen, module = "weightsd._native")]
pub(crate) struct Lease {
    state: &'static State,
    info: proto::Component,
    tensors: Tensors,
    files: Py<Files>,
    /// Has the stream that is the lease; `None` once it was released.
    stream: Mutex<Option<JoinHandle<()>>>,
    notices: Arc<Mutex<VecDeque<Notice>>>,
    watch: LeaseWatch,
}

/// The files of a component's segments, open for reading. They close with this value; mappings of them stay.
#[pyclass(frozen, module = "weightsd._native")]
pub(crate) struct Files(Vec<(File, usize)>);

#[pymethods]
impl Files {
    /// For each segment: its descriptor, which stays this value's, and its length in bytes.
    fn descriptors(&self) -> Vec<(i32, usize)> {
        self.0.iter().map(|(file, length)| (file.as_raw_fd(), *length)).collect()
    }
}

/// One tensor: name, dtype, dimensions, segment, first byte, length in bytes, name in the checkpoint.
type Row<'py> = (&'py str, String, Bound<'py, PyTuple>, usize, u64, usize, &'py str);

/// A quantised layer: its name, mode, bits, group size, shape before quantising, and the names of weight, scales, biases
/// and global scale.
type Layer<'py> =
    (&'py str, &'static str, u32, u32, &'py [u64], &'py str, &'py str, Option<&'py str>, Option<&'py str>);

#[pymethods]
impl Lease {
    /// The component, as JSON.
    fn info(&self) -> String {
        json("Component", &self.info)
    }

    /// The tensors, in the order of their names.
    fn table<'py>(&'py self, py: Python<'py>) -> PyResult<Vec<Row<'py>>> {
        let row = |tensor: weightsd_client::Tensor<'py>| {
            let (segment, offset) = tensor.place();
            let shape = PyTuple::new(py, tensor.shape())?;
            let (dtype, length) = (tensor.dtype().to_string(), tensor.bytes().len());
            Ok((tensor.name(), dtype, shape, segment, offset, length, tensor.source_name()))
        };
        self.tensors.iter().map(row).collect()
    }

    /// The quantised layers, in the order of their names.
    fn layers<'py>(&'py self, py: Python<'py>) -> PyResult<Vec<Layer<'py>>> {
        let layers = self.tensors.quantised_layers().map_err(|error| failure::raise(py, &error.into()))?;
        let layer = |layer: weightsd_client::QuantisedLayer<'py>| {
            let packing = layer.packing;
            let mode = packing.mode().as_str_name().trim_start_matches("QUANTISATION_MODE_");
            let name = |tensor: weightsd_client::Tensor<'py>| tensor.name();
            (
                layer.name,
                mode,
                packing.bits,
                packing.group_size,
                packing.logical_shape.as_slice(),
                layer.weight.name(),
                layer.scales.name(),
                layer.biases.map(name),
                layer.global_scale.map(name),
            )
        };
        Ok(layers.into_iter().map(layer).collect())
    }

    /// Positions of the tensors that were computed.
    fn computed(&self) -> Vec<usize> {
        let computed =
            |(_, tensor): &(usize, weightsd_client::Tensor<'_>)| tensor.operation() == proto::TensorOperation::Computed;
        self.tensors.iter().enumerate().filter(computed).map(|(index, _)| index).collect()
    }

    /// The files of the segments, in their order.
    fn files(&self, py: Python<'_>) -> Py<Files> {
        self.files.clone_ref(py)
    }

    /// Whether the lease stands: it was not released, and the daemon that keeps the component lives.
    fn stands(&self) -> bool {
        let is_kept = self.stream.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        self.state.is_ours() && is_kept && self.watch.state() == LeaseState::Held
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

impl Lease {
    #[expect(clippy::disallowed_methods, reason = "the lease owns the task, and aborts it when it is released")]
    pub(crate) fn new(py: Python<'_>, state: &'static State, mut component: Component) -> PyResult<Lease> {
        let (info, tensors) = (component.info().clone(), component.storage());
        let lengths = tensors.views().iter().map(|view| view.len());
        let files = Py::new(py, Files(component.take_files().into_iter().zip(lengths).collect()))?;
        let notices = Arc::<Mutex<VecDeque<Notice>>>::default();
        let (inbox, watch) = (Arc::clone(&notices), component.lease_watch());
        let stream = state.runtime.spawn(async move {
            while let Some(notice) = component.next_notice().await {
                inbox.lock().unwrap_or_else(PoisonError::into_inner).push_back(notice);
            }
        });
        Ok(Lease { state, info, tensors, files, stream: Mutex::new(Some(stream)), notices, watch })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.release();
    }
}
