//! The daemon's life: configuration, the socket, connections, shutdown.

mod accept;
mod config;
mod lifecycle;
mod listener;
mod log_file;
mod manager;
mod metrics;
mod preload;
pub mod process;
mod reload;
mod settings;
mod takeover;
mod waiting;
mod watch;
mod watchdog;

pub use self::{
    config::Config,
    lifecycle::{RunError, run},
    listener::{BindError, BoundListener, Reach},
    metrics::MetricsPlace,
    settings::{Layers, Origin, Preload, Row, Settings, SettingsError, Shown, Stated},
    waiting::Waiting,
    watchdog::Watch,
};
