//! Errors as exceptions of `weightsd._errors`, which decides their classes.

use std::error::Error as StdError;

use pyo3::{
    prelude::*,
    types::{PyDict, PyTuple},
};
use weightsd_client::{ClientError, ConnectError, GpuError};
use weightsd_core::explain::Tier;

use crate::message;

/// The exception for `error`.
pub(crate) fn raise(py: Python<'_>, error: &ClientError) -> PyErr {
    exception(py, error).unwrap_or_else(|error| error)
}

/// The exception for an error of a card or its driver in this process.
pub(crate) fn raise_gpu(py: Python<'_>, error: &GpuError) -> PyErr {
    let made = || {
        let facts = PyDict::new(py);
        facts.set_item("tier", tier(Tier::Condition))?;
        let make = py.import("weightsd._errors")?.getattr("make")?;
        let arguments = PyTuple::new(py, ["gpu", error.to_string().as_str()])?;
        PyResult::Ok(PyErr::from_value(make.call(arguments, Some(&facts))?))
    };
    made().unwrap_or_else(|error| error)
}

/// The exception of a wait that another thread has ended.
pub(crate) fn cancelled(py: Python<'_>) -> PyErr {
    let class = py.import("weightsd._errors").and_then(|errors| errors.getattr("Cancelled"));
    let made = class.and_then(|class| class.call1(("the wait was cancelled",)));
    made.map_or_else(|error| error, PyErr::from_value)
}

fn exception(py: Python<'_>, error: &ClientError) -> PyResult<PyErr> {
    let facts = PyDict::new(py);
    facts.set_item("hint", error.hint())?;
    facts.set_item("retryable", error.retryable())?;
    facts.set_item("retry_after", error.retry_after().map(|after| after.as_secs_f64()))?;
    facts.set_item("tier", tier(error.tier()))?;
    let reason = error.reason().map(|reason| reason.as_str_name().trim_start_matches("ERROR_REASON_").to_owned());
    facts.set_item("reason", reason)?;
    let detail = error.daemon().and_then(|daemon| daemon.detail());
    facts
        .set_item("resource", detail.map(|detail| detail.resource.as_str()).filter(|resource| !resource.is_empty()))?;
    facts.set_item("audit", error.audit().map(|audit| message::json("AuditReport", audit)))?;
    let text = match error.daemon() {
        Some(daemon) if !daemon.message().is_empty() => daemon.message().to_owned(),
        _ => in_full(error),
    };
    let make = py.import("weightsd._errors")?.getattr("make")?;
    let arguments = PyTuple::new(py, [kind(error), text.as_str()])?;
    Ok(PyErr::from_value(make.call(arguments, Some(&facts))?))
}

/// The error with its causes, since an exception of Python has one text.
fn in_full(error: &ClientError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Which exception it is.
fn kind(error: &ClientError) -> &'static str {
    match error {
        ClientError::Connect(ConnectError::Absent(_) | ConnectError::Stale(_)) => "not_running",
        ClientError::Connect(_) => "connect",
        ClientError::OtherProtocol { .. } => "other_protocol",
        ClientError::Deadline { .. } => "deadline",
        ClientError::Daemon(_) => "refused",
        ClientError::Disconnected { .. } => "disconnected",
        _ => "other",
    }
}

fn tier(tier: Tier) -> &'static str {
    match tier {
        Tier::Request => "request",
        Tier::Condition => "condition",
        Tier::Unavailable => "unavailable",
        Tier::Bug => "bug",
    }
}
