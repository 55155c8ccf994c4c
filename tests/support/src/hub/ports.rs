//! The ports that a hub keeps, also while it is stopped.

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher,
    io,
    net::{Ipv4Addr, Ipv6Addr, TcpListener},
    ops::Range,
};

/// Below the ports that Linux (32768 up) and macOS (49152 up) give to clients: a hub that stops must find its ports
/// free when it comes back, and a client must not happen to connect to itself.
const PORTS: Range<u16> = 20_000..32_000;
const TRIES: u64 = 500;

/// The ports that a hub keeps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    hub: u16,
    cdn: u16,
    stranger: u16,
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
