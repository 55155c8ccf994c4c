//! The three addresses of a hub.

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    ops::Range,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{connection, state::State};

/// Below the ports that Linux (32768 up) and macOS (49152 up) give to clients: a hub that stops must find its ports
/// free when it comes back, and a client must not happen to connect to itself.
const PORTS: Range<u16> = 20_000..32_000;
const TRIES: u64 = 500;

/// By which address a connection came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    Hub,
    Cdn,
    Stranger,
}

/// The ports that a hub keeps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    hub: u16,
    cdn: u16,
    stranger: u16,
}

/// Threads that take connections.
#[derive(Debug, Default)]
pub(super) struct Doors {
    threads: Vec<(SocketAddr, JoinHandle<()>)>,
}

impl Ports {
    pub(super) fn hub_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.hub)
    }

    /// By another host name: clients decide by the name whether to follow and what to send.
    pub(super) fn cdn_url(&self) -> String {
        format!("http://localhost:{}", self.cdn)
    }

    pub(super) fn cdn_on_hub_host(&self) -> String {
        format!("http://127.0.0.1:{}", self.cdn)
    }

    pub(super) fn stranger_url(&self) -> String {
        format!("http://localhost:{}", self.stranger)
    }
}

/// Listens on ports that are free.
pub(super) fn claim() -> io::Result<(Ports, [Vec<TcpListener>; 3])> {
    let (hub, hub_listeners) = claim_one()?;
    let (cdn, cdn_listeners) = claim_one()?;
    let (stranger, stranger_listeners) = claim_one()?;
    Ok((Ports { hub, cdn, stranger }, [hub_listeners, cdn_listeners, stranger_listeners]))
}

/// Listens on the same ports again.
pub(super) fn reclaim(ports: Ports) -> io::Result<[Vec<TcpListener>; 3]> {
    Ok([listen(ports.hub)?, listen(ports.cdn)?, listen(ports.stranger)?])
}

fn claim_one() -> io::Result<(u16, Vec<TcpListener>)> {
    let random = RandomState::new();
    let mut refused = None;
    for attempt in 0..TRIES {
        let within = random.hash_one(attempt) % u64::from(PORTS.end - PORTS.start);
        let port = PORTS.start + u16::try_from(within).unwrap_or_default();
        match listen(port) {
            Ok(listeners) => return Ok((port, listeners)),
            Err(error) => refused = Some(error),
        }
    }
    Err(refused.unwrap_or_else(|| io::ErrorKind::AddrInUse.into()))
}

/// On both addresses that `localhost` may stand for, where the machine has both.
fn listen(port: u16) -> io::Result<Vec<TcpListener>> {
    let mut listeners = vec![TcpListener::bind((Ipv4Addr::LOCALHOST, port))?];
    match TcpListener::bind((Ipv6Addr::LOCALHOST, port)) {
        Ok(listener) => listeners.push(listener),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
        Err(_) => (),
    }
    Ok(listeners)
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
