//! `weightsd top`: the state of the daemon and what happens in it, on the whole terminal, until `q`.

mod draw;
mod keys;
mod view;

use std::{
    io::{self, IsTerminal as _},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use ratatui::DefaultTerminal;
use tokio::time::{Instant, interval, sleep_until};
use weightsd_client::{
    Client, ClientError, Events,
    proto::{ListComponentsRequest, WatchEventsRequest},
};
use weightsd_core::explain::sentence;

use self::{
    keys::{Key, Keys},
    view::View,
};
use super::{failure::UsageError, output::Format};

/// How often the daemon is asked.
const REFRESH: Duration = Duration::from_secs(1);
/// How long after an event the daemon is asked anew: a burst of events is one question.
const AFTER_EVENT: Duration = Duration::from_millis(100);

/// Shows the daemon until somebody presses `q`.
pub(super) async fn run(client: &Client, format: Format) -> anyhow::Result<ExitCode> {
    if format == Format::Json || !io::stdout().is_terminal() {
        let hint = "`weightsd status --json` and `weightsd events --follow --json` are for programs";
        return Err(UsageError::new("`weightsd top` needs a terminal", hint).into());
    }
    let mut terminal = ratatui::try_init()?;
    let shown = show(client, &mut terminal).await;
    ratatui::try_restore()?;
    shown.map(|()| ExitCode::SUCCESS)
}

async fn show(client: &Client, terminal: &mut DefaultTerminal) -> anyhow::Result<()> {
    let mut keys = Keys::start()?;
    let mut view = View::default();
    let mut refresh = interval(REFRESH);
    let mut events: Option<Events> = None;
    let mut early: Option<Instant> = None;
    loop {
        tokio::select! {
            key = keys.next() => match key {
                None | Some(Key::Quit) => return Ok(()),
                Some(Key::Up) => view.scroll(-1),
                Some(Key::Down) => view.scroll(1),
                Some(Key::Redraw) => {}
            },
            _ = refresh.tick() => ask(client, &mut view, &mut events).await,
            () = sleep_until(early.unwrap_or_else(Instant::now)), if early.is_some() => {
                early = None;
                ask(client, &mut view, &mut events).await;
            }
            happened = next(&mut events) => match happened {
                Some(event) => {
                    view.add(event);
                    early.get_or_insert_with(|| Instant::now() + AFTER_EVENT);
                    continue;
                }
                None => events = None,
            },
        }
        terminal.draw(|frame| draw::draw(frame, &view, SystemTime::now()))?;
    }
}

/// The next event; `None` when the stream has ended. Waits for ever without a stream.
async fn next(events: &mut Option<Events>) -> Option<weightsd_client::proto::Event> {
    let Some(events) = events else { return std::future::pending().await };
    loop {
        match events.next().await {
            Ok(Some(answer)) if answer.event.is_none() => {}
            Ok(Some(answer)) => return answer.event,
            Ok(None) | Err(_) => return None,
        }
    }
}

/// Asks for everything, and for events where they do not come any more.
async fn ask(client: &Client, view: &mut View, events: &mut Option<Events>) {
    let asked = async {
        let status = client.status().await?;
        let components = client.list(ListComponentsRequest::default()).await?.components;
        Ok::<_, ClientError>((status, components))
    };
    match asked.await {
        Ok((status, components)) => {
            let is_another = view.status.as_ref().is_some_and(|known| known.started != status.started);
            if is_another {
                // Another daemon counts its events from 1.
                view.next_event = 0;
                *events = None;
            }
            (view.status, view.components, view.problem) = (Some(status), components, None);
            view.scroll(0);
        }
        Err(error) => {
            view.problem = Some(sentence(&error));
            return;
        }
    }
    if events.is_none() {
        let request = WatchEventsRequest { from_sequence: view.next_event, past_only: false };
        *events = client.watch_events(request).await.ok();
    }
}

#[cfg(test)]
mod tests;
