//! Whether files are what the names of their blobs say. Needs no network. What is not is moved aside.

use std::{
    io,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use weightsd_core::{
    explain::{Explain, Explanation, Reason},
    listing::BlobName,
};
use weightsd_segment::FileIdentity;

use super::{
    Attestations, files,
    hash::{NotHashed, hash_file},
};
use crate::{
    disk,
    hub::RepoStore,
    progress::{Phase, Step, Watcher},
};

/// How often whoever watches is told how far it is.
const REPORT_EVERY: Duration = Duration::from_millis(200);

/// A file that is to be verified.
#[derive(Debug, Clone)]
pub struct HashCandidate {
    /// Path below the model's directory.
    pub name: String,
    /// Path on disk.
    pub path: PathBuf,
    /// Its blob's name; a file outside of a Hugging Face cache has none.
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

/// See [`Verdict`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// It is what its name says: found at that time.
    Good(SystemTime),
    /// Nothing says what it should be.
    Unnamed,
    /// It is not on this machine.
    Missing,
    /// It is something else, and lies elsewhere now.
    Bad {
        /// The hash of its content.
        found: String,
        /// Where it was moved.
        aside: PathBuf,
    },
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

/// Hashes `candidates` of the repository in `store`.
///
/// # Errors
/// [`VerifyError`]. A file that is not what its name says is a finding, not an error.
pub fn verify(
    candidates: &[HashCandidate],
    scope: Scope,
    store: Option<&RepoStore>,
    attestations: &Attestations,
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
        let (identity, finding) = find(candidate, scope, store, attestations, |piece| {
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
    scope: Scope,
    store: Option<&RepoStore>,
    attestations: &Attestations,
    go_on: impl FnMut(u64) -> bool,
) -> Result<(Option<FileIdentity>, Finding), VerifyError> {
    let path = || candidate.path.clone();
    let identity = match std::fs::metadata(&candidate.path) {
        Ok(metadata) => FileIdentity::of(&metadata),
        Err(error) if files::is_absent(&error) => return Ok((None, Finding::Missing)),
        Err(source) => return Err(VerifyError::Io { path: path(), source }),
    };
    let Some(blob) = &candidate.blob else { return Ok((Some(identity), Finding::Unnamed)) };
    if let Some(at) = attestations.get(blob, &identity).filter(|_| scope == Scope::Unattested) {
        return Ok((Some(identity), Finding::Good(at)));
    }
    let (found, identity) = hash_file(&candidate.path, blob, go_on).map_err(|error| match error {
        NotHashed::Io(source) => VerifyError::Io { path: path(), source },
        NotHashed::Abandoned => VerifyError::Abandoned,
        NotHashed::Changed => VerifyError::Changed { path: path() },
    })?;
    if found == blob.as_str() {
        return Ok((Some(identity), Finding::Good(attestations.attest_for_good(blob, &identity))));
    }
    attestations.forget(blob);
    let aside = match store {
        Some(store) => store.quarantine(blob).map_err(|source| VerifyError::Io { path: path(), source })?,
        None => path(),
    };
    tracing::warn!(path = %candidate.path.display(), %blob, found, aside = %aside.display(), "not what its name says");
    Ok((Some(identity), Finding::Bad { found, aside }))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use weightsd_core::spec::{Commit, RepoId};

    use super::*;
    use crate::progress::Unwatched;

    #[test]
    fn good_bad_missing_and_unnamed() {
        let cache = tempfile::tempdir().unwrap();
        let store = RepoStore::new(cache.path(), &RepoId::parse("a/b").unwrap());
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
        let verify = |scope| verify(&candidates, scope, Some(&store), &attestations, &Unwatched).unwrap();
        let first = verify(Scope::Unattested);
        assert!(matches!(first[0].finding, Finding::Good(_)));
        let Finding::Bad { found, aside } = &first[1].finding else { panic!("{first:?}") };
        assert_eq!((found.len(), fs::read_to_string(aside).unwrap().as_str()), (64, "hello\n"));
        assert_eq!((first[2].bytes, &first[2].finding), (1, &Finding::Unnamed));
        let second = verify(Scope::Unattested);
        assert_eq!(second[0], first[0], "attested, not hashed again");
        assert_eq!(second[1].finding, Finding::Missing);
        assert!(matches!(verify(Scope::All)[0].finding, Finding::Good(_)));
    }
}
