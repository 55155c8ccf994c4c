//! The daemon's life: configuration, the socket, connections, shutdown.

mod accept;
mod config;
mod lifecycle;
mod listener;
mod watchdog;

pub use self::{
    config::{Config, ConfigFile, ConfigFileError},
    lifecycle::{RunError, run},
    listener::{BindError, BoundListener},
};
