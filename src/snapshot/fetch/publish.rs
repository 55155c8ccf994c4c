//! Makes a set of files visible in the cache, in an order in which a reader never finds a ref to a half-filled snapshot:
//! the listing, the entries of the snapshot, and last the ref.

use std::collections::{BTreeMap, HashMap};

use weightsd_core::{
    explain::sentence,
    listing::{Listed, Listing},
    spec::{Commit, Revision},
};
use weightsd_segment::file_key;

use super::FetchError;
use crate::{
    snapshot::Attestations,
    source::{Blob, Linked, Store},
};

/// Publishes `files`, which are all on this machine. Blocks.
///
/// # Errors
/// When the snapshot cannot be written to, and lacks a file. Listing and ref only save requests later: one that cannot be
/// written is logged.
pub(super) fn publish(
    store: &dyn Store,
    commit: &Commit,
    revision: &Revision,
    listing: &Listing,
    files: &BTreeMap<String, Listed>,
    attestations: &Attestations,
) -> Result<(), FetchError> {
    if let Err(error) = store.keep_listing(commit, listing) {
        tracing::warn!(%commit, error = sentence(&error), "the listing cannot be kept");
    }
    let mut real = Vec::new();
    for (path, listed) in files {
        match store.link(commit, path, &listed.blob) {
            Ok(Linked::Done) => {}
            Ok(Linked::NoLinks) => real.push((path, listed)),
            Err(error) => return Err(FetchError::io(store, &store.snapshot(commit).join(path))(error)),
        }
    }
    place(store, commit, &real, attestations)?;
    if let Err(error) = store.point(revision, commit) {
        tracing::warn!(%revision, %commit, error = sentence(&error), "a ref cannot be written");
    }
    Ok(())
}

/// Moves blobs into a snapshot that can have no links. A blob that several paths share is copied for all but the last.
fn place(
    store: &dyn Store,
    commit: &Commit,
    files: &[(&String, &Listed)],
    attestations: &Attestations,
) -> Result<(), FetchError> {
    let mut uses: HashMap<_, usize> = HashMap::new();
    for (_, listed) in files {
        *uses.entry(&listed.blob).or_default() += 1;
    }
    for (path, listed) in files {
        let at = || FetchError::io(store, &store.snapshot(commit).join(path));
        let left = uses.entry(&listed.blob).or_default();
        *left -= 1;
        let then = if *left > 0 || store.is_linked(&listed.blob) { Blob::Kept } else { Blob::Moved };
        // Another name is another state of the file, to which the attestation does not belong.
        let before = file_key(&store.blob(&listed.blob)).map_err(at())?;
        let was_attested = attestations.get(&listed.blob, &before).is_some();
        let placed = store.place(commit, path, &listed.blob, then).map_err(at())?;
        if was_attested {
            attestations.attest_for_good(&listed.blob, &file_key(&placed).map_err(at())?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt as _};

    use weightsd_core::{listing::BlobName, spec::RepoId};

    use super::*;
    use crate::source::{FoundFile, Links, RepoStore};

    #[test]
    fn without_links_snapshots_hold_the_files() {
        let cache = tempfile::tempdir().unwrap();
        let store = RepoStore::new(cache.path(), &RepoId::parse("a/b").unwrap(), "its test").with_links(Links::Avoided);
        let (commit, revision) = (Commit::parse(&"c".repeat(40)).unwrap(), Revision::default());
        let mut listing = Listing::default();
        let entry = |path: &str, digit: &str| serde_json::json!({"type": "file", "oid": digit.repeat(40), "size": 4, "path": path});
        let page = serde_json::json!([entry("vae/x", "a"), entry("vae/y", "a"), entry("z", "b")]);
        listing.add_page(page.to_string().as_bytes()).unwrap();
        let files: BTreeMap<_, _> = listing.iter().map(|(path, file)| (path.to_owned(), file.clone())).collect();
        let attestations = Attestations::new(None);
        fs::create_dir_all(store.blob(&files["z"].blob).parent().unwrap()).unwrap();
        for listed in files.values() {
            let blob = store.blob(&listed.blob);
            fs::write(&blob, "four").unwrap();
            attestations.attest(&listed.blob, &file_key(&blob).unwrap());
        }
        publish(&store, &commit, &revision, &listing, &files, &attestations).unwrap();
        for (path, listed) in &files {
            let found = store.locate(&commit, path, listed).unwrap();
            assert_eq!(found, FoundFile::Own(store.snapshot(&commit).join(path)));
            assert!(found.path().symlink_metadata().unwrap().is_file());
            assert!(attestations.get(&listed.blob, &file_key(found.path()).unwrap()).is_some(), "{path}");
        }
        let links = fs::metadata(store.blob(&files["z"].blob)).unwrap().nlink();
        assert_eq!(links, 2, "it takes its room once");
        // A second time there is nothing to do.
        publish(&store, &commit, &revision, &listing, &files, &attestations).unwrap();
        let name: BlobName = files["z"].blob.clone();
        assert!(attestations.recent(&name, &file_key(&store.snapshot(&commit).join("z")).unwrap()).is_some());
    }
}
