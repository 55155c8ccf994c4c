//! `weightsd resolve`.

use std::{process::ExitCode, time::Duration};

use weightsd_client::{
    Client,
    proto::{FileKind, KnownModel, ModelKind, ModelSelector, ResolveResponse},
};

use super::{
    args::Model,
    output::{self, Format, bytes, numbers, print, wrapped},
    shell,
};

pub(super) async fn run(client: &Client, command: Model, format: Format) -> anyhow::Result<ExitCode> {
    shell::warn_of_ignored(client, &command.model).await?;
    let answer = client.clone().with_deadline(PATIENCE).resolve(selector(command)).await?;
    match format {
        Format::Json => output::print_json("ResolveResponse", &answer)?,
        Format::Text => print_text(&answer)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// How long an answer may take: the daemon may have to ask the hub.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// The selector for the daemon's request.
pub(super) fn selector(model: Model) -> ModelSelector {
    let mut selector = weightsd_client::selector(model.model);
    selector.revision = model.revision.unwrap_or_default();
    if let Some(cache) = model.hub_cache {
        selector.hub_cache = cache.to_string_lossy().into_owned();
    }
    selector.variant = model.variant.unwrap_or_default();
    selector.patterns = model.patterns;
    selector.offline |= model.offline;
    selector
}

/// The known model's name and preset, in one line.
pub(super) fn preset(known: &KnownModel) -> String {
    let values: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(&known.preset_json).unwrap_or_default();
    let values: Vec<_> = values.iter().map(|(name, value)| format!("{name} {value}")).collect();
    format!("known as: {} ({})\nusually run with: {}", known.name, known.evidence, values.join(", "))
}

/// The share of a model that a file holds, in words.
pub(super) fn file_kind(kind: FileKind) -> &'static str {
    match kind {
        FileKind::AllInOne => "all-in-one",
        FileKind::SeveralComponents => "several components",
        FileKind::OneComponent => "one component",
        FileKind::Unknown | FileKind::Unspecified => "unknown",
    }
}

fn print_text(answer: &ResolveResponse) -> anyhow::Result<()> {
    let model = answer.model.clone().unwrap_or_default();
    match model.kind() {
        ModelKind::Hub => print(format_args!("{} {} is commit {}", model.repo, model.revision, model.commit))?,
        ModelKind::File => print("a single file")?,
        ModelKind::Directory | ModelKind::Unspecified => print("a directory")?,
    }
    print(format_args!("path: {}\nfamily: {}", model.path, answer.family))?;
    if let Some(known) = &answer.known {
        print(preset(known))?;
    }
    if let Some(inspection) = &answer.inspection {
        print(format_args!("holds: {}", file_kind(inspection.kind())))?;
    }
    print("")?;
    let has_prefixes = answer.components.iter().any(|component| !component.prefix.is_empty());
    let mut header = vec!["COMPONENT", "FILES", "SIZE", "STATE"];
    header.extend(has_prefixes.then_some("PREFIX"));
    let mut table = output::table(&header);
    numbers(&mut table, &[1, 2]);
    for component in &answer.components {
        let present = component.files.iter().filter(|file| file.present).count();
        let state = match component.problem.as_str() {
            "" if present == component.files.len() => "complete".to_owned(),
            "" if present == 0 => "not downloaded".to_owned(),
            "" => format!("{present} files are here, the others are not downloaded"),
            problem => problem.to_owned(),
        };
        let mut row = vec![component.name.clone(), component.files.len().to_string(), bytes(component.bytes), state];
        row.extend(has_prefixes.then(|| component.prefix.clone()));
        table.add_row(row);
    }
    print(table.trim_fmt())?;
    for problem in answer.inspection.iter().flat_map(|inspection| &inspection.problems) {
        print(wrapped(&format!("note: {problem}"), 0))?;
    }
    output::warn(&model.warning)?;
    Ok(())
}
