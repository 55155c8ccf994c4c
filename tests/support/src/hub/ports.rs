//! The addresses and ports that a hub keeps, also while it is stopped.

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    ops::Range,
};

/// Below the ports that Linux (32768 up) and macOS (49152 up) give to clients: a hub that stops must find its ports
/// free when it comes back, and a client must not happen to connect to itself.
const PORTS: Range<u16> = 20_000..32_000;
const TRIES: u64 = 500;

/// The address of the hub.
const HUB: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The addresses and ports that a hub keeps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    hub: u16,
    cdn: u16,
    stranger: u16,
    /// The address of CDN and stranger. Clients decide by the host whether to follow and what to send, so it is another
    /// one than the hub's; and it is no name, since a machine need not know `localhost`.
    other: IpAddr,
}

impl Ports {
    pub(super) fn hub_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.hub)
    }

    pub(super) fn cdn_url(&self) -> String {
        format!("http://{}", SocketAddr::new(self.other, self.cdn))
    }

    pub(super) fn cdn_on_hub_host(&self) -> String {
        format!("http://127.0.0.1:{}", self.cdn)
    }

    pub(super) fn stranger_url(&self) -> String {
        format!("http://{}", SocketAddr::new(self.other, self.stranger))
    }
}

/// Listens on ports that are free.
pub(super) fn claim() -> io::Result<(Ports, [Vec<TcpListener>; 3])> {
    let other = other_address();
    let (hub, hub_listeners) = claim_one(&[HUB])?;
    let (cdn, cdn_listeners) = claim_one(&[HUB, other])?;
    let (stranger, stranger_listeners) = claim_one(&[other])?;
    Ok((Ports { hub, cdn, stranger, other }, [hub_listeners, cdn_listeners, stranger_listeners]))
}

/// Listens on the same ports again.
pub(super) fn reclaim(ports: Ports) -> io::Result<[Vec<TcpListener>; 3]> {
    let Ports { hub, cdn, stranger, other } = ports;
    Ok([listen(hub, &[HUB])?, listen(cdn, &[HUB, other])?, listen(stranger, &[other])?])
}

/// Another address of this machine: Linux answers on all of 127.0.0.0/8, macOS on `::1`.
fn other_address() -> IpAddr {
    let second = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
    if TcpListener::bind((second, 0)).is_ok() { second } else { IpAddr::V6(Ipv6Addr::LOCALHOST) }
}

fn claim_one(addresses: &[IpAddr]) -> io::Result<(u16, Vec<TcpListener>)> {
    let random = RandomState::new();
    let mut refused = None;
    for attempt in 0..TRIES {
        let within = random.hash_one(attempt) % u64::from(PORTS.end - PORTS.start);
        let port = PORTS.start + u16::try_from(within).unwrap_or_default();
        match listen(port, addresses) {
            Ok(listeners) => return Ok((port, listeners)),
            Err(error) => refused = Some(error),
        }
    }
    Err(refused.unwrap_or_else(|| io::ErrorKind::AddrInUse.into()))
}

fn listen(port: u16, addresses: &[IpAddr]) -> io::Result<Vec<TcpListener>> {
    addresses.iter().map(|address| TcpListener::bind((*address, port))).collect()
}
