//! `weightsd path`.

use std::process::ExitCode;

use serde_json::json;
use tokio::process::Command;
use weightsd_client::{Client, FolderFormat, FolderRequest, ModelFolder};

use super::{
    args::{self, PathArgs},
    failure::unless_interrupted,
    load,
    output::{self, Format, print},
    progress::Bars,
    shell,
};

/// The variable in which a command finds the folder.
const VARIABLE: &str = "WEIGHTSD_PATH";

pub(super) async fn run(client: &Client, command: PathArgs, format: Format) -> anyhow::Result<ExitCode> {
    let PathArgs { model, beside, format: programs, component, treatment, root, hold, command } = command;
    shell::warn_of_ignored(client, &model.model).await?;
    let request = load::request(model, beside, component.unwrap_or_default()).client_name("weightsd path");
    let mut wanted = FolderRequest::new(load::treated(request, treatment)?);
    if let Some(programs) = programs {
        wanted = wanted.format(match programs {
            args::FolderFormat::Diffusers => FolderFormat::Diffusers,
            args::FolderFormat::Transformers => FolderFormat::Transformers,
            args::FolderFormat::Mlx => FolderFormat::Mlx,
            args::FolderFormat::Mflux => FolderFormat::Mflux,
        });
    }
    if let Some(root) = root {
        wanted = wanted.root(root);
    }
    let mut bars = Bars::new();
    let made = unless_interrupted(client.model_folder(wanted, |progress| bars.show(progress))).await;
    bars.clear();
    let folder = made?;
    for warning in &folder.warnings {
        output::warn(warning)?;
    }
    match command.split_first() {
        Some((program, arguments)) => {
            let mut child = Command::new(program).args(arguments).env(VARIABLE, &folder.path).spawn()?;
            let status = child.wait().await?;
            Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
        }
        None => {
            show(&folder, format)?;
            if hold {
                tokio::signal::ctrl_c().await?;
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn show(folder: &ModelFolder, format: Format) -> anyhow::Result<()> {
    match format {
        Format::Text => print(folder.path.display())?,
        Format::Json => {
            let components: Vec<_> = folder.components.iter().map(|component| component.id()).collect();
            print(format_args!("{:#}", json!({"path": folder.path, "components": components})))?;
        }
    }
    Ok(())
}
