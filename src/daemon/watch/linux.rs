//! inotify tells of changes in a folder.

use std::path::Path;

use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
use tokio::net::unix::pipe::Receiver;

use super::Changes;

/// None are told where the system has no inotify left.
#[derive(Debug)]
pub(super) struct Told(Option<Receiver>);

impl Told {
    pub(super) fn new() -> Self {
        let opened = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).ok();
        // Like a pipe, inotify's descriptor is waited for and read.
        Self(opened.and_then(|inotify| Receiver::from_owned_fd_unchecked(inotify).ok()))
    }
}

impl Changes for Told {
    fn begin(&self, folder: &Path) -> bool {
        let flags = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        self.0.as_ref().is_some_and(|inotify| add_watch(inotify, folder, flags).is_ok())
    }

    async fn wait(&self) {
        let Some(inotify) = &self.0 else { return };
        let Ok(()) = inotify.readable().await else { return };
        // What changed is looked up, not read.
        while inotify.try_read(&mut [0; 4096]).is_ok_and(|length| length > 0) {}
    }
}
