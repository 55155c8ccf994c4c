//! `weightsd config`.

use std::{path::PathBuf, process::ExitCode};

use serde_json::{Value, json};

use super::{
    output::{self, Format, print, unbroken},
    serve::Stating,
};
use crate::daemon::{Config, Origin, Shown, Stated};

/// Shows the settings that `weightsd serve` would have.
pub(super) fn run(command: &Stating, socket: Option<PathBuf>, format: Format) -> anyhow::Result<ExitCode> {
    let config = command.layers(socket)?.complete()?;
    match format {
        Format::Json => print(format_args!("{:#}", as_json(&config)))?,
        Format::Text => {
            let mut table = output::table(&["SETTING", "VALUE", "FROM"]);
            unbroken(&mut table, 0);
            unbroken(&mut table, 2);
            for Stated { name, value, origin } in &config.stated {
                let value = if *value == Shown::Nothing { "-".to_owned() } else { value.to_string() };
                table.add_row([(*name).to_owned(), value, origin.to_string()]);
            }
            print(table.trim_fmt())?;
            print(match (config.layers.file(), config.layers.place()) {
                (Some(file), _) => format!("configuration file: {}", file.display()),
                (None, Some(place)) => format!("configuration file: {} (not there)", place.display()),
                (None, None) => "configuration file: none, because this user has no home directory".to_owned(),
            })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn as_json(config: &Config) -> Value {
    let setting = |Stated { name, value, origin }: &Stated| {
        let value = match value {
            Shown::Nothing => Value::Null,
            Shown::One(value) => json!(value),
            Shown::Many(values) => json!(values),
        };
        let origin = match origin {
            Origin::Default => json!({"kind": "default"}),
            Origin::Environment(name) => json!({"kind": "environment", "variable": name}),
            Origin::File { path, line } => json!({"kind": "file", "path": path, "line": line}),
            Origin::Flag => json!({"kind": "flag"}),
        };
        json!({"name": name, "value": value, "origin": origin})
    };
    json!({
        "settings": config.stated.iter().map(setting).collect::<Vec<_>>(),
        "file": config.layers.file(),
    })
}
