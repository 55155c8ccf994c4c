//! The files below a model's directory.

use std::{fs, io, path::Path};

use sha1::{Digest as _, Sha1};
use weightsd_core::{
    listing::{BlobName, HashKind, Listing},
    spec::Commit,
};

use super::{ENTRIES_MAX, SnapshotError};
use crate::{
    lanes::MayBlock,
    source::{Store, blob_name},
};

/// Folders below the model's directory that are looked into: `split_files/diffusion_models/x` is two deep.
pub(super) const DEPTH_MAX: usize = 3;

/// Names of the files in a folder, and not below it; in any order.
pub(super) fn list_folder(folder: &Path) -> Result<Vec<String>, SnapshotError> {
    let io_error = |source| SnapshotError::Io { path: folder.to_owned(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(io_error)? {
        if names.len() == ENTRIES_MAX {
            return Err(SnapshotError::TooManyFiles { path: folder.to_owned() });
        }
        names.extend(entry.map_err(io_error)?.file_name().into_string());
    }
    Ok(names)
}

/// Which files of a folder are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    /// Those that a model may consist of: no hidden ones, and none deeper than [`DEPTH_MAX`].
    OfModels,
    /// All.
    All,
}

/// Paths of all files below `root`, sorted, with `/` between parts. Links count as what they point to, a dangling link
/// as a file. Hidden entries, and names that are not UTF-8 or have control characters, are passed over.
pub(super) fn list(root: &Path) -> Result<Vec<String>, SnapshotError> {
    walk(root, Which::OfModels)
}

/// What this machine has of a commit, as a listing, where nobody kept the hub's: the files whose links name their blobs. So
/// it names no file that is not here, and none that a user put there.
///
/// # Errors
/// When the snapshot cannot be read, or has more files than a model.
pub fn of_snapshot(store: &dyn Store, commit: &Commit, _: &MayBlock<'_>) -> Result<Listing, SnapshotError> {
    let root = store.snapshot(commit);
    let mut listing = Listing::default();
    for path in walk(&root, Which::All)? {
        let link = root.join(&path);
        let blob = blob_name(&link).and_then(|name| BlobName::parse(&name)).filter(BlobName::is_of_a_hub);
        // A link that leads to nothing is a file that is not here.
        let Some((blob, found)) = blob.zip(fs::metadata(&link).ok()) else { continue };
        let pointer = (blob.kind() == HashKind::Sha256).then(|| pointer(&blob, found.len()));
        let added = listing.add_blob(&path, found.len(), blob, pointer);
        added.map_err(|_| SnapshotError::TooManyFiles { path: root.clone() })?;
    }
    Ok(listing)
}

/// Git's name of the file that stands for a content in Git LFS, whose text follows from the content
/// (<https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md>).
fn pointer(blob: &BlobName, bytes: u64) -> BlobName {
    let text = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{blob}\nsize {bytes}\n");
    let hash = Sha1::new_with_prefix(format!("blob {}\0{text}", text.len())).finalize();
    BlobName::parse(&hex::encode(hash)).expect("40 hex digits name a blob")
}

fn walk(root: &Path, which: Which) -> Result<Vec<String>, SnapshotError> {
    let mut files = Vec::new();
    let mut seen = 0;
    let mut folders = vec![(String::new(), 0)];
    while let Some((prefix, depth)) = folders.pop() {
        let folder = root.join(&prefix);
        let io_error = |source| SnapshotError::Io { path: folder.clone(), source };
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            // A folder that somebody removed in between.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !prefix.is_empty() => continue,
            Err(error) => return Err(io_error(error)),
        };
        for entry in entries {
            let entry = entry.map_err(io_error)?;
            seen += 1;
            if seen > ENTRIES_MAX {
                return Err(SnapshotError::TooManyFiles { path: root.to_owned() });
            }
            let Ok(name) = entry.file_name().into_string() else { continue };
            let is_hidden = which == Which::OfModels && name.starts_with('.');
            if is_hidden || name.chars().any(char::is_control) {
                continue;
            }
            let path = format!("{prefix}{name}");
            let is_folder = match entry.file_type().map_err(io_error)? {
                kind if kind.is_symlink() => fs::metadata(entry.path()).is_ok_and(|metadata| metadata.is_dir()),
                kind => kind.is_dir(),
            };
            if !is_folder {
                files.push(path);
            } else if depth < DEPTH_MAX || which == Which::All {
                folders.push((format!("{path}/"), depth + 1));
            }
        }
    }
    files.sort_unstable();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pointer_of_a_content_is_the_one_that_git_names() {
        let blob = BlobName::parse("5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03").unwrap();
        // `git hash-object` of the file that `git lfs pointer` writes.
        assert_eq!(pointer(&blob, 6).as_str(), "fa61e1ef71c9908c0926776a4aa3504b3a27f159");
    }
}
