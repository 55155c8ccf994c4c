//! From errors to gRPC statuses: which code and which reason of the wire each reason has.

use std::fmt;

use tonic::{Code, Status};
use weightsd_core::{
    audit::AuditReport,
    explain::{Explain, Explanation, Reason, Tier, sentence},
    shown::without_paths,
};
use weightsd_proto::{
    rich_error,
    v1::{ErrorDetail, ErrorReason, ErrorTier},
};

use super::messages;
use crate::{
    cache::AcquireError,
    damper::{Damper, and_untold},
    guests::Peer,
    metrics::Metrics,
    pipeline::LoadError,
};

/// What a caller gets instead of an answer.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    message: String,
    explanation: Explanation,
    audit: Option<Box<AuditReport>>, // A failure is moved about more often than it has a report.
}

impl Failure {
    /// A field of the request that cannot be used.
    pub(super) fn invalid(field: &str, problem: &str, hint: &'static str) -> Self {
        Self::new(format!("`{field}` {problem}"), Explanation::new(Reason::InvalidRequest, field, hint))
    }

    /// A failure that no stage has an error for.
    pub(super) fn new(message: String, explanation: Explanation) -> Self {
        Self { message, explanation, audit: None }
    }

    fn explained(error: &impl Explain, audit: Option<&AuditReport>) -> Self {
        let audit = audit.map(|report| Box::new(report.clone()));
        Self { message: sentence(error), explanation: error.explain(), audit }
    }

    /// The failure as this peer is told it.
    pub(super) fn to(self, peer: Peer) -> Self {
        if peer == Peer::Owner {
            return self;
        }
        let Self { message, explanation, audit } = self;
        let explanation = Explanation {
            resource: without_paths(&explanation.resource),
            hint: without_paths(&explanation.hint).into(),
            ..explanation
        };
        Self { message: without_paths(&message), explanation, audit }
    }

    /// The status, after the refusal was logged and counted. The current span says whose request it is.
    pub(super) fn refuse(self, metrics: &Metrics) -> Status {
        let reason = self.explanation.reason;
        self.log(reason);
        let (code, wire) = on_the_wire(reason);
        metrics.refused(wire.as_str_name().trim_start_matches("ERROR_REASON_"));
        let detail = ErrorDetail {
            reason: wire.into(),
            resource: self.explanation.resource,
            hint: self.explanation.hint.into_owned(),
            retryable: reason.is_retryable(),
            audit: self.audit.map(|report| messages::audit_report(&report)),
            retry_after: self.explanation.retry_after.and_then(messages::duration),
            tier: tier(reason.tier()).into(),
        };
        rich_error::encode(code, self.message, detail)
    }
}

/// Refusals cost a client nothing, so they are told a few at a time; faults of weightsd itself are told each time.
static REFUSED: Damper = Damper::new();

impl Failure {
    fn log(&self, reason: Reason) {
        let told = match reason.tier() {
            Tier::Bug => return tracing::error!(?reason, "refused: {self}"),
            Tier::Request | Tier::Condition | Tier::Unavailable => REFUSED.tells(),
        };
        let Some(untold) = told else { return };
        let more = and_untold(untold);
        match reason.tier() {
            Tier::Request => tracing::info!(?reason, "refused: {self}{more}"),
            Tier::Condition | Tier::Unavailable | Tier::Bug => tracing::warn!(?reason, "refused: {self}{more}"),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<&LoadError> for Failure {
    fn from(error: &LoadError) -> Self {
        Self::explained(error, error.audit())
    }
}

impl From<&AcquireError> for Failure {
    fn from(error: &AcquireError) -> Self {
        Self::explained(error, error.audit())
    }
}

fn tier(tier: Tier) -> ErrorTier {
    match tier {
        Tier::Request => ErrorTier::Request,
        Tier::Condition => ErrorTier::Condition,
        Tier::Unavailable => ErrorTier::Unavailable,
        Tier::Bug => ErrorTier::Bug,
    }
}

fn on_the_wire(reason: Reason) -> (Code, ErrorReason) {
    match reason {
        Reason::InvalidRequest => (Code::InvalidArgument, ErrorReason::InvalidRequest),
        Reason::InvalidSpec => (Code::InvalidArgument, ErrorReason::InvalidSpec),
        Reason::PathNotFound => (Code::NotFound, ErrorReason::PathNotFound),
        Reason::NotAModel => (Code::InvalidArgument, ErrorReason::NotAModel),
        Reason::ComponentNotFound => (Code::NotFound, ErrorReason::ComponentNotFound),
        Reason::VariantNotFound => (Code::NotFound, ErrorReason::SnapshotIncomplete),
        Reason::NotLoaded => (Code::NotFound, ErrorReason::NotLoaded),
        Reason::CannotConvert => (Code::InvalidArgument, ErrorReason::CannotConvert),
        Reason::RepoNotFound => (Code::NotFound, ErrorReason::RepoNotFound),
        Reason::RevisionNotFound => (Code::NotFound, ErrorReason::RevisionNotFound),
        Reason::FileNotFound => (Code::NotFound, ErrorReason::FileNotFound),
        Reason::NoHubCache => (Code::FailedPrecondition, ErrorReason::RepoNotCached),
        Reason::RepoNotCached => (Code::NotFound, ErrorReason::RepoNotCached),
        Reason::RevisionNotCached => (Code::NotFound, ErrorReason::RevisionNotCached),
        Reason::BadRef => (Code::FailedPrecondition, ErrorReason::RevisionNotCached),
        Reason::SnapshotIncomplete => (Code::FailedPrecondition, ErrorReason::SnapshotIncomplete),
        Reason::AmbiguousWeights => (Code::FailedPrecondition, ErrorReason::AmbiguousWeights),
        Reason::InvalidConfig => (Code::FailedPrecondition, ErrorReason::InvalidConfig),
        Reason::InvalidCheckpoint => (Code::FailedPrecondition, ErrorReason::InvalidCheckpoint),
        Reason::IndexMismatch => (Code::FailedPrecondition, ErrorReason::IndexMismatch),
        Reason::AuditFailed => (Code::FailedPrecondition, ErrorReason::AuditFailed),
        Reason::InvalidAdapter => (Code::FailedPrecondition, ErrorReason::InvalidAdapter),
        Reason::TornLayer => (Code::FailedPrecondition, ErrorReason::CannotConvert),
        Reason::NoMlx => (Code::FailedPrecondition, ErrorReason::CannotConvert),
        Reason::InUse => (Code::FailedPrecondition, ErrorReason::InUse),
        Reason::Corrupt => (Code::DataLoss, ErrorReason::Corrupt),
        Reason::NoSpace => (Code::ResourceExhausted, ErrorReason::NoSpace),
        Reason::NoCard => (Code::FailedPrecondition, ErrorReason::NoCard),
        Reason::NoVram => (Code::ResourceExhausted, ErrorReason::NoVram),
        Reason::CardFailed => (Code::Unavailable, ErrorReason::CardFailed),
        Reason::FileVanished => (Code::NotFound, ErrorReason::Io),
        Reason::FileRefused => (Code::FailedPrecondition, ErrorReason::Io),
        Reason::OwnFiles => (Code::Internal, ErrorReason::Io),
        Reason::Offline => (Code::FailedPrecondition, ErrorReason::Offline),
        Reason::HubUnusable => (Code::FailedPrecondition, ErrorReason::HubMalformed),
        Reason::TokenMissing => (Code::Unauthenticated, ErrorReason::TokenMissing),
        Reason::TokenRefused => (Code::Unauthenticated, ErrorReason::TokenRefused),
        Reason::Gated => (Code::PermissionDenied, ErrorReason::Gated),
        Reason::Forbidden => (Code::PermissionDenied, ErrorReason::Forbidden),
        Reason::NotAllowed => (Code::PermissionDenied, ErrorReason::NotAllowed),
        Reason::Io => (Code::Unavailable, ErrorReason::Io),
        Reason::FileChanged => (Code::Aborted, ErrorReason::FileChanged),
        Reason::Busy => (Code::ResourceExhausted, ErrorReason::Busy),
        Reason::Deadline => (Code::DeadlineExceeded, ErrorReason::Deadline),
        Reason::Abandoned => (Code::Aborted, ErrorReason::Internal),
        Reason::ShuttingDown => (Code::Unavailable, ErrorReason::ShuttingDown),
        Reason::HubUnreachable => (Code::Unavailable, ErrorReason::HubUnreachable),
        Reason::HubFailing => (Code::Unavailable, ErrorReason::HubFailing),
        Reason::RateLimited => (Code::ResourceExhausted, ErrorReason::RateLimited),
        Reason::HubMalformed => (Code::Unavailable, ErrorReason::HubMalformed),
        Reason::HubInconsistent => (Code::Unavailable, ErrorReason::HubInconsistent),
        Reason::ComputingDied => (Code::Internal, ErrorReason::DerivationFailed),
        Reason::ComputingFailed => (Code::Internal, ErrorReason::DerivationFailed),
        Reason::Internal => (Code::Internal, ErrorReason::Internal),
    }
}
