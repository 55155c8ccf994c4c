//! The store of blobs that all repositories of a cache share: `blobs/<first two hex digits>/<hash>`, with `<hash>.refs`
//! (one `models--owner--name/blobs/<etag>` a line) and `<hash>.lock` beside it, and a marker in `blobs`.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use crate::{
    FixtureError,
    folders::{create_dir, link_unless_there},
};

/// Makes room for a blob, links the repository's blob to it, and returns its place.
pub(crate) fn admit(cache_root: &Path, repo_folder: &str, etag: &str) -> Result<PathBuf, FixtureError> {
    // Any 64 digits that are not the sha-256, as the hash of Xet is another one.
    let hash = hex::encode(Sha256::digest(format!("xet {etag}")));
    let store = cache_root.join("blobs");
    let folder = store.join(&hash[..2]);
    create_dir(&folder)?;
    write(&store.join(".huggingface-shared-blobs"), "1\n")?;
    write(&folder.join(format!("{hash}.lock")), "")?;
    let refs = folder.join(format!("{hash}.refs"));
    let user = format!("{repo_folder}/blobs/{etag}");
    let mut users = fs::read_to_string(&refs).unwrap_or_default();
    if !users.lines().any(|line| line == user) {
        users.push_str(&user);
        users.push('\n');
        write(&refs, &users)?;
    }
    let to = format!("../../blobs/{}/{hash}", &hash[..2]);
    link_unless_there(&to, &cache_root.join(&user))?;
    Ok(folder.join(hash))
}

/// Takes the right to write away, as `huggingface_hub` does.
pub(crate) fn protect(blob: &Path) -> Result<(), FixtureError> {
    fs::set_permissions(blob, fs::Permissions::from_mode(0o444)).map_err(FixtureError::io("protect", blob))
}

fn write(path: &Path, text: &str) -> Result<(), FixtureError> {
    fs::write(path, text).map_err(FixtureError::io("write", path))
}
