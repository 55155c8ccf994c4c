//! `weightsd events`.

use std::{process::ExitCode, time::SystemTime};

use weightsd_client::{Client, proto::WatchEventsRequest};
use weightsd_proto::json;

use super::{
    args::Events,
    output::{Format, print},
};

pub(super) async fn run(client: &Client, command: &Events, format: Format) -> anyhow::Result<ExitCode> {
    let request = WatchEventsRequest { from_sequence: 0, past_only: !command.follow };
    let mut events = client.watch_events(request).await?;
    loop {
        let next = tokio::select! {
            next = events.next() => next?,
            signal = tokio::signal::ctrl_c() => {
                signal?;
                None
            }
        };
        let Some(answer) = next else { return Ok(ExitCode::SUCCESS) };
        if format == Format::Json {
            // One line an event, so that a program can read them as they come.
            print(json::to_json("WatchEventsResponse", &answer))?;
            continue;
        }
        if answer.skipped > 0 {
            print(format_args!("({} events were lost)", answer.skipped))?;
        }
        if let Some(event) = answer.event {
            let time = event.time.and_then(|time| SystemTime::try_from(time).ok()).unwrap_or(SystemTime::UNIX_EPOCH);
            let kind = event.kind().as_str_name().trim_start_matches("EVENT_KIND_").to_ascii_lowercase();
            print(format_args!("{} {kind:<13} {}", humantime::format_rfc3339_millis(time), event.message))?;
        }
    }
}
