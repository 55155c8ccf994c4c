//! The hand-off protocol: how a client gets the descriptors of its segments.
//!
//! gRPC cannot carry descriptors, so the daemon's socket speaks a second, tiny protocol. The first byte of a
//! connection tells them apart: HTTP/2 begins with `P`, this begins with [`MAGIC`].
//!
//! ```text
//! client -> daemon   request   18 bytes: MAGIC, VERSION, ticket (16 bytes, from the lease)
//! daemon -> client   reply      4 bytes: status, 0, number of descriptors (u16, little endian)
//!   only after Status::Granted, and until all descriptors have been sent:
//! daemon -> client   batch      1 byte: number of descriptors (1 to BATCH), which travel with it (SCM_RIGHTS)
//! client -> daemon   ACK        1 byte
//! ```
//!
//! Descriptors come in the order of the component's segments, and its sheet after them where one was announced. Each batch is acknowledged because macOS loses
//! descriptors that the sender closes before the receiver has them; batches are small because a receiver with too
//! small a buffer leaks the rest. After the last acknowledgement, or after a reply that grants nothing, the connection
//! may carry another request. [`Status::BadVersion`] and [`Status::Malformed`] end it, since the daemon cannot tell
//! where the next request would begin.

use std::fmt;

use thiserror::Error;

/// First byte of every request, and so of every hand-off connection.
pub const MAGIC: u8 = 0xD5;
/// The version of the protocol that this file describes.
pub const VERSION: u8 = 1;
/// Length of a ticket in bytes.
pub const TICKET_LEN: usize = 16;
/// Length of a request in bytes.
pub const REQUEST_LEN: usize = 2 + TICKET_LEN;
/// Length of a reply in bytes.
pub const REPLY_LEN: usize = 4;
/// Most descriptors that one batch carries.
pub const BATCH: usize = 64;
/// What the client sends when it has a batch.
pub const ACK: u8 = 0x06;

/// What a peer sent is not this protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum HandoffError {
    /// The request does not begin with [`MAGIC`].
    #[error("hand-off request begins with {0:#04x}, expected {MAGIC:#04x}")]
    WrongMagic(u8),
    /// The peer speaks another version.
    #[error("hand-off request has version {0}, expected {VERSION}")]
    WrongVersion(u8),
    /// A ticket of another length.
    #[error("hand-off ticket has {0} bytes, expected {TICKET_LEN}")]
    TicketLength(usize),
    /// A status that this version does not know.
    #[error("hand-off reply has unknown status {0}")]
    UnknownStatus(u8),
    /// The reserved byte of a reply is set.
    #[error("hand-off reply has {0:#04x} in its reserved byte, expected 0")]
    Reserved(u8),
}

/// The unguessable number that stands for a lease. A process that knows it gets the descriptors, so it is never printed.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket(pub [u8; TICKET_LEN]);

impl TryFrom<&[u8]> for Ticket {
    type Error = HandoffError;

    fn try_from(bytes: &[u8]) -> Result<Ticket, HandoffError> {
        bytes.try_into().map(Ticket).map_err(|_| HandoffError::TicketLength(bytes.len()))
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ticket(..)")
    }
}

/// Asks for the descriptors that a ticket stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// The ticket.
    pub ticket: Ticket,
}

impl Request {
    /// The request as it travels.
    pub fn encode(&self) -> [u8; REQUEST_LEN] {
        let mut bytes = [0; REQUEST_LEN];
        bytes[0] = MAGIC;
        bytes[1] = VERSION;
        bytes[2..].copy_from_slice(&self.ticket.0);
        bytes
    }

    /// Reads a request from the bytes received so far. `None` means that more are needed; a request takes exactly
    /// [`REQUEST_LEN`] bytes, what follows is the next one. What is wrong is reported as soon as it can be seen.
    pub fn decode(bytes: &[u8]) -> Result<Option<Request>, HandoffError> {
        match bytes.first() {
            Some(&MAGIC) | None => {}
            Some(&other) => return Err(HandoffError::WrongMagic(other)),
        }
        match bytes.get(1) {
            Some(&VERSION) | None => {}
            Some(&other) => return Err(HandoffError::WrongVersion(other)),
        }
        match bytes.get(2..REQUEST_LEN) {
            Some(ticket) => Ok(Some(Request { ticket: Ticket::try_from(ticket)? })),
            None => Ok(None),
        }
    }
}

/// What the daemon answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Status {
    /// The descriptors follow.
    Granted = 0,
    /// No lease has this ticket, or it has ended.
    UnknownTicket = 1,
    /// The daemon does not speak the version of the request.
    BadVersion = 2,
    /// The request is not one.
    Malformed = 3,
    /// The daemon is stopping.
    ShuttingDown = 4,
    /// There are too many connections.
    Full = 5,
}

impl TryFrom<u8> for Status {
    type Error = HandoffError;

    fn try_from(byte: u8) -> Result<Status, HandoffError> {
        use Status::{BadVersion, Full, Granted, Malformed, ShuttingDown, UnknownTicket};
        [Granted, UnknownTicket, BadVersion, Malformed, ShuttingDown, Full]
            .into_iter()
            .find(|status| *status as u8 == byte)
            .ok_or(HandoffError::UnknownStatus(byte))
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Status::Granted => "granted",
            Status::UnknownTicket => "no lease has this ticket, or it has ended",
            Status::BadVersion => "the daemon speaks another version of the hand-off protocol",
            Status::Malformed => "the daemon could not read the hand-off request",
            Status::ShuttingDown => "the daemon is stopping",
            Status::Full => "the daemon has too many connections",
        })
    }
}

/// The answer to a [`Request`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// Whether descriptors follow, and if not, why.
    pub status: Status,
    /// How many descriptors follow; 0 unless granted.
    pub count: u16,
}

impl Reply {
    /// The reply as it travels.
    pub fn encode(&self) -> [u8; REPLY_LEN] {
        let [low, high] = self.count.to_le_bytes();
        [self.status as u8, 0, low, high]
    }

    /// Reads a reply from the bytes received so far. `None` means that more are needed; a reply takes exactly
    /// [`REPLY_LEN`] bytes.
    pub fn decode(bytes: &[u8]) -> Result<Option<Reply>, HandoffError> {
        let Some(&first) = bytes.first() else { return Ok(None) };
        let status = Status::try_from(first)?;
        match bytes.get(1) {
            Some(0) | None => {}
            Some(&other) => return Err(HandoffError::Reserved(other)),
        }
        match bytes.get(2..REPLY_LEN) {
            Some(&[low, high]) => Ok(Some(Reply { status, count: u16::from_le_bytes([low, high]) })),
            _ => Ok(None),
        }
    }
}

/// Which files of a component a holder is given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Given {
    /// Those that the component was made from.
    #[default]
    Originals,
    /// Clones that nobody writes to, where there are some.
    Clones,
}

/// The sizes of the batches in which `count` descriptors travel.
pub fn batches(count: u16) -> impl Iterator<Item = usize> {
    let count = usize::from(count);
    (0..count).step_by(BATCH).map(move |first| BATCH.min(count - first))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICKET: Ticket = Ticket(*b"0123456789abcdef");

    #[test]
    fn a_request_survives_the_journey_in_any_pieces() {
        let bytes = Request { ticket: TICKET }.encode();
        assert_eq!(&bytes[..2], &[0xD5, 1]);
        for len in 0..REQUEST_LEN {
            assert_eq!(Request::decode(&bytes[..len]), Ok(None), "{len} bytes");
        }
        assert_eq!(Request::decode(&bytes), Ok(Some(Request { ticket: TICKET })));
        let mut two = bytes.to_vec();
        two.extend(bytes);
        assert_eq!(Request::decode(&two), Ok(Some(Request { ticket: TICKET })));
    }

    #[test]
    fn a_wrong_request_is_refused_at_the_first_wrong_byte() {
        assert_eq!(Request::decode(b"P"), Err(HandoffError::WrongMagic(b'P')));
        assert_eq!(Request::decode(&[MAGIC, 9]), Err(HandoffError::WrongVersion(9)));
    }

    #[test]
    fn replies_survive_the_journey() {
        for status in 0..=4 {
            for count in [0, 1, 255, 256, u16::MAX] {
                let reply = Reply { status: Status::try_from(status).unwrap(), count };
                let bytes = reply.encode();
                for len in 0..REPLY_LEN {
                    assert_eq!(Reply::decode(&bytes[..len]), Ok(None));
                }
                assert_eq!(Reply::decode(&bytes), Ok(Some(reply)));
            }
        }
        assert_eq!(Reply { status: Status::Granted, count: 0x0102 }.encode(), [0, 0, 2, 1]);
    }

    #[test]
    fn wrong_replies_are_refused() {
        assert_eq!(Reply::decode(&[6]), Err(HandoffError::UnknownStatus(6)));
        assert_eq!(Reply::decode(&[0, 1]), Err(HandoffError::Reserved(1)));
    }

    #[test]
    fn a_ticket_is_not_printed() {
        assert_eq!(format!("{TICKET:?}"), "Ticket(..)");
        assert_eq!(Ticket::try_from(&b"short"[..]), Err(HandoffError::TicketLength(5)));
    }

    #[test]
    fn batches_add_up() {
        let table: [(u16, &[usize]); 5] = [(0, &[]), (1, &[1]), (64, &[64]), (65, &[64, 1]), (130, &[64, 64, 2])];
        for (count, expected) in table {
            assert_eq!(batches(count).collect::<Vec<_>>(), expected);
        }
        assert_eq!(batches(u16::MAX).sum::<usize>(), usize::from(u16::MAX));
    }
}
