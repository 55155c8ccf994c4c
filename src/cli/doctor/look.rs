//! Looks at this machine. Nothing here judges, and nothing stays changed: what is tried in a folder is taken back.

use std::{
    fs::{self, File},
    io,
    os::unix::{fs::MetadataExt as _, net::UnixStream},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rustix::{
    fs::{Access, access},
    process::{Resource, getrlimit},
};
use weightsd_client::{Client, ClientError, ConnectOptions};
use weightsd_core::{
    explain::{Explain as _, sentence},
    hub_env::TokenSource,
};

use super::{
    facts::{
        ClockFacts, Count, Facts, FolderFacts, FolderState, LimitFacts, Listening, PlaceFacts, Problem, SettingsFacts,
        UnfinishedFacts,
    },
    machine,
};
use crate::{
    daemon::{Config, Layers, SettingsError},
    derive::{Engines, FoundEngine, WithoutEngine},
    disk,
    handle::Daemon,
    private::{self, FolderError, Links, Others},
};

/// How long the daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// A download that nobody wrote to for so long was interrupted.
const QUIET: Duration = Duration::from_secs(10 * 60);
/// Entries of a folder that are looked at.
const ENTRIES_MAX: usize = 100_000;
/// 2026-01-01, in seconds since 1970.
const WRITTEN: u64 = 1_767_225_600;
/// Writable by others than the owner.
const OTHERS_WRITE: u32 = 0o022;
/// Readable by others than the owner.
const OTHERS_READ: u32 = 0o044;

/// Looks at everything.
pub(super) async fn look(layers: Result<Layers, SettingsError>) -> Facts {
    let config = layers.and_then(Layers::complete);
    let settings = match &config {
        Ok(config) => {
            let file = config.layers.file().map(Path::to_owned);
            let others_write = file.as_deref().is_some_and(|file| has_mode(file, OTHERS_WRITE));
            SettingsFacts::Usable { file, others_write }
        }
        Err(error) => {
            SettingsFacts::Unusable(Problem { text: sentence(error), advice: error.explain().hint.into_owned() })
        }
    };
    let limit = |resource| getrlimit(resource).current;
    let limits = LimitFacts {
        descriptors: limit(Resource::Nofile),
        connections: config.as_ref().map_or(0, |config| config.connections as u64),
        lockable: limit(Resource::Memlock),
        memory: machine::memory(),
    };
    let places = match &config {
        Ok(config) => Some(places(config).await),
        Err(_) => None,
    };
    Facts { settings, limits, places, engine: engine().await }
}

async fn places(config: &Config) -> PlaceFacts {
    let socket_folder =
        config.socket.parent().filter(|folder| folder.exists()).and_then(|folder| {
            private::judge(folder, Others::Nobody, Links::Followed).err().map(|error| sentence(&error))
        });
    let hub_cache = config.places.hub_cache.as_deref();
    let own_cache = config.places.own_cache.as_deref();
    let images = config.image_folder.as_deref();
    PlaceFacts {
        socket: config.socket.clone(),
        socket_folder,
        listening: listening(&config.socket).await,
        hub_cache: hub_cache.map(|path| folder(path, Use::Downloads)),
        own_cache: own_cache.map(|path| folder(path, Use::Own)),
        images: images.map(|path| folder(path, Use::Own)),
        floor: config.changing.free_space_floor.get(),
        clock: clock(own_cache),
        unfinished: UnfinishedFacts {
            downloads: hub_cache.map(interrupted).unwrap_or_default(),
            images: images.map(abandoned).unwrap_or_default(),
        },
        open_token: match config.token() {
            TokenSource::File(path) if has_mode(path, OTHERS_READ) => Some(path.clone()),
            TokenSource::File(_) | TokenSource::Value(_) | TokenSource::None => None,
        },
    }
}

fn has_mode(path: &Path, bits: u32) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.mode() & bits != 0)
}

/// Asks the daemon that listens on the socket.
async fn listening(socket: &Path) -> Listening {
    match UnixStream::connect(socket) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Listening::Nobody,
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Listening::Stale,
        Err(error) => return Listening::Failing(error.to_string()),
    }
    let ask = async {
        let options = ConnectOptions { socket: socket.to_owned(), deadline: PATIENCE };
        Client::connect(options).await?.status().await
    };
    match tokio::time::timeout(PATIENCE, ask).await {
        Ok(Ok(status)) => Listening::Daemon {
            pid: status.pid,
            version: status.version,
            is_replaced: machine::is_replaced(status.pid),
        },
        Ok(Err(ClientError::Deadline { .. })) | Err(_) => Listening::Silent(PATIENCE),
        Ok(Err(error)) => Listening::Failing(sentence(&error)),
    }
}

/// What a folder is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    /// Files of the hub, which other programs share.
    Downloads,
    /// What weightsd keeps for itself.
    Own,
}

fn folder(path: &Path, used: Use) -> FolderFacts {
    let free = disk::free_bytes(path).ok();
    let state = match fs::metadata(path) {
        Ok(_) => there(path, used),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let below = path.ancestors().skip(1).find(|folder| folder.exists()).unwrap_or(Path::new("/")).to_owned();
            let is_writable = access(&below, Access::WRITE_OK | Access::EXEC_OK).is_ok();
            FolderState::Absent { below, is_writable }
        }
        Err(error) => FolderState::Hidden(error.to_string()),
    };
    FolderFacts { path: path.to_owned(), state, free }
}

fn there(path: &Path, used: Use) -> FolderState {
    let judged = match used {
        Use::Own => private::judge(path, Others::Readers, Links::Followed),
        Use::Downloads => Ok(()),
    };
    FolderState::There {
        refused: match judged {
            Err(error @ FolderError::NotOurs { .. }) => Some(error.to_string()),
            Err(FolderError::Io { .. }) | Ok(()) => None,
        },
        is_writable: access(path, Access::WRITE_OK | Access::EXEC_OK).is_ok(),
        takes_links: (used == Use::Downloads).then(|| takes_links(path)),
        elsewhere: (used == Use::Downloads).then(|| on_another_disk(path)).flatten(),
    }
}

/// Whether a link can be made; also yes where nothing can be written, which is another problem.
fn takes_links(folder: &Path) -> bool {
    let Ok(trial) = tempfile::Builder::new().prefix(".weightsd-doctor-").tempdir_in(folder) else { return true };
    std::os::unix::fs::symlink("target", trial.path().join("link")).is_ok()
}

/// A folder of blobs that lies on another disk than the cache.
fn on_another_disk(cache: &Path) -> Option<PathBuf> {
    let device = |path: &Path| fs::metadata(path).ok().map(|metadata| metadata.dev());
    let own = device(cache)?;
    let blobs = entries(cache).map(|repository| repository.join("blobs"));
    blobs.into_iter().find(|path| device(path).is_some_and(|device| device != own))
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.take(ENTRIES_MAX).map(|entry| entry.path())
}

/// Downloads that were interrupted.
fn interrupted(cache: &Path) -> Count {
    let blobs = entries(cache).flat_map(|repository| entries(&repository.join("blobs")));
    let is_quiet = |path: &Path| {
        let modified = fs::metadata(path).and_then(|metadata| metadata.modified());
        modified.is_ok_and(|modified| modified.elapsed().is_ok_and(|age| age > QUIET))
    };
    count(blobs.filter(|path| has_extension(path, "incomplete") && is_quiet(path)))
}

/// Partial images that nobody writes: their writer would hold a lock.
fn abandoned(images: &Path) -> Count {
    let is_free = |path: &Path| File::open(path).is_ok_and(|file| file.try_lock_shared().is_ok());
    count(entries(images).filter(|path| has_extension(path, "partial") && is_free(path)))
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found == extension)
}

fn count(paths: impl Iterator<Item = PathBuf>) -> Count {
    paths.fold(Count::default(), |count, path| Count {
        files: count.files + 1,
        bytes: count.bytes + fs::metadata(&path).map_or(0, |metadata| metadata.len()),
    })
}

/// Compares the clock with that of the disk: a file that is made now must be as old as now.
fn clock(own_cache: Option<&Path>) -> ClockFacts {
    let now = SystemTime::now();
    let since = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let made =
        own_cache.and_then(|folder| tempfile::Builder::new().prefix(".weightsd-doctor-").tempfile_in(folder).ok());
    let modified = made.and_then(|file| file.as_file().metadata().ok()?.modified().ok());
    let skew = modified.map(|modified| {
        let (earlier, later) = (now.duration_since(modified), modified.duration_since(now));
        earlier.or(later).unwrap_or_default()
    });
    ClockFacts { is_plausible: since >= WRITTEN, skew }
}

/// Asks a worker which MLX computes here, as the daemon would.
async fn engine() -> Result<String, Problem> {
    let problem = |text: String| Problem { text, advice: weightsd_arrays::REMEDY.to_owned() };
    // No note: what was found out before is no proof that it works now.
    match std::sync::Arc::new(Engines::new(None)).find(&Daemon::default()).await {
        Ok(FoundEngine::Installed(installed)) => Ok(installed.engine.to_string()),
        Ok(FoundEngine::Absent { why: WithoutEngine::Missing(missing), .. }) => Err(problem(missing.to_string())),
        Ok(FoundEngine::Absent { why: WithoutEngine::Refused(words), .. }) => Err(problem(words)),
        Err(failed) => Err(Problem { text: sentence(&failed), advice: failed.explain().hint.into_owned() }),
    }
}
