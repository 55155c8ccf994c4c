//! The wire between clients and a server: it copies bytes, and can cut, slow or falsify them.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

/// Bytes that are copied at once.
const BUFFER_BYTES: usize = 16 * 1024;

/// What becomes of the bytes that the server sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// Each connection has this rate.
    Slow {
        /// Of one connection.
        bytes_per_second: u64,
    },
    /// Each connection ends after this number of bytes.
    Cut {
        /// Of one connection, its headers included.
        after: u64,
    },
    /// One byte of each connection is another.
    WrongByte {
        /// Which, counted from the begin of the connection.
        at: u64,
    },
}

#[derive(Debug)]
struct State {
    server: SocketAddr,
    fault: Mutex<Fault>,
    is_down: AtomicBool,
    sent: AtomicU64,
    streams: Mutex<Vec<TcpStream>>,
}

/// A port that leads to a server.
#[derive(Debug)]
pub struct Wire {
    address: SocketAddr,
    state: Arc<State>,
}

impl Wire {
    /// A wire to the server at this address.
    ///
    /// # Errors
    /// When the system gives no port or thread.
    pub fn to(server: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            server,
            fault: Mutex::new(Fault::None),
            is_down: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            streams: Mutex::default(),
        });
        let of_thread = Arc::clone(&state);
        thread::Builder::new().name("wire".to_owned()).spawn(move || {
            for client in listener.incoming().flatten() {
                // A connection that cannot be served is closed, as by a server that is gone.
                let _ = of_thread.carry(client);
            }
        })?;
        Ok(Self { address, state })
    }

    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What happens from now on to the bytes that the server sends, on connections that are open, too.
    pub fn set(&self, fault: Fault) {
        *self.state.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    /// Ends all connections, and every new one at once, until [`Self::up`].
    pub fn down(&self) {
        self.state.is_down.store(true, Ordering::SeqCst);
        for stream in self.state.streams.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Lets connections pass again.
    pub fn up(&self) {
        self.state.is_down.store(false, Ordering::SeqCst);
    }

    /// Bytes that the server sent so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.state.sent.load(Ordering::SeqCst)
    }
}

impl State {
    fn carry(self: &Arc<Self>, client: TcpStream) -> io::Result<()> {
        if self.is_down.load(Ordering::SeqCst) {
            return client.shutdown(Shutdown::Both);
        }
        let server = TcpStream::connect(self.server)?;
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).extend([client.try_clone()?, server.try_clone()?]);
        let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
        thread::Builder::new().name("wire up".to_owned()).spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        })?;
        let state = Arc::clone(self);
        thread::Builder::new().name("wire down".to_owned()).spawn(move || {
            let _ = state.answers(&server, &client);
            let _ = client.shutdown(Shutdown::Both);
            let _ = server.shutdown(Shutdown::Both);
        })?;
        Ok(())
    }

    fn answers(&self, mut server: &TcpStream, mut client: &TcpStream) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut position = 0_u64;
        loop {
            let read = server.read(&mut buffer)?;
            if read == 0 {
                return Ok(());
            }
            let mut piece = &mut buffer[..read];
            let length = read as u64;
            let fault = *self.fault.lock().unwrap_or_else(PoisonError::into_inner);
            match fault {
                Fault::None => {}
                Fault::Slow { bytes_per_second } => {
                    thread::sleep(Duration::from_millis(length * 1000 / bytes_per_second.max(1)));
                }
                Fault::Cut { after } => {
                    let left = usize::try_from(after.saturating_sub(position)).unwrap_or(usize::MAX);
                    let keep = left.min(piece.len());
                    piece = &mut piece[..keep];
                }
                Fault::WrongByte { at } => {
                    let offset = at.checked_sub(position).and_then(|offset| usize::try_from(offset).ok());
                    if let Some(byte) = offset.and_then(|offset| piece.get_mut(offset)) {
                        *byte ^= 1;
                    }
                }
            }
            client.write_all(piece)?;
            self.sent.fetch_add(piece.len() as u64, Ordering::SeqCst);
            if piece.len() < read {
                return Ok(());
            }
            position += length;
        }
    }
}
