//! What lives as long as the process: the threads that talk to daemons, and the connections.

use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    process,
    sync::{Mutex, PoisonError},
};

use tokio::runtime::{Builder, Runtime};
use weightsd_client::{Client, ClientError, ConnectOptions};

/// What a session shares with everything that comes from it. It lives as long as the process: threads that wait for a
/// daemon cannot be joined while an interpreter ends, nor at all in a child that `fork` made.
pub(crate) struct State {
    pub(crate) runtime: Runtime,
    /// The process that made it. Its threads are in no other.
    pid: u32,
    clients: Mutex<HashMap<PathBuf, Client>>,
}

impl State {
    pub(crate) fn new() -> io::Result<State> {
        let mut threads = Builder::new_multi_thread();
        let runtime = threads.worker_threads(1).thread_name("weightsd").enable_all().build()?;
        Ok(State { runtime, pid: process::id(), clients: Mutex::default() })
    }

    /// Whether this is the process that has the threads.
    pub(crate) fn is_ours(&self) -> bool {
        self.pid == process::id()
    }

    /// The connection to the daemon at `socket`. It reconnects by itself, so it is made once.
    pub(crate) async fn client_at(&self, socket: PathBuf) -> Result<Client, ClientError> {
        let known = || self.clients.lock().unwrap_or_else(PoisonError::into_inner).get(&socket).cloned();
        if let Some(client) = known() {
            return Ok(client);
        }
        let options = ConnectOptions { socket: socket.clone(), ..ConnectOptions::default() };
        let client = Client::connect(options).await?;
        self.clients.lock().unwrap_or_else(PoisonError::into_inner).insert(socket, client.clone());
        Ok(client)
    }
}
