//! `weightsd audit`.

use std::{fmt::Write as _, process::ExitCode};

use weightsd_client::{AuditReport, Client, proto::TensorMismatch};

use super::{
    args::Audit,
    output::{self, Format, bytes, print},
    resolve::{PATIENCE, selector},
};

pub(super) async fn run(client: &Client, command: Audit, format: Format) -> anyhow::Result<ExitCode> {
    let answer = client.clone().with_deadline(PATIENCE).audit(selector(command.model), command.components).await?;
    match format {
        Format::Json => output::print_json("AuditResponse", &answer)?,
        Format::Text => {
            let texts: Vec<String> = answer.reports.iter().map(text).collect();
            print(texts.join("\n"))?;
        }
    }
    let clean = answer.reports.iter().all(|report| report.clean);
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The report in one line.
pub(super) fn verdict(report: &AuditReport) -> String {
    if report.expected == 0 {
        return format!("no catalogue, {} tensors taken as they are", report.extra);
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
    verdict
}

/// The report for a screen.
pub(super) fn text(report: &AuditReport) -> String {
    let sign = if report.clean { "ok  " } else { "FAIL" };
    let dtypes: Vec<String> = report.dtypes.iter().map(|dtype| format!("{} {}", dtype.tensors, dtype.dtype)).collect();
    let mut text = format!(
        "{sign} {}: {} ({}, {})",
        report.component,
        verdict(report),
        dtypes.join(" + "),
        bytes(report.tensor_bytes)
    );
    let names = |text: &mut String, title: &str, count: u32, names: &[String]| {
        if count > 0 && report.expected > 0 {
            let _ = write!(text, "\n  {title}:");
            for name in names {
                let _ = write!(text, "\n    {name}");
            }
            more(text, count, names.len());
        }
    };
    let mismatches = |text: &mut String, title: &str, count: u32, all: &[TensorMismatch]| {
        if count > 0 {
            let _ = write!(text, "\n  {title}:");
            for one in all {
                let _ = write!(text, "\n    {}: expected {}, found {}", one.name, one.expected, one.found);
            }
            more(text, count, all.len());
        }
    };
    names(&mut text, "missing", report.missing, &report.missing_sample);
    mismatches(&mut text, "wrong shape", report.wrong_shape, &report.wrong_shape_sample);
    mismatches(&mut text, "wrong dtype", report.wrong_dtype, &report.wrong_dtype_sample);
    names(&mut text, "extra", report.extra, &report.extra_sample);
    for remark in &report.remarks {
        let _ = write!(text, "\n  note: {remark}");
    }
    text
}

fn more(text: &mut String, count: u32, shown: usize) {
    let rest = (count as usize).saturating_sub(shown);
    if rest > 0 {
        let _ = write!(text, "\n    and {rest} more");
    }
}
