//! What outlives the daemon: which components are loaded, by which requests, and how long they are to stay. The next daemon
//! on the same socket loads them again, behind the requests of clients, without downloading or computing anything.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use prost::Message as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use weightsd_core::{explain::sentence, handoff::Given, identity::ComponentId};
use weightsd_proto::v1::{LoadComponentRequest, ModelSelector};

use super::request;
use crate::{
    cache::{Cache, Entry, Holder},
    lanes::{Disks, Kind, MayBlock, Task},
    private::{self, Links, Others},
    resolve::{ModelKind, RepoAddress, ResolvedModel},
};

/// Components that are noted, those that were used last.
const NOTED_MAX: usize = 256;
/// Components whose requests are remembered between two notes.
const KNOWN_MAX: usize = 4096;
/// Longest note that is read, in bytes.
const NOTE_BYTES_MAX: u64 = 8 << 20;
/// Time for which changes are gathered before they are noted.
const GATHER: Duration = Duration::from_secs(1);
/// How long the disk of the note may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Names this work in the log.
const OPERATION: &str = "noting what is loaded";
/// The name under which components are leased for the moment in which they are loaded again.
const HOLDER: &str = "restart";

/// A loaded component, as it is noted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Noted {
    id: String,
    /// The encoded `LoadComponentRequest` that means it, in hexadecimal digits.
    request: String,
    /// Whether its computed tensors lie in an image.
    has_image: bool,
    /// When it goes, in seconds since 1970; `None` while somebody holds it.
    until: Option<u64>,
}

/// By which requests the components were loaded that are loaded now.
#[derive(Debug, Default)]
pub(crate) struct Known(Mutex<HashMap<ComponentId, LoadComponentRequest>>);

impl Known {
    /// Remembers that `request` meant this component of this model.
    pub(super) fn remember(&self, id: ComponentId, mut request: LoadComponentRequest, model: &ResolvedModel) {
        pin(request.model.get_or_insert_default(), model);
        let LoadComponentRequest { model, base, overlay, adapters, .. } = &mut request;
        let adapters = adapters.iter_mut().filter_map(|adapter| adapter.model.as_mut());
        [model, base, overlay].into_iter().flatten().chain(adapters).for_each(|selector| selector.offline = true);
        (request.lease_again, request.client_name) = (id.to_string(), HOLDER.to_owned());
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // What is not loaded any more is forgotten when notes are taken, which may be a while away.
        if known.len() < KNOWN_MAX || known.contains_key(&id) {
            known.insert(id, request);
        }
    }

    /// The notes of what `cache` has, the last used first. What it has no more is forgotten.
    fn notes(&self, cache: &Cache) -> Vec<Noted> {
        let mut entries = cache.entries();
        entries.sort_by_cached_key(|entry| std::cmp::Reverse(entry.idle_since().unwrap_or_else(Instant::now)));
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|id, _| cache.is_loaded(*id));
        let note = |entry: &Arc<Entry>| {
            let request = known.get(&entry.id())?;
            let until = entry.idle_since().map(|_| seconds(entry.usage().warm_until));
            let (id, request) = (entry.id().to_string(), hex::encode(request.encode_to_vec()));
            Some(Noted { id, request, has_image: entry.component.image.is_some(), until })
        };
        entries.iter().filter_map(note).take(NOTED_MAX).collect()
    }
}

/// Names the commit in place of the revision, which may mean another one by then.
fn pin(selector: &mut ModelSelector, model: &ResolvedModel) {
    if let ModelKind::Repo { address: RepoAddress { repo, .. }, commit } = &model.kind {
        let parsed = request::selector(Some(selector.clone()));
        selector.variant = parsed.ok().and_then(|parsed| parsed.choice.variant).unwrap_or_default();
        (selector.spec, selector.revision) = (repo.to_string(), commit.to_string());
    }
}

/// A moment of the monotonic clock as one that outlives the process.
fn seconds(moment: Instant) -> u64 {
    let at = SystemTime::now() + moment.saturating_duration_since(Instant::now());
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Loads what an earlier daemon on `socket` had loaded, and notes from then on what this one has, until it stops.
pub(crate) async fn run(cache: Arc<Cache>, known: Arc<Known>, socket: PathBuf) {
    let Some(path) = cache.config().places.own_cache.as_deref().map(|folder| note_of(folder, &socket)) else { return };
    tokio::select! {
        () = load_and_note(&cache, &known, &path) => {}
        () = cache.daemon().stopping().cancelled() => {}
    }
}

/// The note of the daemon that serves on `socket`.
fn note_of(own_cache: &Path, socket: &Path) -> PathBuf {
    use std::os::unix::ffi::OsStrExt as _;
    let digits = hex::encode(&Sha256::digest(socket.as_os_str().as_bytes())[..8]);
    own_cache.join(format!("loaded-{digits}.json"))
}

async fn load_and_note(cache: &Arc<Cache>, known: &Known, path: &Path) {
    let Some(disks) = disks_of(cache, path).await else { return };
    let (from, images) = (path.to_owned(), Arc::clone(&cache.config().images));
    let read = move |may: &MayBlock<'_>| {
        let mut noted = read(&from, may);
        let kept = images.list(may);
        // An image that was deleted meanwhile is computed for those who ask for it.
        noted.retain(|noted| !noted.has_image || kept.iter().any(|image| image.id.to_string() == noted.id));
        noted
    };
    for noted in on_disk(cache, &disks, read).await.unwrap_or_default() {
        cache.quiet().await;
        load_again(cache, known, &noted).await;
    }
    let (mut latest, mut last) = (cache.daemon().events().latest(), None);
    loop {
        latest.borrow_and_update();
        let notes = known.notes(cache);
        if last.as_ref() != Some(&notes) {
            let (to, written) = (path.to_owned(), notes.clone());
            if let Some(Err(error)) = on_disk(cache, &disks, move |may| write(&to, &written, may)).await {
                tracing::warn!(path = %path.display(), %error, "what is loaded cannot be noted, so the next daemon begins empty");
            }
            last = Some(notes);
        }
        if latest.changed().await.is_err() {
            return;
        }
        tokio::time::sleep(GATHER).await;
    }
}

async fn disks_of(cache: &Cache, path: &Path) -> Option<Disks> {
    cache.daemon().lanes().locate(OPERATION, path.parent().map(Path::to_owned).into_iter().collect(), None).await.ok()
}

async fn on_disk<T: Send + 'static>(
    cache: &Cache,
    disks: &Disks,
    work: impl FnOnce(&MayBlock<'_>) -> T + Send + 'static,
) -> Option<T> {
    let (subject, kind, limit) = (OPERATION, Kind::Look, Some(PATIENCE));
    cache.daemon().lanes().run(Task { operation: OPERATION, subject, disks, kind, limit }, work).await.ok()
}

/// The notes of an earlier daemon; none where there are none to be had.
fn read(path: &Path, _: &MayBlock<'_>) -> Vec<Noted> {
    let read = || -> io::Result<Vec<Noted>> {
        let mut text = String::new();
        // What is in the daemon's own folder is its user's; a damaged note is worth a line, and no more.
        File::open(path)?.take(NOTE_BYTES_MAX).read_to_string(&mut text)?;
        Ok(serde_json::from_str(&text)?)
    };
    match read() {
        Ok(mut noted) => {
            noted.truncate(NOTED_MAX);
            noted
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "what an earlier daemon had loaded cannot be read");
            Vec::new()
        }
    }
}

fn write(path: &Path, notes: &[Noted], _: &MayBlock<'_>) -> io::Result<()> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    private::make(folder, Others::Readers, Links::Followed).map_err(io::Error::other)?;
    if notes.is_empty() {
        return fs::remove_file(path).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        });
    }
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(&serde_json::to_vec(notes)?)?;
    file.persist(path)?;
    Ok(())
}

/// Loads a component again, as long as it would still be kept.
async fn load_again(cache: &Arc<Cache>, known: &Known, noted: &Noted) {
    let limits = cache.config().keep_alive.get();
    let keep_alive = match noted.until {
        None => limits.default,
        Some(until) => (SystemTime::UNIX_EPOCH + Duration::from_secs(until))
            .duration_since(SystemTime::now())
            .unwrap_or_default()
            .min(limits.max),
    };
    let message = hex::decode(&noted.request).ok().and_then(|bytes| LoadComponentRequest::decode(&*bytes).ok());
    let Some((message, Ok(asked))) = message.map(|message| (message.clone(), request::load(message))) else { return };
    if keep_alive.is_zero() {
        return;
    }
    let holder = Holder {
        pid: std::process::id(),
        name: asked.client_name,
        since: SystemTime::now(),
        keep_alive,
        given: Given::Originals,
        takes_sheet: false,
    };
    match cache.acquire_this(asked.again, asked.request, holder, |_, _| {}).await {
        Ok(acquired) => {
            let component = acquired.lease.component();
            tracing::info!(id = %component.id, "{} of {} was loaded before, and is again", component.name, component.model);
            known.remember(component.id, message, &acquired.model);
        }
        Err(error) => {
            tracing::info!(id = noted.id, "what was loaded before is not loaded again: {}", sentence(&error));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_found_again_and_damaged_ones_are_none() {
        let folder = tempfile::tempdir().unwrap();
        let may = MayBlock::on_a_thread_of_its_own();
        let path = note_of(folder.path(), Path::new("/run/s"));
        assert_ne!(path, note_of(folder.path(), Path::new("/run/t")));
        assert_eq!(read(&path, &may), []);
        let noted = |until| Noted { id: "ab".repeat(32), request: "00".to_owned(), has_image: true, until };
        let notes = [noted(None), noted(Some(7))];
        write(&path, &notes, &may).unwrap();
        assert_eq!(read(&path, &may), notes);
        fs::write(&path, "{").unwrap();
        assert_eq!(read(&path, &may), []);
        write(&path, &[], &may).unwrap();
        assert!(!path.exists());
    }
}
