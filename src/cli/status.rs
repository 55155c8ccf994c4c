//! `weightsd status` and `weightsd ls`.

use std::process::ExitCode;

use weightsd_client::{
    Client, Layout, Phase,
    proto::{CardStatus, DepartedComponent, DerivedImage, ListComponentsRequest, LoadedComponent, ResolvedModel},
};

use super::{
    args::Ls,
    output::{self, Format, bytes, numbers, print, short, since, span, until},
    progress::{doing, file_line},
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
    if let Some(limits) = &status.limits {
        let oldest = status.oldest_image_used.map(|used| format!(", the oldest used {} ago", span(since(Some(used)))));
        let (taken, budget) = (bytes(limits.image_bytes), bytes(limits.image_budget));
        print(format_args!("computed: {taken} of {budget}{}", oldest.unwrap_or_default()))?;
    }
    print_cards(&status.cards)?;
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
            print(format_args!(
                "  {} {} of {}",
                file_line(&file.path, file),
                bytes(file.bytes_done),
                bytes(file.bytes_total)
            ))?;
        }
    }
    for load in &status.loads {
        let progress = load.progress.clone().unwrap_or_default();
        let state = match progress.phase() {
            Phase::Derive => doing(&progress),
            _ => format!("{} of {} files, {} waiting", progress.files_done, progress.files_total, progress.sharers),
        };
        print(format_args!("loading {} of {}: {state}", load.component, load.spec))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn print_cards(cards: &[CardStatus]) -> anyhow::Result<()> {
    for card in cards {
        print(card_line(card))?;
        for departed in &card.departed {
            print(departed_line(departed))?;
        }
    }
    Ok(())
}

/// What is in the memory of a card.
pub(super) fn card_line(card: &CardStatus) -> String {
    let budget = card.budget.map(|budget| format!(" of {}", bytes(budget))).unwrap_or_default();
    format!("card {}: {}{budget} lent or warm, {} leases", card.device, bytes(card.loaded_bytes), card.leases)
}

/// A component that was dropped, and whose memory processes keep.
pub(super) fn departed_line(departed: &DepartedComponent) -> String {
    let (id, size) = (short(&departed.id), bytes(departed.bytes));
    format!("  {size} of {} ({id}), which was dropped, are kept by processes that have it mapped", departed.name)
}

pub(super) async fn list(client: &Client, command: &Ls, format: Format) -> anyhow::Result<ExitCode> {
    let list = client.list(ListComponentsRequest { residency: command.resident, images: command.images }).await?;
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
            for component in &list.components {
                if let Some(memory) = &component.card {
                    let size = bytes(memory.bytes);
                    print(format_args!("{}: {size} in the memory of card {}", short(&component.id), memory.device))?;
                } else if let Some(image) = &component.image {
                    print(format_args!("{}: computed, {}", short(&component.id), made_from(image)))?;
                }
            }
        }
    }
    if command.images && format == Format::Text {
        match list.images.as_slice() {
            [] => print("nothing that was computed is on the disk")?,
            all => print(images(all).trim_fmt())?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Describes an image and the files that it was made from.
fn made_from(image: &DerivedImage) -> String {
    match image.made_from.as_str() {
        "" => "from what is not known".to_owned(),
        model => format!("from {model} ({})", image.conversion),
    }
}

/// Derived images.
pub(super) fn images(images: &[DerivedImage]) -> comfy_table::Table {
    let mut table = output::table(&["ID", "COMPONENT", "SIZE", "USED", "MADE FROM"]);
    numbers(&mut table, &[2]);
    for image in images {
        let used = if image.loaded { "loaded".to_owned() } else { format!("{} ago", span(since(image.used))) };
        let (id, size) = (short(&image.component_id).to_owned(), bytes(image.bytes));
        table.add_row([id, image.component.clone(), size, used, made_from(image)]);
    }
    table
}

fn row(component: &LoadedComponent, resident: bool) -> [String; 8] {
    let layout = match component.layout() {
        Layout::Source => "source",
        Layout::Mflux => "mflux",
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
        match (&component.card, resident) {
            (Some(_), _) => "on card".to_owned(),
            (None, true) => bytes(component.resident_bytes),
            (None, false) => "-".to_owned(),
        },
        held,
    ]
}

/// `org/repo@commit` or a path.
pub(super) fn model_name(model: &ResolvedModel) -> String {
    if model.repo.is_empty() { model.path.clone() } else { format!("{}@{}", model.repo, short(&model.commit)) }
}
