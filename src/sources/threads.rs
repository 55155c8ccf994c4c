//! Work on the threads that a source has for itself.

use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;
use weightsd_core::spec::{Commit, RepoId};

use crate::source::{ByteRange, Source, SourceError, SourceProblem, Words, read_bytes};

/// Runs `work` on the threads of a source; it ends when the caller loses interest.
#[expect(clippy::disallowed_methods, reason = "the handle owns the task, and aborts it when the caller drops it")]
pub(super) async fn run<T: Send + 'static>(
    threads: Handle,
    words: &'static Words,
    work: impl Future<Output = Result<T, SourceError>> + Send + 'static,
) -> Result<T, SourceError> {
    let task = AbortOnDropHandle::new(threads.spawn(work));
    task.await.unwrap_or_else(|_| {
        let problem = "the request died".to_owned();
        Err(words.error(SourceProblem::Unusable { setting: "a fault of weightsd", problem }))
    })
}

/// The next `length` bytes of a file from the begin of `range` on, read on the threads of its source.
pub(super) async fn bytes<S: Source + Clone + 'static>(
    source: &S,
    (repo, commit, path): (&RepoId, &Commit, &str),
    range: Option<ByteRange>,
    length: u64,
) -> Result<Vec<u8>, SourceError> {
    let (threads, words) = (source.runtime()?, source.words());
    let (source, repo, commit, path) = (source.clone(), repo.clone(), commit.clone(), path.to_owned());
    let read = async move { read_bytes(&source, &repo, &commit, &path, range, length).await };
    run(threads, words, read).await
}
