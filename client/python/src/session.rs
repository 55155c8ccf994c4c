//! This process's threads and connections.

use std::{path::PathBuf, time::Duration};

use pyo3::{
    exceptions::{PyOSError, PyValueError},
    prelude::*,
};
use weightsd_client::{
    Client, ClientError, ConnectOptions, Files, FolderFormat, FolderRequest, LoadRequest, ModelFolder, proto,
};

use crate::{
    card::CardLease,
    events::Events,
    lease::Lease,
    message::{json, parse},
    state::State,
    wait::{Cancel, Care, wait},
};

/// How long a call may take when the caller sets no limit, in seconds.
const CALL_SECONDS: f64 = 5.0;
/// How long a load may stay silent when the caller sets no limit, in seconds.
const LOAD_SECONDS: f64 = 120.0;

/// The threads and connections of a process. Python makes one, and another one in a child that `fork` made.
#[pyclass(frozen, module = "weightsd._native")]
pub(crate) struct Session(&'static State);

#[pymethods]
impl Session {
    #[new]
    fn new() -> PyResult<Session> {
        let state =
            State::new().map_err(|error| PyOSError::new_err(format!("weightsd: cannot start a thread: {error}")))?;
        Ok(Session(Box::leak(Box::new(state))))
    }

    /// A call that has one answer. `request` and the answer are messages as JSON.
    #[expect(clippy::too_many_arguments, reason = "they are keyword arguments in Python")]
    #[pyo3(signature = (method, request, *, socket = None, deadline = None, progress = None, cancel = None))]
    fn call<'py>(
        &self,
        py: Python<'py>,
        method: &str,
        request: &str,
        socket: Option<PathBuf>,
        deadline: Option<f64>,
        progress: Option<Bound<'py, PyAny>>,
        cancel: Option<&Bound<'py, Cancel>>,
    ) -> PyResult<String> {
        let call = Call::parse(method, request)?;
        let deadline = seconds(deadline.unwrap_or(CALL_SECONDS))?;
        let (state, socket) = (self.0, at(socket));
        let care = Care::new(py, progress, cancel);
        wait(&state.runtime, &care, |steps| async move {
            let client = state.client_at(socket).await?.with_deadline(deadline);
            call.make(&client, |step| steps.say(step)).await
        })
    }

    /// Loads what `request`, a `LoadComponentRequest` as JSON, asks for. The files stay open, so that Python can map them.
    #[expect(clippy::too_many_arguments, reason = "they are keyword arguments in Python")]
    #[pyo3(signature = (request, *, socket = None, deadline = None, progress = None, cancel = None))]
    fn load<'py>(
        &self,
        py: Python<'py>,
        request: &str,
        socket: Option<PathBuf>,
        deadline: Option<f64>,
        progress: Option<Bound<'py, PyAny>>,
        cancel: Option<&Bound<'py, Cancel>>,
    ) -> PyResult<Lease> {
        let request = LoadRequest::of(parse("LoadComponentRequest", request)?).files(Files::Kept);
        let request = request.deadline(seconds(deadline.unwrap_or(LOAD_SECONDS))?);
        let (state, socket) = (self.0, at(socket));
        let care = Care::new(py, progress, cancel);
        let component = wait(&state.runtime, &care, |steps| async move {
            state.client_at(socket).await?.load(request, |step| steps.say(step)).await
        })?;
        Lease::new(py, state, component)
    }

    /// Loads what `request`, a `LoadComponentRequest` as JSON, asks for into the memory of the card that it names, and maps it.
    #[expect(clippy::too_many_arguments, reason = "they are keyword arguments in Python")]
    #[pyo3(signature = (request, *, socket = None, deadline = None, progress = None, cancel = None))]
    fn load_on_card<'py>(
        &self,
        py: Python<'py>,
        request: &str,
        socket: Option<PathBuf>,
        deadline: Option<f64>,
        progress: Option<Bound<'py, PyAny>>,
        cancel: Option<&Bound<'py, Cancel>>,
    ) -> PyResult<CardLease> {
        let request = LoadRequest::of(parse("LoadComponentRequest", request)?);
        let request = request.deadline(seconds(deadline.unwrap_or(LOAD_SECONDS))?);
        let (state, socket) = (self.0, at(socket));
        let care = Care::new(py, progress, cancel);
        let component = wait(&state.runtime, &care, |steps| async move {
            state.client_at(socket).await?.load_on_card(request, |step| steps.say(step)).await
        })?;
        CardLease::new(py, state, component)
    }

    /// Makes a folder of the model that `request`, a `LoadComponentRequest` as JSON, is about. Its path, the leases, and
    /// what the caller should know.
    #[expect(clippy::too_many_arguments, reason = "they are keyword arguments in Python")]
    #[pyo3(signature = (request, *, format = None, root = None, socket = None, deadline = None, progress = None, cancel = None))]
    fn folder<'py>(
        &self,
        py: Python<'py>,
        request: &str,
        format: Option<&str>,
        root: Option<PathBuf>,
        socket: Option<PathBuf>,
        deadline: Option<f64>,
        progress: Option<Bound<'py, PyAny>>,
        cancel: Option<&Bound<'py, Cancel>>,
    ) -> PyResult<(PathBuf, Vec<Lease>, Vec<String>)> {
        let request = LoadRequest::of(parse("LoadComponentRequest", request)?);
        let request = request.deadline(seconds(deadline.unwrap_or(LOAD_SECONDS))?);
        let mut wanted = FolderRequest::new(request);
        if let Some(name) = format {
            let unknown = || PyValueError::new_err(format!("there is no format {name:?}"));
            wanted = wanted.format(FolderFormat::parse(name).ok_or_else(unknown)?);
        }
        if let Some(root) = root {
            wanted = wanted.root(root);
        }
        let (state, socket) = (self.0, at(socket));
        let care = Care::new(py, progress, cancel);
        let ModelFolder { path, components, warnings } = wait(&state.runtime, &care, |steps| async move {
            state.client_at(socket).await?.model_folder(wanted, |step| steps.say(step)).await
        })?;
        let leases = components.into_iter().map(|component| Lease::new(py, state, component));
        Ok((path, leases.collect::<PyResult<_>>()?, warnings))
    }

    /// Events that `request`, a `WatchEventsRequest` as JSON, asks for.
    #[pyo3(signature = (request, *, socket = None, cancel = None))]
    fn watch<'py>(
        &self,
        py: Python<'py>,
        request: &str,
        socket: Option<PathBuf>,
        cancel: Option<&Bound<'py, Cancel>>,
    ) -> PyResult<Events> {
        let request = parse("WatchEventsRequest", request)?;
        let (state, socket) = (self.0, at(socket));
        let care = Care::new(py, None, cancel);
        let events =
            wait(&state.runtime, &care, |_| async move { state.client_at(socket).await?.watch_events(request).await })?;
        Ok(Events::new(state, events))
    }
}

/// A call that has one answer, with its request.
#[expect(clippy::large_enum_variant, reason = "one is made for each call, and moved twice")]
enum Call {
    Status,
    List(proto::ListComponentsRequest),
    Get(proto::GetComponentRequest),
    Explain(proto::ExplainRequest),
    Resolve(proto::ResolveRequest),
    Audit(proto::AuditRequest),
    Pull(proto::PullRequest),
    Verify(proto::VerifyRequest),
    Evict(proto::EvictRequest),
}

impl Call {
    fn parse(method: &str, request: &str) -> PyResult<Call> {
        Ok(match method {
            "GetStatus" => Call::Status,
            "ListComponents" => Call::List(parse("ListComponentsRequest", request)?),
            "GetComponent" => Call::Get(parse("GetComponentRequest", request)?),
            "Explain" => Call::Explain(parse("ExplainRequest", request)?),
            "Resolve" => Call::Resolve(parse("ResolveRequest", request)?),
            "Audit" => Call::Audit(parse("AuditRequest", request)?),
            "Pull" => Call::Pull(parse("PullRequest", request)?),
            "Verify" => Call::Verify(parse("VerifyRequest", request)?),
            "Evict" => Call::Evict(parse("EvictRequest", request)?),
            _ => return Err(PyValueError::new_err(format!("there is no call {method:?}"))),
        })
    }

    async fn make(self, client: &Client, on_progress: impl FnMut(&proto::Progress)) -> Result<String, ClientError> {
        Ok(match self {
            Call::Status => json("GetStatusResponse", &client.status().await?),
            Call::List(request) => json("ListComponentsResponse", &client.list(request).await?),
            Call::Get(request) => json("GetComponentResponse", &client.get(request.id).await?),
            Call::Explain(request) => json("ExplainResponse", &client.explain(request.id).await?),
            Call::Resolve(request) => {
                json("ResolveResponse", &client.resolve(request.model.unwrap_or_default()).await?)
            }
            Call::Audit(request) => json("AuditResponse", &client.audit_with(request).await?),
            Call::Pull(request) => json("PullReport", &client.pull(request, on_progress).await?),
            Call::Verify(request) => json("VerifyReport", &client.verify(request, on_progress).await?),
            Call::Evict(request) => json("EvictResponse", &client.evict(request).await?),
        })
    }
}

fn at(socket: Option<PathBuf>) -> PathBuf {
    socket.unwrap_or_else(|| ConnectOptions::default().socket)
}

fn seconds(seconds: f64) -> PyResult<Duration> {
    if seconds == f64::INFINITY {
        return Ok(Duration::MAX);
    }
    Duration::try_from_secs_f64(seconds)
        .map_err(|error| PyValueError::new_err(format!("deadline: {seconds} is no number of seconds: {error}")))
}

/// Where the daemon's socket is when nobody says where.
#[pyfunction]
pub(crate) fn socket() -> PathBuf {
    ConnectOptions::default().socket
}
