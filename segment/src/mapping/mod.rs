//! A file as memory, read-only.

#[cfg(target_os = "linux")]
mod fronted;
#[cfg(not(target_os = "linux"))]
mod plain;

#[cfg(target_os = "linux")]
pub(crate) use fronted::Mapping;
#[cfg(not(target_os = "linux"))]
pub(crate) use plain::Mapping;
