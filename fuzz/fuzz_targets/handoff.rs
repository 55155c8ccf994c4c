//! The hand-off protocol, received in any pieces. The first two bytes of an input say where the stream is cut.

#![no_main]

use std::fmt::Debug;

use libfuzzer_sys::fuzz_target;
use weightsd_core::handoff::{
    self, BATCH, HandoffError, MAGIC, REPLY_LEN, REQUEST_LEN, Reply, Request, TICKET_LEN, Ticket, VERSION,
};

fuzz_target!(|input: &[u8]| {
    let Some(([piece, count], stream)) = input.split_first_chunk() else { return };
    let piece = usize::from(*piece).max(1);

    let at_once = all(stream, REQUEST_LEN, Request::decode);
    assert_eq!(at_once, in_pieces(stream, piece, REQUEST_LEN, Request::decode));
    let (requests, end) = at_once;
    for (request, bytes) in requests.iter().zip(stream.chunks(REQUEST_LEN)) {
        assert_eq!(request.encode(), bytes, "an accepted request is written as it was read");
        assert_eq!(format!("{:?}", request.ticket), "Ticket(..)", "a ticket is not printed");
    }
    let rest = &stream[requests.len() * REQUEST_LEN..];
    match end {
        None => assert!(rest.len() < REQUEST_LEN),
        Some(HandoffError::WrongMagic(byte)) => assert!(byte == rest[0] && byte != MAGIC),
        Some(HandoffError::WrongVersion(byte)) => assert!(byte == rest[1] && byte != VERSION),
        Some(other) => panic!("a request cannot fail with: {other}"),
    }

    let at_once = all(stream, REPLY_LEN, Reply::decode);
    assert_eq!(at_once, in_pieces(stream, piece, REPLY_LEN, Reply::decode));
    let (replies, end) = at_once;
    for (reply, bytes) in replies.iter().zip(stream.chunks(REPLY_LEN)) {
        assert_eq!(reply.encode(), bytes, "an accepted reply is written as it was read");
        let batches: Vec<usize> = handoff::batches(reply.count).collect();
        assert_eq!(batches.iter().sum::<usize>(), usize::from(reply.count));
        assert!(batches.iter().all(|batch| (1..=BATCH).contains(batch)));
    }
    let rest = &stream[replies.len() * REPLY_LEN..];
    match end {
        None => assert!(rest.len() < REPLY_LEN),
        Some(HandoffError::UnknownStatus(byte)) => assert!(byte == rest[0] && byte > 4),
        Some(HandoffError::Reserved(byte)) => assert!(byte == rest[1] && byte != 0),
        Some(other) => panic!("a reply cannot fail with: {other}"),
    }

    let ticket = &stream[..stream.len().min((*count).into())];
    match Ticket::try_from(ticket) {
        Ok(ticket) => assert_eq!(Request::decode(&Request { ticket }.encode()), Ok(Some(Request { ticket }))),
        Err(error) => assert!(error == HandoffError::TicketLength(ticket.len()) && ticket.len() != TICKET_LEN),
    }
});

type Decode<T> = fn(&[u8]) -> Result<Option<T>, HandoffError>;

/// All messages of a stream that has come as a whole, and the error that ended it.
fn all<T>(stream: &[u8], length: usize, decode: Decode<T>) -> (Vec<T>, Option<HandoffError>) {
    let mut found = Vec::new();
    let mut rest = stream;
    loop {
        match decode(rest) {
            Ok(Some(message)) => found.push(message),
            Ok(None) => return (found, None),
            Err(error) => return (found, Some(error)),
        }
        rest = &rest[length..];
    }
}

/// The same of a stream that comes `piece` bytes at a time, read as the daemon reads: one message's length at most.
fn in_pieces<T: Debug>(
    stream: &[u8],
    piece: usize,
    length: usize,
    decode: Decode<T>,
) -> (Vec<T>, Option<HandoffError>) {
    let mut found = Vec::new();
    let mut buffer = Vec::new();
    let mut rest = stream;
    while !rest.is_empty() {
        let count = piece.min(length - buffer.len()).min(rest.len());
        let (read, after) = rest.split_at(count);
        buffer.extend_from_slice(read);
        rest = after;
        match decode(&buffer) {
            Ok(Some(message)) => {
                assert_eq!(buffer.len(), length, "a message is complete when its last byte is there");
                found.push(message);
                buffer.clear();
            }
            Ok(None) => assert!(buffer.len() < length),
            Err(error) => return (found, Some(error)),
        }
    }
    (found, None)
}
