//! The fault matrix: every fault in every phase of a component's life. Most cells are told by a story of their own, which is
//! named here and must exist; others are run here, one after the other; what is open says so.
//!
//! Each cell that is run here counts what the daemon has before and after: open files, threads, mappings, leases, files that
//! are not whole.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use rustix::process::Signal;
use weightsd_client::{Client, proto::EvictRequest};
use weightsd_fixtures::hub::{Fault as HubFault, Hub, On, Rule, Side};

use crate::{
    client_process::{ClientProcess, Job, checksum},
    harness::{Daemon, Home, leases, until},
    hubs::{REPO, partials, publish_weights},
};

/// What a component is about to be, or is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Resolving,
    Downloading,
    Verifying,
    Deriving,
    Lent,
    Evicting,
}

const PHASES: [Phase; 6] =
    [Phase::Resolving, Phase::Downloading, Phase::Verifying, Phase::Deriving, Phase::Lent, Phase::Evicting];

/// Where a cell is told.
#[derive(Debug, Clone, Copy)]
enum Cell {
    /// By stories: their files' text, and their functions.
    Told(&'static [(&'static str, &'static str)]),
    /// By [`the_cells_that_no_other_story_tells`].
    Here,
    /// Nowhere, because the fault does not meet the phase.
    Apart(&'static str),
    /// Nowhere yet.
    Open(&'static str),
}

/// Names stories, which must exist.
macro_rules! told {
    ($($file:ident :: $story:ident),+) => {
        Cell::Told(&[$((include_str!(concat!(stringify!($file), ".rs")), stringify!($story))),+])
    };
}

const NO_BYTES: Cell = Cell::Apart("no weights are read or written in this phase");
const NO_HUB: Cell = Cell::Apart("nobody asks the hub in this phase");
const SHORT: Cell = Cell::Open("hashing, computing and evicting are over too soon to be met by this one");
const NO_LIMIT: Cell = Cell::Open("no story runs this phase at the limit");

/// Faults, with a cell for each phase.
const MATRIX: [(&str, [Cell; 6]); 15] = [
    (
        "client killed",
        [
            Cell::Here,
            told!(hub_races::the_last_one_who_hangs_up_stops_it_and_the_next_one_goes_on),
            SHORT,
            told!(deriving_crashes::a_computation_that_nobody_waits_for_any_more_is_given_up),
            told!(crashes::a_client_killed_at_any_moment_leaves_nothing_behind),
            SHORT,
        ],
    ),
    (
        "daemon killed",
        [
            Cell::Here,
            told!(hub_resumes::a_daemon_killed_at_any_point_of_a_download_goes_on_with_it),
            SHORT,
            told!(deriving_crashes::a_daemon_killed_at_any_moment_of_a_computation_leaves_no_half_image),
            told!(restarts::a_holder_has_its_lease_again_without_loading_anything),
            SHORT,
        ],
    ),
    (
        "SIGTERM",
        [
            Cell::Here,
            told!(hub_progress::a_stop_of_the_daemon_waits_for_no_download),
            SHORT,
            told!(deriving_crashes::a_daemon_that_is_told_to_stop_does_not_wait_for_the_end_of_a_computation),
            told!(lifecycle::holders_are_told_of_the_end_and_keep_their_bytes),
            SHORT,
        ],
    ),
    ("SIGHUP", [Cell::Here, Cell::Here, SHORT, SHORT, Cell::Here, SHORT]),
    (
        "disk full",
        [
            NO_BYTES,
            told!(hub_disk::a_disk_without_room_is_found_out_before_the_first_byte),
            NO_BYTES,
            told!(
                deriving_room::a_disk_that_is_too_small_is_an_error_that_hurts_nobody_else,
                deriving_room::a_disk_that_fills_in_the_middle_does_not_spoil_what_has_its_room_already
            ),
            NO_BYTES,
            told!(deriving_room::the_least_recently_used_goes_for_another_one_and_what_is_held_stays),
        ],
    ),
    (
        "disk hung",
        [
            told!(hung_disk::a_load_that_a_disk_holds_up_ends_at_its_deadline_and_says_which_disk),
            Cell::Open("no story hangs the disk that a download comes to"),
            Cell::Open("no story hangs a disk under a verification"),
            told!(hung_disk::the_daemons_own_folder_may_hang_too),
            told!(
                hung_disk::a_hung_disk_stops_nobody_who_does_not_need_it,
                hung_disk::a_daemon_ends_when_it_is_told_to_while_a_disk_hangs
            ),
            told!(hung_disk::the_daemons_own_folder_may_hang_too),
        ],
    ),
    (
        "read error",
        [
            told!(caches::a_cache_that_is_a_link_to_nothing_is_named_with_where_it_leads),
            told!(hub_faults::every_fault_gets_the_answer_it_must_and_leaves_nothing_behind),
            Cell::Open("no story has a disk that fails under a verification"),
            told!(deriving_crashes::a_computation_that_is_killed_is_an_error_and_the_next_one_succeeds),
            Cell::Open("no story has a disk that fails under a mapping"),
            NO_BYTES,
        ],
    ),
    (
        "file truncated",
        [
            told!(changes::a_truncated_file_is_refused_and_the_daemon_lives),
            told!(hub_resumes::what_an_earlier_attempt_left_is_not_believed),
            told!(verifying::a_damaged_blob_is_fetched_again_before_it_is_lent),
            told!(deriving_changes::a_file_that_changes_while_it_is_read_is_an_error_and_no_image),
            told!(changes::holders_are_told_what_becomes_of_their_files_without_anybody_asking),
            NO_BYTES,
        ],
    ),
    (
        "file replaced",
        [
            told!(changes::a_file_replaced_by_rename_is_another_component),
            told!(hub_resumes::a_content_that_changes_in_the_middle_is_not_put_together),
            told!(verifying::what_is_found_afterwards_is_told_to_its_holder_and_dropped),
            told!(
                deriving_changes::a_file_that_changes_afterwards_is_another_component_and_the_image_stays_for_its_holders
            ),
            told!(changes::holders_are_told_what_becomes_of_their_files_without_anybody_asking),
            NO_BYTES,
        ],
    ),
    (
        "file deleted",
        [
            told!(changes::a_blob_that_was_deleted_and_fetched_again_is_lent_anew),
            Cell::Open("no story deletes a partial blob under its download"),
            told!(verifying::verify_gives_a_verdict_for_every_file_and_a_pull_mends_it),
            told!(
                deriving_changes::an_image_that_somebody_deletes_is_kept_by_its_holders_and_computed_again_for_others
            ),
            told!(changes::holders_are_told_what_becomes_of_their_files_without_anybody_asking),
            NO_BYTES,
        ],
    ),
    (
        "hub gone",
        [
            told!(hub_away::while_the_hub_is_away_a_branch_means_what_it_meant),
            told!(
                hub_races::a_hub_that_went_silent_does_not_hold_up_the_end_of_a_download_nobody_waits_for,
                hub_resumes::a_connection_that_breaks_is_followed_by_another_for_the_rest
            ),
            NO_HUB,
            NO_HUB,
            NO_HUB,
            NO_HUB,
        ],
    ),
    (
        "descriptor limit",
        [
            told!(shares::files_are_not_held_open_at_the_cost_of_connections),
            NO_LIMIT,
            NO_LIMIT,
            NO_LIMIT,
            told!(shares::descriptors_that_nobody_takes_hold_up_their_own_process_only),
            told!(changes::files_are_closed_when_the_last_component_over_them_is_gone),
        ],
    ),
    (
        "memory limit",
        [
            told!(shares::the_memory_of_what_is_idle_is_bounded),
            NO_LIMIT,
            NO_LIMIT,
            told!(deriving_crashes::a_computation_takes_a_bounded_part_of_memory_and_gives_it_back),
            told!(shares::requests_and_the_status_cost_the_same_beside_thousands_of_idle_components),
            told!(shares::what_is_idle_is_bounded_by_number_and_the_least_recently_used_goes),
        ],
    ),
    (
        "log blocked",
        [
            Cell::Here,
            Cell::Here,
            SHORT,
            SHORT,
            told!(
                log::nobody_reads_the_log,
                log::the_reader_of_the_log_is_gone,
                log::the_disk_of_the_log_is_full_and_then_it_is_not
            ),
            SHORT,
        ],
    ),
    ("clock set back", [Cell::Here, Cell::Here, SHORT, SHORT, Cell::Here, SHORT]),
];

#[test]
fn every_cell_is_told() {
    let mut here = 0;
    for (fault, cells) in MATRIX {
        for (phase, cell) in PHASES.iter().zip(cells) {
            match cell {
                Cell::Told(stories) => {
                    for (source, story) in stories {
                        let is_there = source.contains(&format!("fn {story}("));
                        assert!(is_there, "{fault} x {phase:?}: there is no story `{story}` any more");
                    }
                }
                Cell::Here => {
                    assert!(Fault::of(fault).is_some(), "{fault} x {phase:?} is not run here");
                    here += 1;
                }
                Cell::Apart(why) | Cell::Open(why) => assert!(!why.is_empty()),
            }
        }
    }
    assert!(here >= 10, "{here}");
}

/// The faults that are made here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    ClientKilled,
    DaemonKilled,
    Terminated,
    HungUp,
    LogBlocked,
    ClockSetBack,
}

impl Fault {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "client killed" => Self::ClientKilled,
            "daemon killed" => Self::DaemonKilled,
            "SIGTERM" => Self::Terminated,
            "SIGHUP" => Self::HungUp,
            "log blocked" => Self::LogBlocked,
            "clock set back" => Self::ClockSetBack,
            _ => return None,
        })
    }
}

/// A library before the system's, whose clock goes back by a day when a file appears.
fn clock(home: &Home) -> PathBuf {
    let (source, library) = (home.path().join("clock.c"), home.path().join("clock.so"));
    let program = "#include <time.h>\n#include <stdlib.h>\n#include <unistd.h>\n#include <sys/syscall.h>\n\
        int clock_gettime(clockid_t id, struct timespec *at) {\n\
            int result = syscall(SYS_clock_gettime, id, at);\n\
            const char *file = getenv(\"WEIGHTSD_TEST_CLOCK\");\n\
            if (id == CLOCK_REALTIME && file && access(file, F_OK) == 0) at->tv_sec -= 86400;\n\
            return result;\n\
        }\n";
    fs::write(&source, program).unwrap();
    let made = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status().unwrap();
    assert!(made.success());
    library
}

/// What the daemon has, as the system counts it: open files, threads, mappings.
fn takes(pid: u32) -> [usize; 3] {
    let count = |folder: &str| fs::read_dir(format!("/proc/{pid}/{folder}")).unwrap().count();
    let mappings = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap().lines().count();
    [count("fd"), count("task"), mappings]
}

const LENGTH: usize = 3_000_000;
/// More than half of it.
const HALF: u64 = 2_000_000;

/// A hub with one model, and a daemon that is to load it.
struct Stage {
    home: Home,
    hub: Hub,
    checksum: u64,
    clock: PathBuf,
    phase: Phase,
}

impl Stage {
    fn new(phase: Phase) -> Self {
        let (home, hub) = (Home::new(), Hub::start().unwrap());
        let file = publish_weights(&hub, REPO, LENGTH);
        let checksum = checksum(std::iter::once(&file[file.len() - LENGTH..]));
        let clock = clock(&home);
        Self { home, hub, checksum, clock, phase }
    }

    /// A daemon that waits for the hub for as long as it takes.
    fn daemon(&self, log: impl Into<Stdio>) -> Daemon {
        let mut command = self.home.command();
        command.args(["serve", "--restore", "false", "--verify", "false", "--free-space", "0B"]);
        command.args(["--hub-stall", "1h", "--hub-deadline", "1h", "--hub-tries", "1"]);
        command.env("HF_ENDPOINT", self.hub.endpoint()).env_remove("HF_HUB_OFFLINE").env("WEIGHTSD_LOG", "trace");
        command.env("LD_PRELOAD", &self.clock).env("WEIGHTSD_TEST_CLOCK", self.home.path().join("set-back"));
        self.home.ready(self.home.start_logging_to(command, log))
    }

    fn log(&self) -> fs::File {
        fs::OpenOptions::new().create(true).append(true).open(self.home.path().join("log")).unwrap()
    }

    fn client(&self) -> ClientProcess {
        let job = Job { model: REPO.into(), component: "model".into(), source_layout: true };
        ClientProcess::start(&self.home, &job)
    }

    /// Has the hub keep the load in its phase until the rule is removed.
    fn halt(&self) -> Option<Rule> {
        match self.phase {
            Phase::Resolving => Some(self.hub.fault(On::api("/revision/"), HubFault::Stall { after: 0 })),
            Phase::Downloading => Some(self.hub.fault(On::cdn(""), HubFault::Stall { after: HALF })),
            _ => None,
        }
    }

    async fn is_reached(&self, client: &Client) {
        until(&format!("{:?}", self.phase), async || match self.phase {
            Phase::Resolving => !self.hub.seen(&On::api("/revision/")).is_empty(),
            Phase::Downloading => self.hub.bytes_sent(Side::Cdn) >= HALF,
            _ => leases(client).await == 1,
        })
        .await;
    }

    /// Has `fault` happen, and returns the daemon that serves then.
    async fn suffer(&self, fault: Fault, daemon: Daemon, process: &mut ClientProcess) -> Daemon {
        match fault {
            Fault::ClientKilled => process.kill(),
            Fault::DaemonKilled => {
                daemon.kill();
                return self.daemon(self.log());
            }
            Fault::Terminated => {
                assert!(daemon.terminate().success(), "{}", self.home.log());
                return self.daemon(self.log());
            }
            Fault::HungUp => {
                daemon.signal(Signal::HUP);
                self.home.logged("the configuration was read anew");
            }
            Fault::LogBlocked => {
                let client = daemon.client().await;
                until("lines are lost", async || client.status().await.unwrap().log_lines_lost > 0).await;
            }
            Fault::ClockSetBack => fs::write(self.home.path().join("set-back"), "").unwrap(),
        }
        daemon
    }

    async fn run(&self, fault: Fault) {
        let (reader, writer) = std::io::pipe().unwrap();
        let daemon = if fault == Fault::LogBlocked { self.daemon(writer) } else { self.daemon(self.log()) };
        let client = daemon.client().await;
        until("the harness is gone", async || client.status().await.unwrap().connections == 1).await;
        let before = takes(daemon.pid());
        let halt = self.halt();
        let mut process = self.client();
        self.is_reached(&client).await;
        let has_read = self.phase == Phase::Lent && process.held().checksum == self.checksum;
        let daemon = self.suffer(fault, daemon, &mut process).await;
        halt.iter().for_each(Rule::remove);
        // Who was there before is served, has its lease again, or has been told. Nobody has wrong bytes.
        let ends = matches!(fault, Fault::DaemonKilled | Fault::Terminated);
        if fault != Fault::ClientKilled {
            let held = if has_read { process.read_again() } else { process.held() };
            assert!(ends || held.error.is_none(), "{held:?}");
            assert!(held.error.is_some() || held.checksum == self.checksum, "{held:?}");
        }
        let client = daemon.client().await;
        if self.phase == Phase::Lent {
            let wanted = u32::from(fault != Fault::ClientKilled);
            until("the holder has its lease", async || leases(&client).await == wanted).await;
        }
        // And who comes now is served.
        let mut next = self.client();
        let held = next.held();
        assert!(held.error.is_none() && held.checksum == self.checksum, "{held:?}");
        drop((process, next));
        until("no lease is left", async || leases(&client).await == 0).await;
        client.evict(EvictRequest::default()).await.unwrap();
        until("nothing is left", async || {
            let status = client.status().await.unwrap();
            let is_quiet = status.loads.is_empty() && status.downloads.is_empty() && status.components == 0;
            is_quiet && status.connections <= 2 && partials(&self.home, REPO) == [""; 0].map(PathBuf::from)
        })
        .await;
        // The hub's client and the lanes keep a few for the next one.
        until("files, threads and mappings are as before", async || {
            let after = takes(daemon.pid());
            after[0] <= before[0] + 8 && after[1] <= before[1] + 12 && after[2] <= before[2] + 80
        })
        .await;
        drop(reader);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cells_that_no_other_story_tells() {
    for (name, cells) in MATRIX {
        for (phase, cell) in PHASES.into_iter().zip(cells) {
            if let (Cell::Here, Some(fault)) = (cell, Fault::of(name)) {
                eprintln!("{name} x {phase:?}");
                Stage::new(phase).run(fault).await;
            }
        }
    }
}
