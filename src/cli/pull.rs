//! `weightsd pull` and `weightsd verify`.

use std::{process::ExitCode, time::Duration};

use weightsd_client::{
    Client,
    proto::{FileFinding, PullRequest, VerifyRequest},
};

use super::{
    args::{Pull, Verify},
    failure::unless_interrupted,
    output::{self, Format, bytes, print, time},
    progress::Bars,
    resolve::selector,
    shell,
    status::model_name,
};

pub(super) async fn pull(client: &Client, command: Pull, format: Format) -> anyhow::Result<ExitCode> {
    shell::warn_of_ignored(client, &command.model.model).await?;
    let request = PullRequest {
        model: Some(selector(command.model)),
        components: command.components,
        whole_repository: command.all,
    };
    let mut bars = Bars::new();
    let report = unless_interrupted(client.pull(request, |progress| bars.show(progress))).await;
    bars.clear();
    let report = report?;
    if format == Format::Json {
        output::print_json("PullReport", &report)?;
        return Ok(ExitCode::SUCCESS);
    }
    let model = report.model.unwrap_or_default();
    let took = report.took.and_then(|took| Duration::try_from(took).ok()).unwrap_or_default();
    let came = match report.bytes_fetched {
        0 => "all were here".to_owned(),
        fetched => format!("{} came in {}", bytes(fetched), time(took)),
    };
    print(format_args!(
        "{}: {} files, {}, verified; {came}",
        model_name(&model),
        report.files.len(),
        bytes(report.bytes)
    ))?;
    print(format_args!("  {}", model.path))?;
    output::warn(&model.warning)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn verify(client: &Client, command: Verify, format: Format) -> anyhow::Result<ExitCode> {
    let request = VerifyRequest { model: Some(selector(command.model)), components: command.components };
    let mut bars = Bars::new();
    let report = unless_interrupted(client.verify(request, |progress| bars.show(progress))).await;
    bars.clear();
    let report = report?;
    if format == Format::Json {
        output::print_json("VerifyReport", &report)?;
    } else {
        let count = |finding| report.verdicts.iter().filter(|verdict| verdict.finding() == finding).count();
        let took = report.took.and_then(|took| Duration::try_from(took).ok()).unwrap_or_default();
        let total = report.verdicts.iter().filter_map(|verdict| verdict.file.as_ref()).map(|file| file.length).sum();
        print(format_args!(
            "{}: {} files good, {} damaged, {} missing, {} without a hash; {} in {}",
            report.model.as_ref().map(model_name).unwrap_or_default(),
            count(FileFinding::Good),
            count(FileFinding::Corrupt),
            count(FileFinding::Missing),
            count(FileFinding::Unverifiable),
            bytes(total),
            time(took)
        ))?;
        for verdict in &report.verdicts {
            let file = verdict.file.clone().unwrap_or_default();
            match verdict.finding() {
                FileFinding::Corrupt => {
                    print(format_args!("  damaged: {}\n    expected {}", file.path, file.blob))?;
                    print(format_args!("    found    {}", verdict.found))?;
                    match verdict.moved_to.as_str() {
                        "" => print("    left where it is, since it may be your own")?,
                        aside => print(format_args!("    moved to {aside}"))?,
                    }
                }
                FileFinding::Missing => print(format_args!("  missing: {}", file.path))?,
                FileFinding::Good | FileFinding::Unverifiable | FileFinding::Unspecified => {}
            }
        }
        if !report.clean {
            print("fetch what is damaged or missing again with `weightsd pull`")?;
        }
    }
    Ok(if report.clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
