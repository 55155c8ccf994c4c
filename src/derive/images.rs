//! Derived images on the disk: one file for each computed component, named after the component's id. A small note beside
//! it says what the image was made from; the note's time says when the image was last used.
//!
//! An image becomes visible when it is whole: it is written under another name and renamed when it is on the disk. The
//! writer locks the partial file; partial files without a lock are swept. Nobody writes to a published image, and one whose
//! time says otherwise is not lent.

use std::{
    ffi::OsStr,
    fmt,
    fs::{self, File, TryLockError},
    io::{self, Read as _, Write as _},
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use weightsd_core::{
    derive::image::ImagePlan,
    explain::{Explain, Explanation, Reason, sentence},
    identity::ComponentId,
};
use weightsd_segment::FileIdentity;

use super::locked::Locked;
use crate::{
    disk,
    lanes::{HeldFile, MayBlock, settled_on},
    private::{self, FolderError, Links, Others},
};

const IMAGE: &str = "safetensors";
const PARTIAL: &str = "partial";
const PROVENANCE: &str = "json";
/// The ending of the note of a partial image.
const PARTIAL_PROVENANCE: &str = "partial_json";
/// Room for a seal behind its note, so that no full disk keeps it out.
const SEAL_BYTES: usize = 64;
/// Bytes of a note that are read. What it was made from is a few paths.
const NOTE_MAX: u64 = 1 << 20;
/// A note without an image is swept when it is older than this.
const LEFT: Duration = Duration::from_secs(60);
/// How long a new image waits until partial images that were given up are deleted.
const GIVEN_UP: Duration = Duration::from_secs(5);
/// The hint for an image that has no room.
pub(super) const NO_ROOM: &str = "free some space, or have images deleted with `weightsd evict --images`; \
    `image_budget` and `image_folder` say how much and where";

/// What an image was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// The component's name.
    pub component: String,
    /// The model, its overlay and its adapters.
    pub made_from: String,
    /// The conversion, in words.
    pub conversion: String,
    /// The inputs: names of blobs, or paths of files.
    pub sources: Vec<String>,
}

/// The content of a note.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    #[serde(flatten)]
    provenance: Provenance,
    /// The modification time that the image keeps while nobody writes to it, in nanoseconds since 1970.
    modified_ns: i64,
}

/// The second line of a note, once the image is published.
#[derive(Debug, Serialize, Deserialize)]
struct Seal {
    /// The time of the last change of the image's content or attributes, in nanoseconds since 1970. Nobody can set it back.
    changed_ns: i64,
}

/// An image, held open.
#[derive(Debug)]
pub struct Image {
    /// The open file.
    pub file: HeldFile,
    /// What it was made from.
    pub provenance: Provenance,
    /// When it was made.
    pub made: SystemTime,
}

/// An image on the disk, as a list shows it.
#[derive(Debug, Clone)]
pub struct StoredImage {
    /// The component whose tensors it holds.
    pub id: ComponentId,
    /// Its absolute path.
    pub path: PathBuf,
    /// Its length in bytes.
    pub bytes: u64,
    /// What it was made from; `None` when its note is missing or damaged.
    pub provenance: Option<Provenance>,
    /// When it was made.
    pub made: SystemTime,
    /// When it was last used.
    pub used: SystemTime,
}

/// Why an image cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// No folder is configured, and there is no home to put one in.
    #[error("there is no folder for derived images: the daemon has no home and no `own_cache`")]
    NoFolder,
    /// Others than the daemon's user say what is in the folder.
    #[error("the folder for derived images cannot be used")]
    Folder(#[from] FolderError),
    /// The system refuses an operation.
    #[error("cannot {doing} `{}`", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl Explain for ImageError {
    fn explain(&self) -> Explanation {
        match self {
            _ if self.is_full() => Explanation::new(Reason::NoSpace, "", NO_ROOM),
            Self::Folder(FolderError::NotOurs { path, .. }) => Explanation::new(
                Reason::OwnFiles,
                path.display().to_string(),
                "name a folder of your own with `image_folder`, which weightsd makes where there is none",
            ),
            _ => Explanation::new(Reason::OwnFiles, "", "see the daemon's log, and who may write to its cache"),
        }
    }
}

impl ImageError {
    fn io(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| Self::Io { doing, path: path.to_owned(), source }
    }

    /// Whether the disk is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let (Self::Io { source, .. } | Self::Folder(FolderError::Io { source, .. })) = self else { return false };
        disk::is_full(source)
    }
}

/// The folder of images. Several daemons may share one.
#[derive(Debug, Default)]
pub struct Images {
    folder: Option<PathBuf>,
    count: AtomicU64,
    /// Bytes of all images when they were last counted.
    bytes: AtomicU64,
    /// When the image that would go first was last used, when they were last counted.
    oldest_used: Mutex<Option<SystemTime>>,
    /// Held while room is made and taken: two images must not count on the same free bytes.
    placing: Mutex<()>,
}

/// An image that is being written. Dropping it deletes it.
#[derive(Debug)]
#[must_use = "a partial image that is not kept is deleted at once"]
pub struct PartialImage {
    id: ComponentId,
    /// Its note. It is written first, so that no computation is lost because the disk is too full for the note.
    provenance: Locked,
    image: Locked,
    /// Where the seal belongs in the note.
    sealed_at: u64,
    /// The modification time that the image gets when it is published.
    made: SystemTime,
}

impl Images {
    /// The images in `folder`, which need not exist. Looks at nothing yet.
    #[must_use]
    pub fn new(folder: Option<PathBuf>) -> Self {
        Self { folder, ..Self::default() }
    }

    /// Deletes half-written images that no daemon writes any more.
    pub fn sweep(&self, may: &MayBlock<'_>) {
        if let Err(ImageError::Folder(error @ FolderError::NotOurs { .. })) = self.own_folder() {
            tracing::warn!(%error, "images are neither lent nor made");
        }
        for path in [PARTIAL, PARTIAL_PROVENANCE].into_iter().flat_map(|ending| self.files(ending)) {
            let is_left = open_own(&path, Access::Read)
                .is_ok_and(|file| !matches!(file.try_lock(), Err(TryLockError::WouldBlock)));
            if is_left {
                tracing::info!(path = %path.display(), "a half-written image is deleted");
                let _ = fs::remove_file(path);
            }
        }
        self.sweep_notes();
        self.recount(may);
    }

    /// Deletes notes without an image: a daemon was killed after it published the note. Another daemon may be about to
    /// publish the image of a young note.
    fn sweep_notes(&self) {
        let is_old = |path: &PathBuf| {
            let age = fs::metadata(path).and_then(|metadata| metadata.modified()).map(|time| time.elapsed());
            age.is_ok_and(|age| age.is_ok_and(|age| age > LEFT))
        };
        for note in self.files(PROVENANCE).iter().filter(|path| !path.with_extension(IMAGE).exists() && is_old(path)) {
            let _ = fs::remove_file(note);
        }
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    fn path(&self, id: ComponentId, ending: &str) -> Option<PathBuf> {
        Some(self.folder.as_ref()?.join(format!("{id}.{ending}")))
    }

    /// The folder, if it is there and only this user says what is in it.
    fn own_folder(&self) -> Result<&Path, ImageError> {
        let folder = self.folder().ok_or(ImageError::NoFolder)?;
        private::judge(folder, Others::Readers, Links::Refused)?;
        Ok(folder)
    }

    fn files(&self, ending: &str) -> Vec<PathBuf> {
        let entries = self.own_folder().ok().map(fs::read_dir).into_iter().flatten().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.extension() == Some(OsStr::new(ending))).collect()
    }

    /// The image of a component, if it exists and is what `plan` says. It counts as used now.
    #[must_use]
    pub fn open(&self, id: ComponentId, plan: &ImagePlan, may: &MayBlock<'_>) -> Option<Image> {
        self.own_folder().ok()?;
        let file = HeldFile::open_own(self.path(id, IMAGE)?, may).ok()?;
        let mut head = vec![0; plan.head.len()];
        let path = self.path(id, PROVENANCE)?;
        let note = read_note(&path);
        let is_it = file.identity().length == plan.length
            && note.as_ref().is_some_and(|(note, seal)| {
                note.modified_ns == file.identity().modified_ns
                    && seal.as_ref().is_some_and(|seal| seal.changed_ns == file.identity().changed_ns)
            })
            && file.read_exact_at(&mut head, 0).is_ok()
            && head == plan.head;
        if !is_it {
            tracing::warn!(path = %file.path().display(), "an image of another form, or one that was written to, is left aside");
            return None;
        }
        if let Err(error) = open_own(&path, Access::Append).and_then(|file| file.set_modified(SystemTime::now())) {
            tracing::warn!(path = %path.display(), error = sentence(&error), "when the image was used cannot be noted");
        }
        let made = file.file().metadata().and_then(|metadata| metadata.modified()).unwrap_or(SystemTime::now());
        let (Note { provenance, .. }, _) = note?;
        Some(Image { file, provenance, made })
    }

    /// What an image was made from; `None` when its note is missing or damaged.
    #[must_use]
    pub fn provenance(&self, id: ComponentId, _: &MayBlock<'_>) -> Option<Provenance> {
        self.own_folder().ok()?;
        Some(read_note(&self.path(id, PROVENANCE)?)?.0.provenance)
    }

    /// All images, the most recently used first.
    #[must_use]
    pub fn list(&self, _: &MayBlock<'_>) -> Vec<StoredImage> {
        let stored = |path: PathBuf| {
            let id: ComponentId = path.file_stem()?.to_str()?.parse().ok()?;
            let metadata = fs::symlink_metadata(&path).ok().filter(|metadata| metadata.is_file())?;
            let beside = self.path(id, PROVENANCE)?;
            let made = metadata.modified().ok()?;
            let used = fs::symlink_metadata(&beside).and_then(|metadata| metadata.modified()).unwrap_or(made);
            Some(StoredImage {
                id,
                bytes: metadata.len(),
                provenance: read_note(&beside).map(|(note, _)| note.provenance),
                made,
                used,
                path,
            })
        };
        let mut all: Vec<StoredImage> = self.files(IMAGE).into_iter().filter_map(stored).collect();
        all.sort_by_key(|stored| (std::cmp::Reverse(stored.used), stored.id));
        all
    }

    /// Bytes of the images that are being written, by all daemons.
    #[must_use]
    pub fn partial_bytes(&self, _: &MayBlock<'_>) -> u64 {
        self.bytes_of(PARTIAL)
    }

    /// Bytes of all images when they were last counted: at the start, after each change made here, and by
    /// [`Self::recount`]. Looks at no disk.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// When the image was last used that would go first, by the last count; `None` when there was none.
    #[must_use]
    pub fn oldest_used(&self) -> Option<SystemTime> {
        *self.oldest_used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the bytes of all images, and finds the one that was not used for the longest time.
    pub fn recount(&self, _: &MayBlock<'_>) {
        self.bytes.store(self.bytes_of(IMAGE), Ordering::Relaxed);
        let modified = |path: PathBuf| fs::symlink_metadata(path).and_then(|metadata| metadata.modified()).ok();
        let used = |image: PathBuf| modified(image.with_extension(PROVENANCE)).or_else(|| modified(image));
        let oldest = self.files(IMAGE).into_iter().filter_map(used).min();
        *self.oldest_used.lock().unwrap_or_else(PoisonError::into_inner) = oldest;
    }

    fn bytes_of(&self, ending: &str) -> u64 {
        self.files(ending)
            .iter()
            .filter_map(|path| fs::symlink_metadata(path).ok())
            .map(|metadata| metadata.len())
            .sum()
    }

    /// Deletes an image and its note. Processes that hold it open keep its bytes.
    ///
    /// # Errors
    /// When the system refuses to delete one of them. A missing file is no error.
    pub fn delete(&self, id: ComponentId, may: &MayBlock<'_>) -> Result<(), ImageError> {
        match self.own_folder() {
            Err(ImageError::Folder(FolderError::Io { source, .. })) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(());
            }
            judged => judged?,
        };
        for ending in [IMAGE, PROVENANCE] {
            let path = self.path(id, ending).ok_or(ImageError::NoFolder)?;
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(ImageError::io("delete", &path)(error));
                }
                _ => {}
            }
        }
        self.recount(may);
        Ok(())
    }

    /// Begins an image: writes its note and reserves all `length` bytes, so that a disk that is too full shows at once.
    /// Calls `room` with the folder before; no two calls overlap.
    ///
    /// # Errors
    /// When there is no folder, when the files cannot be made or reserved, or when `room` fails.
    pub fn begin<E: From<ImageError>>(
        &self,
        id: ComponentId,
        length: u64,
        provenance: &Provenance,
        room: impl FnOnce(&Path) -> Result<(), E>,
        may: &MayBlock<'_>,
    ) -> Result<PartialImage, E> {
        let folder = self.folder().ok_or(ImageError::NoFolder)?;
        private::make(folder, Others::Readers, Links::Refused).map_err(ImageError::from)?;
        // What was given up a moment ago must not count.
        let device = fs::metadata(folder).map_or(0, |metadata| metadata.dev());
        settled_on(device, GIVEN_UP, may);
        let _placing = self.placing.lock().unwrap_or_else(PoisonError::into_inner);
        room(folder)?;
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let path = |ending: &str| folder.join(format!("{id}-{}-{number}.{ending}", std::process::id()));
        let lock = |path: PathBuf| Locked::new(path.clone(), may).map_err(ImageError::io("make", &path));
        let (image, beside) = (lock(path(PARTIAL))?, lock(path(PARTIAL_PROVENANCE))?);
        let reserved = weightsd_segment::reserve(image.file(), length).and_then(|()| {
            image.file().set_modified(SystemTime::now())?;
            // Read back: the file system may keep fewer digits.
            image.file().metadata().and_then(|metadata| Ok((metadata.modified()?, FileIdentity::of(&metadata))))
        });
        let (made, identity) = reserved.map_err(ImageError::io("write", image.path()))?;
        let note = Note { provenance: provenance.clone(), modified_ns: identity.modified_ns };
        let mut line = serde_json::to_vec(&note).expect("a note has string keys and finite numbers");
        line.push(b'\n');
        let (mut file, sealed_at) = (beside.file(), line.len() as u64);
        let room = file.write_all(&line).and_then(|()| file.write_all(&[b' '; SEAL_BYTES]));
        room.and_then(|()| weightsd_segment::sync(file)).map_err(ImageError::io("write", beside.path()))?;
        Ok(PartialImage { id, image, provenance: beside, sealed_at, made })
    }

    /// Publishes an image that is whole and on the disk.
    ///
    /// # Errors
    /// When the files cannot be dated, renamed or synced.
    pub fn publish(&self, partial: PartialImage, may: &MayBlock<'_>) -> Result<(), ImageError> {
        let folder = self.own_folder()?;
        let (beside, path) = (self.path(partial.id, PROVENANCE), self.path(partial.id, IMAGE));
        let (beside, path) = beside.zip(path).ok_or(ImageError::NoFolder)?;
        let file = partial.image.file();
        let dated = file.set_modified(partial.made).and_then(|()| weightsd_segment::sync(file));
        dated.map_err(ImageError::io("publish", &path))?;
        // Publish the note first: an image must never be visible without it.
        for (from, to) in [(partial.provenance.path(), &beside), (partial.image.path(), &path)] {
            fs::rename(from, to).map_err(ImageError::io("publish", to))?;
        }
        // The rename changed it for the last time. Into the note of this image, should another daemon have published its own.
        let identity = FileIdentity::of_file(file).map_err(ImageError::io("publish", &path))?;
        let seal = Seal { changed_ns: identity.changed_ns };
        let seal = serde_json::to_vec(&seal).expect("a seal has a string key and a number");
        let (note, at) = (partial.provenance.file(), partial.sealed_at);
        let sealed = note.write_all_at(&seal, at).and_then(|()| weightsd_segment::sync(note));
        sealed.map_err(ImageError::io("publish", &beside))?;
        let synced = File::open(folder).and_then(|folder| weightsd_segment::sync(&folder));
        synced.map_err(ImageError::io("publish", &path))?;
        self.recount(may);
        Ok(())
    }
}

impl PartialImage {
    /// Deletes it, before this returns unless the disk is slow.
    pub fn discard(self, may: &MayBlock<'_>) {
        let device = self.image.device();
        drop(self);
        settled_on(device, GIVEN_UP, may);
    }

    /// The file to write to.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.image.path()
    }
}

impl Image {
    /// Opens the image that was just published.
    ///
    /// # Errors
    /// When it is gone, or was written to, since it was published.
    pub fn published(
        images: &Images,
        id: ComponentId,
        plan: &ImagePlan,
        may: &MayBlock<'_>,
    ) -> Result<Self, ImageError> {
        let path = images.path(id, IMAGE).ok_or(ImageError::NoFolder)?;
        let gone = || ImageError::io("open", &path)(io::ErrorKind::NotFound.into());
        images.open(id, plan, may).ok_or_else(gone)
    }
}

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} ({})", self.component, self.made_from, self.conversion)
    }
}

/// What a file of the folder is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Append,
}

/// Opens a file of the folder, if it is a regular one of this user. Does not block.
fn open_own(path: &Path, access: Access) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let file = match access {
        Access::Read => File::options().read(true).custom_flags(flags).open(path)?,
        Access::Append => File::options().append(true).custom_flags(flags).open(path)?,
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file of the daemon's user"));
    }
    Ok(file)
}

/// A note, and its seal if the image was published.
fn read_note(path: &Path) -> Option<(Note, Option<Seal>)> {
    let mut text = Vec::new();
    open_own(path, Access::Read).ok()?.take(NOTE_MAX).read_to_end(&mut text).ok()?;
    let (note, seal) = match text.iter().position(|byte| *byte == b'\n') {
        Some(end) => text.split_at(end),
        None => (&*text, &[][..]),
    };
    Some((serde_json::from_slice(note).ok()?, serde_json::from_slice(seal).ok()))
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, os::unix::fs::PermissionsExt};

    use weightsd_segment::PinnedFile;

    use super::*;

    const MAY: MayBlock<'static> = MayBlock::on_a_thread_of_its_own();

    fn id(digit: char) -> ComponentId {
        digit.to_string().repeat(64).parse().unwrap()
    }

    fn provenance() -> Provenance {
        Provenance {
            component: "vae".into(),
            made_from: "a/b@c".into(),
            conversion: "BF16".into(),
            sources: vec!["d".into()],
        }
    }

    fn plan(head: &[u8], length: u64) -> ImagePlan {
        ImagePlan { head: head.to_vec(), length }
    }

    #[derive(Debug, thiserror::Error)]
    enum Never {
        #[error(transparent)]
        Image(#[from] ImageError),
        #[error("never")]
        Never(#[from] Infallible),
    }

    fn begin(images: &Images, id: ComponentId, length: u64) -> PartialImage {
        images.begin(id, length, &provenance(), |_| Ok::<_, Never>(()), &MAY).unwrap()
    }

    #[test]
    fn an_image_is_seen_when_it_is_published_and_not_before() {
        let folder = tempfile::tempdir().unwrap();
        let images = Images::new(Some(folder.path().join("images")));
        let partial = begin(&images, id('a'), 100);
        assert_eq!((images.list(&MAY).len(), images.partial_bytes(&MAY)), (0, 100));
        fs::write(partial.path(), [7; 100]).unwrap();
        images.publish(partial, &MAY).unwrap();
        let listed = images.list(&MAY);
        assert_eq!((listed.len(), listed[0].bytes, images.partial_bytes(&MAY)), (1, 100, 0));
        assert_eq!(images.bytes(), 100);
        assert_eq!((listed[0].id, listed[0].provenance.as_ref()), (id('a'), Some(&provenance())));
        let image = images.open(id('a'), &plan(&[7; 10], 100), &MAY).unwrap();
        assert_eq!((&image.provenance, image.made), (&provenance(), listed[0].made));
        assert!(images.open(id('a'), &plan(&[8; 10], 100), &MAY).is_none(), "another head");
        assert!(images.open(id('a'), &plan(&[7; 10], 99), &MAY).is_none(), "another length");
        assert!(images.open(id('b'), &plan(&[7; 10], 100), &MAY).is_none());
        images.delete(id('a'), &MAY).unwrap();
        images.delete(id('a'), &MAY).unwrap();
        assert_eq!(fs::read_dir(folder.path().join("images")).unwrap().count(), 0);
        let mut byte = [0];
        image.file.read_exact_at(&mut byte, 99).unwrap();
        assert_eq!(byte, [7], "a reader that has it open keeps it");
    }

    #[test]
    fn an_image_that_somebody_wrote_to_or_knows_nothing_of_is_not_lent() {
        let folder = tempfile::tempdir().unwrap();
        let images = Images::new(Some(folder.path().to_owned()));
        let open = || images.open(id('a'), &plan(&[0; 10], 100), &MAY);
        let publish = || images.publish(begin(&images, id('a'), 100), &MAY).unwrap();
        publish();
        assert!(open().is_some());
        // Beyond what its head says.
        let path = folder.path().join(format!("{}.safetensors", id('a')));
        File::options().write(true).open(&path).unwrap().write_all_at(&[1], 99).unwrap();
        assert!(open().is_none() && images.list(&MAY).len() == 1);
        publish();
        assert!(open().is_some(), "it is made anew");
        fs::remove_file(path.with_extension("json")).unwrap();
        assert!(open().is_none() && images.list(&MAY)[0].provenance.is_none());
    }

    #[test]
    fn what_is_half_written_goes_when_nobody_writes_it() {
        let folder = tempfile::tempdir().unwrap();
        let images = Images::new(Some(folder.path().to_owned()));
        let written = begin(&images, id('a'), 10);
        drop(begin(&images, id('b'), 10));
        crate::lanes::settled(Duration::from_secs(60), &MAY);
        let left = ["x-1-0.partial", "x-1-0.partial_json"].map(|name| folder.path().join(name));
        for path in &left {
            fs::write(path, "x").unwrap();
        }
        Images::new(Some(folder.path().to_owned())).sweep(&MAY);
        assert!(written.path().exists(), "somebody writes it");
        assert!(!left.iter().any(|path| path.exists()));
        images.publish(written, &MAY).unwrap();
        assert_eq!(images.list(&MAY)[0].provenance, Some(provenance()));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn an_image_altered_in_place_is_not_lent_though_its_time_was_set_back() {
        let folder = tempfile::tempdir().unwrap();
        let images = Images::new(Some(folder.path().to_owned()));
        images.publish(begin(&images, id('a'), 100), &MAY).unwrap();
        assert!(images.open(id('a'), &plan(&[0; 10], 100), &MAY).is_some());
        let file = File::options().write(true).open(folder.path().join(format!("{}.safetensors", id('a')))).unwrap();
        let modified = file.metadata().unwrap().modified().unwrap();
        file.write_all_at(&[1], 99).unwrap();
        file.set_modified(modified).unwrap();
        assert!(images.open(id('a'), &plan(&[0; 10], 100), &MAY).is_none());
    }

    #[test]
    fn a_folder_of_another_is_neither_read_nor_written() {
        let folder = tempfile::tempdir().unwrap();
        let prepared = folder.path().join("weightsd");
        Images::new(Some(prepared.clone()))
            .publish(begin(&Images::new(Some(prepared.clone())), id('a'), 100), &MAY)
            .unwrap();
        let refused = |images: &Images, words: &str| {
            assert!(images.open(id('a'), &plan(&[0; 10], 100), &MAY).is_none() && images.list(&MAY).is_empty());
            assert_eq!((images.bytes(), images.provenance(id('a'), &MAY)), (0, None));
            let begun = images.begin(id('b'), 1, &provenance(), |_| Ok::<_, Never>(()), &MAY);
            let error = begun.map(drop).unwrap_err();
            let Never::Image(error) = error;
            let said = weightsd_core::explain::sentence(&error);
            assert!(said.contains(words), "{said}");
            assert!(error.explain().hint.contains("image_folder"), "{:?}", error.explain());
            assert!(images.delete(id('a'), &MAY).is_err());
        };
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&prepared, &link).unwrap();
        refused(&Images::new(Some(link)), "is a link");
        let images = Images::new(Some(prepared.clone()));
        fs::set_permissions(&prepared, PermissionsExt::from_mode(0o777)).unwrap();
        refused(&images, "has mode 0777");
        fs::set_permissions(&prepared, PermissionsExt::from_mode(0o755)).unwrap();
        assert!(images.open(id('a'), &plan(&[0; 10], 100), &MAY).is_some(), "others may look");
        if std::os::unix::fs::chown(&prepared, Some(4321), None).is_ok() {
            refused(&images, "belongs to uid 4321");
        }
    }

    #[test]
    fn what_is_no_file_of_ours_is_left_alone_and_blocks_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let images = Images::new(Some(folder.path().to_owned()));
        let path = |digit, ending: &str| folder.path().join(format!("{}.{ending}", id(digit)));
        images.publish(begin(&images, id('a'), 100), &MAY).unwrap();
        fs::remove_file(path('a', PROVENANCE)).unwrap();
        for fifo in [path('a', PROVENANCE), path('b', IMAGE), folder.path().join("x.partial")] {
            assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        }
        // A link to a file that a reader may see, and a note must not be.
        std::os::unix::fs::symlink(path('a', IMAGE), path('c', IMAGE)).unwrap();
        images.sweep(&MAY);
        let listed: Vec<_> = images.list(&MAY).into_iter().map(|stored| (stored.id, stored.provenance)).collect();
        assert_eq!(listed, [(id('a'), None)]);
        for digit in ['a', 'b', 'c'] {
            assert!(images.open(id(digit), &plan(&[0; 10], 100), &MAY).is_none());
        }
        assert!(folder.path().join("x.partial").symlink_metadata().is_ok(), "it is not ours");
    }

    #[test]
    fn using_an_image_is_noted_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let images = Images::new(Some(folder.path().to_owned()));
        for digit in ['a', 'b'] {
            images.publish(begin(&images, id(digit), 1), &MAY).unwrap();
        }
        let identity =
            |digit| *PinnedFile::open(folder.path().join(format!("{}.safetensors", id(digit)))).unwrap().identity();
        let before = identity('a');
        std::thread::sleep(std::time::Duration::from_millis(20));
        images.open(id('a'), &plan(&[], 1), &MAY).unwrap();
        assert_eq!(images.list(&MAY)[0].id, id('a'), "the last used comes first");
        assert_eq!(identity('a'), before, "holders compare it");
    }
}
