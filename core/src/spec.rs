//! What a user writes to name a model: a path, a Hugging Face id with a revision, or the address of a place that a source
//! reads.
//!
//! A spec that looks like a path is never taken for an id, and the reverse: the rules below decide on the text alone.
//! Whether a path of that name exists is asked by the daemon's `resolve` stage, before these rules. Which schemes there
//! are is said by the daemon's list of sources.

use std::fmt;

use percent_encoding::percent_decode_str;
use sha2::{Digest as _, Sha256};

use crate::{
    explain::{Explain, Explanation, Reason},
    shown::shown,
    weight_name,
};

/// Longest spec, in bytes.
pub const SPEC_BYTES_MAX: usize = 4096;

/// Longest scheme of an address, in bytes.
const SCHEME_BYTES_MAX: usize = 32;

/// First parts of `a/b` that name a local folder in practice, so `a/b` is not taken for a Hugging Face id.
pub const FOLDER_NAMES: [&str; 11] =
    ["models", "model", "weights", "data", "datasets", "checkpoints", "output", "tmp", "temp", "cache", "snapshots"];

/// A model spec, told apart by its looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelSpec {
    /// A path, as written (`~` not expanded, relative or absolute); a `file://` URL is decoded.
    Path(String),
    /// Anything else without a scheme: an id, if it is one ([`RepoSpec::parse_id`]).
    Id(String),
    /// An address `scheme://…`, for the source of that scheme to read.
    Address {
        /// The scheme, in lower case.
        scheme: String,
        /// The whole spec.
        text: String,
    },
}

/// A repository at a source, with the revision that was written after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoSpec {
    /// The repository.
    pub repo: RepoId,
    /// The revision, when one was written.
    pub revision: Option<Revision>,
}

/// Why a text is not a model spec.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Nothing, or only white space.
    #[error("the model spec is empty")]
    Empty,
    /// Over [`SPEC_BYTES_MAX`].
    #[error("the model spec is {found} bytes long, at most {SPEC_BYTES_MAX} are allowed")]
    TooLong {
        /// Its length.
        found: usize,
    },
    /// A NUL or another control character.
    #[error("the model spec has a control character at byte {at}")]
    ControlCharacter {
        /// Where.
        at: usize,
    },
    /// A `file:` URL of another host, or with bytes that are not UTF-8.
    #[error("`{text}` is not a usable file URL: {problem}")]
    FileUrl {
        /// The spec.
        text: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A URL of a scheme that no source takes, such as `https://`.
    #[error("`{text}` is a URL")]
    Url {
        /// The spec.
        text: String,
    },
    /// An address that names no place at its source.
    #[error("`{text}` is not a usable address: {problem}")]
    Address {
        /// The spec.
        text: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Not `org/repo`.
    #[error("`{text}` is neither a path nor a Hugging Face id: {problem}")]
    NotAnId {
        /// The spec.
        text: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// `models/x` and the like.
    #[error("`{text}` looks like a folder, not like a Hugging Face id: `{folder}` is a common folder name")]
    LooksLikeFolder {
        /// The spec.
        text: String,
        /// Its first part.
        folder: String,
    },
    /// The part after `:` or `@`.
    #[error("`{text}` is not a revision: {problem}")]
    Revision {
        /// The revision.
        text: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A revision in the spec and another one beside it.
    #[error("the spec names revision `{in_spec}` and the request names `{in_request}`")]
    TwoRevisions {
        /// In the spec.
        in_spec: String,
        /// In the request.
        in_request: String,
    },
    /// A revision of a path.
    #[error("`{path}` is a path, and a path has no revision")]
    RevisionOfPath {
        /// The path.
        path: String,
    },
}

impl Explain for SpecError {
    fn explain(&self) -> Explanation {
        let reason = match self {
            Self::TwoRevisions { .. } | Self::RevisionOfPath { .. } => Reason::InvalidRequest,
            _ => Reason::InvalidSpec,
        };
        let hint = match self {
            Self::LooksLikeFolder { .. } | Self::NotAnId { .. } => {
                "write a path with a leading `/`, `./` or `~/`, or a Hugging Face id as `org/repo`, `org/repo:revision` or `org/repo@revision`"
            }
            Self::Url { .. } => {
                "give the id (`org/repo`) instead of the page's address, or the path of a downloaded file"
            }
            Self::Address { .. } => "write it as `scheme://place/folder`",
            Self::FileUrl { .. } => "write the plain path, or `file:///` followed by an absolute path",
            Self::Revision { .. } => "a revision is a branch, a tag or a 40-digit commit",
            Self::TwoRevisions { .. } => "name the revision once",
            Self::RevisionOfPath { .. } => "leave the revision out",
            Self::Empty | Self::TooLong { .. } | Self::ControlCharacter { .. } => {
                "give an absolute path or a Hugging Face id such as `Tongyi-MAI/Z-Image-Turbo`"
            }
        };
        Explanation::new(reason, "model.spec", hint)
    }
}

impl ModelSpec {
    /// Parses `text` by its looks.
    ///
    /// # Errors
    /// When the text breaks a rule of paths or ids. The error says which.
    pub fn parse(text: &str) -> Result<Self, SpecError> {
        let text = check_text(text)?;
        if let Some(rest) = text.strip_prefix("file:") {
            return decode_file_url(text, rest).map(Self::Path);
        }
        if let Some((scheme, _)) = text.split_once("://") {
            return Ok(Self::Address { scheme: scheme.to_ascii_lowercase(), text: text.to_owned() });
        }
        Ok(if is_path_like(text) { Self::Path(text.to_owned()) } else { Self::Id(text.to_owned()) })
    }
}

impl RepoSpec {
    /// Parses `org/repo`, `org/repo:revision` or `org/repo@revision`.
    ///
    /// # Errors
    /// When the text is no Hugging Face id, or the revision is none.
    pub fn parse_id(text: &str) -> Result<Self, SpecError> {
        let (id, revision) = match text.find([':', '@']) {
            Some(at) => (&text[..at], Some(Revision::parse(&text[at + 1..])?)),
            None => (text, None),
        };
        Ok(Self { repo: RepoId::parse(id)?, revision })
    }
}

/// Trims `text` and checks what holds for paths and ids alike.
///
/// # Errors
/// When the text is empty, too long, or has control characters.
pub fn check_text(text: &str) -> Result<&str, SpecError> {
    let text = text.trim();
    if text.is_empty() {
        return Err(SpecError::Empty);
    }
    if text.len() > SPEC_BYTES_MAX {
        return Err(SpecError::TooLong { found: text.len() });
    }
    match text.char_indices().find(|(_, character)| character.is_control()) {
        Some((at, _)) => Err(SpecError::ControlCharacter { at }),
        None => Ok(text),
    }
}

/// Whether the text can only be meant as a path.
#[must_use]
pub fn is_path_like(text: &str) -> bool {
    text == "."
        || text == ".."
        || ["/", "./", "../", "~", "\\"].iter().any(|start| text.starts_with(start))
        || weight_name::stem(text).is_some()
        || text.ends_with('/')
}

fn decode_file_url(text: &str, rest: &str) -> Result<String, SpecError> {
    let fail = |problem| SpecError::FileUrl { text: text.to_owned(), problem };
    let path = match rest.strip_prefix("//") {
        Some(after) => {
            let slash = after.find('/').ok_or_else(|| fail("it has no absolute path"))?;
            if !matches!(&after[..slash], "" | "localhost") {
                return Err(fail("it names another host"));
            }
            &after[slash..]
        }
        None if rest.starts_with('/') => rest,
        None => return Err(fail("it has no absolute path")),
    };
    let decoded = percent_decode_str(path).decode_utf8().map_err(|_| fail("it is not UTF-8"))?;
    check_text(&decoded).map(str::to_owned)
}

/// The name of a repository at its source: a Hugging Face id, `org/repo`, checked by the rules of `huggingface_hub`'s
/// `validate_repo_id`; or an address, `scheme://place/folder`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RepoId {
    text: String,
    /// Where the first part begins: behind the scheme.
    begin: usize,
    /// Where the first part ends.
    slash: usize,
}

impl RepoId {
    /// Parses `org/repo`.
    ///
    /// # Errors
    /// When `text` breaks these rules, or looks like a path because it begins with the name of a usual folder.
    pub fn parse(text: &str) -> Result<Self, SpecError> {
        let fail = |problem| Err(SpecError::NotAnId { text: shown(text), problem });
        let Some((org, repo)) = text.split_once('/') else {
            return fail("an id has two parts, `org/repo`");
        };
        if repo.contains('/') {
            return fail("an id has two parts, `org/repo`");
        }
        for part in [org, repo] {
            if part.is_empty() || part.len() > 96 {
                return fail("each part has 1 to 96 characters");
            }
            if !part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) {
                return fail("only letters, digits, `.`, `_` and `-` are allowed");
            }
            if part.starts_with(['-', '.']) || part.ends_with(['-', '.']) {
                return fail("a part may not begin or end with `-` or `.`");
            }
            if part.contains("--") || part.contains("..") {
                return fail("`--` and `..` are not allowed");
            }
        }
        if repo.ends_with(".git") {
            return fail("it may not end in `.git`");
        }
        if org.matches('.').count() > 1 {
            return fail("the first part looks like a file name");
        }
        if FOLDER_NAMES.contains(&org.to_ascii_lowercase().as_str()) {
            return Err(SpecError::LooksLikeFolder { text: text.to_owned(), folder: org.to_owned() });
        }
        Ok(Self { text: text.to_owned(), begin: 0, slash: org.len() })
    }

    /// Parses `scheme://place` or `scheme://place/folder/..`, without a final `/`. No part may be empty, `.` or `..`, and
    /// names and passwords do not belong into it.
    ///
    /// # Errors
    /// When `text` has no scheme or place, or breaks these rules.
    pub fn parse_address(text: &str) -> Result<Self, SpecError> {
        let fail = |problem| Err(SpecError::Address { text: shown(text), problem });
        let Some((scheme, rest)) = text.split_once("://") else { return fail("it has no scheme") };
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        if scheme.len() > SCHEME_BYTES_MAX || !scheme.bytes().all(is_plain) || !scheme.starts_with(char::is_alphabetic)
        {
            return fail("a scheme has a few lower-case letters and digits");
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return fail("no part may be empty, `.` or `..`");
        }
        let (begin, length) = (scheme.len() + 3, rest.find('/').unwrap_or(rest.len()));
        if rest[..length].contains('@') {
            // Not shown: it may be a password.
            let text = format!("{scheme}://…");
            return Err(SpecError::Address { text, problem: "it holds a name or a password" });
        }
        Ok(Self { text: text[..begin + rest.len()].to_owned(), begin, slash: begin + length })
    }

    /// `org/repo`, or the whole address.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// `org` and `repo`; of an address the place, and the folder there, which may be empty.
    #[must_use]
    pub fn parts(&self) -> (&str, &str) {
        (&self.text[self.begin..self.slash], self.text.get(self.slash + 1..).unwrap_or_default())
    }

    /// Name of the repository's folder in a cache of the Hugging Face structure: `models--org--repo`, or
    /// `models--scheme--` and digits of the address's SHA-256, since folders of an address may be long and deep.
    #[must_use]
    pub fn cache_folder(&self) -> String {
        match self.text.split_once("://") {
            Some((scheme, _)) => {
                let digest = Sha256::digest(self.text.as_bytes());
                format!("models--{scheme}--{}", hex::encode(&digest[..20]))
            }
            None => format!("models--{}--{}", &self.text[..self.slash], &self.text[self.slash + 1..]),
        }
    }
}

impl fmt::Display for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A branch, a tag or a commit, checked by the rules of `git check-ref-format`, so that it is also a safe path below
/// `refs/`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Revision(String);

impl Revision {
    /// The revision that counts when none is named.
    pub const DEFAULT: &'static str = "main";

    /// Parses a revision.
    ///
    /// # Errors
    /// When `text` is empty, too long, or no name that git allows.
    pub fn parse(text: &str) -> Result<Self, SpecError> {
        let text = text.trim();
        let fail = |problem| Err(SpecError::Revision { text: shown(text), problem });
        if text.is_empty() {
            return fail("it is empty");
        }
        if text.len() > 255 {
            return fail("it has more than 255 bytes");
        }
        if text.chars().any(|c| c.is_control() || c.is_whitespace() || "~^:?*[\\".contains(c)) {
            return fail("white space, control characters and `~^:?*[\\` are not allowed");
        }
        if text == "@" || text.contains("@{") || text.contains("..") {
            return fail("`..`, `@{` and a lone `@` are not allowed");
        }
        let bad_part = |part: &str| part.is_empty() || part.starts_with('.') || part.ends_with(".lock");
        if text.ends_with('.') || text.split('/').any(bad_part) {
            return fail("no part may be empty, begin with `.`, or end in `.` or `.lock`");
        }
        Ok(Self(text.to_owned()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The commit, when the revision is one: 40 hex digits, in lower case.
    #[must_use]
    pub fn as_commit(&self) -> Option<Commit> {
        Commit::parse(&self.0)
    }
}

impl From<&Commit> for Revision {
    fn from(commit: &Commit) -> Self {
        Self(commit.0.clone())
    }
}

impl Default for Revision {
    fn default() -> Self {
        Self(Self::DEFAULT.to_owned())
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A git commit: 40 hex digits in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Commit(String);

impl Commit {
    /// Takes 40 hex digits of either case.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| Self(text.to_ascii_lowercase()))
    }

    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hub(text: &str) -> (String, Option<String>) {
        let ModelSpec::Id(id) = ModelSpec::parse(text).unwrap() else { panic!("{text} is no id") };
        let spec = RepoSpec::parse_id(&id).unwrap();
        (spec.repo.to_string(), spec.revision.map(|revision| revision.to_string()))
    }

    #[test]
    fn ids_with_and_without_revision() {
        assert_eq!(hub("Tongyi-MAI/Z-Image-Turbo"), ("Tongyi-MAI/Z-Image-Turbo".into(), None));
        assert_eq!(hub(" a/b:v1.0 "), ("a/b".into(), Some("v1.0".into())));
        assert_eq!(hub("a/b@refs/pr/1"), ("a/b".into(), Some("refs/pr/1".into())));
        assert_eq!(hub("a/b:feature@2"), ("a/b".into(), Some("feature@2".into())));
        assert_eq!(hub("a.b/c_d.e").0, "a.b/c_d.e");
        assert_eq!(RepoId::parse("a/b").unwrap().cache_folder(), "models--a--b");
    }

    #[test]
    fn paths_are_never_ids() {
        for path in ["/x", "./a/b", "../a", "~/x", "~", ".", "a/b.safetensors", "x.safetensors", "a/b/", "\\\\host\\x"]
        {
            assert_eq!(ModelSpec::parse(path).unwrap(), ModelSpec::Path(path.to_owned()));
        }
        assert_eq!(ModelSpec::parse("file:///a%20b/c").unwrap(), ModelSpec::Path("/a b/c".to_owned()));
        assert_eq!(ModelSpec::parse("file://localhost/a").unwrap(), ModelSpec::Path("/a".to_owned()));
    }

    #[test]
    fn addresses_are_left_to_the_source_of_their_scheme() {
        let text = "S3://bucket/models/x.safetensors".to_owned();
        assert_eq!(ModelSpec::parse(&text), Ok(ModelSpec::Address { scheme: "s3".to_owned(), text }));
        let repo = RepoId::parse_address("s3://bucket/a/b/").unwrap();
        assert_eq!((repo.as_str(), repo.parts()), ("s3://bucket/a/b", ("bucket", "a/b")));
        assert_eq!(RepoId::parse_address("s3://bucket").unwrap().parts(), ("bucket", ""));
        let folder = repo.cache_folder();
        assert!(folder.starts_with("models--s3--") && folder.len() == 52, "{folder}");
        assert_ne!(folder, RepoId::parse_address("s3://bucket/a/c").unwrap().cache_folder());
        for bad in ["bucket/a", "s3://", "s3://b//a", "s3://b/../a", "S3://b", "3://b", "s3:///a"] {
            assert!(matches!(RepoId::parse_address(bad), Err(SpecError::Address { .. })), "{bad}");
        }
        let error = RepoId::parse_address("s3://key:sEcReT@bucket/a").unwrap_err();
        assert!(!error.to_string().contains("sEcReT"), "{error}");
    }

    #[test]
    fn commits_are_recognised_in_either_case() {
        let revision = Revision::parse(&"AB".repeat(20)).unwrap();
        assert_eq!(revision.as_commit().unwrap().as_str(), "ab".repeat(20));
        assert!(Revision::parse("main").unwrap().as_commit().is_none());
    }

    proptest! {
        #[test]
        fn any_text_gives_a_spec_or_an_error(text in "\\PC{0,60}") {
            let Ok(ModelSpec::Id(id)) = ModelSpec::parse(&text) else { return Ok(()) };
            prop_assert!(!is_path_like(text.trim()));
            if let Ok(hub) = RepoSpec::parse_id(&id) {
                let folder = hub.repo.cache_folder();
                prop_assert!(!folder.contains('/') && !folder.contains(".."));
                if let Some(revision) = hub.revision {
                    prop_assert!(!revision.as_str().split('/').any(|part| part.is_empty() || part == ".."));
                }
            }
        }

        #[test]
        fn a_parsed_id_written_out_parses_to_itself(org in "[a-z][a-z0-9]{0,9}", repo in "[A-Za-z0-9]{1,9}", revision in "[a-z0-9/]{1,9}") {
            let text = format!("{org}/{repo}:{revision}");
            if let Ok(hub) = RepoSpec::parse_id(&text) {
                prop_assert_eq!(format!("{}:{}", hub.repo, hub.revision.unwrap()), text);
            }
        }
    }
}
