//! `weightsd inspect`: reads a file or a model from its headers, in this process, without the daemon.

mod overview;
mod tensors;

use std::{env, path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::Context as _;
use weightsd_core::{
    family,
    ingredients::Ingredients,
    places::{self, Platform},
    source::Sources,
    spec::is_path_like,
};
use weightsd_segment::environment::{not_utf8, variable};

use super::{args::Inspect, failure::UsageError, output::Format};
use crate::{
    checkpoint::{self, Checkpoint, ShardPool},
    lanes::MayBlock,
    pipeline::{
        self, LoadError,
        look::{self, Audited},
    },
    progress::Unwatched,
    resolve::{Choice, Network, Places, Selector},
    snapshot::Snapshot,
    sources,
};

pub(super) fn run(command: &Inspect, format: Format) -> anyhow::Result<ExitCode> {
    if let Some(name) = not_utf8(&["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"])
        && command.model.hub_cache.is_none()
        && !is_path_like(&command.model.model)
    {
        let problem = format!("the value of {name} is not UTF-8");
        return Err(UsageError::new(
            problem,
            "give the cache another name, such as a link's, or name it with `--hub-cache`",
        )
        .into());
    }
    let places = Places {
        home: variable("HOME").map(PathBuf::from),
        hub_cache: places::hub_cache(&variable),
        own_cache: places::own_cache(&variable, Platform::current()),
        sources: sources::never_asked(),
        ..Places::default()
    };
    let asked = Selector {
        spec: command.model.model.clone(),
        revision: command.model.revision.clone(),
        hub_cache: command.model.hub_cache.clone(),
        working_directory: Some(env::current_dir().context("the current directory")?),
        choice: Choice {
            patterns: command.model.patterns.clone(),
            variant: command.model.variant.clone(),
            ..Choice::default()
        },
        network: Network::Forbidden,
    }
    .with_variant_of_spec();
    let pool = ShardPool::default();
    let list = |selector: &Selector, base: Option<&Snapshot>| -> Result<Arc<Snapshot>, LoadError> {
        Ok(Arc::new(pipeline::snapshot(&pipeline::pinned_here(selector, &places, &OWN)?, base, &pool, &OWN)?))
    };
    let beside = |spec: &String| {
        let beside = Selector { spec: spec.clone(), revision: None, choice: Choice::default(), ..asked.clone() };
        list(&beside.with_variant_of_spec(), None)
    };
    let base = command.beside.base.as_ref().map(beside).transpose()?;
    let overlay = command.beside.overlay.as_ref().map(beside).transpose()?;
    let own = list(&asked, base.as_deref())?;
    let snapshots = Ingredients { own, base, overlay, adapters: Vec::new() };
    let looked = Looked { command, snapshot: &snapshots.own, snapshots: &snapshots, pool: &pool };
    let snapshot = looked.snapshot;
    match (&command.component, snapshot.sites()) {
        (Some(component), _) => tensors::run(&looked, component, format),
        // For unknown weights only their tensors can be shown.
        (None, [only]) if command.pattern.is_some() || snapshot.family.id() == family::GENERIC => {
            tensors::run(&looked, &only.name, format)
        }
        (None, []) => Err(LoadError::from(snapshot.nothing()).into()),
        (None, _) => overview::run(&looked, format),
    }
}

/// A command serves nobody.
const OWN: MayBlock<'static> = MayBlock::on_a_thread_of_its_own();

/// The model to inspect, with its base and overlay.
struct Looked<'a> {
    command: &'a Inspect,
    snapshot: &'a Snapshot,
    snapshots: &'a Ingredients<Arc<Snapshot>>,
    pool: &'a ShardPool,
}

impl Looked<'_> {
    fn base(&self) -> Option<&Snapshot> {
        self.snapshots.base.as_deref()
    }

    fn open(&self, component: &str) -> Result<Checkpoint, LoadError> {
        let files = Arc::new(self.snapshot.component(component)?);
        Ok(checkpoint::open(&files, self.pool, &Unwatched, &mut Sources::default(), &OWN)?)
    }

    fn audited(&self, component: &str) -> Result<Audited, LoadError> {
        look::audit(self.snapshots, component, self.pool, &OWN)
    }
}
