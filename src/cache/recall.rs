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
    lanes::{Disks, MayBlock},
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
    /// The disks that its files and those of the component lie on.
    pub(super) disks: Disks,
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
    /// What `request` meant when it was last asked. Its files were not looked at since.
    pub(super) fn known(&self, request: &Request) -> Option<Arc<Recall>> {
        self.by_request.get(request)
    }

    /// What `request` means, if that is still known and the component is `intact`.
    pub(super) fn get(
        &self,
        request: &Request,
        intact: impl FnOnce(ComponentId) -> bool,
        may: &MayBlock<'_>,
    ) -> Option<Arc<Recall>> {
        let recall = self.by_request.get(request)?;
        let same = |(path, identity): &(PathBuf, FileIdentity)| identity_of(path, may).as_ref() == Some(identity);
        if !recall.dependencies.iter().all(same) {
            self.by_request.invalidate(request);
            return None;
        }
        intact(recall.id).then_some(recall)
    }

    /// Remembers an answer. Files that were changed around the time at which they were looked at could have been read
    /// before the change, so nothing is remembered then.
    pub(super) fn remember(&self, prepared: &Prepared, may: &MayBlock<'_>) {
        let models = prepared.files.iter().map(|(_, files)| Arc::clone(&files.model)).collect();
        let found = Found { id: prepared.id, models, disks: prepared.trip.disks().clone() };
        self.insert(&prepared.request, found, prepared.dependencies(), prepared.looked, may);
    }

    fn insert<'a>(
        &self,
        request: &Request,
        Found { id, models, disks }: Found,
        dependencies: impl Iterator<Item = &'a Path>,
        looked: SystemTime,
        may: &MayBlock<'_>,
    ) {
        let settled = looked.checked_sub(SETTLED).and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
        let Some(settled) = settled.and_then(|time| i64::try_from(time.as_nanos()).ok()) else { return };
        let settled = |path: &Path| {
            let identity = identity_of(path, may).filter(|identity| identity.changed_ns < settled)?;
            weightsd_segment::is_local(path).then(|| (path.to_owned(), identity))
        };
        if let Some(dependencies) = dependencies.map(settled).collect::<Option<Vec<_>>>() {
            self.by_request.insert(request.clone(), Arc::new(Recall { id, models, disks, dependencies }));
        }
    }
}

/// An answer that was found.
struct Found {
    id: ComponentId,
    models: Vec<Arc<ResolvedModel>>,
    disks: Disks,
}

fn identity_of(path: &Path, _: &MayBlock<'_>) -> Option<FileIdentity> {
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
        let may = MayBlock::on_a_thread_of_its_own();
        let remember = || {
            let found = Found { id, models: vec![Arc::clone(&model)], disks: Disks::default() };
            recalls.insert(&request, found, std::iter::once(&*path), SystemTime::now(), &may);
        };
        let recalled =
            |intact| recalls.get(&request, |_| intact, &may).map(|recall| (recall.id, recall.models.clone()));
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
