//! `weightsd explain`.

use std::process::ExitCode;

use weightsd_client::Client;

use super::{
    args::Explain,
    output::{self, Format, print, short, wrapped},
    status::model_name,
};

pub(super) async fn run(client: &Client, command: Explain, format: Format) -> anyhow::Result<ExitCode> {
    let answer = client.explain(command.id).await?;
    if format == Format::Json {
        output::print_json("ExplainResponse", &answer)?;
        return Ok(ExitCode::SUCCESS);
    }
    let name = match (&answer.component, &answer.image) {
        (Some(component), _) => {
            let model = component.model.as_ref().map(model_name).unwrap_or_default();
            format!("{} of {model}", component.name)
        }
        (None, Some(image)) if !image.component.is_empty() => format!("{} of {}", image.component, image.made_from),
        (None, _) => "an image".to_owned(),
    };
    print(format_args!("{} {name}", short(&answer.id)))?;
    let parts = [
        ("why it is here:", &answer.why),
        ("how long it stays:", &answer.stays),
        ("what would push it out:", &answer.pushed_out_by),
    ];
    for (title, sentences) in parts {
        print(title)?;
        for sentence in sentences {
            print(wrapped(sentence, 2))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
