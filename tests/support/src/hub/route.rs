//! What a request asks for, by its path alone.

use super::{on::Side, request::Request};

/// Parts of a path below `/api/models/{repo}/`.
const VERBS: [&str; 5] = ["revision", "tree", "paths-info", "refs", "xet-read-token"];

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    /// About a repository at a revision.
    Info { repo: String, revision: String },
    /// The files below a folder, which is empty or ends with `/`.
    Tree { repo: String, revision: String, folder: String },
    /// About some files.
    PathsInfo { repo: String, revision: String },
    /// The branches.
    Refs { repo: String },
    /// A key to the Xet store.
    XetToken { repo: String },
    /// A file.
    File { repo: String, revision: String, path: String },
    /// A file, through the cache that the real Hub redirects to.
    CachedFile { repo: String, revision: String, path: String },
    /// A large file on the CDN.
    Large { sha256: String },
    /// Nothing that is known.
    Nothing,
}

impl Route {
    /// For a request to the hub.
    pub(super) fn of(request: &Request) -> Self {
        let segments: Vec<&str> = request.segments.iter().map(String::as_str).collect();
        match segments[..] {
            ["api", "resolve-cache", "models", owner, name, revision, ref path @ ..] => {
                let (repo, revision, path) = (format!("{owner}/{name}"), revision.to_owned(), path.join("/"));
                Self::CachedFile { repo, revision, path }
            }
            ["api", "models", ref rest @ ..] => Self::api(rest),
            ["repos", sha256, ..] => Self::Large { sha256: sha256.to_owned() },
            [owner, name, "resolve", revision, ref path @ ..] => {
                let (repo, revision, path) = (format!("{owner}/{name}"), revision.to_owned(), path.join("/"));
                Self::File { repo, revision, path }
            }
            [name, "resolve", revision, ref path @ ..] => {
                Self::File { repo: name.to_owned(), revision: revision.to_owned(), path: path.join("/") }
            }
            _ => Self::Nothing,
        }
    }

    fn api(segments: &[&str]) -> Self {
        let (repo, rest) = match segments {
            [name] => ((*name).to_owned(), &segments[1..]),
            // A repository may be called `tree`, but then it has an owner and a verb follows.
            [name, verb, next, ..] if VERBS.contains(verb) && !VERBS.contains(next) => {
                ((*name).to_owned(), &segments[1..])
            }
            [name, "refs"] => ((*name).to_owned(), &segments[1..]),
            [owner, name, ..] => (format!("{owner}/{name}"), &segments[2..]),
            [] => return Self::Nothing,
        };
        match rest {
            [] => Self::Info { repo, revision: "main".to_owned() },
            ["revision", revision] => Self::Info { repo, revision: (*revision).to_owned() },
            ["tree", revision, folder @ ..] => {
                let folder = folder.iter().map(|part| format!("{part}/")).collect();
                Self::Tree { repo, revision: (*revision).to_owned(), folder }
            }
            ["paths-info", revision] => Self::PathsInfo { repo, revision: (*revision).to_owned() },
            ["refs"] => Self::Refs { repo },
            ["xet-read-token", _] => Self::XetToken { repo },
            _ => Self::Nothing,
        }
    }

    /// Which side of the hub it is.
    pub(super) fn side(&self) -> Side {
        match self {
            Self::File { .. } | Self::CachedFile { .. } => Side::Resolve,
            _ => Side::Api,
        }
    }

    pub(super) fn repo(&self) -> Option<&str> {
        match self {
            Self::Info { repo, .. }
            | Self::Tree { repo, .. }
            | Self::PathsInfo { repo, .. }
            | Self::Refs { repo }
            | Self::XetToken { repo }
            | Self::File { repo, .. }
            | Self::CachedFile { repo, .. } => Some(repo),
            Self::Large { .. } | Self::Nothing => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(path: &str) -> Route {
        let decode = |part: &str| percent_encoding::percent_decode_str(part).decode_utf8_lossy().into_owned();
        let segments = path.split('/').skip(1).map(decode).collect();
        Route::of(&Request {
            method: String::new(),
            target: String::new(),
            segments,
            path: String::new(),
            query: String::new(),
            headers: std::collections::BTreeMap::new(),
            body: Vec::new(),
            keep_alive: true,
        })
    }

    #[test]
    fn repositories_have_one_part_or_two() {
        let info = |repo: &str, revision: &str| Route::Info { repo: repo.to_owned(), revision: revision.to_owned() };
        assert_eq!(route("/api/models/gpt2"), info("gpt2", "main"));
        assert_eq!(route("/api/models/o/n"), info("o/n", "main"));
        assert_eq!(route("/api/models/gpt2/revision/v1"), info("gpt2", "v1"));
        assert_eq!(route("/api/models/o/n/revision/feature%2Fx"), info("o/n", "feature/x"));
        assert_eq!(route("/api/models/gpt2/refs"), Route::Refs { repo: "gpt2".to_owned() });
        assert_eq!(route("/api/models/o/tree/refs"), Route::Refs { repo: "o/tree".to_owned() });
        let file =
            |repo: &str| Route::File { repo: repo.to_owned(), revision: "main".to_owned(), path: "a/b".to_owned() };
        assert_eq!(route("/gpt2/resolve/main/a/b"), file("gpt2"));
        assert_eq!(route("/o/n/resolve/main/a/b"), file("o/n"));
    }

    #[test]
    fn hostile_paths_arrive_as_they_are() {
        let Route::File { path, .. } = route("/o/n/resolve/main//etc/%2e%2e/x") else { panic!("a file") };
        assert_eq!(path, "/etc/../x");
    }
}
