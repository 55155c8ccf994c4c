//! Threads that take connections on the three addresses of a hub.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{connection, door::Door, state::State};

/// Threads that take connections.
#[derive(Debug, Default)]
pub(super) struct Doors {
    threads: Vec<(SocketAddr, JoinHandle<()>)>,
}

impl Doors {
    pub(super) fn open(state: &Arc<State>, listeners: [Vec<TcpListener>; 3]) -> io::Result<Self> {
        let mut doors = Self::default();
        for (door, listeners) in [Door::Hub, Door::Cdn, Door::Stranger].into_iter().zip(listeners) {
            for listener in listeners {
                let address = listener.local_addr()?;
                let state = Arc::clone(state);
                let thread = thread::Builder::new().name("test-hub".to_owned());
                let thread = thread.spawn(move || accept(&state, door, &listener))?;
                doors.threads.push((address, thread));
            }
        }
        Ok(doors)
    }

    /// Waits until nobody listens any more; `Connections::close` has been called.
    pub(super) fn close(self) {
        for (address, thread) in self.threads {
            // Wakes `accept`, which looks whether the hub is still open.
            let _ = TcpStream::connect_timeout(&address, Duration::from_secs(1));
            let _ = thread.join();
        }
    }
}

fn accept(state: &Arc<State>, door: Door, listener: &TcpListener) {
    while state.connections.is_open() {
        let Ok((stream, _)) = listener.accept() else {
            // Too many descriptors, most likely; some will be closed.
            thread::sleep(Duration::from_millis(10));
            continue;
        };
        let state = Arc::clone(state);
        let thread = thread::Builder::new().name("test-hub".to_owned()).stack_size(512 << 10);
        // Without a thread the connection ends at once, which is what a client of a full server sees.
        let _ = thread.spawn(move || connection::serve(&state, door, stream));
    }
}
