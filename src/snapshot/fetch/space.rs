//! Which files are still to come, and whether there is room for them. It is decided before the first byte comes.

use std::{collections::BTreeMap, fs};

use weightsd_core::{listing::Listed, spec::Commit};

use super::FetchError;
use crate::{disk::free_bytes, source::Store};

/// The files that are not on this machine: neither as a blob of the right length nor as a file of the snapshot's own.
///
/// # Errors
/// When the disk has no room for them.
pub(super) fn missing(
    store: &dyn Store,
    commit: &Commit,
    files: &BTreeMap<String, Listed>,
    floor: u64,
) -> Result<BTreeMap<String, Listed>, FetchError> {
    let is_absent = |path: &str, listed: &Listed| store.locate(commit, path, listed).is_none();
    let missing: BTreeMap<_, _> = files.clone().into_iter().filter(|(path, listed)| is_absent(path, listed)).collect();
    let begun = |listed: &Listed| fs::metadata(store.partial(&listed.blob)).map_or(0, |found| found.len());
    let mut blobs: BTreeMap<_, u64> = BTreeMap::new();
    for listed in missing.values() {
        blobs.insert(&listed.blob, listed.bytes.saturating_sub(begun(listed)));
    }
    let needed = blobs.values().sum::<u64>();
    if needed > 0 {
        let cache = store.cache();
        let free = free_bytes(cache).map_err(FetchError::io(store, cache))?;
        if needed.saturating_add(floor) > free {
            return Err(FetchError::NoSpace { path: cache.to_owned(), needed, free, floor, setting: store.setting() });
        }
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use weightsd_core::{explain::Explain as _, listing::Listing, spec::RepoId};

    use super::*;
    use crate::source::RepoStore;

    #[test]
    fn present_files_need_no_room() {
        let cache = tempfile::tempdir().unwrap();
        let store = RepoStore::new(cache.path(), &RepoId::parse("a/b").unwrap(), "its test");
        let commit = Commit::parse(&"c".repeat(40)).unwrap();
        let mut listing = Listing::default();
        let sha = |digit: &str| digit.repeat(40);
        let page = serde_json::json!([
            {"type": "file", "oid": sha("a"), "size": 4, "path": "x"},
            {"type": "file", "oid": sha("b"), "size": u64::MAX / 2, "path": "y"},
        ]);
        listing.add_page(page.to_string().as_bytes()).unwrap();
        let mut files: BTreeMap<_, _> = listing.iter().map(|(path, file)| (path.to_owned(), file.clone())).collect();
        let error = missing(&store, &commit, &files, 0).unwrap_err();
        assert!(matches!(error, FetchError::NoSpace { needed, .. } if needed == u64::MAX / 2 + 4), "{error}");
        let hint = error.explain().hint;
        assert!(hint.contains("a cache on another disk with its test"), "{hint}");
        files.remove("y");
        assert_eq!(missing(&store, &commit, &files, 0).unwrap().len(), 1);
        assert!(matches!(missing(&store, &commit, &files, u64::MAX), Err(FetchError::NoSpace { .. })));
        let blob = store.blob(&files["x"].blob);
        fs::create_dir_all(blob.parent().unwrap()).unwrap();
        fs::write(&blob, "four").unwrap();
        assert!(missing(&store, &commit, &files, u64::MAX).unwrap().is_empty());
        fs::write(&blob, "five5").unwrap();
        assert_eq!(missing(&store, &commit, &files, 0).unwrap().len(), 1, "another length is another file");
        let own = store.snapshot(&commit).join("x");
        fs::create_dir_all(own.parent().unwrap()).unwrap();
        fs::write(own, "edited").unwrap();
        assert!(missing(&store, &commit, &files, 0).unwrap().is_empty(), "a file of the snapshot's own is a file");
    }
}
