//! What a folder of a store holds: its commits, and the objects of each.
//!
//! A folder is one commit, whose number is a hash over paths, lengths, etags and versions; so a changed object makes
//! another commit. A folder that mirrors a repository of a Hugging Face cache (`refs`, `snapshots`) has the hub's commits,
//! and the names of contents that the copies in its `blobs` tell.

use std::collections::{BTreeMap, HashMap};

use object_store::{ObjectMeta, path::Path};
use sha2::{Digest as _, Sha256};
use weightsd_core::{
    listing::{BlobName, Listing, ListingError, part_sizes},
    spec::{Commit, Revision},
};

use super::settings::Cloud;

/// The commits of a folder.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    refs: HashMap<String, Commit>,
    commits: HashMap<Commit, Snapshot>,
}

/// The objects of a commit.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    /// The files, with the names of their contents.
    pub(super) listing: Listing,
    /// The objects, by the paths of the files.
    pub(super) objects: HashMap<String, ObjectMeta>,
}

/// How contents are named by what a store calls them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Naming {
    pub(super) cloud: Cloud,
    /// Whether etags of the usual form are MD5s.
    pub(super) checksums: bool,
}

impl Naming {
    fn blob(self, meta: &ObjectMeta) -> BlobName {
        let has_md5s = self.checksums && matches!(self.cloud, Cloud::S3 | Cloud::Gs);
        let md5 = meta.e_tag.as_deref().filter(|_| has_md5s).and_then(|etag| md5(etag, meta.size));
        md5.unwrap_or_else(|| BlobName::unhashed(&called(meta)))
    }
}

/// The MD5 in an etag, `"<digits>"` or `"<digits>-<parts>"`. None where the sizes of the parts cannot be told.
fn md5(etag: &str, size: u64) -> Option<BlobName> {
    let digits = etag.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(etag);
    if let Some((_, parts)) = digits.split_once('-')
        && part_sizes(size, parts.parse().ok()?).is_empty()
    {
        return None;
    }
    BlobName::parse(&format!("md5-{digits}"))
}

/// Everything by which a store tells one content of an object from another.
fn called(meta: &ObjectMeta) -> String {
    let etag = meta.e_tag.as_deref().unwrap_or_default();
    let version = meta.version.as_deref().unwrap_or_default();
    // A weak etag, or none, may stay when the content changes.
    let time = if etag.is_empty() || etag.starts_with("W/") { meta.last_modified.timestamp_millis() } else { 0 };
    format!("{}\0{etag}\0{version}\0{time}", meta.size)
}

/// Objects by their paths below the folder.
pub(super) type Objects = BTreeMap<String, ObjectMeta>;

/// The paths of objects below `folder`. What stands for a folder itself is left out.
pub(super) fn below(folder: &Path, found: Vec<ObjectMeta>) -> Objects {
    let path = |meta: &ObjectMeta| {
        let parts = meta.location.prefix_match(folder)?;
        Some(parts.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/"))
    };
    let objects: Objects = found.into_iter().filter_map(|meta| Some((path(&meta)?, meta))).collect();
    let is_folder = |path: &str, meta: &ObjectMeta| {
        let inside = format!("{path}/");
        let next = objects.range(inside.clone()..).next();
        path.is_empty() || (meta.size == 0 && next.is_some_and(|(next, _)| next.starts_with(&inside)))
    };
    objects
        .iter()
        .filter(|(path, meta)| !is_folder(path, meta))
        .map(|(path, meta)| (path.clone(), meta.clone()))
        .collect()
}

/// The refs of a mirror of a Hugging Face cache: each with the path that holds its commit.
pub(super) fn refs(objects: &Objects) -> Vec<(String, &ObjectMeta)> {
    let is_mirror = objects.keys().any(|path| snapshot_path(path).is_some());
    let name = |path: &String| path.strip_prefix("refs/").filter(|_| is_mirror).map(str::to_owned);
    objects.iter().filter_map(|(path, meta)| Some((name(path)?, meta))).collect()
}

/// The commit of a mirror, and the path of the file in it.
fn snapshot_path(path: &str) -> Option<(Commit, &str)> {
    let (commit, file) = path.strip_prefix("snapshots/")?.split_once('/')?;
    Some((Commit::parse(commit)?, file))
}

impl Shelf {
    /// What lies in a folder that is a model.
    pub(super) fn of_folder(objects: Objects, naming: Naming) -> Result<Self, ListingError> {
        let mut hash = Sha256::new();
        for (path, meta) in &objects {
            hash.update(format!("{path}\0{}\n", called(meta)));
        }
        let digits = hex::encode(&hash.finalize()[..20]);
        let commit = Commit::parse(&digits).expect("40 hex digits are a commit");
        let mut snapshot = Snapshot::default();
        for (path, meta) in objects {
            snapshot.add(&path, naming.blob(&meta), meta)?;
        }
        let refs = HashMap::from([(Revision::DEFAULT.to_owned(), commit.clone())]);
        Ok(Self { refs, commits: HashMap::from([(commit, snapshot)]) })
    }

    /// What lies in a mirror of a repository's folder in a Hugging Face cache. `refs` are its revisions.
    pub(super) fn of_mirror(
        objects: Objects,
        refs: HashMap<String, Commit>,
        naming: Naming,
    ) -> Result<Self, ListingError> {
        let mut twins = HashMap::new();
        for (path, meta) in &objects {
            let blob = path.strip_prefix("blobs/").and_then(BlobName::parse).filter(BlobName::is_of_a_hub);
            if let (Some(blob), Some(etag)) = (blob, &meta.e_tag) {
                twins.insert((etag.clone(), meta.size), blob);
            }
        }
        let mut commits: HashMap<Commit, Snapshot> = HashMap::new();
        for (path, meta) in objects {
            let Some((commit, file)) = snapshot_path(&path) else { continue };
            let twin = meta.e_tag.clone().and_then(|etag| twins.get(&(etag, meta.size)).cloned());
            let blob = twin.unwrap_or_else(|| naming.blob(&meta));
            commits.entry(commit).or_default().add(file, blob, meta)?;
        }
        Ok(Self { refs, commits })
    }

    /// The commit that a revision means.
    pub(super) fn commit(&self, revision: &Revision) -> Option<Commit> {
        let known = revision.as_commit().filter(|commit| self.commits.contains_key(commit));
        known.or_else(|| self.refs.get(revision.as_str()).cloned())
    }

    /// The objects of a commit.
    pub(super) fn snapshot(&self, commit: &Commit) -> Option<&Snapshot> {
        self.commits.get(commit)
    }

    /// Number of files.
    pub(super) fn len(&self) -> usize {
        self.commits.values().map(|snapshot| snapshot.listing.len()).sum()
    }
}

impl Snapshot {
    fn add(&mut self, path: &str, blob: BlobName, meta: ObjectMeta) -> Result<(), ListingError> {
        self.listing.add_file(path, meta.size, blob)?;
        self.objects.insert(path.to_owned(), meta);
        Ok(())
    }
}
