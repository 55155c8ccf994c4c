//! Listings of a hub and of its caches, which become paths on this machine.

#![no_main]

use std::path::{Component, Path};

use libfuzzer_sys::fuzz_target;
use weightsd_core::listing::{FILES_MAX, Listing, ListingError};

fuzz_target!(|input: &[u8]| {
    let mut page = Listing::default();
    match page.add_page(input) {
        Ok(()) => is_safe(&page),
        Err(error) => reads_well(&error),
    }
    match Listing::from_cached(input) {
        Ok(cached) => is_safe(&cached),
        Err(error) => reads_well(&error),
    }
});

fn is_safe(listing: &Listing) {
    assert!(listing.len() <= FILES_MAX);
    let cache = Path::new("/cache/models--a--b");
    for (path, listed) in listing.iter() {
        let joined = cache.join("snapshots").join(path);
        assert!(joined.starts_with(cache), "{path:?} leaves the cache");
        assert!(joined.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_))), "{path:?}");
        let blob = listed.blob.as_str();
        assert!(matches!(blob.len(), 40 | 64), "{blob:?}");
        assert!(blob.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')), "{blob:?}");
    }
    let written = listing.to_cached();
    assert_eq!(Listing::from_cached(written.as_bytes()).as_ref(), Ok(listing), "written out and read again");
}

fn reads_well(error: &ListingError) {
    let text = error.to_string();
    assert!(text.len() < 2048 && !text.chars().any(char::is_control), "{text:?}");
}
