//! Compares files with the hashes that name their blobs, without any network. A damaged blob is moved aside. A file that
//! is only this snapshot's may be the user's own work, so the caller says whether it is moved aside or left.

use std::{
    io,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use weightsd_core::{
    explain::{Explain, Explanation, Reason},
    listing::{BlobName, HashKind},
};
use weightsd_segment::{FileIdentity, file_key};

use super::{
    Attestations,
    hash::{Hashed, NotHashed, hash_file},
};
use crate::{
    disk,
    progress::{Phase, Step, Watcher},
    source::{Store, is_absent},
};

/// Time between two steps that a watcher is told.
const REPORT_EVERY: Duration = Duration::from_millis(200);

/// A file that is to be verified.
#[derive(Debug, Clone)]
pub struct HashCandidate {
    /// Path below the model's directory.
    pub name: String,
    /// Path on disk.
    pub path: PathBuf,
    /// Its blob's name; a file outside of a cache has none.
    pub blob: Option<BlobName>,
}

/// What a file was found to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Path below the model's directory.
    pub name: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// Its blob's name.
    pub blob: Option<BlobName>,
    /// The file that was looked at.
    pub identity: Option<FileIdentity>,
    /// The finding.
    pub finding: Finding,
}

impl Verdict {
    /// Whether the file was moved, so that it is missing now.
    #[must_use]
    pub fn is_set_aside(&self) -> bool {
        matches!(&self.finding, Finding::Bad { aside: Some(_), .. })
    }
}

/// See [`Verdict`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// It is what its name says: found at that time.
    Good(SystemTime),
    /// Nothing says what it should be.
    Unnamed,
    /// It is not on this machine.
    Missing,
    /// It is not what its name says.
    Bad {
        /// The hash of its content.
        found: String,
        /// Where it was moved; `None` when it was named by its path and so left alone.
        aside: Option<PathBuf>,
    },
    /// A file of the snapshot's own is not the commit's, and was left ([`OwnFiles::Leave`]).
    Differs {
        /// The hash of its content.
        found: String,
    },
}

impl Finding {
    /// Whether the file is another one than it should be.
    #[must_use]
    pub fn is_other(&self) -> bool {
        matches!(self, Self::Bad { .. } | Self::Differs { .. })
    }
}

/// What happens to a regular file of a snapshot that is not the commit's: an edited config, or a damaged copy in a cache
/// without links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnFiles {
    /// It stays.
    Leave,
    /// It is renamed, so that the commit's can take its place.
    SetAside,
}

/// Why files were not verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// Nobody waits any more.
    #[error("the verification was given up, because nobody waits for it")]
    Abandoned,
    /// Somebody writes to it.
    #[error("`{}` changed while it was being verified", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot verify `{}`", path.display())]
    Io {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Explain for VerifyError {
    fn explain(&self) -> Explanation {
        match self {
            Self::Abandoned => Explanation::new(Reason::Abandoned, "", "ask again"),
            Self::Changed { path } => {
                let hint = "somebody writes to it; try again later";
                Explanation::new(Reason::FileChanged, path.display().to_string(), hint)
            }
            Self::Io { path, source } => disk::explain(path, source),
        }
    }
}

/// Which files are hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Those without an attestation.
    Unattested,
    /// All.
    All,
}

/// Where files are looked for, and what happens to those that are not what they should be.
#[derive(Debug, Clone, Copy)]
pub struct HashCheck<'a> {
    /// The repository's folder; `None` for a model that is named by its path, whose files are never moved.
    pub store: Option<&'a dyn Store>,
    /// What was found before.
    pub attestations: &'a Attestations,
    /// Which files are hashed.
    pub scope: Scope,
    /// What happens to files of the snapshot's own.
    pub own: OwnFiles,
}

/// Hashes `candidates`.
///
/// # Errors
/// When a file cannot be read or renamed, changes meanwhile, or nobody waits any more. A file that is not what its name
/// says is a finding, not an error.
pub fn verify(
    candidates: &[HashCandidate],
    how: HashCheck<'_>,
    watcher: &dyn Watcher,
) -> Result<Vec<Verdict>, VerifyError> {
    let length = |candidate: &HashCandidate| std::fs::metadata(&candidate.path).map_or(0, |metadata| metadata.len());
    let bytes_total = candidates.iter().map(length).sum();
    let mut step = Step { phase: Phase::Verify, files_total: candidates.len(), bytes_total, ..Step::default() };
    let mut verdicts = Vec::with_capacity(candidates.len());
    let mut told: Option<Instant> = None;
    let mut tell = |step: &Step| {
        if told.is_none_or(|told| told.elapsed() >= REPORT_EVERY) {
            told = Some(Instant::now());
            watcher.step(step);
        }
    };
    for candidate in candidates {
        step.file.clone_from(&candidate.name);
        tell(&step);
        let before = step.bytes_done;
        let (identity, finding) = find(candidate, how, |piece| {
            step.bytes_done += piece;
            tell(&step);
            !watcher.is_abandoned()
        })?;
        let bytes = identity.map_or(0, |identity| identity.length);
        step.bytes_done = before + bytes;
        step.files_done += 1;
        verdicts.push(Verdict { name: candidate.name.clone(), bytes, blob: candidate.blob.clone(), identity, finding });
    }
    watcher.step(&step);
    Ok(verdicts)
}

fn find(
    candidate: &HashCandidate,
    how: HashCheck<'_>,
    go_on: impl FnMut(u64) -> bool,
) -> Result<(Option<FileIdentity>, Finding), VerifyError> {
    let path = || candidate.path.clone();
    let io_error = |source| VerifyError::Io { path: path(), source };
    let identity = match std::fs::metadata(&candidate.path) {
        Ok(metadata) => FileIdentity::of(&metadata),
        Err(error) if is_absent(&error) => return Ok((None, Finding::Missing)),
        Err(source) => return Err(io_error(source)),
    };
    let Some(blob) = &candidate.blob else { return Ok((Some(identity), Finding::Unnamed)) };
    if how.scope == Scope::Unattested
        && let Ok(key) = file_key(&candidate.path)
        && let Some(at) = how.attestations.get(blob, &key)
    {
        return Ok((Some(identity), Finding::Good(at)));
    }
    let (Hashed { is_expected, found }, file) =
        hash_file(&candidate.path, blob, go_on).map_err(|error| match error {
            NotHashed::Io(source) => io_error(source),
            NotHashed::Abandoned => VerifyError::Abandoned,
            NotHashed::Changed => VerifyError::Changed { path: path() },
        })?;
    let identity = *file.identity();
    let is_expected = match blob.kind() {
        HashKind::Unhashed => match how.store.and_then(|store| store.first_hash(blob)) {
            Some(first) => first == found,
            None => return Ok((Some(identity), Finding::Unnamed)),
        },
        _ => is_expected,
    };
    if is_expected {
        return Ok((Some(identity), Finding::Good(how.attestations.attest_for_good(blob, &file.key()))));
    }
    let is_blob = how.store.is_none_or(|store| store.is_blob(&candidate.path, blob));
    if !is_blob && how.own == OwnFiles::Leave {
        tracing::warn!(path = %candidate.path.display(), %blob, found, "a file of its own, which is not the commit's, is left");
        return Ok((Some(identity), Finding::Differs { found }));
    }
    how.attestations.forget(blob);
    let aside = match how.store {
        Some(store) => store.set_aside(&candidate.path, blob, &found).map_err(io_error)?,
        None => None,
    };
    tracing::warn!(path = %candidate.path.display(), %blob, found, ?aside, "not what its name says");
    Ok((Some(identity), Finding::Bad { found, aside }))
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use weightsd_core::spec::{Commit, RepoId};

    use super::*;
    use crate::{progress::Unwatched, source::RepoStore};

    #[test]
    fn good_bad_missing_and_unnamed() {
        let cache = tempfile::tempdir().unwrap();
        let store = RepoStore::new(cache.path(), &RepoId::parse("a/b").unwrap(), "its test");
        let commit = Commit::parse(&"c".repeat(40)).unwrap();
        let attestations = Attestations::new(None);
        // `printf 'hello\n' | git hash-object --stdin`
        let good = BlobName::parse("ce013625030ba8dba906f756967f9e9ca394464a").unwrap();
        let bad = BlobName::parse(&"d".repeat(64)).unwrap();
        fs::create_dir_all(store.blob(&good).parent().unwrap()).unwrap();
        let mut candidates = Vec::new();
        for (name, blob) in [("good", &good), ("bad", &bad)] {
            fs::write(store.blob(blob), "hello\n").unwrap();
            store.link(&commit, name, blob).unwrap();
            let path = store.snapshot(&commit).join(name);
            candidates.push(HashCandidate { name: name.to_owned(), path, blob: Some(blob.clone()) });
        }
        let plain = cache.path().join("plain");
        fs::write(&plain, "x").unwrap();
        candidates.push(HashCandidate { name: "plain".into(), path: plain, blob: None });
        let verify = |scope| {
            let how = HashCheck { store: Some(&store), attestations: &attestations, scope, own: OwnFiles::Leave };
            verify(&candidates, how, &Unwatched).unwrap()
        };
        let first = verify(Scope::Unattested);
        assert!(matches!(first[0].finding, Finding::Good(_)));
        let Finding::Bad { found, aside: Some(aside) } = &first[1].finding else { panic!("{first:?}") };
        assert_eq!((found.len(), fs::read_to_string(aside).unwrap().as_str()), (64, "hello\n"));
        assert_eq!((first[2].bytes, &first[2].finding), (1, &Finding::Unnamed));
        let second = verify(Scope::Unattested);
        assert_eq!(second[0], first[0], "attested, not hashed again");
        assert_eq!(second[1].finding, Finding::Missing);
        assert!(matches!(verify(Scope::All)[0].finding, Finding::Good(_)));
    }

    /// A repository with one good blob, and a snapshot whose entry `x` the test makes.
    fn scene() -> (tempfile::TempDir, RepoStore, BlobName, PathBuf) {
        let cache = tempfile::tempdir().unwrap();
        let store = RepoStore::new(cache.path(), &RepoId::parse("a/b").unwrap(), "its test");
        let blob = BlobName::parse("ce013625030ba8dba906f756967f9e9ca394464a").unwrap();
        fs::create_dir_all(store.blob(&blob).parent().unwrap()).unwrap();
        fs::write(store.blob(&blob), "hello\n").unwrap();
        let entry = store.snapshot(&Commit::parse(&"c".repeat(40)).unwrap()).join("x");
        fs::create_dir_all(entry.parent().unwrap()).unwrap();
        (cache, store, blob, entry)
    }

    fn verdict(path: &Path, store: Option<&dyn Store>, blob: &BlobName, own: OwnFiles) -> Finding {
        let candidate = HashCandidate { name: "x".into(), path: path.to_owned(), blob: Some(blob.clone()) };
        let how = HashCheck { store, attestations: &Attestations::new(None), scope: Scope::All, own };
        verify(&[candidate], how, &Unwatched).unwrap().remove(0).finding
    }

    #[test]
    fn a_verdict_on_an_own_file_never_touches_the_blob() {
        let (_cache, store, blob, entry) = scene();
        fs::write(&entry, "edited").unwrap();
        assert!(matches!(verdict(&entry, Some(&store), &blob, OwnFiles::Leave), Finding::Differs { .. }));
        assert_eq!(fs::read_to_string(&entry).unwrap(), "edited");
        let set_aside = verdict(&entry, Some(&store), &blob, OwnFiles::SetAside);
        let Finding::Bad { aside: Some(aside), .. } = set_aside else { panic!("{set_aside:?}") };
        assert_eq!((fs::read_to_string(aside).unwrap().as_str(), entry.exists()), ("edited", false));
        assert_eq!(fs::read_to_string(store.blob(&blob)).unwrap(), "hello\n");
    }

    #[test]
    fn a_link_to_a_bad_file_elsewhere_costs_the_link_alone() {
        let (cache, store, blob, entry) = scene();
        let elsewhere = cache.path().join("elsewhere/blobs").join(blob.as_str());
        fs::create_dir_all(elsewhere.parent().unwrap()).unwrap();
        fs::write(&elsewhere, "bad").unwrap();
        std::os::unix::fs::symlink(&elsewhere, &entry).unwrap();
        assert!(verdict(&entry, Some(&store), &blob, OwnFiles::SetAside).is_other());
        assert!(entry.symlink_metadata().is_err());
        assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "bad");
        assert_eq!(fs::read_to_string(store.blob(&blob)).unwrap(), "hello\n");
    }

    #[test]
    fn a_bad_file_that_is_named_by_its_path_is_left() {
        let (_cache, store, blob, _entry) = scene();
        fs::write(store.blob(&blob), "bad").unwrap();
        let found = verdict(&store.blob(&blob), None, &blob, OwnFiles::SetAside);
        assert!(matches!(found, Finding::Bad { aside: None, .. }), "{found:?}");
        assert_eq!(fs::read_to_string(store.blob(&blob)).unwrap(), "bad");
    }
}
