//! What `weightsd doctor` looks at. Gathered in [`super::look`], judged in [`super::judge`].

use std::{path::PathBuf, time::Duration};

/// Everything that is looked at.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) settings: SettingsFacts,
    pub(super) limits: LimitFacts,
    /// `None` where the settings cannot be used.
    pub(super) places: Option<PlaceFacts>,
    pub(super) engine: Result<String, Problem>,
}

/// A problem in words, and what to do.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    pub(super) text: String,
    pub(super) advice: String,
}

/// The configuration file, and whether the settings can be used.
#[derive(Debug)]
pub(super) enum SettingsFacts {
    /// They can, with this file, or without one.
    Usable {
        file: Option<PathBuf>,
        /// Whether others than this user may write to it.
        others_write: bool,
    },
    Unusable(Problem),
}

/// The limits of this process. A daemon that the same shell starts has the same.
#[derive(Debug)]
pub(super) struct LimitFacts {
    /// Files that may be open; `None` is no limit.
    pub(super) descriptors: Option<u64>,
    /// Connections that the settings allow.
    pub(super) connections: u64,
    /// Bytes that may be locked in memory; `None` is no limit.
    pub(super) lockable: Option<u64>,
    /// `None` where the system does not tell.
    pub(super) memory: Option<Memory>,
}

/// The memory of the machine, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Memory {
    pub(super) total: u64,
    /// What programs can still have without pushing others out.
    pub(super) available: u64,
}

/// What depends on the settings.
#[derive(Debug)]
pub(super) struct PlaceFacts {
    pub(super) socket: PathBuf,
    /// Why the socket's folder cannot be used.
    pub(super) socket_folder: Option<String>,
    pub(super) listening: Listening,
    pub(super) hub_cache: Option<FolderFacts>,
    pub(super) own_cache: Option<FolderFacts>,
    pub(super) images: Option<FolderFacts>,
    /// Bytes that stay free.
    pub(super) floor: u64,
    pub(super) clock: ClockFacts,
    pub(super) unfinished: UnfinishedFacts,
    /// The file of the hub's token, when others than this user can read it.
    pub(super) open_token: Option<PathBuf>,
}

/// Who answers on the socket.
#[derive(Debug)]
pub(super) enum Listening {
    /// There is no socket.
    Nobody,
    /// There is a socket that nobody listens on.
    Stale,
    /// Somebody listens and does not answer in this time.
    Silent(Duration),
    /// The answer is an error.
    Failing(String),
    Daemon {
        pid: u32,
        version: String,
        /// Whether its program was deleted or replaced since it started.
        is_replaced: bool,
    },
}

/// A folder that the daemon works in.
#[derive(Debug, Clone)]
pub(super) struct FolderFacts {
    pub(super) path: PathBuf,
    pub(super) state: FolderState,
    /// Free bytes of its disk; `None` where the system does not tell.
    pub(super) free: Option<u64>,
}

#[derive(Debug, Clone)]
pub(super) enum FolderState {
    /// It will be made, below this folder, which is there.
    Absent { below: PathBuf, is_writable: bool },
    There {
        /// Why it is refused, as another user's for example.
        refused: Option<String>,
        is_writable: bool,
        /// Whether a link can be made in it; `None` where none is needed.
        takes_links: Option<bool>,
        /// A folder in it that lies on another disk.
        elsewhere: Option<PathBuf>,
    },
    /// It cannot be looked at.
    Hidden(String),
}

/// The clock of this machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClockFacts {
    /// Whether the time is later than this program was written.
    pub(super) is_plausible: bool,
    /// By how much the file system of weightsd's own folder disagrees; `None` where nothing can be written.
    pub(super) skew: Option<Duration>,
}

/// Files that something was writing and is not any more.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct UnfinishedFacts {
    pub(super) downloads: Count,
    pub(super) images: Count,
}

/// Files and their bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Count {
    pub(super) files: u64,
    pub(super) bytes: u64,
}
