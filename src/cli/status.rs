//! `weightsd status` and `weightsd ls`.

use std::process::ExitCode;

use weightsd_client::{
    Client, Layout,
    proto::{ListComponentsRequest, LoadedComponent, ResolvedModel},
};

use super::{
    args::Ls,
    output::{self, Format, bytes, numbers, print, short, since, span, until},
    progress::doing,
};

pub(super) async fn status(client: &Client, format: Format) -> anyhow::Result<ExitCode> {
    let status = client.status().await?;
    if format == Format::Json {
        output::print_json("GetStatusResponse", &status)?;
        return Ok(ExitCode::SUCCESS);
    }
    print(format_args!(
        "weightsd {} (pid {}) on {}, up {}",
        status.version,
        status.pid,
        status.socket,
        span(since(status.started))
    ))?;
    print(format_args!(
        "{} components, {} lent or warm, {} leases, {} connections, {} of memory for itself",
        status.components,
        bytes(status.tensor_bytes),
        status.leases,
        status.connections,
        bytes(status.memory_bytes)
    ))?;
    print(format_args!(
        "Hugging Face cache: {}",
        if status.hub_cache.is_empty() { "none" } else { &status.hub_cache }
    ))?;
    print(format_args!("hub: {}{}", status.hub_endpoint, if status.offline { " (offline: never asked)" } else { "" }))?;
    for download in &status.downloads {
        let progress = download.progress.clone().unwrap_or_default();
        print(format_args!(
            "downloading {}: {} of {}, {}",
            download.what,
            bytes(progress.bytes_done),
            bytes(progress.bytes_total),
            doing(&progress)
        ))?;
        for file in &progress.files {
            print(format_args!("  {} {} of {}", file.path, bytes(file.bytes_done), bytes(file.bytes_total)))?;
        }
    }
    for load in &status.loads {
        let progress = load.progress.clone().unwrap_or_default();
        print(format_args!(
            "loading {} of {}: {} of {} files, {} waiting",
            load.component, load.spec, progress.files_done, progress.files_total, progress.sharers
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn list(client: &Client, command: &Ls, format: Format) -> anyhow::Result<ExitCode> {
    let list = client.list(ListComponentsRequest { residency: command.resident }).await?;
    match format {
        Format::Json => output::print_json("ListComponentsResponse", &list)?,
        Format::Text if list.components.is_empty() => print("nothing is loaded")?,
        Format::Text => {
            let mut table =
                output::table(&["ID", "MODEL", "COMPONENT", "LAYOUT", "TENSORS", "SIZE", "RESIDENT", "HELD BY"]);
            numbers(&mut table, &[4, 5, 6]);
            for component in &list.components {
                table.add_row(row(component, command.resident));
            }
            print(table.trim_fmt())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn row(component: &LoadedComponent, resident: bool) -> [String; 8] {
    let layout = match component.layout() {
        Layout::Source => "source",
        Layout::Mlx | Layout::Unspecified => "mlx",
    };
    let holders: Vec<String> =
        component.holders.iter().map(|holder| format!("{} ({})", holder.name, holder.pid)).collect();
    let held = match component.expires {
        Some(expires) => format!("nobody, dropped in {}", span(until(expires))),
        None => holders.join(", "),
    };
    [
        short(&component.id).to_owned(),
        component.model.as_ref().map(model_name).unwrap_or_default(),
        component.name.clone(),
        layout.to_owned(),
        component.tensor_count.to_string(),
        bytes(component.tensor_bytes),
        if resident { bytes(component.resident_bytes) } else { "-".to_owned() },
        held,
    ]
}

/// `org/repo@commit` or a path.
pub(super) fn model_name(model: &ResolvedModel) -> String {
    if model.repo.is_empty() { model.path.clone() } else { format!("{}@{}", model.repo, short(&model.commit)) }
}
