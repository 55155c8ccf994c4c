//! Stories about the real daemon on its real socket. `harness` starts and ends it; `client_process` is this program
//! again, as a client in a process of its own; `raw` speaks the protocols without the client crate; `hubs` has what
//! stories about downloads share.

#![expect(unreachable_pub, reason = "a test program exports nothing")]
#![expect(clippy::disallowed_methods, reason = "a test owns its tasks and threads")]

#[cfg(target_os = "linux")] // It speaks systemd's protocol.
mod activation;
mod adapters;
mod bare;
mod buckets;
mod caches;
mod changes;
mod checkpoints;
mod client_process;
#[cfg(target_os = "linux")]
mod clones;
mod clouds;
mod crashes;
mod crowd;
mod derivations;
mod deriving;
mod deriving_changes;
mod deriving_crashes;
mod deriving_room;
mod doctor;
mod engines;
mod explaining;
#[cfg(target_os = "linux")] // It counts in /proc, and puts a library before the system's.
mod faults;
#[cfg(target_os = "linux")]
mod fuse_disk;
#[cfg(target_os = "linux")] // Namespaces are Linux's.
mod guests;
mod harness;
mod hostile;
mod hub_away;
mod hub_commands;
mod hub_disk;
mod hub_fault_cases;
mod hub_faults;
mod hub_gguf;
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
mod metrics;
mod mirror;
mod names;
mod not_run;
#[cfg(target_os = "linux")]
mod opens;
mod processes;
mod progress;
mod proxies;
mod quantising;
mod raw;
mod refusals;
mod residency;
mod restarts;
mod said;
mod screens;
mod settings;
#[cfg(target_os = "linux")]
mod shares;
mod sharing;
mod small_disk;
#[cfg(target_os = "linux")] // It counts in /proc.
mod soak;
mod strangers;
#[cfg(target_os = "linux")] // It puts a library before the system's, which macOS does not let it do.
mod syncing;
#[cfg(target_os = "linux")] // A terminal is made in Linux's way, and `setsid` is util-linux's.
mod terminals;
mod true_size;
mod verifying;
#[cfg(target_os = "linux")] // It needs loop devices.
mod volumes;
#[cfg(target_os = "linux")] // The stand-in of the driver finds its files in Linux's way.
mod vram;
#[cfg(target_os = "linux")]
mod vram_reader;
mod waits;
mod without_mlx;
