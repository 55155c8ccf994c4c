//! The connections of a hub, so that it can end them.

use std::{
    collections::HashMap,
    io,
    net::{Shutdown, TcpStream},
    sync::{Mutex, MutexGuard, PoisonError},
};

#[derive(Debug, Default)]
pub(super) struct Connections(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    is_open: bool,
    next: u64,
    streams: HashMap<u64, TcpStream>,
}

/// A connection that is there; dropping this forgets it.
pub(super) struct Registered<'a> {
    connections: &'a Connections,
    id: u64,
}

impl Connections {
    pub(super) fn open(&self) {
        self.inner().is_open = true;
    }

    pub(super) fn is_open(&self) -> bool {
        self.inner().is_open
    }

    /// Ends all, and lets none come.
    pub(super) fn close(&self) {
        let mut inner = self.inner();
        inner.is_open = false;
        for stream in inner.streams.values() {
            // It may have ended by itself.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Remembers a connection, unless the hub has closed.
    pub(super) fn register(&self, stream: &TcpStream) -> io::Result<Option<Registered<'_>>> {
        let stream = stream.try_clone()?;
        let mut inner = self.inner();
        if !inner.is_open {
            return Ok(None);
        }
        let id = inner.next;
        inner.next += 1;
        inner.streams.insert(id, stream);
        Ok(Some(Registered { connections: self, id }))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.connections.inner().streams.remove(&self.id);
    }
}
