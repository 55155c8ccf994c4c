//! `weightsd inspect`: what is in a file or a model, read here and now from the headers, without the daemon.

use std::{env, path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::Context as _;
use globset::Glob;
use weightsd_core::places;

use super::{
    args::Inspect,
    output::{self, Format, bytes, numbers, print},
};
use crate::{
    checkpoint::{self, Checkpoint, ShardPool},
    pipeline::{self, LoadError, Pinned, Unwatched},
    resolve::{Choice, Places, Selector},
    snapshot::{ComponentFiles, Snapshot},
};

pub(super) fn run(command: &Inspect, format: Format) -> anyhow::Result<ExitCode> {
    let variable = |name: &str| env::var(name).ok();
    let places = Places { home: variable("HOME").map(PathBuf::from), hub_cache: places::hub_cache(&variable) };
    let selector = Selector {
        spec: command.model.model.clone(),
        revision: command.model.revision.clone(),
        hub_cache: command.model.hub_cache.clone(),
        working_directory: Some(env::current_dir().context("the current directory")?),
        choice: Choice { patterns: command.model.patterns.clone(), variant: command.model.variant.clone() },
        offline: true,
    };
    let (target, _) = pipeline::target(&selector, &places)?;
    let pinned = Pinned { target: Arc::new(target), pin: None };
    let pool = ShardPool::default();
    let snapshot = pipeline::snapshot(&pinned, &selector.choice, &pool)?;
    let sites = snapshot.sites();
    match (&command.component, sites) {
        (Some(component), _) => tensors(&snapshot, component, command, format),
        (None, [only]) => tensors(&snapshot, &only.name, command, format),
        (None, _) => overview(&snapshot, format),
    }
}

fn open(snapshot: &Snapshot, component: &str) -> Result<(ComponentFiles, Checkpoint), LoadError> {
    let files = snapshot.component(component)?;
    let checkpoint = checkpoint::open(&files, &ShardPool::default(), &Unwatched)?;
    Ok((files, checkpoint))
}

fn overview(snapshot: &Snapshot, format: Format) -> anyhow::Result<ExitCode> {
    let mut table = output::table(&["COMPONENT", "FILES", "TENSORS", "SIZE", "DTYPES", "STATE"]);
    numbers(&mut table, &[1, 2, 3]);
    let mut rows = Vec::new();
    for site in snapshot.sites() {
        match open(snapshot, &site.name) {
            Ok((files, checkpoint)) => {
                let dtypes = dtypes(&checkpoint);
                let size = checkpoint.table.tensor_bytes();
                let count = checkpoint.table.tensors().len();
                table.add_row([
                    site.name.clone(),
                    files.shards.len().to_string(),
                    count.to_string(),
                    bytes(size),
                    dtypes.join(", "),
                    "complete".to_owned(),
                ]);
                let names: Vec<_> = files.shards.iter().map(|shard| shard.name.as_str()).collect();
                rows.push(serde_json::json!({
                    "component": site.name, "files": names, "tensors": count, "bytes": size, "dtypes": dtypes,
                }));
            }
            Err(error) => {
                let problem = crate::service::Failure::from(&error).message().to_owned();
                rows.push(serde_json::json!({"component": site.name, "problem": problem}));
                let dash = || "-".to_owned();
                table.add_row([site.name.clone(), dash(), dash(), dash(), dash(), problem]);
            }
        }
    }
    match format {
        Format::Json => print(format_args!(
            "{:#}",
            serde_json::json!({
                "model": snapshot.model.to_string(), "family": snapshot.family.id(), "components": rows,
            })
        ))?,
        Format::Text => {
            print(format_args!("{} (family {})\n", snapshot.model, snapshot.family.id()))?;
            print(table.trim_fmt())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn dtypes(checkpoint: &Checkpoint) -> Vec<String> {
    let mut dtypes: Vec<String> =
        checkpoint.table.tensors().iter().map(|tensor| tensor.info.dtype.to_string()).collect();
    dtypes.sort();
    dtypes.dedup();
    dtypes
}

fn tensors(snapshot: &Snapshot, component: &str, command: &Inspect, format: Format) -> anyhow::Result<ExitCode> {
    let (files, checkpoint) = open(snapshot, component)?;
    let pattern = match &command.pattern {
        Some(pattern) => Some(Glob::new(pattern).context("--match is not a glob")?.compile_matcher()),
        None => None,
    };
    let shown: Vec<_> = checkpoint
        .table
        .tensors()
        .iter()
        .filter(|tensor| pattern.as_ref().is_none_or(|pattern| pattern.is_match(&*tensor.info.name)))
        .collect();
    let file_of = |shard: u32| files.shards.get(shard as usize).map_or("", |file| file.name.as_str());
    if format == Format::Json {
        let rows: Vec<_> = shown
            .iter()
            .map(|tensor| {
                serde_json::json!({
                    "name": tensor.info.name, "dtype": tensor.info.dtype.to_string(), "shape": tensor.info.shape,
                    "file": file_of(tensor.shard), "offset": tensor.info.range.start, "bytes": tensor.info.bytes(),
                })
            })
            .collect();
        let metadata: Vec<_> = checkpoint.shards.iter().map(|shard| &shard.header.metadata).collect();
        print(format_args!(
            "{:#}",
            serde_json::json!({
                "component": component, "tensors": rows, "metadata": metadata, "remarks": checkpoint.remarks,
            })
        ))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = output::table(&["TENSOR", "DTYPE", "SHAPE", "SIZE", "FILE"]);
    numbers(&mut table, &[3]);
    for tensor in &shown {
        let shape = tensor.info.shape.iter().map(u64::to_string).collect::<Vec<_>>().join(" x ");
        let (dtype, size) = (tensor.info.dtype.to_string(), bytes(tensor.info.bytes()));
        table.add_row([&tensor.info.name, dtype.as_str(), &shape, &size, file_of(tensor.shard)]);
    }
    print(table.trim_fmt())?;
    let size = shown.iter().map(|tensor| tensor.info.bytes()).sum();
    print(format_args!("\n{} tensors, {}, in {} files", shown.len(), bytes(size), files.shards.len()))?;
    for remark in &checkpoint.remarks {
        print(format_args!("note: {remark}"))?;
    }
    Ok(ExitCode::SUCCESS)
}
