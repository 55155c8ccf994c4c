//! What a failed call tells: a code for programs, sentences for people.

use std::{
    any::Any,
    error::Error,
    ffi::{CString, c_char},
    fmt, io,
};

use weightsd_client::{ClientError, ConnectError, ProtocolError};
use weightsd_core::explain::sentence;
use weightsd_proto::json;

use crate::{engine::Lost, outgoing};

/// What kind of failure it is. Later versions may have more kinds.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum weightsd_code {
    /// There was none.
    Ok = 0,
    /// A pointer, handle, text or option cannot be used. Nothing was asked of the daemon.
    Argument = 1,
    /// There is no daemon, or it cannot be reached.
    NoDaemon = 2,
    /// The daemon speaks another version of the interface.
    OtherProtocol = 3,
    /// The daemon took too long.
    Deadline = 4,
    /// The daemon refused; `reason` says why.
    Refused = 5,
    /// The connection broke during the call.
    Disconnected = 6,
    /// The daemon's answer contradicts itself.
    Protocol = 7,
    /// A file that is lent cannot be received or mapped.
    Files = 8,
    /// The system has no memory, address space or threads left.
    OutOfMemory = 9,
    /// The caller gave the call up.
    Cancelled = 10,
    /// A fault of this library.
    Panic = 11,
}

/// Why a call failed. The texts are UTF-8, never null, and live until `weightsd_error_free`.
#[repr(C)]
#[derive(Debug)]
pub struct weightsd_error {
    /// The kind of failure.
    pub code: weightsd_code,
    /// Whether the same call may succeed later without a change.
    pub retryable: bool,
    /// What happened, in one sentence.
    pub message: *const c_char,
    /// The daemon's reason, such as "AUDIT_FAILED" (`ErrorReason` in proto/weights/v1/error.proto, without its prefix);
    /// empty when it is not the daemon that refused.
    pub reason: *const c_char,
    /// A step that can help; empty when there is none.
    pub hint: *const c_char,
    /// The path, spec, component, tensor or argument that the error is about; empty when there is none.
    pub resource: *const c_char,
    /// All that the daemon says, as the JSON of `weights.v1.ErrorDetail`, with the report of a failed audit; empty when it
    /// is not the daemon that refused.
    pub detail_json: *const c_char,
}

/// The error with its texts. C sees the first field.
#[repr(C)]
struct Owned {
    public: weightsd_error,
    _texts: [CString; 5],
}

/// Frees an error. Null is allowed.
///
/// # Safety
/// `error` came from this library and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weightsd_error_free(error: *mut weightsd_error) {
    if !error.is_null() {
        // SAFETY: `Failure::into_raw` made it of this type, whose first field it is, and the caller gives it up.
        drop(unsafe { Box::from_raw(error.cast::<Owned>()) });
    }
}

/// Why a function of this library failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// An argument cannot be used.
    Argument { name: String, problem: String },
    /// The client failed.
    Client(Box<ClientError>),
    /// The connection's thread cannot be started.
    Thread(io::Error),
    /// No memory for the table of tensors.
    Memory,
    /// The caller does not want the result any more.
    Cancelled { operation: &'static str },
    /// A panic, with its message.
    Panic(String),
}

impl Failure {
    pub(crate) fn argument(name: impl Into<String>, problem: impl Into<String>) -> Failure {
        Failure::Argument { name: name.into(), problem: problem.into() }
    }

    pub(crate) fn panic(payload: &(dyn Any + Send)) -> Failure {
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        Failure::Panic(text.unwrap_or("without a message").to_owned())
    }

    pub(crate) fn code(&self) -> weightsd_code {
        match self {
            Failure::Argument { .. } => weightsd_code::Argument,
            Failure::Client(error) if is_exhausted(error) => weightsd_code::OutOfMemory,
            Failure::Client(error) => match **error {
                ClientError::Connect(ConnectError::PathTooLong(_)) => weightsd_code::Argument,
                ClientError::Connect(_) => weightsd_code::NoDaemon,
                ClientError::OtherProtocol { .. } => weightsd_code::OtherProtocol,
                ClientError::Deadline { .. } => weightsd_code::Deadline,
                ClientError::Daemon(_) => weightsd_code::Refused,
                ClientError::Disconnected { .. } => weightsd_code::Disconnected,
                ClientError::Protocol(_) => weightsd_code::Protocol,
                // The enum may grow; what is new concerns what comes after the daemon's answer.
                _ => weightsd_code::Files,
            },
            Failure::Thread(_) | Failure::Memory => weightsd_code::OutOfMemory,
            Failure::Cancelled { .. } => weightsd_code::Cancelled,
            Failure::Panic(_) => weightsd_code::Panic,
        }
    }

    fn retryable(&self) -> bool {
        match self {
            Failure::Client(error) => error.retryable(),
            Failure::Thread(_) | Failure::Memory => true,
            Failure::Argument { .. } | Failure::Cancelled { .. } | Failure::Panic(_) => false,
        }
    }

    /// The sentence without the hint, which has a field of its own.
    fn message(&self) -> String {
        match self {
            Failure::Client(error) => match error.daemon() {
                Some(refusal) if !refusal.message().is_empty() => refusal.message().to_owned(),
                _ => sentence(&**error),
            },
            other => sentence(other),
        }
    }

    fn hint(&self) -> &str {
        match self {
            Failure::Client(error) => error.hint().unwrap_or_default(),
            Failure::Argument { .. } => "weightsd.h says what this argument may be",
            Failure::Thread(_) | Failure::Memory => "free memory, or raise the limits of this process",
            Failure::Panic(_) => "this is a fault of libweightsd: please report it",
            Failure::Cancelled { .. } => "",
        }
    }

    fn resource(&self) -> &str {
        match self {
            Failure::Client(error) => {
                error.daemon().and_then(|error| error.detail()).map_or("", |detail| &detail.resource)
            }
            Failure::Argument { name, .. } => name,
            _ => "",
        }
    }

    fn reason(&self) -> &'static str {
        let Failure::Client(error) = self else { return "" };
        error.reason().map_or("", |reason| reason.as_str_name().trim_start_matches("ERROR_REASON_"))
    }

    fn detail_json(&self) -> String {
        let Failure::Client(error) = self else { return String::new() };
        let Some(detail) = error.daemon().and_then(|error| error.detail()) else { return String::new() };
        json::to_json("ErrorDetail", detail).to_string()
    }

    /// The error for C.
    pub(crate) fn into_raw(self) -> *mut weightsd_error {
        let texts = [
            outgoing::text(self.message()),
            outgoing::text(self.reason()),
            outgoing::text(self.hint()),
            outgoing::text(self.resource()),
            outgoing::text(self.detail_json()),
        ];
        let [message, reason, hint, resource, detail_json] = texts.each_ref().map(|text| text.as_ptr());
        let public = weightsd_error {
            code: self.code(),
            retryable: self.retryable(),
            message,
            reason,
            hint,
            resource,
            detail_json,
        };
        Box::into_raw(Box::new(Owned { public, _texts: texts })).cast()
    }
}

/// Whether memory, or address space for a mapping, ran out.
fn is_exhausted(error: &ClientError) -> bool {
    let mut cause = Some(error as &(dyn Error + 'static));
    while let Some(error) = cause {
        if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::OutOfMemory) {
            return true;
        }
        cause = error.source();
    }
    false
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Argument { name, problem } => write!(f, "argument `{name}` {problem}"),
            Failure::Client(error) => error.fmt(f),
            Failure::Thread(_) => f.write_str("cannot start the connection's thread"),
            Failure::Memory => f.write_str("no memory for the table of tensors"),
            Failure::Cancelled { operation } => write!(f, "{operation} was given up by the caller"),
            Failure::Panic(message) => write!(f, "libweightsd panicked: {message}"),
        }
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Failure::Client(error) => error.source(),
            Failure::Thread(error) => Some(error),
            _ => None,
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        Failure::Client(Box::new(error))
    }
}

impl From<ProtocolError> for Failure {
    fn from(error: ProtocolError) -> Failure {
        ClientError::from(error).into()
    }
}

impl From<Lost> for Failure {
    fn from(_: Lost) -> Failure {
        Failure::Panic("the work on the connection's thread was lost".into())
    }
}
