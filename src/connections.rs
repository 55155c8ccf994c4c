//! Who is connected: how many connections there may be, how many of them one process may have, and which one gives way
//! when there are too many.
//!
//! Clients keep a hand-off connection open for the next time, and find out by themselves that it is closed. So idle
//! hand-off connections are the first to go, those of the process with most connections before the others.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::guests::Peer;

/// Hand-offs of one process that may wait for an acknowledgement at once. Descriptors that are under way count against a
/// limit of the user's in the kernel, so one process must not have them all.
const UNACKNOWLEDGED_MAX: usize = 2;
/// Limits below this are not divided: those who set one have few clients.
const DIVIDED: usize = 16;

/// The connections of a daemon.
#[derive(Debug)]
pub(crate) struct Connections {
    limit: usize,
    table: Mutex<Table>,
    /// Is told when a connection ends, whose buffers are freed then.
    ended: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    by_number: BTreeMap<u64, Connection>,
    by_process: HashMap<u32, Process>,
    /// Connections of guests.
    guests: usize,
}

#[derive(Debug)]
struct Connection {
    pid: u32,
    peer: Peer,
    /// Since when it waits for a hand-off; `None` while it does not.
    idle: Option<Instant>,
    gives_way: CancellationToken,
}

#[derive(Debug)]
struct Process {
    connections: usize,
    unacknowledged: Arc<Semaphore>,
}

/// A place among the connections, for as long as one lives.
#[derive(Debug)]
pub(crate) struct Seat {
    connections: Arc<Connections>,
    number: u64,
    unacknowledged: Arc<Semaphore>,
    gives_way: CancellationToken,
}

impl Connections {
    pub(crate) fn new(limit: usize, ended: Arc<Notify>) -> Arc<Self> {
        Arc::new(Self { limit, table: Mutex::default(), ended })
    }

    /// Most connections at once.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Most connections of one process.
    fn share(&self) -> usize {
        if self.limit < DIVIDED { self.limit } else { self.limit - self.limit / 4 }
    }

    /// Connections that are open.
    pub(crate) fn len(&self) -> usize {
        self.table().by_number.len()
    }

    /// Connections since the start.
    pub(crate) fn admitted(&self) -> u64 {
        self.table().next
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection of the process `pid`; for the time that another one takes to give way there is one too
    /// many.
    ///
    /// # Errors
    /// When there is none, and none gives way: why, in words.
    pub(crate) fn admit(self: &Arc<Self>, pid: u32, peer: Peer) -> Result<Seat, String> {
        let mut table = self.table();
        let of_guests = self.limit / 2;
        if peer == Peer::Guest && table.guests >= of_guests {
            return Err(format!("other users have {of_guests} connections open, which is the limit for all of them"));
        }
        let share = self.share();
        if table.connections_of(pid) >= share && !table.lets_go(Some(pid)) {
            return Err(format!("process {pid} has {share} connections open, which is the limit for one process"));
        }
        if table.by_number.len() >= self.limit && !table.lets_go(None) {
            return Err(format!("{} connections are open, which is the limit", self.limit));
        }
        table.next += 1;
        let (number, gives_way) = (table.next, CancellationToken::new());
        table.by_number.insert(number, Connection { pid, peer, idle: None, gives_way: gives_way.clone() });
        table.guests += usize::from(peer == Peer::Guest);
        let process = table.by_process.entry(pid).or_insert_with(|| Process {
            connections: 0,
            unacknowledged: Arc::new(Semaphore::new(UNACKNOWLEDGED_MAX)),
        });
        process.connections += 1;
        let unacknowledged = Arc::clone(&process.unacknowledged);
        Ok(Seat { connections: Arc::clone(self), number, unacknowledged, gives_way })
    }
}

impl Table {
    fn connections_of(&self, pid: u32) -> usize {
        self.by_process.get(&pid).map_or(0, |process| process.connections)
    }

    /// Has the connection go that has been idle for longest, of the process `pid`, or of the process with most
    /// connections. Returns whether there is one.
    fn lets_go(&mut self, pid: Option<u32>) -> bool {
        let idle = self.by_number.iter().filter_map(|(number, connection)| {
            let since = connection.idle?;
            let is_asked = pid.is_none_or(|pid| pid == connection.pid);
            is_asked.then(|| (std::cmp::Reverse(self.connections_of(connection.pid)), since, *number))
        });
        let Some((.., number)) = idle.min() else { return false };
        // From here on it does not count.
        if let Some(connection) = self.remove(number) {
            connection.gives_way.cancel();
        }
        true
    }

    fn remove(&mut self, number: u64) -> Option<Connection> {
        let connection = self.by_number.remove(&number)?;
        self.guests -= usize::from(connection.peer == Peer::Guest);
        if let Some(process) = self.by_process.get_mut(&connection.pid) {
            process.connections -= 1;
            if process.connections == 0 {
                self.by_process.remove(&connection.pid);
            }
        }
        Some(connection)
    }
}

impl Seat {
    /// It waits for a hand-off, or does something again.
    pub(crate) fn is_idle(&self, idle: bool) {
        if let Some(connection) = self.connections.table().by_number.get_mut(&self.number) {
            connection.idle = idle.then(Instant::now);
        }
    }

    /// Is cancelled when the connection has to give way to another one.
    pub(crate) fn gives_way(&self) -> &CancellationToken {
        &self.gives_way
    }

    /// What its process may have under way.
    pub(crate) fn unacknowledged(&self) -> &Arc<Semaphore> {
        &self.unacknowledged
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.connections.table().remove(self.number);
        self.connections.ended.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_connections_give_way_and_busy_ones_do_not() {
        let connections = Connections::new(16, Arc::default());
        let mut seats: Vec<_> = (0..12).map(|_| connections.admit(1, Peer::Owner).unwrap()).collect();
        let refused = connections.admit(1, Peer::Owner).unwrap_err();
        assert!(refused.contains("process 1 has 12 connections"), "{refused}");
        let others: Vec<_> = (0..4).map(|_| connections.admit(2, Peer::Owner).unwrap()).collect();
        let refused = connections.admit(3, Peer::Owner).unwrap_err();
        assert!(refused.contains("16 connections are open"), "{refused}");
        // One of the process that has most, the one that is idle for longest.
        for seat in [&others[0], &seats[5], &seats[3]] {
            seat.is_idle(true);
        }
        let third = connections.admit(3, Peer::Owner).unwrap();
        let gone: Vec<_> = seats.iter().chain(&others).map(|seat| seat.gives_way().is_cancelled()).collect();
        assert_eq!(gone.iter().position(|gone| *gone), Some(5));
        assert_eq!((gone.iter().filter(|gone| **gone).count(), connections.len()), (1, 16));
        // What has begun to work again stays.
        seats[3].is_idle(false);
        let _fourth = connections.admit(4, Peer::Owner).unwrap();
        assert!(others[0].gives_way().is_cancelled() && !seats[3].gives_way().is_cancelled());
        drop((third, seats.pop()));
        assert_eq!(connections.len(), 14);
        drop((seats, others));
        assert_eq!(connections.len(), 1);
    }

    #[test]
    fn a_small_limit_is_not_divided() {
        let connections = Connections::new(4, Arc::default());
        let seats: Vec<_> = (0..4).map(|_| connections.admit(1, Peer::Owner).unwrap()).collect();
        connections.admit(1, Peer::Owner).unwrap_err();
        drop(seats);
        assert!(connections.table().by_process.is_empty());
    }

    #[test]
    fn other_users_never_take_all_connections() {
        let connections = Connections::new(16, Arc::default());
        let mut guests: Vec<_> = (0..8).map(|pid| connections.admit(pid, Peer::Guest).unwrap()).collect();
        let refused = connections.admit(9, Peer::Guest).unwrap_err();
        assert!(refused.contains("other users have 8 connections"), "{refused}");
        let _owner = connections.admit(10, Peer::Owner).unwrap();
        drop(guests.pop());
        connections.admit(9, Peer::Guest).unwrap();
    }
}
