//! What `weightsd top` shows: the last answers of the daemon, and its latest events.

use std::{
    collections::VecDeque,
    time::{Duration, SystemTime},
};

use weightsd_client::proto::{Event, GetStatusResponse, LoadedComponent};

/// Events that are kept; a terminal shows fewer.
const EVENTS_MAX: usize = 200;

/// Everything that is shown.
#[derive(Debug, Default)]
pub(super) struct View {
    /// `None` before the first answer.
    pub(super) status: Option<GetStatusResponse>,
    pub(super) components: Vec<LoadedComponent>,
    /// The latest last.
    pub(super) events: VecDeque<Event>,
    /// Why the daemon does not answer at the moment.
    pub(super) problem: Option<String>,
    /// Lines by which the list of components is moved up.
    pub(super) scrolled: usize,
    /// The sequence number of the next event.
    pub(super) next_event: u64,
}

impl View {
    pub(super) fn add(&mut self, event: Event) {
        self.next_event = event.sequence + 1;
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    pub(super) fn scroll(&mut self, lines: isize) {
        self.scrolled = self.scrolled.saturating_add_signed(lines).min(self.components.len().saturating_sub(1));
    }
}

/// The time between a timestamp and `now`, either way; zero without a timestamp.
pub(super) fn between(timestamp: Option<prost_types::Timestamp>, now: SystemTime) -> Duration {
    let Some(then) = timestamp.and_then(|timestamp| SystemTime::try_from(timestamp).ok()) else {
        return Duration::ZERO;
    };
    now.duration_since(then).or_else(|_| then.duration_since(now)).unwrap_or_default()
}
