//! Remembers what a request meant, together with the files that decided it. As long as each of them is the same file,
//! the answer is the same, and a warm request costs a few `stat` calls. Only answers found on local disks are
//! remembered, so that nobody has to wait for a network here.

use std::{
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use dashmap::DashMap;
use weightsd_core::identity::ComponentId;
use weightsd_segment::FileIdentity;

use crate::{
    pipeline::{Prepared, Request},
    resolve::ResolvedModel,
};

/// Requests that are remembered; when there are more, all are forgotten.
const KEPT: usize = 1024;
/// A file changed less than this before it was read may change again without its times showing it.
const SETTLED: Duration = Duration::from_millis(100);

#[derive(Debug)]
struct Recall {
    id: ComponentId,
    model: Arc<ResolvedModel>,
    dependencies: Vec<(PathBuf, FileIdentity)>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Recalls {
    by_request: DashMap<Request, Recall>,
}

impl Recalls {
    /// The id and the model that `request` means, if that is still known and the component is `intact`.
    pub(super) fn get(
        &self,
        request: &Request,
        intact: impl FnOnce(ComponentId) -> bool,
    ) -> Option<(ComponentId, Arc<ResolvedModel>)> {
        let found = {
            let recall = self.by_request.get(request)?;
            let same = |(path, identity): &(PathBuf, FileIdentity)| identity_of(path).as_ref() == Some(identity);
            recall.dependencies.iter().all(same).then(|| (recall.id, Arc::clone(&recall.model)))
        };
        if found.is_none() {
            self.by_request.remove(request);
        }
        found.filter(|&(id, _)| intact(id))
    }

    /// Remembers an answer that was found by looking at `dependencies` after `begun`. Files that were changed around that
    /// time could have been read before the change, so nothing is remembered then.
    pub(super) fn remember(&self, request: Request, prepared: &Prepared, begun: SystemTime) {
        self.insert(request, prepared.id, Arc::clone(&prepared.model), &prepared.dependencies, begun);
    }

    fn insert(
        &self,
        request: Request,
        id: ComponentId,
        model: Arc<ResolvedModel>,
        dependencies: &[PathBuf],
        begun: SystemTime,
    ) {
        if !dependencies.iter().all(|path| weightsd_segment::is_local(path)) {
            return;
        }
        let settled = begun.checked_sub(SETTLED).and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
        let Some(settled) = settled.and_then(|time| i64::try_from(time.as_nanos()).ok()) else { return };
        let found =
            dependencies.iter().map(|path| Some((path.clone(), identity_of(path)?))).collect::<Option<Vec<_>>>();
        let Some(dependencies) = found.filter(|found| found.iter().all(|(_, identity)| identity.changed_ns < settled))
        else {
            return;
        };
        if self.by_request.len() >= KEPT {
            self.by_request.clear();
        }
        self.by_request.insert(request, Recall { id, model, dependencies });
    }
}

fn identity_of(path: &PathBuf) -> Option<FileIdentity> {
    fs::metadata(path).ok().map(|metadata| FileIdentity::of(&metadata))
}

#[cfg(test)]
mod tests {
    use weightsd_core::{identity::IdentityInputs, place::Layout};

    use super::*;
    use crate::{
        pipeline::{AuditPolicy, Treatment, Verification},
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
            report_only: false,
            config: b"",
            conversion: b"",
            shards: &[],
        });
        let request = Request {
            selector: Selector::default(),
            component: String::new(),
            base: None,
            overlay: None,
            adapters: Vec::new(),
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
            recalls.insert(request.clone(), id, Arc::clone(&model), std::slice::from_ref(&path), SystemTime::now());
        };
        remember();
        assert_eq!(recalls.get(&request, |_| true), None, "the file is too young to be trusted");
        std::thread::sleep(2 * SETTLED);
        remember();
        assert_eq!(recalls.get(&request, |_| true), Some((id, Arc::clone(&model))));
        assert_eq!(recalls.get(&request, |_| false), None, "a component that is gone is not recalled");
        fs::write(&path, "b").unwrap();
        assert_eq!(recalls.get(&request, |_| true), None);
    }
}
