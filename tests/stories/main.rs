//! Stories about the real daemon on its real socket. `harness` starts and ends it; `client_process` is this program
//! again, as a client in a process of its own; `raw` speaks the protocols without the client crate; `hubs` has what stories about downloads
//! share.

#![expect(unreachable_pub, reason = "a test program exports nothing")]
#![expect(clippy::disallowed_methods, reason = "a test owns its tasks and threads")]

mod activation;
mod adapters;
mod bare;
mod caches;
mod changes;
mod checkpoints;
mod client_process;
mod crashes;
#[cfg(target_os = "linux")]
mod crowd;
#[cfg(target_os = "linux")]
mod derivations;
#[cfg(target_os = "linux")]
mod deriving;
#[cfg(target_os = "linux")]
mod deriving_changes;
#[cfg(target_os = "linux")]
mod deriving_crashes;
#[cfg(target_os = "linux")]
mod deriving_room;
mod engines;
#[cfg(target_os = "linux")]
mod fuse_disk;
mod harness;
mod hostile;
mod hub_away;
mod hub_commands;
mod hub_disk;
mod hub_fault_cases;
mod hub_faults;
mod hub_loads;
mod hub_looks;
mod hub_names;
mod hub_own_files;
mod hub_progress;
mod hub_races;
mod hub_resumes;
mod hub_tokens;
mod hubs;
#[cfg(target_os = "linux")]
mod hung_disk;
mod installing;
mod keeping;
mod kinds;
mod lending;
mod lifecycle;
#[cfg(target_os = "linux")]
mod log;
mod names;
mod progress;
mod quantising;
mod raw;
mod refusals;
mod said;
mod screens;
#[cfg(target_os = "linux")]
mod shares;
mod sharing;
#[cfg(target_os = "linux")]
mod small_disk;
mod strangers;
#[cfg(target_os = "linux")]
mod syncing;
#[cfg(target_os = "linux")]
mod true_size;
mod verifying;
#[cfg(target_os = "linux")]
mod volumes;
mod without_mlx;
