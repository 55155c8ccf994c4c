//! Which blobs were hashed and found to be what their names say: an attestation holds for one file in one state, so a
//! blob that was written to since, or replaced, has none. Kept in an embedded database, because hashing a large model
//! takes a minute and asking takes microseconds.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use dashmap::DashMap;
use redb::{Database, ReadableDatabase as _, TableDefinition};
use weightsd_core::{identity::FileKey, listing::BlobName};

use super::attest_file::AttestFile;

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
    file: Option<AttestFile>,
    /// Attestations since the start. They answer at once, also when the database cannot be used.
    recent: DashMap<BlobName, (FileKey, SystemTime)>,
    writing: Mutex<()>,
}

impl Attestations {
    /// Kept in the file at `path`, which is opened when it is first needed; kept in memory when there is none.
    #[must_use]
    pub fn new(path: Option<PathBuf>) -> Self {
        Self { file: path.map(AttestFile::new), recent: DashMap::new(), writing: Mutex::new(()) }
    }

    /// The file that keeps them; `None` when they are kept in memory.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.file.as_ref().map(AttestFile::path)
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
        let found = self.file.as_ref().and_then(|database| database.with(|database| read(database, blob, file)));
        if let Some(at) = found.flatten() {
            self.recent.insert(blob.clone(), (*file, at));
        }
        found.flatten()
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
        if let Some(database) = &self.file {
            let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
            // Where it cannot be kept, that is said.
            let _ = database.with(|database| write(database, blob, file));
        }
        now
    }

    /// Closes the database, for another process to open it. What is attested from then on is kept in memory. Blocks.
    pub fn close(&self) {
        self.file.iter().for_each(AttestFile::close);
    }

    /// Opens the database again when it is next needed.
    pub fn reopen(&self) {
        self.file.iter().for_each(AttestFile::reopen);
    }

    /// Forgets what was attested since the start about a blob that turned out to be another.
    pub fn forget(&self, blob: &BlobName) {
        self.recent.remove(blob);
    }
}

fn read(database: &Database, blob: &BlobName, file: &FileKey) -> Result<Option<SystemTime>, redb::Error> {
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

fn write(database: &Database, blob: &BlobName, file: &FileKey) -> Result<(), redb::Error> {
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

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;
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
        let second = Attestations::new(Some(path));
        assert_eq!(second.get(&blob, &identity(5)), None);
        second.attest_for_good(&blob, &identity(5));
        assert!(second.get(&blob, &identity(5)).is_some());
        let said = second.file.as_ref().unwrap().said();
        assert!(said.contains("another daemon") && said.contains("--own-cache"), "{said}");
    }

    /// In memory where the system has such a folder: redb has every commit written to the disk, and tests make many.
    fn folder() -> TempDir {
        tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
    }

    /// Attests and asks as two daemons would, one after the other, over a file that `damage` was done to. Returns what was
    /// said.
    fn survive(whole: &[u8], damage: impl Fn(&mut Vec<u8>)) -> String {
        let folder = folder();
        let path = folder.path().join("attestations.redb");
        let mut bytes = whole.to_vec();
        damage(&mut bytes);
        fs::write(&path, bytes).unwrap();
        let blob = BlobName::parse(&"b".repeat(64)).unwrap();
        let first = Attestations::new(Some(path.clone()));
        let _ = first.get(&blob, &identity(5));
        first.attest_for_good(&blob, &identity(6));
        assert!(first.get(&blob, &identity(6)).is_some());
        let said = first.file.as_ref().unwrap().said();
        drop(first);
        let next = Attestations::new(Some(path));
        assert!(next.get(&blob, &identity(6)).is_some(), "it is kept again, after: {said}");
        said
    }

    fn a_whole_database() -> Vec<u8> {
        let folder = folder();
        let path = folder.path().join("attestations.redb");
        let store = Attestations::new(Some(path.clone()));
        for number in 0..200_u64 {
            let blob = BlobName::parse(&format!("{number:064x}")).unwrap();
            // One commit would do; the file of a daemon has many.
            store.attest_for_good(&blob, &FileKey { inode: number, ..identity(5) });
        }
        drop(store);
        fs::read(path).unwrap()
    }

    #[test]
    fn a_damaged_database_is_set_aside_begun_anew_and_said() {
        let whole = a_whole_database();
        assert_eq!(survive(&whole, |_| ()), "");
        let set_aside = |damage: &dyn Fn(&mut Vec<u8>)| {
            let said = survive(&whole, damage);
            assert!(said.contains("attestations.redb.damaged`, a new one is begun"), "{said}");
        };
        set_aside(&|bytes| *bytes = b"not a database".to_vec());
        set_aside(&|bytes| bytes[0] ^= 1);
        set_aside(&|bytes| bytes.fill(0));
        set_aside(&|bytes| bytes.fill(0xff));
        for cut in [1, 100, 4196] {
            set_aside(&|bytes| bytes.truncate(cut));
        }
        // What is cut off here may have been empty.
        for cut in [whole.len() / 4, whole.len() / 2, whole.len() - 4096, whole.len() - 1] {
            survive(&whole, |bytes| bytes.truncate(cut));
        }
        // As another program's database, or that of a version of weightsd that keeps other things.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("other");
        let other = Database::create(&path).unwrap();
        let writing = other.begin_write().unwrap();
        writing.open_table(TableDefinition::<&str, u64>::new("attestations-2")).unwrap();
        writing.commit().unwrap();
        drop(other);
        set_aside(&|bytes| *bytes = fs::read(&path).unwrap());
    }

    /// Whatever is flipped or zeroed, nobody fails and the next attestation is kept.
    #[test]
    fn flipped_bits_and_zeroed_pages_are_nobody_s_failure() {
        let whole = a_whole_database();
        for page in (0..whole.len() / 4096).filter(|page| *page < 40 || page % 7 == 0) {
            survive(&whole, |bytes| bytes[page * 4096..(page + 1) * 4096].fill(0));
        }
        // All fields of the header, and pages here and there.
        let step = whole.len() / 47;
        for at in (0..320).step_by(3).chain((320..whole.len()).step_by(step)) {
            survive(&whole, |bytes| bytes[at] ^= 1 << (at % 8));
        }
    }

    #[test]
    fn what_is_no_file_of_ours_is_left_alone_and_blocks_nobody() {
        let blob = BlobName::parse(&"a".repeat(40)).unwrap();
        let without = |path: PathBuf, words: &str| {
            let store = Attestations::new(Some(path));
            store.attest_for_good(&blob, &identity(5));
            assert!(store.get(&blob, &identity(5)).is_some());
            let said = store.file.as_ref().unwrap().said();
            assert!(said.contains(words) && said.contains("--own-cache"), "{said}");
        };
        let folder = tempfile::tempdir().unwrap();
        let (fifo, link) = (folder.path().join("fifo"), folder.path().join("link"));
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        without(fifo, "not a regular file");
        std::os::unix::fs::symlink(folder.path().join("elsewhere"), &link).unwrap();
        without(link, "cannot be used");
        assert!(!folder.path().join("elsewhere").exists());
        let open = folder.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        without(open.join("attestations.redb"), "has mode 0777");
    }
}
