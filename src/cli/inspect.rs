//! `weightsd inspect`: what is in a file or a model, read here and now from the headers, without the daemon.

mod overview;
mod tensors;

use std::{env, path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::Context as _;
use weightsd_core::{family, places, source::Sources};
use weightsd_segment::environment::variable;

use super::{args::Inspect, output::Format};
use crate::{
    checkpoint::{self, Checkpoint, ShardPool},
    pipeline::{self, Audited, LoadError, Others, Pinned},
    progress::Unwatched,
    resolve::{Choice, Places, Selector},
    snapshot::{ComponentFiles, Snapshot},
};

pub(super) fn run(command: &Inspect, format: Format) -> anyhow::Result<ExitCode> {
    let places = Places { home: variable("HOME").map(PathBuf::from), hub_cache: places::hub_cache(&variable) };
    let asked = Selector {
        spec: command.model.model.clone(),
        revision: command.model.revision.clone(),
        hub_cache: command.model.hub_cache.clone(),
        working_directory: Some(env::current_dir().context("the current directory")?),
        choice: Choice { patterns: command.model.patterns.clone(), variant: command.model.variant.clone() },
        offline: true,
    };
    let pinned = |selector: &Selector| -> Result<Pinned, LoadError> {
        let (address, _) = pipeline::address(selector, &places)?;
        Ok(Pinned { address: Arc::new(address), pin: None })
    };
    let beside = |spec: &Option<String>| {
        let selector =
            |spec: &String| Selector { spec: spec.clone(), revision: None, choice: Choice::default(), ..asked.clone() };
        spec.as_ref().map(|spec| Ok::<_, LoadError>((pinned(&selector(spec))?, Choice::default()))).transpose()
    };
    let others = Others { base: beside(&command.beside.base)?, overlay: beside(&command.beside.overlay)? };
    let pool = ShardPool::default();
    let base = others.base.as_ref().map(|(base, choice)| pipeline::snapshot(base, choice, &pool)).transpose()?;
    let snapshot = pipeline::snapshot_as(&pinned(&asked)?, &asked.choice, base.as_ref(), &pool)?;
    let looked = Looked { command, snapshot: &snapshot, base: base.as_ref(), others, pool };
    match (&command.component, snapshot.sites()) {
        (Some(component), _) => tensors::run(&looked, component, format),
        // Of weights that nobody knows there is nothing to say but what they are.
        (None, [only]) if command.pattern.is_some() || snapshot.family.id() == family::GENERIC => {
            tensors::run(&looked, &only.name, format)
        }
        (None, _) => overview::run(&looked, format),
    }
}

/// A model that is looked at.
struct Looked<'a> {
    command: &'a Inspect,
    snapshot: &'a Snapshot,
    base: Option<&'a Snapshot>,
    others: Others,
    pool: ShardPool,
}

impl Looked<'_> {
    fn open(&self, component: &str) -> Result<(ComponentFiles, Checkpoint), LoadError> {
        let files = self.snapshot.component(component)?;
        let checkpoint = checkpoint::open(&files, &self.pool, &Unwatched, &mut Sources::default())?;
        Ok((files, checkpoint))
    }

    fn audited(&self, component: &str) -> Result<Audited, LoadError> {
        pipeline::audit_component(self.snapshot, component, &self.others, &self.pool)
    }
}
