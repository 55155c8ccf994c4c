//! inotify. A watch belongs to an inode, and `/proc` leads from a descriptor to its inode without another name.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init, remove_watch},
    io::Errno,
};

use super::{News, Told, Watched};

/// Bytes of news that are read at once.
const BUFFER_BYTES: usize = 4096;

#[derive(Debug)]
pub(super) struct Queue(OwnedFd);

impl Queue {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?))
    }

    pub(super) fn add(&self, file: BorrowedFd<'_>) -> io::Result<i32> {
        let inode = format!("/proc/self/fd/{}", file.as_raw_fd());
        Ok(add_watch(&self.0, inode, WatchFlags::MODIFY | WatchFlags::ATTRIB | WatchFlags::MOVE_SELF)?)
    }

    pub(super) fn remove(&self, number: i32) {
        // Fails when the kernel has dropped it already, with the file system.
        let _ = remove_watch(&self.0, number);
    }

    pub(super) fn next(&self) -> io::Result<Option<Vec<Told>>> {
        let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
        let mut reader = Reader::new(&self.0, &mut buffer);
        let mut told = Vec::new();
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            told.extend(read(event.wd(), event.events()));
            if reader.is_buffer_empty() {
                return Ok(Some(told));
            }
        }
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn read(number: i32, events: ReadFlags) -> Option<Told> {
    if events.contains(ReadFlags::QUEUE_OVERFLOW) {
        return Some(Told::Lost);
    }
    let news = News {
        written: events.contains(ReadFlags::MODIFY),
        attributes: events.contains(ReadFlags::ATTRIB),
        renamed: events.contains(ReadFlags::MOVE_SELF),
    };
    // What is left is the word that a watch was removed.
    (news != News::default()).then_some(Told::Of(Watched(number), news))
}
