//! `weightsd evict`.

use std::process::ExitCode;

use weightsd_client::{Client, proto::EvictRequest};

use super::{
    args::Evict,
    output::{self, Format, bytes, print, short},
};

pub(super) async fn run(client: &Client, command: Evict, format: Format) -> anyhow::Result<ExitCode> {
    let request = EvictRequest { id: command.id.unwrap_or_default(), dry_run: command.dry_run, images: command.images };
    let answer = client.evict(request).await?;
    match format {
        Format::Json => output::print_json("EvictResponse", &answer)?,
        Format::Text if answer.outcomes.is_empty() && answer.images.is_empty() => print("nothing is loaded")?,
        Format::Text => {
            let mut table = output::table(&["ID", "COMPONENT", "SIZE", "DONE", "WHY"]);
            for outcome in &answer.outcomes {
                let done = match (outcome.evicted, command.dry_run) {
                    (true, false) => "dropped",
                    (true, true) => "would be dropped",
                    (false, _) => "kept",
                };
                table.add_row([short(&outcome.id), &outcome.name, &bytes(outcome.tensor_bytes), done, &outcome.reason]);
            }
            if !answer.outcomes.is_empty() {
                print(table.trim_fmt())?;
            }
            if !answer.images.is_empty() {
                print(if command.dry_run { "images that would be deleted:" } else { "images deleted:" })?;
                print(super::status::images(&answer.images).trim_fmt())?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
