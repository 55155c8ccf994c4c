//! Model specs, as users and strangers write them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weightsd_core::{
    explain::Explain as _,
    spec::{self, ModelSpec, RepoId, RepoSpec, Revision, SPEC_BYTES_MAX, SpecError},
};

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let parsed = ModelSpec::parse(text);
    assert_eq!(parsed, ModelSpec::parse(text), "two answers for one text");
    match parsed {
        Ok(ModelSpec::Path(path)) => path_is_usable(&path),
        Ok(ModelSpec::Id(id)) => {
            assert!(!spec::is_path_like(text.trim()), "what looks like a path is a path");
            match RepoSpec::parse_id(&id) {
                Ok(hub) => id_is_safe(hub),
                Err(error) => reads_well(&error),
            }
        }
        Ok(ModelSpec::Address { text, .. }) => match RepoId::parse_address(&text) {
            Ok(repo) => address_is_safe(&repo),
            Err(error) => reads_well(&error),
        },
        Err(error) => reads_well(&error),
    }
    match Revision::parse(text) {
        Ok(revision) => revision_is_safe(&revision),
        Err(error) => reads_well(&error),
    }
    match RepoId::parse(text) {
        Ok(repo) => repo_is_safe(&repo),
        Err(error) => reads_well(&error),
    }
});

fn path_is_usable(path: &str) {
    assert!(!path.is_empty() && path.len() <= SPEC_BYTES_MAX);
    assert!(!path.chars().any(char::is_control));
}

fn id_is_safe(hub: RepoSpec) {
    repo_is_safe(&hub.repo);
    let written = match &hub.revision {
        Some(revision) => {
            revision_is_safe(revision);
            format!("{}:{revision}", hub.repo)
        }
        None => hub.repo.to_string(),
    };
    assert_eq!(RepoSpec::parse_id(&written), Ok(hub), "written out and read again");
}

/// One folder, and parts that stay below the place.
fn address_is_safe(repo: &RepoId) {
    let folder = repo.cache_folder();
    assert!(folder.starts_with("models--") && folder.len() <= 255);
    assert!(folder.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'));
    let (place, below) = repo.parts();
    assert!(!place.is_empty() && !place.contains('/'));
    assert!(below.is_empty() || below.split('/').all(|part| !matches!(part, "" | "." | "..")));
    assert_eq!(RepoId::parse_address(repo.as_str()).as_ref(), Ok(repo));
}

/// One folder, whatever the id is.
fn repo_is_safe(repo: &RepoId) {
    let folder = repo.cache_folder();
    assert!(folder.starts_with("models--") && folder.len() <= 255);
    assert!(folder.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)));
    assert!(!folder.contains(".."));
    assert_eq!(folder.matches("--").count(), 2, "{folder} can be taken apart again");
    assert_eq!(RepoId::parse(repo.as_str()).as_ref(), Ok(repo));
}

/// A path below `refs/` that stays below it.
fn revision_is_safe(revision: &Revision) {
    let text = revision.as_str();
    assert!(text.len() <= 255 && !text.contains('\\'));
    assert!(!text.chars().any(char::is_control));
    assert!(text.split('/').all(|part| !matches!(part, "" | "." | "..") && !part.starts_with('.')));
    assert_eq!(Revision::parse(text).as_ref(), Ok(revision));
    if let Some(commit) = revision.as_commit() {
        assert!(commit.as_str().len() == 40 && commit.as_str().bytes().all(|byte| b"0123456789abcdef".contains(&byte)));
    }
}

/// An error ends up in a status, in a log and on a terminal.
fn reads_well(error: &SpecError) {
    let text = error.to_string();
    assert!(!text.is_empty() && !error.explain().hint.is_empty());
    assert!(!text.chars().any(char::is_control), "{text:?}");
}
