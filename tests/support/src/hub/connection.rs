//! One connection: request, answer, request, answer.

use std::{io, net::TcpStream, sync::Arc};

use super::{
    answer::answer,
    control,
    door::Door,
    request::Reader,
    state::State,
    wire::{self, Conduct, Delivery, Then},
};

/// Serves a connection until it ends.
pub(super) fn serve(state: &Arc<State>, door: Door, stream: TcpStream) {
    // Clients that hang up and requests that cannot be read end it; there is nobody to tell.
    let _ = converse(state, door, stream);
}

fn converse(state: &Arc<State>, door: Door, mut stream: TcpStream) -> io::Result<()> {
    // Registered last and so dropped first: a reset goes out with the last descriptor, and that is `stream`.
    let Some(_registered) = state.connections.register(&stream)? else { return Ok(()) };
    // A head is one write and its body follows at once: to wait for more would only delay the last bytes.
    stream.set_nodelay(true)?;
    let mut reader = Reader::default();
    while let Some(request) = reader.next(&mut stream)? {
        let with_body = !request.is_head();
        if let Some((reply, entry)) = control::answer(state, door, &request) {
            wire::send(&mut stream, &reply, with_body, true, Delivery::default(), &entry)?;
            continue;
        }
        let answer = answer(state, door, &request);
        let then = match answer.conduct {
            Conduct::Answer(delivery) => {
                wire::send(&mut stream, &answer.reply, with_body, request.keep_alive, delivery, &answer.entry)
            }
            Conduct::HangUp => Ok(Then::Close),
            Conduct::Silence => {
                wire::silence(&mut stream);
                Ok(Then::Close)
            }
        };
        answer.entry.over();
        if then? == Then::Close {
            break;
        }
    }
    Ok(())
}
