//! Calls that a daemon ended under: the one that serves on the same socket by now is asked instead.

use std::time::Duration;

use tokio::time::sleep;
use weightsd_core::handoff::Status;
use weightsd_proto::v1::ErrorReason;

use crate::{ClientError, HandoffFailure};

/// How often a call is made again.
const AGAIN_MAX: u32 = 5;
/// Pause before the first of these; it doubles with each.
const PAUSE: Duration = Duration::from_millis(20);

/// The attempts at one call.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    made: u32,
    first: Option<ClientError>,
}

impl Attempts {
    /// Returns when the call is worth making again.
    ///
    /// # Errors
    /// When it is not: with the error to report, which is `error` or the first one, if nobody serves any more.
    pub(crate) async fn again(&mut self, error: ClientError) -> Result<(), ClientError> {
        if matches!(error, ClientError::Connect(_)) {
            return Err(self.first.take().unwrap_or(error));
        }
        if self.made >= AGAIN_MAX || !is_the_end_of_a_daemon(&error) {
            return Err(error);
        }
        self.first.get_or_insert(error);
        sleep(PAUSE * 2_u32.pow(self.made)).await;
        self.made += 1;
        Ok(())
    }
}

/// Whether a call may have failed only because the daemon ended that it was made to.
fn is_the_end_of_a_daemon(error: &ClientError) -> bool {
    match error {
        ClientError::Disconnected { .. } => true,
        ClientError::Daemon(error) => error.reason() == Some(ErrorReason::ShuttingDown),
        // A ticket of one daemon that was shown to the other.
        ClientError::Handoff(failure) => matches!(
            failure,
            HandoffFailure::Unanswered(_)
                | HandoffFailure::Broken(_)
                | HandoffFailure::Refused(Status::ShuttingDown | Status::UnknownTicket)
        ),
        _ => false,
    }
}
