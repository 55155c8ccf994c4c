//! What a request asks for: by its path, its range and its token.

use std::ops::Range;

use hyper::{HeaderMap, header};
use percent_encoding::percent_decode_str;
use weightsd_core::{
    listing::check_path,
    spec::{RepoId, Revision},
};

/// What a path asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    /// The commit of a revision, and its files.
    Info,
    /// The files below a folder, the empty one for all. Not `recursive`: those of the folder alone.
    Tree { folder: String, recursive: bool },
    /// A file.
    File(String),
}

/// A revision of a repository, and what of it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) repo: RepoId,
    pub(super) revision: Revision,
    pub(super) asked: Asked,
}

impl Route {
    /// Reads a path; `None` for one that the mirror does not have.
    pub(super) fn parse(path: &str, query: Option<&str>) -> Option<Self> {
        let decoded = path.trim_start_matches('/').split('/').map(|part| percent_decode_str(part).decode_utf8());
        let parts: Vec<_> = decoded.collect::<Result<_, _>>().ok()?;
        let parts: Vec<&str> = parts.iter().map(AsRef::as_ref).collect();
        let repo = |org: &str, name: &str| RepoId::parse(&format!("{org}/{name}")).ok();
        let revision = |text: &str| Revision::parse(text).ok();
        match parts[..] {
            ["api", "models", org, name] => {
                Some(Self { repo: repo(org, name)?, revision: Revision::default(), asked: Asked::Info })
            }
            ["api", "models", org, name, "revision", rev] => {
                Some(Self { repo: repo(org, name)?, revision: revision(rev)?, asked: Asked::Info })
            }
            ["api", "models", org, name, "tree", rev, ref folder @ ..] => {
                let recursive = query
                    .unwrap_or_default()
                    .split('&')
                    .any(|pair| matches!(pair, "recursive=true" | "recursive=True" | "recursive=1"));
                let asked = Asked::Tree { folder: folder.join("/"), recursive };
                Some(Self { repo: repo(org, name)?, revision: revision(rev)?, asked })
            }
            [org, name, "resolve", rev, ref path @ ..] => {
                let path = path.join("/");
                check_path(&path).ok()?;
                Some(Self { repo: repo(org, name)?, revision: revision(rev)?, asked: Asked::File(path) })
            }
            _ => None,
        }
    }
}

/// Which bytes of a content a request wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All.
    All,
    /// These.
    Some(Range<u64>),
    /// None that there are.
    Nothing,
}

/// Reads a `Range` header. What is not one range of bytes is ignored, as HTTP wants it.
pub(super) fn wanted(headers: &HeaderMap, length: u64) -> Wanted {
    let text = headers.get(header::RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let Some((first, last)) = text.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return Wanted::All;
    };
    let range = match (first.trim().parse::<u64>(), last.trim().parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => first..last.saturating_add(1).min(length),
        (Ok(first), Err(_)) if last.trim().is_empty() => first..length,
        (Err(_), Ok(count)) if first.trim().is_empty() => length.saturating_sub(count)..length,
        _ => return Wanted::All,
    };
    if range.start < range.end { Wanted::Some(range) } else { Wanted::Nothing }
}

/// The token of a request.
pub(super) fn token(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let token = value.strip_prefix("Bearer ").or_else(|| value.strip_prefix("bearer "))?.trim();
    (!token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(path: &str) -> Option<(String, String, Asked)> {
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        let Route { repo, revision, asked } = Route::parse(path, query)?;
        Some((repo.to_string(), revision.to_string(), asked))
    }

    #[test]
    fn paths_of_the_hub_are_read() {
        let tree = |folder: &str, recursive| Asked::Tree { folder: folder.to_owned(), recursive };
        for (path, revision, expected) in [
            ("/api/models/org/repo", "main", Asked::Info),
            ("/api/models/org/repo/revision/refs%2Fpr%2F1", "refs/pr/1", Asked::Info),
            ("/api/models/org/repo/tree/main?recursive=True&expand=false", "main", tree("", true)),
            ("/api/models/org/repo/tree/main/vae", "main", tree("vae", false)),
            ("/org/repo/resolve/v1.0/vae/a%20b.json", "v1.0", Asked::File("vae/a b.json".to_owned())),
        ] {
            assert_eq!(asked(path), Some(("org/repo".to_owned(), revision.to_owned(), expected)), "{path}");
        }
        for other in [
            "/",
            "/api/models",
            "/api/models/../repo",
            "/api/datasets/org/repo",
            "/org/repo/resolve/main/../../x",
            "/org/repo/resolve/main/%2e%2e/x",
            "/org/repo/resolve/main/%2Fetc%2Fpasswd",
            "/org/repo/resolve/main/",
            "/org/repo/blob/main/x",
            "/org/repo/resolve/main/%ff",
        ] {
            assert_eq!(asked(other), None, "{other}");
        }
    }

    #[test]
    fn one_range_is_read_and_others_are_ignored() {
        let wanted = |text: &str| wanted(&HeaderMap::from_iter([(header::RANGE, text.parse().unwrap())]), 10);
        assert_eq!(wanted("bytes=2-4"), Wanted::Some(2..5));
        assert_eq!(wanted("bytes=2-"), Wanted::Some(2..10));
        assert_eq!(wanted("bytes=-3"), Wanted::Some(7..10));
        assert_eq!(wanted("bytes=0-99999999999999999999"), Wanted::All);
        assert_eq!(wanted("bytes=0-18446744073709551615"), Wanted::Some(0..10));
        assert_eq!(wanted("bytes=10-"), Wanted::Nothing);
        for other in ["", "items=1-2", "bytes=1-2,4-5", "bytes=5-2", "bytes=-"] {
            assert_eq!(wanted(other), Wanted::All, "{other}");
        }
    }
}
