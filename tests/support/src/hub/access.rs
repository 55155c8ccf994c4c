//! Who may see what, and the answers that say no. Clients tell the cases apart by these very words.

use std::sync::Arc;

use super::{
    door::Door,
    refusal::{OrRefusal, Refusal},
    request::Request,
    shelf::{Commit, Repository, Shelf},
};

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(super) enum Asker<'a> {
    /// Requests with this token.
    Token(&'a str),
    /// Requests without a token.
    Anonymous,
    /// Requests to a side that checks no token.
    Anyone,
}

impl<'a> Asker<'a> {
    pub(super) fn of(door: Door, request: &'a Request) -> Self {
        match door {
            Door::Hub => request.token().map_or(Self::Anonymous, Self::Token),
            Door::Cdn | Door::Stranger => Self::Anyone,
        }
    }

    fn is_among(self, repository: &Repository) -> bool {
        match self {
            Self::Token(token) => repository.tokens.contains(token),
            Self::Anonymous => false,
            Self::Anyone => true,
        }
    }
}

/// The repository, if the asker may know of it.
pub(super) fn list<'a>(shelf: &'a Shelf, repo: &str, asker: Asker<'_>) -> OrRefusal<&'a Repository> {
    // The real Hub refuses a bad token even where none is needed; a test that sets up no tokens does not care.
    if let Asker::Token(token) = asker
        && !shelf.tokens.is_empty()
        && !shelf.tokens.contains(token)
    {
        return Err(Refusal::status(401).message("Invalid credentials in Authorization header").into());
    }
    let allowed = |repository: &&Repository| !repository.private || asker.is_among(repository);
    shelf.repository(repo).filter(allowed).ok_or_else(|| {
        let status = if matches!(asker, Asker::Anonymous) { 401 } else { 404 };
        Refusal::status(status).code("RepoNotFound").message("Repository not found").into()
    })
}

/// The commit at a revision.
pub(super) fn commit(repository: &Repository, revision: &str) -> OrRefusal<Arc<Commit>> {
    repository.commit(revision).ok_or_else(|| {
        let message = format!("Invalid rev id: {revision}");
        Refusal::status(404).code("RevisionNotFound").message(&message).into()
    })
}

/// Whether the files may be read by an asker who may know of the repository.
pub(super) fn read(repository: &Repository, commit: &str, asker: Asker<'_>) -> OrRefusal<()> {
    if !repository.gated || asker.is_among(repository) {
        return Ok(());
    }
    let (status, message) = match asker {
        Asker::Anonymous => (401, "Access to this model is restricted, please log in"),
        _ => (403, "Access to this model is restricted, you are not in the list"),
    };
    Err(Refusal::status(status).code("GatedRepo").message(message).commit(commit).into())
}
