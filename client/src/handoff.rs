//! The hand-off protocol, client's side: a ticket goes out, the descriptors of all segments come in.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use thiserror::Error;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Interest},
    net::UnixStream,
};
use weightsd_core::handoff::{ACK, BATCH, HandoffError, REPLY_LEN, Reply, Request, Status, Ticket, batches};
use weightsd_segment::{
    descriptors,
    file_limit::{self, Raised},
};

use crate::{ConnectError, connect};

/// Why the descriptors of a component did not arrive.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HandoffFailure {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection broke before the daemon answered.
    #[error("the hand-off connection broke before the daemon answered")]
    Unanswered(#[source] io::Error),
    /// The connection broke while descriptors were coming.
    #[error("the hand-off connection broke")]
    Broken(#[source] io::Error),
    /// The daemon refuses.
    #[error("{0}")]
    Refused(Status),
    /// The bytes are no answer of this protocol.
    #[error(transparent)]
    Protocol(#[from] HandoffError),
    /// Not as many descriptors as there are segments.
    #[error("the daemon hands over {found} files, the component has {expected}")]
    Count {
        /// Segments of the component.
        expected: usize,
        /// Descriptors announced, or received.
        found: usize,
    },
}

/// Fetches descriptors, and keeps one idle connection for the next time.
#[derive(Debug)]
pub(crate) struct HandoffClient {
    socket: Arc<Path>,
    idle: Mutex<Option<UnixStream>>,
}

impl HandoffClient {
    pub(crate) fn new(socket: Arc<Path>) -> HandoffClient {
        HandoffClient { socket, idle: Mutex::new(None) }
    }

    /// The descriptors of all segments, in order. Has no deadline of its own; dropping it half-way closes the
    /// connection it used and everything received. When this process may not have that many files open, its limit is raised
    /// as far as it goes, and not before: programs that use `select` rely on a low one.
    pub(crate) async fn fetch(&self, ticket: Ticket, expected: usize) -> Result<Vec<OwnedFd>, HandoffFailure> {
        match self.attempt(ticket, expected).await {
            Err(error) if descriptors::are_exhausted(&error) && file_limit::raise().is_ok_and(Raised::is_more) => {
                self.attempt(ticket, expected).await
            }
            result => result,
        }
    }

    async fn attempt(&self, ticket: Ticket, expected: usize) -> Result<Vec<OwnedFd>, HandoffFailure> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(stream) = idle {
            match self.exchange(stream, ticket, expected).await {
                // The daemon may have closed an idle connection, or may be another one by now.
                Err(HandoffFailure::Unanswered(_)) => {}
                result => return result,
            }
        }
        self.exchange(connect::open(&self.socket).await?, ticket, expected).await
    }

    async fn exchange(
        &self,
        mut stream: UnixStream,
        ticket: Ticket,
        expected: usize,
    ) -> Result<Vec<OwnedFd>, HandoffFailure> {
        let reply = ask(&mut stream, ticket).await?;
        let result = match reply.status {
            Status::Granted if usize::from(reply.count) == expected => receive(&mut stream, reply.count).await,
            Status::Granted => {
                // Descriptors are under way, so this connection cannot be used again.
                return Err(HandoffFailure::Count { expected, found: reply.count.into() });
            }
            status => Err(HandoffFailure::Refused(status)),
        };
        // An unknown ticket leaves the connection in order; after every other failure its state is unknown.
        if matches!(result, Ok(_) | Err(HandoffFailure::Refused(Status::UnknownTicket))) {
            *self.idle.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream);
        }
        result
    }
}

async fn ask(stream: &mut UnixStream, ticket: Ticket) -> Result<Reply, HandoffFailure> {
    let mut bytes = [0; REPLY_LEN];
    stream.write_all(&Request { ticket }.encode()).await.map_err(HandoffFailure::Unanswered)?;
    // Exactly the reply: a plain read that went further would lose the descriptors bound to the next byte.
    stream.read_exact(&mut bytes).await.map_err(HandoffFailure::Unanswered)?;
    match Reply::decode(&bytes)? {
        Some(reply) => Ok(reply),
        None => Err(HandoffFailure::Unanswered(io::ErrorKind::UnexpectedEof.into())),
    }
}

async fn receive(stream: &mut UnixStream, count: u16) -> Result<Vec<OwnedFd>, HandoffFailure> {
    let mut all = Vec::with_capacity(usize::from(count));
    for expected in batches(count) {
        let (announced, fds) = stream
            .async_io(Interest::READABLE, || descriptors::receive(stream.as_fd(), BATCH))
            .await
            .map_err(HandoffFailure::Broken)?;
        if usize::from(announced) != expected || fds.len() != expected {
            return Err(HandoffFailure::Count { expected, found: fds.len() });
        }
        all.extend(fds);
        stream.write_all(&[ACK]).await.map_err(HandoffFailure::Broken)?;
    }
    Ok(all)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test owns its threads")]
mod tests {
    use std::{
        fs::File,
        io::{Read as _, Write as _},
        os::unix::net::{UnixListener, UnixStream as StdStream},
        thread,
    };

    use weightsd_core::handoff::REQUEST_LEN;
    use weightsd_segment::FileIdentity;

    use super::*;

    const TICKET: Ticket = Ticket([7; 16]);

    fn answer(stream: &mut StdStream, files: &[File], reply: Reply) -> io::Result<()> {
        let mut request = [0; REQUEST_LEN];
        stream.read_exact(&mut request)?;
        assert_eq!(Request::decode(&request).unwrap().unwrap().ticket, TICKET);
        stream.write_all(&reply.encode())?;
        for batch in files.chunks(BATCH) {
            let fds: Vec<_> = batch.iter().map(|file| file.as_fd()).collect();
            descriptors::send(stream.as_fd(), &fds, batch.len() as u8)?;
            let mut ack = [0];
            stream.read_exact(&mut ack)?;
            assert_eq!(ack, [ACK]);
        }
        Ok(())
    }

    fn granted(count: usize) -> Reply {
        Reply { status: Status::Granted, count: count as u16 }
    }

    #[tokio::test]
    async fn descriptors_come_in_order_and_the_connection_is_reused_until_it_breaks() {
        file_limit::raise().unwrap(); // macOS's 256 are too few for both sides.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let files: Vec<File> = (0..130).map(|_| tempfile::tempfile().unwrap()).collect();
        let identities: Vec<_> = files.iter().map(|file| FileIdentity::of_file(file).unwrap()).collect();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            answer(&mut stream, &files, granted(files.len())).unwrap();
            answer(&mut stream, &files[..1], granted(1)).unwrap();
            answer(&mut stream, &[], Reply { status: Status::UnknownTicket, count: 0 }).unwrap();
            drop(stream);
            let (mut stream, _) = listener.accept().unwrap();
            answer(&mut stream, &[], granted(0)).unwrap();
        });
        let client = HandoffClient::new(path.into());
        for count in [130, 1] {
            let fds = client.fetch(TICKET, count).await.unwrap();
            let found: Vec<_> = fds.into_iter().map(|fd| FileIdentity::of_file(&fd.into()).unwrap()).collect();
            assert_eq!(found, identities[..count]);
        }
        let error = client.fetch(TICKET, 1).await.unwrap_err();
        assert!(matches!(error, HandoffFailure::Refused(Status::UnknownTicket)), "{error}");
        assert_eq!(client.fetch(TICKET, 0).await.unwrap().len(), 0);
        server.join().unwrap();
    }

    /// Set where [`with_few_descriptors`] runs in a process of its own: a limit is the whole process's.
    const FEW: &str = "WEIGHTSD_TEST_FEW_DESCRIPTORS";

    #[test]
    fn a_low_limit_is_raised_when_descriptors_do_not_fit() {
        let program = std::env::current_exe().unwrap();
        let run = |limits: &str| {
            let shell = format!("{limits}; exec \"$0\" --exact handoff::tests::with_few_descriptors --nocapture");
            let mut command = std::process::Command::new("sh");
            let output = command.args(["-c", &shell]).arg(&program).env(FEW, "1").output().unwrap();
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
        };
        let raised = run("ulimit -Sn 100");
        assert!(raised.contains("fetched 130"), "{raised}");
        // Nothing can be raised: the error says how many there may be.
        let said = run("ulimit -n 100");
        assert!(said.contains("this process may have 100 files open"), "{said}");
    }

    #[tokio::test]
    async fn with_few_descriptors() {
        if std::env::var_os(FEW).is_none() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        thread::spawn(move || {
            let file = tempfile::tempfile().unwrap();
            for (mut stream, _) in std::iter::from_fn(|| listener.accept().ok()) {
                let mut request = [0; REQUEST_LEN];
                stream.read_exact(&mut request).unwrap();
                stream.write_all(&granted(130).encode()).unwrap();
                // One file for all: the other side of this process is the one that has too few descriptors.
                for batch in batches(130) {
                    let sent = descriptors::send(stream.as_fd(), &vec![file.as_fd(); batch], batch as u8);
                    if sent.and_then(|()| stream.read_exact(&mut [0])).is_err() {
                        break;
                    }
                }
            }
        });
        match HandoffClient::new(path.into()).fetch(TICKET, 130).await {
            Ok(fds) => println!("fetched {}", fds.len()),
            Err(error) => println!("{}", weightsd_core::explain::sentence(&error)),
        }
    }

    #[tokio::test]
    async fn a_lying_daemon_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let server = thread::spawn(move || {
            type Lie<'a> = &'a dyn Fn(&mut StdStream) -> io::Result<()>;
            let lies: [Lie<'_>; 4] = [
                // Another number of files than the component has.
                &|stream| answer(stream, &[], granted(2)),
                // A batch without its descriptors.
                &|stream| {
                    answer(stream, &[], granted(1))?;
                    stream.write_all(&[1])
                },
                // Not a reply.
                &|stream| stream.write_all(b"HTTP/1.1"),
                // Nothing.
                &|_| Ok(()),
            ];
            for lie in lies {
                let (mut stream, _) = listener.accept().unwrap();
                lie(&mut stream).unwrap();
                // What was sent must be read before the end is seen.
                let _ = stream.shutdown(std::net::Shutdown::Write);
                let _ = stream.read_to_end(&mut Vec::new());
            }
        });
        let client = HandoffClient::new(path.into());
        let expected =
            ["the daemon hands over 2 files", "the daemon hands over 0 files", "unknown status", "broke before"];
        for text in expected {
            let error = client.fetch(TICKET, 1).await.unwrap_err();
            assert!(error.to_string().contains(text), "{error}, expected {text}");
        }
        server.join().unwrap();
    }
}
