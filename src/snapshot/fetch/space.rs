//! What is still to come, and whether there is room for it. Asked before the first byte.

use std::{collections::BTreeMap, fs};

use weightsd_core::listing::Listed;

use super::FetchError;
use crate::{disk::free_bytes, hub::RepoStore};

/// The files of which no blob of the right length is there.
pub(super) fn missing(
    store: &RepoStore,
    files: &BTreeMap<String, Listed>,
    floor: u64,
) -> Result<BTreeMap<String, Listed>, FetchError> {
    let is_there = |listed: &Listed| {
        fs::metadata(store.blob(&listed.blob)).is_ok_and(|found| found.is_file() && found.len() == listed.bytes)
    };
    let missing: BTreeMap<_, _> = files.clone().into_iter().filter(|(_, listed)| !is_there(listed)).collect();
    let begun = |listed: &Listed| fs::metadata(store.partial(&listed.blob)).map_or(0, |found| found.len());
    let mut blobs: BTreeMap<_, u64> = BTreeMap::new();
    for listed in missing.values() {
        blobs.insert(&listed.blob, listed.bytes.saturating_sub(begun(listed)));
    }
    let needed = blobs.values().sum::<u64>();
    if needed > 0 {
        let cache = store.cache();
        let free = free_bytes(cache).map_err(FetchError::io(cache))?;
        if needed.saturating_add(floor) > free {
            return Err(FetchError::NoSpace { path: cache.to_owned(), needed, free, floor });
        }
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use weightsd_core::{listing::Listing, spec::RepoId};

    use super::*;

    #[test]
    fn what_is_there_needs_no_room() {
        let cache = tempfile::tempdir().unwrap();
        let store = RepoStore::new(cache.path(), &RepoId::parse("a/b").unwrap());
        let mut listing = Listing::default();
        let sha = |digit: &str| digit.repeat(40);
        let page = serde_json::json!([
            {"type": "file", "oid": sha("a"), "size": 4, "path": "x"},
            {"type": "file", "oid": sha("b"), "size": u64::MAX / 2, "path": "y"},
        ]);
        listing.add_page(page.to_string().as_bytes()).unwrap();
        let mut files: BTreeMap<_, _> = listing.iter().map(|(path, file)| (path.to_owned(), file.clone())).collect();
        let error = missing(&store, &files, 0).unwrap_err();
        assert!(matches!(error, FetchError::NoSpace { needed, .. } if needed == u64::MAX / 2 + 4), "{error}");
        files.remove("y");
        assert_eq!(missing(&store, &files, 0).unwrap().len(), 1);
        assert!(matches!(missing(&store, &files, u64::MAX), Err(FetchError::NoSpace { .. })));
        let blob = store.blob(&files["x"].blob);
        fs::create_dir_all(blob.parent().unwrap()).unwrap();
        fs::write(&blob, "four").unwrap();
        assert!(missing(&store, &files, u64::MAX).unwrap().is_empty());
        fs::write(&blob, "five5").unwrap();
        assert_eq!(missing(&store, &files, 0).unwrap().len(), 1, "another length is another file");
    }
}
