//! The daemon by itself: how soon it is ready, what it costs when nobody wants anything.

use std::{
    collections::HashMap,
    ffi::OsString,
    fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use weightsd_segment::MemoryUse;

use crate::{
    samples::{Samples, millis},
    server::{Folder, Server},
};

/// How long nobody wants anything.
const IDLE: Duration = Duration::from_secs(10);

pub(crate) fn run(program: &Path, count: usize) -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let mut starts = Vec::new();
    for _ in 0..count {
        let (server, ready) = Server::start(program, &folder)?;
        starts.push(ready);
        drop(server);
    }
    let starts = Samples::from(starts);
    println!("| what | p50 | p90 | max |\n|---|---|---|---|");
    println!(
        "| start to an answering socket, ms | {} | {} | {} |",
        millis(starts.p50()),
        millis(starts.percentile(90)),
        millis(starts.percentile(100))
    );
    let (server, _) = Server::start(program, &folder)?;
    let statuses = (0..count).map(|_| status(program, &server)).collect::<anyhow::Result<Vec<_>>>()?;
    let statuses = Samples::from(statuses);
    println!(
        "| `weightsd status`, from its start to its end, ms | {} | {} | {} |",
        millis(statuses.p50()),
        millis(statuses.percentile(90)),
        millis(statuses.percentile(100))
    );
    thread::sleep(Duration::from_secs(1));
    let memory = MemoryUse::of_process(server.pid())?;
    println!("\nidle: resident {:.1} MB, private {:.1} MB", megabytes(memory.resident), megabytes(memory.private));
    let before = switches(server.pid())?;
    thread::sleep(IDLE);
    let after = switches(server.pid())?;
    // A thread that ended meanwhile took its count along.
    let switched: u64 = after.iter().map(|(thread, count)| count - before.get(thread).unwrap_or(&0)).sum();
    println!("idle: {switched} context switches of all threads in {IDLE:?}");
    Ok(())
}

/// How long a call of the command line takes.
fn status(program: &Path, server: &Server) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let mut command = Command::new(program);
    let status = command.arg("--socket").arg(server.options().socket).arg("status").stdout(Stdio::null()).status()?;
    anyhow::ensure!(status.success(), "`weightsd status` ended with {status}");
    Ok(began.elapsed())
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// Context switches so far of each thread of a process, from Linux's accounting.
fn switches(pid: u32) -> anyhow::Result<HashMap<OsString, u64>> {
    let mut threads = HashMap::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?;
        let status = fs::read_to_string(task.path().join("status"))?;
        let counts = status.lines().filter(|line| line.contains("ctxt_switches"));
        threads.insert(
            task.file_name(),
            counts.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum(),
        );
    }
    Ok(threads)
}
