//! Reads the configuration file anew while the daemon runs, and says what changed, what waits for a restart, and why a file
//! was left aside.

use std::{sync::Arc, time::Duration};

use sd_notify::NotifyState;
use tokio::sync::Notify;
use weightsd_core::explain::{Explain, sentence};

use super::{
    config::{Changing, Config},
    manager,
    settings::{Layers, Settings, SettingsError, Stated},
};
use crate::{
    events::EventKind,
    handle::Daemon,
    lanes::{Kind, LaneError, MayBlock, Task},
};

/// How long reading the configuration file may take.
const READING_MAX: Duration = Duration::from_secs(10);

/// The settings in force, and how they change.
pub(super) struct Reloader {
    layers: Layers,
    stated: Vec<Stated>,
    changing: Changing,
}

/// What became of the settings.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    /// Those that changed: `keep_alive=1h (was 10m)`.
    changed: Vec<String>,
    /// Those that the file has otherwise and that wait for a restart.
    waiting: Vec<String>,
}

impl Reloader {
    pub(super) fn of(config: &Config) -> Self {
        Self { layers: config.layers.clone(), stated: config.stated.clone(), changing: config.changing.clone() }
    }

    /// Reads the file whenever `reload` is told, until the daemon stops.
    pub(super) async fn run(mut self, daemon: Daemon, reload: Arc<Notify>) {
        loop {
            tokio::select! {
                () = reload.notified() => {}
                () = daemon.stopping().cancelled() => return,
            }
            manager::tell(&NotifyState::Status("reading the configuration anew"));
            let message = match self.read(&daemon).await {
                Ok(read) => self.take_over(read),
                Err(LaneError::Stopping) => return,
                Err(error) => unchanged(&error),
            };
            manager::tell(&NotifyState::Status(&message));
            daemon.events().push(EventKind::SettingsRead, None, message);
        }
    }

    /// Reads the file in the lane of its disk, which may hang.
    async fn read(&self, daemon: &Daemon) -> Result<Result<Config, SettingsError>, LaneError> {
        let (lanes, layers, limit) = (daemon.lanes(), self.layers.clone(), Some(READING_MAX));
        let (operation, kind) = ("reading the configuration", Kind::Look);
        let place = layers.place();
        let subject = place.as_ref().map(|place| place.display().to_string()).unwrap_or_default();
        let disks = lanes.locate(&subject, place.into_iter().collect(), limit).await?;
        let task = Task { operation, subject: &subject, disks: &disks, kind, limit };
        lanes.run(task, move |_: &MayBlock<'_>| layers.read_again().and_then(Layers::complete)).await
    }

    /// Takes over what may change, logs what became of it, and returns that in one line.
    fn take_over(&mut self, read: Result<Config, SettingsError>) -> String {
        let config = match read {
            Ok(config) => config,
            Err(error) => return unchanged(&error),
        };
        let outcome = compare(&mut self.stated, &config.stated);
        self.changing.become_like(&config.changing);
        self.layers = config.layers;
        let mut message = match outcome.changed.as_slice() {
            [] => "the configuration was read anew, and no setting changed".to_owned(),
            changed => format!("the configuration was read anew: {}", changed.join(", ")),
        };
        tracing::info!("{message}");
        if !outcome.waiting.is_empty() {
            let waiting = format!("after a restart: {}", outcome.waiting.join(", "));
            tracing::warn!("these settings change only {waiting}");
            message = format!("{message}; {waiting}");
        }
        message
    }
}

/// Logs why the settings stay as they are, and returns that.
fn unchanged(error: &impl Explain) -> String {
    let message = format!("the settings stay as they are: {}", sentence(error));
    tracing::warn!(hint = %error.explain().hint, "{message}");
    message
}

/// Brings `stated` to what is read now, except for settings that cannot change while the daemon runs.
fn compare(stated: &mut [Stated], read: &[Stated]) -> Outcome {
    let mut outcome = Outcome::default();
    for (old, new) in stated.iter_mut().zip(read).filter(|(old, new)| old.value != new.value) {
        let (name, was, is) = (old.name, old.value.to_string(), new.value.to_string());
        if Settings::LIVE.contains(&name) {
            outcome.changed.push(format!("{name}={is:?} (was {was:?})"));
            *old = new.clone();
        } else {
            outcome.waiting.push(format!("{name}={is:?} (is {was:?})"));
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::settings::{Origin, Shown};

    #[test]
    fn what_cannot_change_now_is_named_each_time() {
        let stated = |name: &'static str, value: &str| Stated {
            name,
            value: Shown::One(value.to_owned()),
            origin: Origin::Default,
        };
        let mut now = vec![stated("keep_alive", "10m"), stated("connections", "1024"), stated("grace", "5s")];
        let read = [stated("keep_alive", "1h"), stated("connections", "7"), stated("grace", "5s")];
        let waiting = vec!["connections=\"7\" (is \"1024\")".to_owned()];
        let changed = vec!["keep_alive=\"1h\" (was \"10m\")".to_owned()];
        assert_eq!(compare(&mut now, &read), Outcome { changed, waiting: waiting.clone() });
        assert_eq!(compare(&mut now, &read), Outcome { changed: Vec::new(), waiting });
    }

    #[test]
    fn every_setting_that_may_change_is_one() {
        let names: Vec<_> = Settings::table().into_iter().map(|row| row.name).collect();
        for name in Settings::LIVE {
            assert!(names.contains(&name), "{name}");
        }
    }
}
