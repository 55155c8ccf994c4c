//! kqueue. It watches descriptors, and forgets each when it is closed.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    ptr,
};

use super::{News, Told, Watched};

/// News that are read at once.
const EVENTS_MAX: usize = 64;
const WRITTEN: u32 = libc::NOTE_WRITE | libc::NOTE_EXTEND;
const ATTRIBUTES: u32 = libc::NOTE_ATTRIB | libc::NOTE_LINK | libc::NOTE_DELETE;
const RENAMED: u32 = libc::NOTE_RENAME;

#[derive(Debug)]
pub(super) struct Queue(OwnedFd);

impl Queue {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: it takes no argument, and returns a descriptor of our own or -1.
        let queue = unsafe { libc::kqueue() };
        if queue < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it was just made, and nobody else owns it. Children do not inherit it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(queue) }))
    }

    pub(super) fn add(&self, file: BorrowedFd<'_>) -> io::Result<i32> {
        self.change(file.as_raw_fd(), libc::EV_ADD | libc::EV_CLEAR)?;
        Ok(file.as_raw_fd())
    }

    pub(super) fn remove(&self, number: i32) {
        // Fails when the descriptor was closed, which removes it, too.
        let _ = self.change(number, libc::EV_DELETE);
    }

    fn change(&self, number: i32, flags: u16) -> io::Result<()> {
        let ident = usize::try_from(number).map_err(io::Error::other)?;
        let fflags = WRITTEN | ATTRIBUTES | RENAMED;
        let change = libc::kevent { ident, filter: libc::EVFILT_VNODE, flags, fflags, data: 0, udata: ptr::null_mut() };
        // SAFETY: one change is read, and no event is written.
        let done = unsafe { libc::kevent(self.0.as_raw_fd(), &raw const change, 1, ptr::null_mut(), 0, ptr::null()) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    pub(super) fn next(&self) -> io::Result<Option<Vec<Told>>> {
        let mut events = [const { MaybeUninit::<libc::kevent>::uninit() }; EVENTS_MAX];
        let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let room = i32::try_from(EVENTS_MAX).map_err(io::Error::other)?;
        // SAFETY: nothing is changed, at most `room` events are written, and there is room for them.
        let count = unsafe {
            let room_for = events.as_mut_ptr().cast();
            libc::kevent(self.0.as_raw_fd(), ptr::null(), 0, room_for, room, &raw const at_once)
        };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        // SAFETY: the call has written that many.
        let told = events[..count].iter().map(|event| read(unsafe { event.assume_init_ref() })).collect();
        Ok((count > 0).then_some(told))
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn read(event: &libc::kevent) -> Told {
    let news = News {
        written: event.fflags & WRITTEN != 0,
        attributes: event.fflags & ATTRIBUTES != 0,
        renamed: event.fflags & RENAMED != 0,
    };
    let number = i32::try_from(event.ident).expect("descriptors are watched, and they are of 32 bits");
    Told::Of(Watched(number), news)
}
