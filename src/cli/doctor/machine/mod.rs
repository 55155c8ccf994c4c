//! What each system tells of the machine in its own way.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod other;

#[cfg(target_os = "linux")]
pub(super) use self::linux::{is_replaced, memory};
#[cfg(not(target_os = "linux"))]
pub(super) use self::other::{is_replaced, memory};
