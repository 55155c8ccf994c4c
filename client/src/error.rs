//! Errors between this process and its weights: one enum, with the daemon's own refusal as one case.

use std::{error::Error as StdError, fmt, io, path::PathBuf, time::Duration};

use thiserror::Error;
use tonic::{Code, Status};
use weightsd_core::explain::Tier;
use weightsd_proto::{
    rich_error,
    v1::{AuditReport, ErrorDetail, ErrorReason, ErrorTier},
};
use weightsd_segment::{MapError, descriptors};

use crate::{ConnectError, HandoffFailure, ProtocolError, folder_error::FolderError};

/// An error between this process and its weights.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ClientError {
    /// There is no connection to a daemon.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The daemon speaks another version of the interface.
    #[error(
        "the daemon at {} is weightsd {version} and speaks protocol {theirs}, this client speaks protocol {ours}",
        socket.display()
    )]
    OtherProtocol {
        /// The daemon's socket.
        socket: PathBuf,
        /// Version of the daemon's program.
        version: String,
        /// The daemon's number; 0 is a daemon from before there were numbers.
        theirs: u32,
        /// This client's number.
        ours: u32,
    },
    /// The daemon took too long.
    #[error("{operation} took longer than {after:?}")]
    Deadline {
        /// What was waited for.
        operation: String,
        /// How long.
        after: Duration,
    },
    /// The daemon refused, and says why.
    #[error(transparent)]
    Daemon(Box<DaemonError>),
    /// The connection broke.
    #[error("the connection to the daemon broke during {operation}: {status}")]
    Disconnected {
        /// The operation that broke.
        operation: String,
        /// What the transport says.
        status: Box<Status>,
    },
    /// The daemon's answer contradicts itself.
    #[error("the daemon broke the protocol: {0}")]
    Protocol(#[from] ProtocolError),
    /// The descriptors did not come.
    #[error("the daemon did not hand over the files")]
    Handoff(#[from] HandoffFailure),
    /// A file cannot be mapped as the file it should be.
    #[error("cannot use {}", path.display())]
    Map {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: MapError,
    },
    /// The request names no card, or names one where files are wanted.
    #[error("{0}")]
    Device(&'static str),
    /// The model cannot be a folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The system refuses what mapping needs.
    #[error("cannot map the component")]
    Io(#[from] io::Error),
}

impl ClientError {
    /// The error of a failed call.
    pub(crate) fn from_status(operation: &str, status: Status) -> ClientError {
        let transport = sources(&status).find_map(|source| source.downcast_ref::<ConnectError>()).cloned();
        if let Some(error) = transport {
            return ClientError::Connect(error);
        }
        // A status from the daemon has no source. A status from the transport has one.
        if status.source().is_some() {
            return ClientError::Disconnected { operation: operation.to_owned(), status: Box::new(status) };
        }
        ClientError::Daemon(Box::new(DaemonError::from_status(&status)))
    }

    /// The daemon's reason; `None` for errors that are not the daemon's.
    pub fn reason(&self) -> Option<ErrorReason> {
        self.daemon().and_then(DaemonError::reason)
    }

    /// Whether the same request may succeed later without a change.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self {
            ClientError::Daemon(error) => error.retryable(),
            ClientError::Deadline { .. } | ClientError::Disconnected { .. } => true,
            _ => false,
        }
    }

    /// Who has to act.
    #[must_use]
    pub fn tier(&self) -> Tier {
        match self {
            ClientError::Daemon(error) => error.tier(),
            ClientError::Connect(_) | ClientError::Deadline { .. } | ClientError::Disconnected { .. } => {
                Tier::Unavailable
            }
            ClientError::Protocol(_) => Tier::Bug,
            ClientError::Device(_) => Tier::Request,
            ClientError::Folder(error) => error.tier(),
            ClientError::OtherProtocol { .. }
            | ClientError::Handoff(_)
            | ClientError::Map { .. }
            | ClientError::Io(_) => Tier::Condition,
        }
    }

    /// When to try again, if the hub said so.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        Duration::try_from(self.daemon()?.detail()?.retry_after?).ok()
    }

    /// A step that can help; `None` when there is none.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        match self {
            ClientError::Daemon(error) => error.hint(),
            ClientError::Folder(error) => error.hint(),
            ClientError::OtherProtocol { theirs, ours, .. } if theirs < ours => {
                Some("stop the daemon and start it again, so that the program that is installed now serves")
            }
            ClientError::OtherProtocol { .. } => Some("update this program to the version of the daemon"),
            _ if descriptors::are_exhausted(self) => Some(descriptors::EXHAUSTED_HINT),
            _ => None,
        }
    }

    /// The report, if the audit refused the component.
    pub fn audit(&self) -> Option<&AuditReport> {
        self.daemon().and_then(DaemonError::audit)
    }

    /// The daemon's refusal, if it is one.
    #[must_use]
    pub fn daemon(&self) -> Option<&DaemonError> {
        match self {
            ClientError::Daemon(error) => Some(error),
            _ => None,
        }
    }
}

fn sources<'a>(status: &'a Status) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(status.source(), |error: &&'a (dyn StdError + 'static)| (*error).source())
}

/// The daemon's refusal.
#[derive(Debug, Clone)]
pub struct DaemonError {
    code: Code,
    message: String,
    detail: Option<ErrorDetail>,
}

impl DaemonError {
    /// Reads a status of the daemon.
    #[must_use]
    pub fn from_status(status: &Status) -> DaemonError {
        DaemonError { code: status.code(), message: status.message().to_owned(), detail: rich_error::decode(status) }
    }

    /// The gRPC code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }

    /// What happened, without the hint.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// A step that can help.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.detail().map(|detail| detail.hint.as_str()).filter(|hint| !hint.is_empty())
    }

    /// Why. `None` when the daemon gives no reason, or one that this client does not know.
    #[must_use]
    pub fn reason(&self) -> Option<ErrorReason> {
        let reason = ErrorReason::try_from(self.detail()?.reason).ok()?;
        (reason != ErrorReason::Unspecified).then_some(reason)
    }

    /// Who has to act. For a status of the gRPC library itself its code decides.
    pub fn tier(&self) -> Tier {
        match self.detail().map(ErrorDetail::tier) {
            Some(ErrorTier::Request) => Tier::Request,
            Some(ErrorTier::Condition) => Tier::Condition,
            Some(ErrorTier::Unavailable) => Tier::Unavailable,
            Some(ErrorTier::Bug) => Tier::Bug,
            Some(ErrorTier::Unspecified) | None => match self.code {
                Code::InvalidArgument | Code::OutOfRange | Code::Unimplemented => Tier::Request,
                Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded => Tier::Unavailable,
                _ => Tier::Bug,
            },
        }
    }

    /// Whether the same request may succeed later without a change.
    #[must_use]
    pub fn retryable(&self) -> bool {
        self.detail().map_or(self.code == Code::Unavailable, |detail| detail.retryable)
    }

    /// The report, if the audit refused the component.
    #[must_use]
    pub fn audit(&self) -> Option<&AuditReport> {
        self.detail()?.audit.as_ref()
    }

    /// The daemon's details besides the message.
    #[must_use]
    pub fn detail(&self) -> Option<&ErrorDetail> {
        self.detail.as_ref()
    }
}

impl fmt::Display for DaemonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.message.is_empty() {
            write!(f, "the daemon refused ({:?})", self.code)?;
        } else {
            f.write_str(&self.message)?;
        }
        match self.hint() {
            Some(hint) => write!(f, "; hint: {hint}"),
            None => Ok(()),
        }
    }
}

impl StdError for DaemonError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn detail() -> ErrorDetail {
        ErrorDetail {
            reason: ErrorReason::AuditFailed.into(),
            resource: "vae".into(),
            hint: "load it with REPORT_ONLY".into(),
            retryable: false,
            audit: Some(AuditReport { missing: 3, ..AuditReport::default() }),
            retry_after: Some(prost_types::Duration { seconds: 7, nanos: 0 }),
            tier: ErrorTier::Condition.into(),
        }
    }

    #[test]
    fn a_refusal_says_what_and_what_to_do() {
        let status = rich_error::encode(Code::FailedPrecondition, "3 tensors are missing".into(), detail());
        let error = ClientError::from_status("load", status);
        assert_eq!(error.to_string(), "3 tensors are missing; hint: load it with REPORT_ONLY");
        assert_eq!(error.reason(), Some(ErrorReason::AuditFailed));
        assert_eq!(error.audit().map(|audit| audit.missing), Some(3));
        assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
        assert!(!error.retryable());
    }

    #[test]
    fn a_refusal_without_detail_is_still_a_sentence() {
        let error = ClientError::from_status("load", Status::new(Code::Unavailable, ""));
        assert_eq!(error.to_string(), "the daemon refused (Unavailable)");
        assert_eq!((error.reason(), error.hint(), error.retryable()), (None, None, true));
    }

    #[test]
    fn a_failure_to_connect_is_found_under_the_transport() {
        let inner = ConnectError::Absent("/s".into());
        let error = ClientError::from_status("load", Status::from_error(Box::new(inner)));
        assert!(matches!(error, ClientError::Connect(ConnectError::Absent(_))), "{error:?}");
        let broken = io::Error::from(io::ErrorKind::BrokenPipe);
        let error = ClientError::from_status("load", Status::from_error(Box::new(broken)));
        assert!(matches!(error, ClientError::Disconnected { .. }), "{error:?}");
    }
}
