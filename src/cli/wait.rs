//! `weightsd wait`: returns when this machine has the components. It waits for the daemon too, since both are often started
//! at the same time.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use weightsd_client::{Client, ClientError, Component, ConnectOptions, ErrorReason, Layout};
use weightsd_core::explain::{Tier, sentence};

use super::{
    args::{Beside, Wait},
    failure::unless_interrupted,
    load,
    output::{self, Format, bytes, print, short, warn},
};

/// The first pause between two tries; each is twice as long as the one before.
const PAUSE: Duration = Duration::from_millis(200);
/// How long an answer is awaited at least, so that the last one says what is the matter.
const ANSWER: Duration = Duration::from_secs(5);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(5);

pub(super) async fn run(options: ConnectOptions, command: Wait, format: Format) -> anyhow::Result<ExitCode> {
    let deadline = command.timeout.map(|timeout| Instant::now() + timeout);
    let mut told = String::new();
    for component in &command.components {
        let loaded = unless_interrupted(until_here(&options, &command, component, deadline, &mut told)).await?;
        match format {
            Format::Json => output::print_json("Component", loaded.info())?,
            Format::Text => print(format_args!(
                "{} {}: {} tensors, {}, are here",
                short(loaded.id()),
                loaded.name(),
                loaded.info().tensor_count,
                bytes(loaded.info().tensor_bytes)
            ))?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The component, once the daemon has it. `told` is the reason that was printed last.
async fn until_here(
    options: &ConnectOptions,
    command: &Wait,
    component: &str,
    deadline: Option<Instant>,
    told: &mut String,
) -> Result<Component, ClientError> {
    let mut pause = PAUSE;
    loop {
        let error = match load(options, command, component, deadline).await {
            Ok(component) => return Ok(component),
            Err(error) => error,
        };
        let asked_to = error.retry_after().unwrap_or_default();
        let next = pause.max(asked_to);
        let is_late = deadline.is_some_and(|deadline| Instant::now() + next > deadline);
        if is_late || !may_pass(&error, command.model.offline) {
            return Err(error);
        }
        let reason = error.daemon().map_or_else(|| sentence(&error), |daemon| daemon.message().to_owned());
        if *told != reason {
            // Without a terminal there is nobody who has to read it.
            let _ = warn(&format!("still waiting for {component}: {reason}"));
            *told = reason;
        }
        tokio::time::sleep(next).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Asks once. Layout SOURCE computes nothing: what is waited for are the checkpoint's own files.
async fn load(
    options: &ConnectOptions,
    command: &Wait,
    component: &str,
    deadline: Option<Instant>,
) -> Result<Component, ClientError> {
    let client = Client::connect(options.clone()).await?;
    let mut request =
        load::request(command.model.clone(), Beside::default(), component.to_owned()).layout(Layout::Source);
    if let Some(deadline) = deadline {
        request = request.deadline(deadline.saturating_duration_since(Instant::now()).max(ANSWER));
    }
    client.load(request, |_| ()).await
}

/// Whether waiting can help: the daemon or a source is away; or, offline, somebody else has yet to bring the files.
fn may_pass(error: &ClientError, offline: bool) -> bool {
    let is_missing = matches!(
        error.reason(),
        Some(
            ErrorReason::RepoNotCached
                | ErrorReason::RevisionNotCached
                | ErrorReason::SnapshotIncomplete
                | ErrorReason::Offline
        )
    );
    error.tier() == Tier::Unavailable || (offline && is_missing)
}
