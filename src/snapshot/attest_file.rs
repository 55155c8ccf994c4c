//! The database of attestations as a file. It is a cache, so no damage to it is anybody's failure: a database that is
//! damaged, of another version, or of another form is moved aside and begun anew, and that is said once.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock, RwLockReadGuard},
};

use redb::{Builder, Database, Error};
use rustix::fs::OFlags;

use crate::{
    disk,
    private::{self, Links, Others},
};

/// Bytes of the database that are kept in memory. It has some hundred bytes for each file.
const CACHE_BYTES: usize = 1 << 20;
/// What a daemon can be told when the file is not to be had.
const ANOTHER_FOLDER: &str = "give this daemon a folder of its own with `--own-cache` (`own_cache`)";

/// The file, which is opened when it is first needed.
#[derive(Debug)]
pub(super) struct AttestFile {
    path: PathBuf,
    state: RwLock<State>,
}

#[derive(Debug)]
struct State {
    slot: Slot,
    /// Counts the databases that were given up.
    generation: u64,
    /// What was said last. A failure that goes on is not said again.
    said: String,
}

#[derive(Debug)]
enum Slot {
    /// Nobody has asked yet, or the last one failed in a way that may pass.
    Closed,
    Open(Database),
    /// Not to be had as long as this daemon runs.
    Away,
}

/// What a failure of the database means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Its content cannot be used.
    Damage,
    /// The system refuses, which may pass.
    Io,
    /// It is somebody else's.
    Elsewhere,
}

impl AttestFile {
    /// Where it lies.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn new(path: PathBuf) -> Self {
        let state = State { slot: Slot::Closed, generation: 0, said: String::new() };
        Self { path, state: RwLock::new(state) }
    }

    #[cfg(test)]
    pub(super) fn said(&self) -> String {
        self.state.read().unwrap_or_else(PoisonError::into_inner).said.clone()
    }

    /// Does `work` with the database, with a new one where this one turns out to be damaged. `None` when it cannot be done
    /// for now. May wait for the disk.
    pub(super) fn with<T>(&self, work: impl Fn(&Database) -> Result<T, Error>) -> Option<T> {
        for _ in 0..2 {
            let state = self.opened();
            let Slot::Open(database) = &state.slot else { return None };
            let (problem, generation) = match guarded(&self.path, || work(database)) {
                Ok(done) => return Some(done),
                Err(problem) => (problem, state.generation),
            };
            drop(state);
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            // Otherwise somebody else has met the same damage, and there is a new database already.
            if state.generation == generation {
                self.give_up(&mut state, &problem);
            }
            if problem.fault != Fault::Damage {
                return None;
            }
        }
        None
    }

    /// Closes the database until [`Self::reopen`].
    pub(super) fn close(&self) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if let Slot::Open(database) = std::mem::replace(&mut state.slot, Slot::Away) {
            // Closing writes, and a damaged database may panic.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(database)));
        }
    }

    pub(super) fn reopen(&self) {
        self.state.write().unwrap_or_else(PoisonError::into_inner).slot = Slot::Closed;
    }

    /// The database, if it can be had.
    fn opened(&self) -> RwLockReadGuard<'_, State> {
        let read = || self.state.read().unwrap_or_else(PoisonError::into_inner);
        let state = read();
        if !matches!(state.slot, Slot::Closed) {
            return state;
        }
        drop(state);
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        // Once with a database that is damaged, once with a new one.
        for _ in 0..2 {
            if !matches!(state.slot, Slot::Closed) {
                break;
            }
            match open(&self.path) {
                Ok(database) => state.slot = Slot::Open(database),
                Err(problem) => {
                    self.give_up(&mut state, &problem);
                    if problem.fault != Fault::Damage {
                        break;
                    }
                }
            }
        }
        drop(state);
        read()
    }

    /// Closes the database after a failure, moves it aside if it is damaged, and says so.
    fn give_up(&self, state: &mut State, problem: &Problem) {
        state.generation += 1;
        if let Slot::Open(database) = std::mem::replace(&mut state.slot, Slot::Closed) {
            // Closing writes, and a damaged database may panic again.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(database)));
        }
        let path = self.path.display();
        let said = match problem.fault {
            Fault::Damage => {
                let aside = self.path.with_extension("redb.damaged");
                match fs::rename(&self.path, &aside) {
                    Ok(()) => format!(
                        "`{path}` is damaged or of another version ({}): it is now `{}`, a new one is begun, and files that \
                         were here before are hashed once more",
                        problem.words,
                        aside.display()
                    ),
                    Err(error) => {
                        state.slot = Slot::Away;
                        let helps = format!("it is damaged and cannot be moved aside ({error})");
                        not_kept(&self.path, &problem.words, &helps)
                    }
                }
            }
            Fault::Io => not_kept(&self.path, &problem.words, &problem.helps),
            Fault::Elsewhere => {
                state.slot = Slot::Away;
                not_kept(&self.path, &problem.words, &problem.helps)
            }
        };
        if state.said != said {
            tracing::warn!("{said}");
            state.said = said;
        }
    }
}

/// A failure, with words for the log.
#[derive(Debug)]
struct Problem {
    fault: Fault,
    words: String,
    helps: String,
}

impl Problem {
    fn elsewhere(words: String) -> Self {
        Self { fault: Fault::Elsewhere, words, helps: ANOTHER_FOLDER.to_owned() }
    }

    fn of(path: &Path, error: &Error) -> Self {
        let (fault, helps) = match error {
            Error::DatabaseAlreadyOpen => (
                Fault::Elsewhere,
                format!("another daemon of this user has it open: end that one, or {ANOTHER_FOLDER}"),
            ),
            Error::Io(error) if !is_damage(error) => {
                (Fault::Io, disk::explain_write(path, error, ANOTHER_FOLDER).hint.into_owned())
            }
            // What went wrong before was said then.
            Error::PreviousIo | Error::DatabaseClosed => (Fault::Io, ANOTHER_FOLDER.to_owned()),
            _ => (Fault::Damage, String::new()),
        };
        Self { fault, words: error.to_string(), helps }
    }
}

fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput)
}

/// What it means that the database cannot be used, and what helps.
fn not_kept(path: &Path, problem: &str, helps: &str) -> String {
    format!(
        "which files were verified is remembered until this daemon ends and not longer, so the next one hashes them again, \
         because `{}` cannot be used ({problem}); {helps}",
        path.display()
    )
}

/// Opens the database, and reads all of it once: a damaged page shows here and not under a request.
fn open(path: &Path) -> Result<Database, Problem> {
    let file = open_file(path)?;
    guarded(path, || {
        let mut database = Builder::new().set_cache_size(CACHE_BYTES).create_file(file)?;
        if !database.check_integrity()? {
            tracing::info!(path = %path.display(), "the database of attestations was mended");
        }
        Ok(database)
    })
}

/// Does `work` with a database that may be damaged, on which redb panics here and there.
fn guarded<T>(path: &Path, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Problem> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => done.map_err(|error| Problem::of(path, &error)),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref().copied());
            let words = text.unwrap_or("reading it panics").to_owned();
            Err(Problem { fault: Fault::Damage, words, helps: String::new() })
        }
    }
}

/// The file, if it is a regular one of this user, in a folder that nobody else can write to.
fn open_file(path: &Path) -> Result<File, Problem> {
    if let Some(folder) = path.parent() {
        private::make(folder, Others::Readers, Links::Followed)
            .map_err(|error| Problem::elsewhere(weightsd_core::explain::sentence(&error)))?;
    }
    if path.is_symlink() {
        return Err(Problem::elsewhere("it is a link".to_owned()));
    }
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).mode(0o600).custom_flags(flags.bits().cast_signed());
    let file = options.open(path).map_err(|error| Problem::of(path, &Error::Io(error)))?;
    let metadata = file.metadata().map_err(|error| Problem::of(path, &Error::Io(error)))?;
    if !metadata.is_file() || metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(Problem::elsewhere("it is not a regular file of the daemon's user".to_owned()));
    }
    Ok(file)
}
