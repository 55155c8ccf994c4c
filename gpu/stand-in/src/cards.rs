//! The cards: folders of files. A file is memory that somebody has.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::fs::{FlockOperation, flock};

use crate::{BYTES, CARDS};

fn place(folder: &Path, card: u8) -> PathBuf {
    folder.join(format!("card-{card}"))
}

/// Nobody else creates or counts meanwhile.
fn alone(folder: &Path) -> io::Result<File> {
    let lock = File::options().create(true).append(true).open(folder.join("lock"))?;
    flock(&lock, FlockOperation::LockExclusive)?;
    Ok(lock)
}

pub(crate) fn used(folder: &Path, card: u8) -> io::Result<u64> {
    let _alone = alone(folder)?;
    count(folder, card)
}

/// Adds up what is locked, and deletes the rest.
fn count(folder: &Path, card: u8) -> io::Result<u64> {
    let mut sum = 0;
    let entries = match fs::read_dir(place(folder, card)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        let file = File::open(&path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => fs::remove_file(&path)?,
            Err(_) => sum += file.metadata()?.len(),
        }
    }
    Ok(sum)
}

/// Free bytes of a card.
pub(crate) fn free(folder: &Path, card: u8) -> io::Result<u64> {
    Ok(BYTES.saturating_sub(used(folder, card)?))
}

/// New memory; `None` when the card is full.
pub(crate) fn create(folder: &Path, card: u8, bytes: u64) -> io::Result<Option<File>> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let _alone = alone(folder)?;
    if count(folder, card)?.saturating_add(bytes) > BYTES {
        return Ok(None);
    }
    let place = place(folder, card);
    fs::create_dir_all(&place)?;
    let name = format!("{}-{}", process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    let file = File::options().create_new(true).read(true).write(true).open(place.join(name))?;
    file.set_len(bytes)?;
    flock(&file, FlockOperation::LockShared)?;
    Ok(Some(file))
}

/// Memory of another process: its card, the same open file, and its length.
pub(crate) fn import(folder: &Path, descriptor: impl AsFd) -> io::Result<(u8, File, u64)> {
    let own: OwnedFd = rustix::io::fcntl_dupfd_cloexec(descriptor, 0)?;
    let path = fs::read_link(format!("/proc/self/fd/{}", own.as_raw_fd()))?;
    let card = (0..CARDS).find(|&card| path.starts_with(place(folder, card)));
    let card = card.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no memory of a card"))?;
    let file = File::from(own);
    let length = file.metadata()?.len();
    Ok((card, file, length))
}
