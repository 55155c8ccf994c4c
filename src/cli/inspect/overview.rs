//! Shows the content of a model on one screen.

use std::{collections::BTreeMap, process::ExitCode};

use weightsd_core::{
    explain::{Explain as _, sentence},
    family::ComponentSite,
    table::DtypeTotal,
};
use weightsd_proto::v1::{AuditReport, FileInspection};

use super::{
    super::{
        audit::verdict,
        output::{self, Format, bytes, numbers, print, wrapped},
        resolve::{file_kind, preset},
    },
    Looked,
};
use crate::messages;

/// Most names shown of tensors that belong to no part.
const UNASSIGNED_SHOWN: usize = 3;

/// A component, as far as its files can be read.
struct Row {
    name: String,
    prefix: Option<String>,
    files: usize,
    tensors: usize,
    bytes: u64,
    dtypes: Vec<String>,
    report: Option<AuditReport>,
    problem: Option<String>,
}

pub(super) fn run(looked: &Looked<'_>, format: Format) -> anyhow::Result<ExitCode> {
    let snapshot = looked.snapshot;
    let rows: Vec<Row> = snapshot.sites().iter().map(|site| Row::of(looked, site)).collect();
    let known = snapshot.family.name(Some(&looked.command.model.model), &looked.base().unwrap_or(snapshot).facts);
    let known = known.as_ref().map(messages::known);
    let inspection = snapshot.located().map(messages::inspection);
    if format == Format::Json {
        let components: Vec<_> = rows.iter().map(Row::json).collect();
        let inspection = inspection.as_ref().map(|found| {
            let kind = found.kind().as_str_name();
            serde_json::json!({"kind": kind, "problems": found.problems, "unassigned": found.unassigned})
        });
        print(format_args!(
            "{:#}",
            serde_json::json!({
                "model": snapshot.model.to_string(), "family": snapshot.family.id(), "components": components,
                "known": known.map(|known| known.name), "inspection": inspection,
            })
        ))?;
        return Ok(ExitCode::SUCCESS);
    }
    print(wrapped(&snapshot.model.to_string(), 0))?;
    let kind = inspection.as_ref().map(|found| format!(", {}", file_kind(found.kind()))).unwrap_or_default();
    print(format_args!("family: {}{kind}", snapshot.family.id()))?;
    if let Some(known) = &known {
        print(preset(known))?;
    }
    print("")?;
    print(table(&rows))?;
    let said =
        details(&rows, inspection.as_ref()).into_iter().chain(inspection.iter().flat_map(found)).collect::<Vec<_>>();
    if !said.is_empty() {
        print(format_args!("\n{}", said.join("\n")))?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Row {
    fn of(looked: &Looked<'_>, site: &ComponentSite) -> Self {
        let part = looked.snapshot.located_in(site).and_then(|located| located.part(&site.name));
        let mut row = Self {
            name: site.name.clone(),
            prefix: part.map(|part| part.prefix.clone()),
            files: 0,
            tensors: 0,
            bytes: 0,
            dtypes: Vec::new(),
            report: None,
            problem: None,
        };
        // The content of the files is known even when it does not fit together.
        match (looked.open(&site.name), part) {
            (Ok(checkpoint), Some(part)) => {
                row.files = checkpoint.files.shards.len();
                (row.tensors, row.bytes, row.dtypes) = (part.tensors, part.bytes, totals(&part.dtypes));
            }
            (Ok(checkpoint), None) => {
                let mut dtypes: BTreeMap<String, DtypeTotal> = BTreeMap::new();
                for tensor in checkpoint.table.tensors() {
                    dtypes.entry(tensor.info.stored_type()).or_default().tensors += 1;
                }
                row.files = checkpoint.files.shards.len();
                (row.tensors, row.bytes) = (checkpoint.table.tensors().len(), checkpoint.table.tensor_bytes());
                row.dtypes = totals(&dtypes);
            }
            (Err(error), _) => {
                row.problem = Some(sentence(&error));
                return row;
            }
        }
        match looked.audited(&site.name) {
            Ok(audited) => row.report = Some(messages::audited(&audited, false)),
            Err(error) => row.problem = Some(format!("{}; {}", sentence(&error), error.explain().hint)),
        }
        row
    }

    fn state(&self) -> String {
        match (&self.problem, &self.report) {
            (Some(_), _) if self.files == 0 => "not here, see below".to_owned(),
            (Some(_), _) => "not as it is, see below".to_owned(),
            (None, Some(report)) => verdict(report),
            (None, None) => String::new(),
        }
    }

    fn json(&self) -> serde_json::Value {
        let schemes = self.report.iter().flat_map(|report| &report.schemes);
        let schemes: Vec<_> = schemes.map(|scheme| (&scheme.scheme, scheme.layers)).collect();
        serde_json::json!({
            "component": self.name, "prefix": self.prefix, "files": self.files, "tensors": self.tensors,
            "bytes": self.bytes, "dtypes": self.dtypes, "problem": self.problem,
            "clean": self.report.as_ref().map(|report| report.clean), "schemes": schemes,
        })
    }
}

fn totals(dtypes: &BTreeMap<String, DtypeTotal>) -> Vec<String> {
    dtypes.iter().map(|(dtype, total)| format!("{} {dtype}", total.tensors)).collect()
}

fn table(rows: &[Row]) -> String {
    let has_prefixes = rows.iter().any(|row| row.prefix.is_some());
    let second = if has_prefixes { "PREFIX" } else { "FILES" };
    let mut table = output::table(&["COMPONENT", second, "TENSORS", "SIZE", "DTYPES", "STATE"]);
    numbers(&mut table, if has_prefixes { &[2, 3] } else { &[1, 2, 3] });
    for row in rows {
        let or_dash = |text: String| if row.files == 0 { "-".to_owned() } else { text };
        let prefix = row.prefix.as_deref().map(|prefix| if prefix.is_empty() { "none" } else { prefix });
        table.add_row([
            row.name.clone(),
            or_dash(prefix.map_or_else(|| row.files.to_string(), str::to_owned)),
            or_dash(row.tensors.to_string()),
            or_dash(bytes(row.bytes)),
            or_dash(row.dtypes.join(", ")),
            row.state(),
        ]);
    }
    table.trim_fmt()
}

/// Remarks about single components.
fn details(rows: &[Row], inspection: Option<&FileInspection>) -> Vec<String> {
    let is_of_file = |remark: &String| inspection.is_some_and(|inspection| inspection.problems.contains(remark));
    let mut lines = Vec::new();
    for row in rows {
        let mut say = |text: String| lines.push(wrapped(&format!("{}: {text}", row.name), 0));
        if let Some(problem) = &row.problem {
            say(problem.clone());
        }
        let Some(report) = &row.report else { continue };
        for scheme in &report.schemes {
            say(format!("{} layers {}, {}", scheme.layers, scheme.scheme, bytes(scheme.bytes)));
        }
        if !report.borrowed.is_empty() {
            say(format!("takes tensors of the transformer by reference, such as {}", report.borrowed[0]));
        }
        report.assumptions.iter().for_each(|assumption| say(format!("assumed {assumption}")));
        report.remarks.iter().filter(|remark| !is_of_file(remark)).for_each(|remark| say(remark.clone()));
    }
    lines
}

/// Remarks about the file.
fn found(inspection: &FileInspection) -> Vec<String> {
    let mut lines: Vec<String> =
        inspection.problems.iter().map(|problem| wrapped(&format!("note: {problem}"), 0)).collect();
    if inspection.unassigned > 0 {
        let shown: Vec<&str> = inspection.unassigned_sample.iter().take(UNASSIGNED_SHOWN).map(String::as_str).collect();
        let text =
            format!("note: {} tensors belong to no component, such as {}", inspection.unassigned, shown.join(", "));
        lines.push(wrapped(&text, 0));
    }
    lines
}
