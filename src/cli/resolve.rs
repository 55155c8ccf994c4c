//! `weightsd resolve`.

use std::{process::ExitCode, time::Duration};

use weightsd_client::{
    Client,
    proto::{ModelKind, ModelSelector, ResolveResponse},
};

use super::{
    args::Model,
    output::{self, Format, bytes, numbers, print},
};

pub(super) async fn run(client: &Client, command: Model, format: Format) -> anyhow::Result<ExitCode> {
    let answer = client.clone().with_deadline(PATIENCE).resolve(selector(command)).await?;
    match format {
        Format::Json => output::print_json("ResolveResponse", &answer)?,
        Format::Text => print_text(&answer)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The hub may have to be asked.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// The model as the daemon is asked for it.
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

fn print_text(answer: &ResolveResponse) -> anyhow::Result<()> {
    let model = answer.model.clone().unwrap_or_default();
    match model.kind() {
        ModelKind::Hub => print(format_args!("{} {} is commit {}", model.repo, model.revision, model.commit))?,
        ModelKind::File => print("a single file")?,
        ModelKind::Directory | ModelKind::Unspecified => print("a directory")?,
    }
    print(format_args!("path: {}\nfamily: {}\n", model.path, answer.family))?;
    let mut table = output::table(&["COMPONENT", "FILES", "SIZE", "STATE"]);
    numbers(&mut table, &[1, 2]);
    for component in &answer.components {
        let present = component.files.iter().filter(|file| file.present).count();
        let state = match component.problem.as_str() {
            "" if present == component.files.len() => "complete".to_owned(),
            "" if present == 0 => "on the hub".to_owned(),
            "" => format!("{present} files are here, the others on the hub"),
            problem => problem.to_owned(),
        };
        table.add_row([&component.name, &component.files.len().to_string(), &bytes(component.bytes), &state]);
    }
    print(table.trim_fmt())?;
    output::warn(&model.warning)?;
    Ok(())
}
