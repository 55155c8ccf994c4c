//! Folders on the disk. A folder is named by a hash of its contents, appears whole, and is never changed.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU64, Ordering},
};

use sha2::{Digest as _, Sha256};

use super::{Entries, Entry};
use crate::folder_error::FolderError;

/// Digits of the hash in a folder's name.
const DIGITS: usize = 32;

/// Number of the next folder of this process that is not finished.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// The folder below `root` with these entries, made if it is not there.
pub(super) fn folder(root: &Path, entries: Entries) -> Result<PathBuf, FolderError> {
    let folder = root.join(name(&entries));
    if folder.is_dir() {
        return Ok(folder);
    }
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let partial = root.join(format!(".partial-{}-{number}", process::id()));
    let written = fill(&partial, &entries).and_then(|()| publish(&partial, &folder));
    if written.is_err() {
        // What is left of it is small, and the error that counts is the first one.
        let _ = fs::remove_dir_all(&partial);
    }
    written.map(|()| folder)
}

/// Hashes paths and what they are, so that another state of the model is another folder.
fn name(entries: &Entries) -> String {
    let mut hash = Sha256::new();
    let mut field = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    for (path, entry) in entries {
        field(path.as_os_str().as_encoded_bytes());
        match entry {
            Entry::Link(target) => {
                field(b"link");
                field(target.as_os_str().as_encoded_bytes());
            }
            Entry::Text(text) => {
                field(b"text");
                field(text.as_bytes());
            }
        }
    }
    let digits: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    digits[..DIGITS].to_owned()
}

fn fill(folder: &Path, entries: &Entries) -> Result<(), FolderError> {
    fs::create_dir_all(folder).map_err(FolderError::io("make the folder", folder))?;
    for (path, entry) in entries {
        let path = folder.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(FolderError::io("make the folder", parent))?;
        }
        match entry {
            Entry::Link(target) => symlink(target, &path).map_err(FolderError::io("make the link", &path))?,
            Entry::Text(text) => fs::write(&path, text).map_err(FolderError::io("write", &path))?,
        }
    }
    Ok(())
}

/// Gives a whole folder its name. Another process may have been first, with the same contents.
fn publish(partial: &Path, folder: &Path) -> Result<(), FolderError> {
    match fs::rename(partial, folder) {
        Ok(()) => Ok(()),
        Err(error) if matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::DirectoryNotEmpty) => {
            fs::remove_dir_all(partial).map_err(FolderError::io("remove", partial))
        }
        Err(error) => Err(FolderError::io("name the folder", folder)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_contents_are_the_same_folder_and_others_another() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("weights");
        fs::write(&file, b"x").unwrap();
        let entries = |text: &str| {
            Entries::from([
                ("a/model.safetensors".into(), Entry::Link(file.clone())),
                ("config.json".into(), Entry::Text(text.to_owned())),
            ])
        };
        let first = folder(root.path(), entries("{}")).unwrap();
        assert_eq!(folder(root.path(), entries("{}")).unwrap(), first);
        assert_ne!(folder(root.path(), entries("{ }")).unwrap(), first);
        assert_eq!(fs::read(first.join("a/model.safetensors")).unwrap(), b"x");
        let names = fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert!(!names.into_iter().any(|name| name.to_string_lossy().starts_with('.')), "nothing partial is left");
    }

    #[test]
    fn a_folder_that_another_process_made_meanwhile_is_taken() {
        let root = tempfile::tempdir().unwrap();
        let (partial, whole) = (root.path().join("p"), root.path().join("w"));
        fs::create_dir_all(partial.join("x")).unwrap();
        fs::create_dir_all(whole.join("x")).unwrap();
        publish(&partial, &whole).unwrap();
        assert!(!partial.exists() && whole.join("x").exists());
    }
}
