//! A setting that may change while the daemon runs. Readers get the value of the moment.

use tokio::sync::watch;

/// A value that many read and that may be replaced. Clones are the same value.
#[derive(Debug, Clone)]
pub struct Live<T>(watch::Sender<T>);

impl<T: Default> Default for Live<T> {
    fn default() -> Self {
        Self(watch::Sender::default())
    }
}

impl<T> From<T> for Live<T> {
    fn from(value: T) -> Self {
        Self(watch::Sender::new(value))
    }
}

impl<T: Clone> Live<T> {
    /// The value now.
    #[must_use]
    pub fn get(&self) -> T {
        self.0.borrow().clone()
    }

    /// Replaces the value.
    pub fn set(&self, value: T) {
        self.0.send_replace(value);
    }

    /// Tells each time the value is set, also to the same one.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<T> {
        self.0.subscribe()
    }
}
