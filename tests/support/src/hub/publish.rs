//! Makes commits of directories, fixtures and bytes.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use sha2::{Digest, Sha256};

use super::shelf::{Commit, Content, Large, Published};
use crate::{FixtureError, HubFixture, commit_id, git_blob_hash};

/// From this size on files are large, whatever their name (the Hub's own limit for git).
const LARGE_FROM: u64 = 10 << 20;

/// Every file below a directory; links are followed.
pub(super) fn directory(repo: &str, root: &Path) -> Result<Commit, FixtureError> {
    let mut paths = Vec::new();
    list(root, &mut paths)?;
    let mut files = Vec::new();
    for path in paths {
        let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
        files.push(from_disk(name, &path)?);
    }
    Ok(commit(repo, files))
}

/// The files of a fixture, under its own commit and etags.
pub(super) fn fixture(fixture: &HubFixture) -> Commit {
    let files = fixture.files.iter().map(|file| {
        let content = Content::Disk(file.target.clone());
        published(file.path.clone(), file.bytes, &file.etag, file.etag.len() == 64, content)
    });
    Commit { id: fixture.commit.clone(), files: by_path(files) }
}

/// Files in memory.
pub(super) fn bytes(repo: &str, files: Vec<(String, Vec<u8>)>) -> Commit {
    let files = files.into_iter().map(|(path, bytes)| {
        let size = bytes.len() as u64;
        let is_large = is_large(&path, size);
        let etag = if is_large { hex::encode(Sha256::digest(&bytes)) } else { git_blob_hash(&bytes) };
        published(path, size, &etag, is_large, Content::Memory(bytes.into()))
    });
    commit(repo, files.collect())
}

fn commit(repo: &str, mut files: Vec<Published>) -> Commit {
    files.sort_by(|one, other| one.path.cmp(&other.path));
    let id = commit_id(repo, files.iter().map(|file| (file.etag(), file.path.as_str())));
    Commit { id, files: by_path(files.into_iter()) }
}

fn by_path(files: impl Iterator<Item = Published>) -> BTreeMap<String, Arc<Published>> {
    files.map(|file| (file.path.clone(), Arc::new(file))).collect()
}

fn published(path: String, size: u64, etag: &str, is_large: bool, content: Content) -> Published {
    if !is_large {
        return Published { path, size, oid: etag.to_owned(), large: None, content };
    }
    let pointer = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{etag}\nsize {size}\n");
    let large = Some(Large { sha256: etag.to_owned(), pointer_size: pointer.len() as u64 });
    Published { path, size, oid: git_blob_hash(pointer.as_bytes()), large, content }
}

fn is_large(path: &str, size: u64) -> bool {
    path.ends_with(".safetensors") || path.ends_with(".gguf") || size >= LARGE_FROM
}

fn list(folder: &Path, into: &mut Vec<PathBuf>) -> Result<(), FixtureError> {
    let read = |path: &Path| -> io::Result<Vec<PathBuf>> {
        fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.path())).collect()
    };
    for path in read(folder).map_err(FixtureError::io("read", folder))? {
        if path.is_dir() {
            list(&path, into)?;
        } else {
            into.push(path);
        }
    }
    Ok(())
}

fn from_disk(name: String, path: &Path) -> Result<Published, FixtureError> {
    let hash = || -> io::Result<(u64, bool, String)> {
        let mut file = File::open(path)?;
        let size = file.metadata()?.len();
        let is_large = is_large(&name, size);
        let etag = if is_large {
            sha256(&mut file)?
        } else {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            git_blob_hash(&bytes)
        };
        Ok((size, is_large, etag))
    };
    let (size, is_large, etag) = hash().map_err(FixtureError::io("read", path))?;
    // The caller of a relative path may change the working directory before it is read.
    let place = std::path::absolute(path).map_err(FixtureError::io("find", path))?;
    Ok(published(name, size, &etag, is_large, Content::Disk(place)))
}

fn sha256(file: &mut File) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(hex::encode(hash.finalize()));
        }
        hash.update(&buffer[..read]);
    }
}
