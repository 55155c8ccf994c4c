//! The tensors of one component, under the names they are lent by in layout SOURCE.

use std::process::ExitCode;

use anyhow::Context as _;
use globset::{Glob, GlobMatcher};
use weightsd_core::{
    explain::{Explain as _, sentence},
    origin::Operation,
    quantisation::{Coded, Coding, Grid},
    source::Sources,
    table::{Sourced, Table},
};

use super::{
    super::output::{self, Format, bytes, numbers, print, wrapped},
    Looked,
};
use crate::pipeline::LoadError;

/// Most tensors that the short form lists.
const LISTED_MAX: usize = 30;

/// Lists the tensors of a component. When they do not fit together, lists those of its files.
pub(super) fn run(looked: &Looked<'_>, component: &str, format: Format) -> anyhow::Result<ExitCode> {
    let command = looked.command;
    let pattern = match &command.pattern {
        Some(pattern) => Some(Glob::new(pattern).context("--match is not a glob")?.compile_matcher()),
        None => None,
    };
    match looked.audited(component) {
        Ok(audited) => {
            let site = looked.snapshot.site(component).ok();
            let part = site.and_then(|site| looked.snapshot.located_in(site)?.part(component));
            let prefix = part.map(|part| part.prefix.clone());
            let assembled = &audited.assembled;
            let notes = assembled.report.remarks.iter().map(|remark| format!("note: {remark}"));
            let assumptions = assembled.assumptions.iter().map(|assumption| format!("assumed {assumption}"));
            let listing = Listing { component, table: &assembled.table, files: &audited.files, pattern, prefix };
            listing.print(command.full, &notes.chain(assumptions).collect::<Vec<_>>(), format)
        }
        Err(error) => {
            let checkpoint = looked.open(component)?;
            let files: Sources<String> = checkpoint.files.shards.iter().map(|shard| shard.name.clone()).collect();
            let listing = Listing { component, table: &checkpoint.table, files: &files, pattern, prefix: None };
            listing.print(command.full, &[as_they_are(&error)], format)
        }
    }
}

fn as_they_are(error: &LoadError) -> String {
    format!("note: these are the names in the file: {}; {}", sentence(error), error.explain().hint)
}

struct Listing<'a> {
    component: &'a str,
    table: &'a Table,
    files: &'a Sources<String>,
    pattern: Option<GlobMatcher>,
    prefix: Option<String>,
}

impl Listing<'_> {
    fn print(&self, is_full: bool, notes: &[String], format: Format) -> anyhow::Result<ExitCode> {
        let is_asked =
            |tensor: &&Sourced| self.pattern.as_ref().is_none_or(|pattern| pattern.is_match(&*tensor.info.name));
        let asked: Vec<&Sourced> = self.table.tensors().iter().filter(is_asked).collect();
        match format {
            Format::Json => print(format_args!("{:#}", self.json(&asked, notes)))?,
            Format::Text => {
                let listed = if is_full { asked.len() } else { asked.len().min(LISTED_MAX) };
                print(self.text(&asked[..listed]))?;
                if listed < asked.len() {
                    print(format_args!("and {} more (--full, or --match '<glob>')", asked.len() - listed))?;
                }
                let size = asked.iter().map(|tensor| tensor.info.bytes()).sum();
                print(format_args!("\n{} tensors, {}", asked.len(), bytes(size)))?;
                for note in notes {
                    print(wrapped(note, 0))?;
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    fn text(&self, listed: &[&Sourced]) -> String {
        let has_origins = listed.iter().any(|tensor| tensor.origin.is_some());
        let has_files = self.files.iter().nth(1).is_some();
        let mut header = vec!["TENSOR", "DTYPE", "SHAPE", "SIZE"];
        // Print a prefix that all tensors share only once.
        let prefix = self.prefix.as_deref().unwrap_or_default();
        let in_file = if prefix.is_empty() { "IN THE FILE".to_owned() } else { format!("IN THE FILE, {prefix}") };
        header.extend(has_origins.then_some(in_file.as_str()));
        header.extend(has_files.then_some("FILE"));
        let mut table = output::table(&header);
        numbers(&mut table, &[3]);
        output::unbroken(&mut table, 0);
        for tensor in listed {
            let mut row = vec![
                tensor.info.name.to_string(),
                dtype(tensor),
                sides(&tensor.info.shape),
                bytes(tensor.info.bytes()),
            ];
            row.extend(has_origins.then(|| origin(tensor, prefix)));
            // The folder of the component, or of the overlay, is known already.
            row.extend(has_files.then(|| self.file(tensor).rsplit('/').next().unwrap_or_default().to_owned()));
            table.add_row(row);
        }
        table.trim_fmt()
    }

    fn file(&self, tensor: &Sourced) -> &str {
        &self.files[tensor.source]
    }

    fn json(&self, asked: &[&Sourced], notes: &[String]) -> serde_json::Value {
        let row = |tensor: &&Sourced| {
            serde_json::json!({
                "name": tensor.info.name, "source_name": tensor.source_name(), "dtype": tensor.info.stored_type(),
                "shape": tensor.info.shape, "file": self.file(tensor), "offset": tensor.info.range.start,
                "bytes": tensor.info.bytes(), "scheme": scheme(tensor), "coding": tensor.coded.as_deref().map(coding),
            })
        };
        let rows: Vec<_> = asked.iter().map(row).collect();
        serde_json::json!({"component": self.component, "tensors": rows, "remarks": notes})
    }
}

/// How the layer of a tensor is quantised.
fn scheme(tensor: &Sourced) -> Option<String> {
    let packed = tensor.packed.as_ref().map(|packed| packed.scheme.to_string());
    packed.or_else(|| Some(tensor.coded.as_ref()?.coding.to_string()))
}

fn coding(coded: &Coded) -> serde_json::Value {
    let Coding { format, decoding, provenance } = &coded.coding;
    serde_json::json!({
        "format": format.name, "codes": decoding.codes.to_string(), "rotation": decoding.rotation,
        "block": decoding.grid.block(&coded.logical_shape), "provenance": provenance.to_string(),
        "logical_shape": coded.logical_shape,
    })
}

/// The dtype and, for a tensor of a quantised layer, how that is quantised.
fn dtype(tensor: &Sourced) -> String {
    let dtype = tensor.info.stored_type();
    match (tensor.packed.as_ref().map(|packed| packed.scheme), &tensor.coded) {
        (Some(scheme), _) => {
            format!("{dtype}, {} {}-bit g{}", scheme.mode().name(), scheme.bits(), scheme.group_size())
        }
        (None, Some(coded)) => {
            let decoding = &coded.coding.decoding;
            let block = match decoding.grid {
                Grid::Unscaled => String::new(),
                Grid::Whole => ", one scale".to_owned(),
                _ => format!(", a scale for {}", sides(&decoding.grid.block(&coded.logical_shape))),
            };
            let rotation = decoding.rotation.map(|columns| format!(", rotated by {columns}")).unwrap_or_default();
            format!("{dtype}, {}{block}{rotation}", coded.coding.format.name)
        }
        (None, None) => dtype,
    }
}

fn sides(shape: &[u64]) -> String {
    shape.iter().map(u64::to_string).collect::<Vec<_>>().join("x")
}

/// The tensor's name in its file, if it differs, and the rows that it takes from there.
fn origin(tensor: &Sourced, prefix: &str) -> String {
    let Some(origin) = &tensor.origin else { return String::new() };
    let name = origin.name.strip_prefix(prefix).unwrap_or(&origin.name);
    match origin.operation {
        Operation::Rows { first, count, of } => {
            format!("{name}, rows {first} to {} of {of}", first + count - 1)
        }
        Operation::Reshaped | Operation::Ordered(_) => format!("{name}, reshaped"),
        Operation::Renamed if name == &*tensor.info.name => String::new(),
        Operation::Renamed => name.to_owned(),
    }
}
