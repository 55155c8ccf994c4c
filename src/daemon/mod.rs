//! The daemon's life: configuration, the socket, connections, shutdown.

mod accept;
mod config;
mod lifecycle;
mod listener;
pub mod process;
mod settings;
mod watchdog;

pub use self::{
    config::Config,
    lifecycle::{RunError, run},
    listener::{BindError, BoundListener},
    settings::{Row, Settings, SettingsError},
};
