//! Remembers what a request meant, together with the files that decided it. As long as each of them is the same file,
//! the answer is the same, and a warm request costs a few `stat` calls. Only answers found on local disks are
//! remembered, so that nobody has to wait for a network here.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use moka::sync::Cache;
use weightsd_core::identity::ComponentId;
use weightsd_segment::FileIdentity;

use crate::{
    pipeline::{Prepared, Request},
    resolve::ResolvedModel,
};

/// Requests that are remembered.
const KEPT: u64 = 1024;
/// A file changed less than this before it was read may change again without its times showing it.
const SETTLED: Duration = Duration::from_millis(100);

/// What a request meant.
#[derive(Debug)]
pub(super) struct Recall {
    /// The component.
    pub(super) id: ComponentId,
    /// The models that it is made of, the own one first.
    pub(super) models: Vec<Arc<ResolvedModel>>,
    dependencies: Vec<(PathBuf, FileIdentity)>,
}

/// Answers to the requests that were asked last.
#[derive(Debug)]
pub(super) struct Recalls {
    by_request: Cache<Request, Arc<Recall>>,
}

impl Default for Recalls {
    fn default() -> Self {
        Self { by_request: Cache::new(KEPT) }
    }
}

impl Recalls {
    /// What `request` means, if that is still known and the component is `intact`.
    pub(super) fn get(&self, request: &Request, intact: impl FnOnce(ComponentId) -> bool) -> Option<Arc<Recall>> {
        let recall = self.by_request.get(request)?;
        let same = |(path, identity): &(PathBuf, FileIdentity)| identity_of(path).as_ref() == Some(identity);
        if !recall.dependencies.iter().all(same) {
            self.by_request.invalidate(request);
            return None;
        }
        intact(recall.id).then_some(recall)
    }

    /// Remembers an answer. Files that were changed around the time at which they were looked at could have been read
    /// before the change, so nothing is remembered then. Blocks.
    pub(super) fn remember(&self, prepared: &Prepared) {
        let models = prepared.files.iter().map(|(_, files)| Arc::clone(&files.model)).collect();
        self.insert(&prepared.request, (prepared.id, models), prepared.dependencies(), prepared.looked);
    }

    fn insert<'a>(
        &self,
        request: &Request,
        (id, models): (ComponentId, Vec<Arc<ResolvedModel>>),
        dependencies: impl Iterator<Item = &'a Path>,
        looked: SystemTime,
    ) {
        let settled = looked.checked_sub(SETTLED).and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
        let Some(settled) = settled.and_then(|time| i64::try_from(time.as_nanos()).ok()) else { return };
        let settled = |path: &Path| {
            let identity = identity_of(path).filter(|identity| identity.changed_ns < settled)?;
            weightsd_segment::is_local(path).then(|| (path.to_owned(), identity))
        };
        if let Some(dependencies) = dependencies.map(settled).collect::<Option<Vec<_>>>() {
            self.by_request.insert(request.clone(), Arc::new(Recall { id, models, dependencies }));
        }
    }
}

fn identity_of(path: &Path) -> Option<FileIdentity> {
    fs::metadata(path).ok().map(|metadata| FileIdentity::of(&metadata))
}

#[cfg(test)]
mod tests {
    use weightsd_core::{catalogue::AuditPolicy, identity::IdentityInputs, ingredients::Ingredients, place::Layout};

    use super::*;
    use crate::{
        pipeline::{Treatment, Verification},
        resolve::{ModelKind, Selector},
    };

    #[test]
    fn a_changed_witness_makes_it_forget() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("refs-main");
        fs::write(&path, "a").unwrap();
        let id = ComponentId::of(&IdentityInputs {
            family: "",
            component: "",
            layout: Layout::Mlx,
            policy: AuditPolicy::Strict,
            config: b"",
            conversion: b"",
            shards: &[],
        });
        let request = Request {
            models: Ingredients::only(Selector::default()),
            component: String::new(),
            treatment: Treatment::default(),
            layout: Layout::Mlx,
            policy: AuditPolicy::Strict,
            verification: Verification::Afterwards,
        };
        let recalls = Recalls::default();
        let model = Arc::new(ResolvedModel {
            kind: ModelKind::File,
            path: path.clone(),
            dependencies: Vec::new(),
            warning: None,
        });
        let remember = || {
            recalls.insert(&request, (id, vec![Arc::clone(&model)]), std::iter::once(&*path), SystemTime::now());
        };
        let recalled = |intact| recalls.get(&request, |_| intact).map(|recall| (recall.id, recall.models.clone()));
        remember();
        assert_eq!(recalled(true), None, "the file is too young to be trusted");
        std::thread::sleep(2 * SETTLED);
        remember();
        assert_eq!(recalled(true), Some((id, vec![Arc::clone(&model)])));
        assert_eq!(recalled(false), None, "a component that is gone is not recalled");
        fs::write(&path, "b").unwrap();
        assert_eq!(recalled(true), None);
    }
}
