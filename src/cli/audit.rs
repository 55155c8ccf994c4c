//! `weightsd audit`.

use std::{fmt::Write as _, process::ExitCode};

use weightsd_client::{
    AuditReport, Client, beside,
    proto::{AuditRequest, OriginCount, TensorMismatch},
};

use super::{
    args::Audit,
    output::{self, Format, bytes, print, wrapped},
    resolve::{PATIENCE, selector},
    shell,
};

/// Most borrowed tensors, and most useless ones, that the short form names.
const NAMED_MAX: usize = 3;

/// How long a report is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Detail {
    /// A report that fits a screen.
    Short,
    /// All names.
    Full,
}

pub(super) async fn run(client: &Client, command: Audit, format: Format) -> anyhow::Result<ExitCode> {
    shell::warn_of_ignored(client, &command.model.model).await?;
    let model = selector(command.model);
    let request = AuditRequest {
        base: command.beside.base.map(|base| beside(&model, base)),
        overlay: command.beside.overlay.map(|overlay| beside(&model, overlay)),
        model: Some(model),
        components: command.components,
        full_lists: command.full,
    };
    let answer = client.clone().with_deadline(PATIENCE).audit_with(request).await?;
    let detail = if command.full { Detail::Full } else { Detail::Short };
    match format {
        Format::Json => output::print_json("AuditResponse", &answer)?,
        Format::Text => {
            let texts: Vec<String> = answer.reports.iter().map(|report| text(report, detail)).collect();
            print(texts.join("\n"))?;
        }
    }
    let clean = answer.reports.iter().all(|report| report.clean);
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The report in one line.
pub(super) fn verdict(report: &AuditReport) -> String {
    if report.unchecked > 0 {
        return format!("no catalogue, {} tensors taken as they are", report.unchecked);
    }
    let mut verdict = format!("{} of {} tensors match", report.matched, report.expected);
    let faults = [
        (report.missing, "missing"),
        (report.wrong_shape, "of wrong shape"),
        (report.wrong_dtype, "of wrong dtype"),
        (report.extra, "extra"),
    ];
    for (count, fault) in faults.into_iter().filter(|(count, _)| *count > 0) {
        let _ = write!(verdict, ", {count} {fault}");
    }
    if report.matched < report.expected {
        // Rounded down, so that an incomplete component never shows 100 %.
        let _ = write!(verdict, " (coverage {:.1} %)", (report.coverage * 1000.0).floor() / 10.0);
    }
    verdict
}

/// The report for people.
pub(super) fn text(report: &AuditReport, detail: Detail) -> String {
    let sign = if report.clean { "ok  " } else { "FAIL" };
    let dtypes: Vec<String> = report.dtypes.iter().map(|dtype| format!("{} {}", dtype.tensors, dtype.dtype)).collect();
    let mut lines = vec![wrapped(
        &format!(
            "{sign} {}: {} ({}, {})",
            report.component,
            verdict(report),
            dtypes.join(" + "),
            bytes(report.tensor_bytes)
        ),
        0,
    )];
    for scheme in &report.schemes {
        let (layers, size) = (scheme.layers, bytes(scheme.bytes));
        lines.push(wrapped(&format!("quantised: {layers} layers {}, {size}", scheme.scheme), 2));
    }
    lines.extend(origins(report));
    names(&mut lines, "missing", report.missing, &report.missing_sample);
    mismatches(&mut lines, "wrong shape", report.wrong_shape, &report.wrong_shape_sample);
    mismatches(&mut lines, "wrong dtype", report.wrong_dtype, &report.wrong_dtype_sample);
    names(&mut lines, "extra", report.extra, &report.extra_sample);
    lines.extend(some("borrowed from the transformer", &report.borrowed, detail));
    lines.extend(some("of no use and no harm", &report.tolerated, detail));
    lines.extend(report.assumptions.iter().map(|assumption| wrapped(&format!("assumed {assumption}"), 2)));
    lines.extend(report.remarks.iter().map(|remark| wrapped(&format!("note: {remark}"), 2)));
    if detail == Detail::Full {
        for shape in &report.shapes {
            let sides: Vec<String> = shape.shape.iter().map(u64::to_string).collect();
            lines.push(format!("  shape: {} tensors [{}], {}", shape.tensors, sides.join(" x "), bytes(shape.bytes)));
        }
    }
    lines.join("\n")
}

/// The files that tensors come from; empty when every tensor is lent as it is.
fn origins(report: &AuditReport) -> Vec<String> {
    let is_other = |origin: &&OriginCount| origin.renamed + origin.reshaped + origin.rows > 0;
    let is_laid_over = |origin: &&OriginCount| origin.file.starts_with('/');
    if !report.origins.iter().any(|origin| is_other(&origin) || is_laid_over(&origin)) {
        return Vec::new();
    }
    let line = |origin: &OriginCount| {
        let parts = [
            (origin.as_they_are, "as they are"),
            (origin.renamed, "renamed"),
            (origin.reshaped, "in another shape"),
            (origin.rows, "rows of fused ones"),
        ];
        let parts: Vec<String> =
            parts.into_iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
        let file = match origin.file.as_str() {
            "" => format!("file {}", origin.source + 1),
            file => file.to_owned(),
        };
        wrapped(&format!("from {file}: {}", parts.join(", ")), 2)
    };
    report.origins.iter().map(line).collect()
}

fn names(lines: &mut Vec<String>, title: &str, count: u32, names: &[String]) {
    if count > 0 {
        lines.push(format!("  {title}:"));
        lines.extend(names.iter().map(|name| wrapped(name, 4)));
        lines.extend(more(count, names.len()));
    }
}

fn mismatches(lines: &mut Vec<String>, title: &str, count: u32, all: &[TensorMismatch]) {
    if count > 0 {
        lines.push(format!("  {title}:"));
        let line = |one: &TensorMismatch| format!("{}: expected {}, found {}", one.name, one.expected, one.found);
        lines.extend(all.iter().map(|one| wrapped(&line(one), 4)));
        lines.extend(more(count, all.len()));
    }
}

fn more(count: u32, shown: usize) -> Option<String> {
    let rest = (count as usize).saturating_sub(shown);
    (rest > 0).then(|| format!("    and {rest} more"))
}

/// Names of harmless tensors, in one paragraph.
fn some(title: &str, names: &[String], detail: Detail) -> Option<String> {
    let shown = if detail == Detail::Full { names.len() } else { names.len().min(NAMED_MAX) };
    let mut text = format!("{title}: {}", names[..shown].join(", "));
    if shown < names.len() {
        text.push_str(", …");
    }
    (!names.is_empty()).then(|| wrapped(&text, 2))
}
