//! The setting `allow`: which models may be lent. It keeps mistakes and surprises out, and is no wall between users: every
//! client runs as the user of the daemon, and can read the same files without it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use globset::{Glob, GlobBuilder, GlobMatcher};
use weightsd_core::spec::is_path_like;

use super::{Address, ModelKind, ResolveError, ResolvedModel, Selector};

/// Which models one entry of the list allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// What lies in this folder, links followed, or is this file. Absolute.
    Folder(PathBuf),
    /// Repositories, by their whole name. `*` does not cross `/`.
    Repositories(Glob),
}

impl Rule {
    /// Reads an entry that names repositories; `None` for one that names a folder.
    ///
    /// # Errors
    /// When it can be no name of a repository, with what was expected.
    pub fn of_repositories(text: &str) -> Result<Option<Self>, String> {
        const EXPECTED: &str = "expected `org/repo`, `org/*`, an address such as `s3://bucket/**`, or a folder";
        if is_path_like(text) {
            return Ok(None);
        }
        if !text.contains('/') || text.chars().any(char::is_whitespace) {
            return Err(format!("`{text}` names no repository: {EXPECTED}"));
        }
        let glob = GlobBuilder::new(text).literal_separator(true).build();
        glob.map(|glob| Some(Self::Repositories(glob))).map_err(|error| format!("{error}: {EXPECTED}"))
    }
}

/// What may be lent. Without a rule, everything.
#[derive(Debug, Clone, Default)]
pub struct Allowed {
    rules: Vec<Rule>,
    repositories: Vec<GlobMatcher>,
}

impl PartialEq for Allowed {
    fn eq(&self, other: &Self) -> bool {
        self.rules == other.rules
    }
}

impl From<Vec<Rule>> for Allowed {
    fn from(rules: Vec<Rule>) -> Self {
        let glob = |rule: &Rule| match rule {
            Rule::Repositories(glob) => Some(glob.compile_matcher()),
            Rule::Folder(_) => None,
        };
        Self { repositories: rules.iter().filter_map(glob).collect(), rules }
    }
}

impl Allowed {
    /// Whether there is no rule.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.rules.is_empty()
    }

    /// Refuses what `selector` was found to name, unless it may be lent. `daemon_cache` is the daemon's own Hugging Face
    /// cache: another one must lie in an allowed folder, since the names of repositories mean anything in it.
    ///
    /// Looks at paths, and so may block.
    ///
    /// # Errors
    /// When no rule allows it.
    pub fn check(
        &self,
        selector: &Selector,
        named: Named<'_>,
        daemon_cache: Option<&Path>,
    ) -> Result<(), ResolveError> {
        if self.rules.is_empty() {
            return Ok(());
        }
        let refuse = |what: String| Err(ResolveError::NotAllowed { what });
        match named {
            Named::Path(path) if !self.has_path(path) => refuse(format!("`{}`", path.display())),
            Named::Path(_) => Ok(()),
            Named::Repository(repo) if !self.has_repository(repo) => refuse(format!("`{repo}`")),
            Named::Repository(repo) => match selector.hub_cache.as_deref() {
                Some(cache) if Some(cache) != daemon_cache && !self.has_path(cache) => {
                    refuse(format!("`{repo}` in the cache `{}`", cache.display()))
                }
                _ => Ok(()),
            },
        }
    }

    /// Whether a rule names this repository.
    #[must_use]
    pub fn has_repository(&self, repo: &str) -> bool {
        self.repositories.iter().any(|glob| glob.is_match(repo))
    }

    /// Whether `path` lies in an allowed folder, wherever links lead.
    fn has_path(&self, path: &Path) -> bool {
        let Ok(path) = fs::canonicalize(path) else { return false };
        self.rules.iter().any(|rule| match rule {
            Rule::Folder(folder) => fs::canonicalize(folder).is_ok_and(|folder| path.starts_with(folder)),
            Rule::Repositories(_) => false,
        })
    }
}

/// What a selector names.
#[derive(Debug, Clone, Copy)]
pub enum Named<'a> {
    /// A file or a directory.
    Path(&'a Path),
    /// A repository, by its whole name.
    Repository(&'a str),
}

impl<'a> From<&'a Address> for Named<'a> {
    fn from(address: &'a Address) -> Self {
        match address {
            Address::Path(model) => Self::Path(&model.path),
            Address::Repo(address) => Self::Repository(address.repo.as_str()),
        }
    }
}

impl<'a> From<&'a ResolvedModel> for Named<'a> {
    fn from(model: &'a ResolvedModel) -> Self {
        match &model.kind {
            ModelKind::Directory | ModelKind::File => Self::Path(&model.path),
            ModelKind::Repo { address, .. } => Self::Repository(address.repo.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_allow_what_they_name_and_nothing_beside_it() {
        let home = tempfile::tempdir().unwrap();
        let (models, other) = (home.path().join("models"), home.path().join("other"));
        for folder in [models.join("a"), other.join("b")] {
            fs::create_dir_all(folder).unwrap();
        }
        std::os::unix::fs::symlink(other.join("b"), models.join("link")).unwrap();
        let repositories = ["org/*", "one/model", "s3://bucket/**"].map(|text| Rule::of_repositories(text).unwrap());
        let mut rules: Vec<Rule> = repositories.into_iter().flatten().collect();
        rules.push(Rule::Folder(models.clone()));
        let allowed = Allowed::from(rules);
        let own_cache = home.path().join("hub");
        let asks = |named: Named<'_>, cache: Option<&Path>| {
            let selector = Selector { hub_cache: cache.map(Path::to_owned), ..Selector::default() };
            allowed.check(&selector, named, Some(&own_cache)).is_ok()
        };
        let repository = |name: &str| asks(Named::Repository(name), None);
        assert!(repository("org/a") && repository("one/model") && repository("s3://bucket/a/b"));
        assert!(!repository("organ/a") && !repository("one/model-2") && !repository("s3://other/a"));
        let path = |path: &Path| asks(Named::Path(path), None);
        assert!(path(&models) && path(&models.join("a")));
        assert!(!path(&other) && !path(&models.join("link")) && !path(&models.join("a/../../other")));
        assert!(!path(&home.path().join("models-2")));
        let in_cache = |cache: &Path| asks(Named::Repository("org/a"), Some(cache));
        assert!(in_cache(&own_cache) && in_cache(&models.join("a")) && !in_cache(&other));
        assert!(Allowed::default().check(&Selector::default(), Named::Path(&other), None).is_ok());
    }

    #[test]
    fn what_names_no_repository_is_refused() {
        for bad in ["org", "", "org /x", "org/[x"] {
            assert!(Rule::of_repositories(bad).unwrap_err().contains("org/repo"), "{bad}");
        }
        for folder in ["/models", "./models", "~/models"] {
            assert_eq!(Rule::of_repositories(folder), Ok(None), "{folder}");
        }
    }
}
