//! The files below a model's directory.

use std::{fs, io, path::Path};

use super::{ENTRIES_MAX, SnapshotError};

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

/// Paths of all files below `root`, sorted, with `/` between parts. Links count as what they point to, a dangling link
/// as a file. Hidden entries, and names that are not UTF-8 or have control characters, are passed over.
pub(super) fn list(root: &Path) -> Result<Vec<String>, SnapshotError> {
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
            if name.starts_with('.') || name.chars().any(char::is_control) {
                continue;
            }
            let path = format!("{prefix}{name}");
            let is_folder = match entry.file_type().map_err(io_error)? {
                kind if kind.is_symlink() => fs::metadata(entry.path()).is_ok_and(|metadata| metadata.is_dir()),
                kind => kind.is_dir(),
            };
            if !is_folder {
                files.push(path);
            } else if depth < DEPTH_MAX {
                folders.push((format!("{path}/"), depth + 1));
            }
        }
    }
    files.sort_unstable();
    Ok(files)
}
