//! Passing descriptors over a Unix stream socket (`SCM_RIGHTS`).
//!
//! Both directions work on blocking sockets, and on nonblocking ones by returning `WouldBlock`, so that tokio's
//! `async_io` can wrap them. Each message is one byte of data, to which its descriptors are bound.

use std::{
    error::Error,
    io::{self, IoSlice, IoSliceMut},
    iter,
    mem::MaybeUninit,
    os::fd::{BorrowedFd, OwnedFd},
    sync::Arc,
};

use rustix::{
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, recv, recvmsg, sendmsg,
    },
    process::{Resource, getrlimit},
};

/// Most descriptors in one message: Linux's `SCM_MAX_FD`.
pub const MAX: usize = 253;

const SPACE: usize = rustix::cmsg_space!(ScmRights(MAX));

/// Sends one byte with descriptors, all or nothing. Keep the descriptors open until the peer has acknowledged them:
/// macOS loses those that are closed in flight.
///
/// # Errors
/// When the peer is gone or the socket has no room (`WouldBlock`), and where the system refuses the descriptors.
pub fn send(stream: BorrowedFd<'_>, fds: &[BorrowedFd<'_>], byte: u8) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        let message = format!("{} descriptors in one message, at most {MAX} can travel", fds.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let data = [byte];
    match retry(|| sendmsg(stream, &[IoSlice::new(&data)], &mut control, send_flags()))? {
        1 => Ok(()),
        sent => Err(io::Error::new(io::ErrorKind::WriteZero, format!("{sent} bytes were sent instead of 1"))),
    }
}

/// Receives one byte with the descriptors bound to it, all of them close-on-exec. More than `max` of them, or fewer
/// than were sent, is an error, and those that came are closed.
///
/// # Errors
/// When the peer is gone, nothing has come yet (`WouldBlock`), more than `max` descriptors come, or some are [`Lost`].
pub fn receive(stream: BorrowedFd<'_>, max: usize) -> io::Result<(u8, Vec<OwnedFd>)> {
    // Room for the most that can come, because macOS leaks descriptors that do not fit into this process.
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut data = [0];
    let message = retry(|| recvmsg(stream, &mut [IoSliceMut::new(&mut data)], &mut control, receive_flags()));
    let message = message.map_err(|error| if is_loss(&error) { lost() } else { error })?;

    let mut fds = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            fds.extend(rights);
        }
    }
    set_close_on_exec(&fds)?;
    if message.flags.contains(ReturnFlags::CTRUNC) {
        return Err(lost());
    }
    if message.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if fds.len() > max {
        let message = format!("{} descriptors came, at most {max} were expected", fds.len());
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    Ok((data[0], fds))
}

/// The system closed descriptors because this process may open no more files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("descriptors were lost on the way, because this process may have {limit} files open and no more (`ulimit -n`)")]
pub struct Lost {
    /// Files that this process may have open.
    pub limit: u64,
}

/// The hint for errors of [`are_exhausted`].
pub const EXHAUSTED_HINT: &str =
    "raise the limit of open files where this program is started, such as `ulimit -n 4096`";

/// Whether `error` or one of its causes says that this process may open no more files.
#[must_use]
pub fn are_exhausted(error: &(dyn Error + 'static)) -> bool {
    let refused = |error: &io::Error| {
        matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
            || error.get_ref().is_some_and(|inner| inner.is::<Lost>())
    };
    let mut causes = iter::successors(Some(error), |error| (*error).source());
    causes.any(|cause| {
        let shared = cause.downcast_ref::<Arc<io::Error>>().map(|error| &**error);
        cause.downcast_ref::<io::Error>().or(shared).is_some_and(refused)
    })
}

fn lost() -> io::Error {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    io::Error::new(io::ErrorKind::InvalidData, Lost { limit })
}

/// Whether macOS reports lost descriptors. Linux truncates the message and sets a flag instead.
fn is_loss(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::MSGSIZE)
}

/// The next byte of a stream, without consuming it; `None` when the peer has closed the stream.
///
/// # Errors
/// When the system refuses, and where nothing has come yet (`WouldBlock`).
pub fn peek_byte(stream: BorrowedFd<'_>) -> io::Result<Option<u8>> {
    let mut data = [0];
    let (_, length) = retry(|| recv(stream, &mut data[..], RecvFlags::PEEK))?;
    Ok((length > 0).then_some(data[0]))
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

#[cfg(target_os = "macos")]
fn send_flags() -> SendFlags {
    // std and tokio set SO_NOSIGPIPE on their sockets.
    SendFlags::empty()
}

#[cfg(not(target_os = "macos"))]
fn send_flags() -> SendFlags {
    SendFlags::NOSIGNAL
}

#[cfg(target_os = "macos")]
fn receive_flags() -> RecvFlags {
    RecvFlags::empty()
}

#[cfg(not(target_os = "macos"))]
fn receive_flags() -> RecvFlags {
    RecvFlags::CMSG_CLOEXEC
}

#[cfg(target_os = "macos")]
fn set_close_on_exec(fds: &[OwnedFd]) -> io::Result<()> {
    // A child that another thread forks between receipt and this call inherits them. macOS has no better way.
    for fd in fds {
        rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC)?;
    }
    Ok(())
}

#[cfg(not(target_os = "macos"))]
fn set_close_on_exec(_fds: &[OwnedFd]) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{Read as _, Write as _},
        os::{fd::AsFd as _, unix::net::UnixStream},
    };

    use super::*;
    use crate::FileIdentity;

    fn files(count: usize) -> Vec<File> {
        (0..count).map(|_| tempfile::tempfile().unwrap()).collect()
    }

    fn identities(files: &[File]) -> Vec<FileIdentity> {
        files.iter().map(|file| FileIdentity::of_file(file).unwrap()).collect()
    }

    #[test]
    fn a_message_without_room_for_its_descriptors_speaks_of_the_limit() {
        assert!(is_loss(&Errno::MSGSIZE.into()) && !is_loss(&Errno::CONNRESET.into()));
        assert!(lost().to_string().contains("ulimit -n"));
    }

    #[test]
    fn descriptors_arrive_in_order_and_close_on_exec() {
        crate::file_limit::raise().unwrap(); // macOS's 256 are too few for both sides.
        for count in [0, 1, 64, MAX] {
            let (here, there) = UnixStream::pair().unwrap();
            let sent = files(count);
            let borrowed: Vec<_> = sent.iter().map(|file| file.as_fd()).collect();
            send(here.as_fd(), &borrowed, 42).unwrap();
            let (byte, fds) = receive(there.as_fd(), count).unwrap();
            assert_eq!(byte, 42);
            for fd in &fds {
                assert!(rustix::io::fcntl_getfd(fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
            }
            let received: Vec<File> = fds.into_iter().map(File::from).collect();
            assert_eq!(identities(&received), identities(&sent));
        }
    }

    #[test]
    fn batches_stay_apart() {
        let (here, there) = UnixStream::pair().unwrap();
        let sent = files(65);
        let borrowed: Vec<_> = sent.iter().map(|file| file.as_fd()).collect();
        for batch in borrowed.chunks(64) {
            send(here.as_fd(), batch, batch.len() as u8).unwrap();
        }
        (&here).write_all(b"tail").unwrap();
        assert_eq!(receive(there.as_fd(), 64).unwrap().1.len(), 64);
        let (byte, fds) = receive(there.as_fd(), 64).unwrap();
        assert_eq!((byte, fds.len()), (1, 1));
        let mut tail = [0; 4];
        (&there).read_exact(&mut tail).unwrap();
        assert_eq!(&tail, b"tail");
    }

    #[test]
    fn too_many_descriptors_are_refused_on_both_sides() {
        let (here, there) = UnixStream::pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        let error = send(here.as_fd(), &vec![file.as_fd(); MAX + 1], 0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        send(here.as_fd(), &[file.as_fd(), file.as_fd()], 2).unwrap();
        let error = receive(there.as_fd(), 1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn nothing_yet_and_never_more_are_told_apart() {
        let (here, there) = UnixStream::pair().unwrap();
        there.set_nonblocking(true).unwrap();
        assert_eq!(receive(there.as_fd(), 1).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(peek_byte(there.as_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(here);
        assert_eq!(receive(there.as_fd(), 1).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(peek_byte(there.as_fd()).unwrap(), None);
        assert_eq!(send(there.as_fd(), &[], 0).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn peeking_leaves_the_byte() {
        let (mut here, mut there) = UnixStream::pair().unwrap();
        here.write_all(b"PRI").unwrap();
        assert_eq!(peek_byte(there.as_fd()).unwrap(), Some(b'P'));
        assert_eq!(peek_byte(there.as_fd()).unwrap(), Some(b'P'));
        let mut bytes = [0; 3];
        there.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"PRI");
    }
}
