//! Which blobs were hashed and found to be what their names say: an attestation holds for one file in one state, so a
//! blob that was written to since, or replaced, has none. Kept in an embedded database, because hashing a large model
//! takes a minute and asking takes microseconds.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, OnceLock, PoisonError},
    time::{Duration, SystemTime},
};

use dashmap::DashMap;
use redb::{Database, DatabaseError, ReadableDatabase as _, StorageError, TableDefinition};
use weightsd_core::{identity::FileKey, listing::BlobName};

use crate::disk;

/// Blob name, volume, inode.
type Key = (&'static str, &'static str, u64);
/// Length, time of the last change of content, of content or attributes (nanoseconds since 1970), time of the attestation
/// (seconds since 1970).
type Value = (u64, i64, i64, u64);

const TABLE: TableDefinition<'_, Key, Value> = TableDefinition::new("attestations-2");
/// Had numbers of devices in its keys, which belong to other volumes after a restart of the system.
const FORMER: TableDefinition<'_, (&str, u64, u64), Value> = TableDefinition::new("attestations-1");

/// The attestations in memory, and those in the daemon's database.
#[derive(Debug)]
pub struct Attestations {
    path: Option<PathBuf>,
    database: OnceLock<Option<Database>>,
    /// Attestations since the start. They answer at once, also when the database cannot be used.
    recent: DashMap<BlobName, (FileKey, SystemTime)>,
    writing: Mutex<()>,
}

impl Attestations {
    /// Kept in the file at `path`, which is opened when it is first needed; kept in memory when there is none.
    #[must_use]
    pub fn new(path: Option<PathBuf>) -> Self {
        Self { path, database: OnceLock::new(), recent: DashMap::new(), writing: Mutex::new(()) }
    }

    /// The file that keeps them; `None` when they are kept in memory.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Like [`Self::get`], but only for what was asked for or attested since the start. Never waits.
    #[must_use]
    pub fn recent(&self, blob: &BlobName, file: &FileKey) -> Option<SystemTime> {
        self.recent.get(blob).filter(|recent| recent.0 == *file).map(|recent| recent.1)
    }

    /// When the file of that identity was found to be the blob of that name; `None` when it never was. May wait for the
    /// disk.
    #[must_use]
    pub fn get(&self, blob: &BlobName, file: &FileKey) -> Option<SystemTime> {
        if let Some(recent) = self.recent(blob, file) {
            return Some(recent);
        }
        let found = self.read(blob, file).unwrap_or_else(|error| {
            tracing::warn!(%error, "the attestations cannot be read");
            None
        });
        if let Some(at) = found {
            self.recent.insert(blob.clone(), (*file, at));
        }
        found
    }

    fn read(&self, blob: &BlobName, file: &FileKey) -> Result<Option<SystemTime>, redb::Error> {
        let Some(database) = self.database() else { return Ok(None) };
        let reading = database.begin_read()?;
        let table = match reading.open_table(TABLE) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let Some(value) = table.get((blob.as_str(), &*file.volume.to_string(), file.inode))? else { return Ok(None) };
        let (length, modified_ns, changed_ns, at) = value.value();
        let same = (length, modified_ns, changed_ns) == (file.length, file.modified_ns, file.changed_ns);
        Ok(same.then(|| SystemTime::UNIX_EPOCH + Duration::from_secs(at)))
    }

    /// Attests, for as long as the daemon runs. A file that is not on the disk yet can still become another one.
    pub fn attest(&self, blob: &BlobName, file: &FileKey) -> SystemTime {
        let now = SystemTime::now();
        self.recent.insert(blob.clone(), (*file, now));
        now
    }

    /// Attests for good. Call it when the file is on the disk. A failure costs another hashing later, and is logged.
    pub fn attest_for_good(&self, blob: &BlobName, file: &FileKey) -> SystemTime {
        let now = self.attest(blob, file);
        if let Err(error) = self.write(blob, file) {
            tracing::warn!(%error, "an attestation cannot be kept");
        }
        now
    }

    fn write(&self, blob: &BlobName, file: &FileKey) -> Result<(), redb::Error> {
        let Some(database) = self.database() else { return Ok(()) };
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let writing = database.begin_write()?;
        {
            let mut table = writing.open_table(TABLE)?;
            let value = (file.length, file.modified_ns, file.changed_ns, now.as_secs());
            table.insert((blob.as_str(), &*file.volume.to_string(), file.inode), value)?;
        }
        writing.delete_table(FORMER)?;
        writing.commit()?;
        Ok(())
    }

    /// Forgets what was attested since the start about a blob that turned out to be another.
    pub fn forget(&self, blob: &BlobName) {
        self.recent.remove(blob);
    }

    fn database(&self) -> Option<&Database> {
        let open = || {
            let path = self.path.as_ref()?;
            let made = path.parent().map_or(Ok(()), fs::create_dir_all).map_err(DatabaseError::from);
            let opened = made.and_then(|()| Database::create(path));
            opened.inspect_err(|error| tracing::warn!(%error, "{}", not_kept(path, error))).ok()
        };
        self.database.get_or_init(open).as_ref()
    }
}

/// What it means that the database at `path` cannot be used, and what helps.
fn not_kept(path: &Path, error: &DatabaseError) -> String {
    const ANOTHER_FOLDER: &str = "give this daemon a folder of its own with `--own-cache` (`own_cache`)";
    let helps = match error {
        DatabaseError::DatabaseAlreadyOpen => {
            format!("another daemon of this user has it open: end that one, or {ANOTHER_FOLDER}")
        }
        DatabaseError::Storage(StorageError::Io(error)) if error.kind() != io::ErrorKind::InvalidData => {
            disk::explain_write(path, error, ANOTHER_FOLDER).hint.into_owned()
        }
        _ => "it is damaged or of another version: delete it, and the next daemon makes a new one".to_owned(),
    };
    format!(
        "which files were verified is remembered until this daemon ends and not longer, so the next one hashes them again, \
         because `{}` cannot be used; {helps}",
        path.display()
    )
}

#[cfg(test)]
mod tests {
    use weightsd_core::identity::Volume;

    use super::*;

    fn identity(changed_ns: i64) -> FileKey {
        FileKey { volume: Volume::Uuid([1; 16]), inode: 2, length: 3, modified_ns: 4, changed_ns }
    }

    #[test]
    fn an_attestation_holds_for_one_state_and_outlives_the_daemon() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weightsd").join("attestations.redb");
        let blob = BlobName::parse(&"a".repeat(64)).unwrap();
        let store = Attestations::new(Some(path.clone()));
        assert_eq!(store.get(&blob, &identity(5)), None);
        store.attest_for_good(&blob, &identity(5));
        store.attest(&blob, &identity(7));
        let at = store.get(&blob, &identity(7)).unwrap();
        assert!(at.elapsed().unwrap() < Duration::from_secs(60));
        drop(store);
        let again = Attestations::new(Some(path.clone()));
        assert!(again.get(&blob, &identity(5)).is_some());
        assert_eq!(again.get(&blob, &identity(6)), None, "it was written to since");
        assert_eq!(again.get(&blob, &identity(7)), None, "it was not for good");
        let elsewhere = FileKey { volume: Volume::Uuid([2; 16]), ..identity(5) };
        assert_eq!(again.get(&blob, &elsewhere), None, "a file of the same number on another volume");
        // A second daemon cannot open the file, says so, and works without it.
        let error = Database::create(&path).unwrap_err();
        let said = not_kept(&path, &error);
        assert!(said.contains("another daemon") && said.contains("--own-cache"), "{error:?}: {said}");
        let second = Attestations::new(Some(path));
        assert_eq!(second.get(&blob, &identity(5)), None);
        second.attest_for_good(&blob, &identity(5));
        assert!(second.get(&blob, &identity(5)).is_some());
    }

    #[test]
    fn a_damaged_store_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("attestations.redb");
        fs::write(&path, "not a database").unwrap();
        let said = not_kept(&path, &Database::create(&path).unwrap_err());
        assert!(said.contains("delete it"), "{said}");
        let store = Attestations::new(Some(path));
        let blob = BlobName::parse(&"a".repeat(40)).unwrap();
        store.attest_for_good(&blob, &identity(5));
        assert!(store.get(&blob, &identity(5)).is_some());
    }
}
