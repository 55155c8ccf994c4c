//! A thousand clients at once, in four processes, that load, hold, ask and go at random. A minute of it in CI; as long as
//! `WEIGHTSD_SOAK_SECONDS` says elsewhere.

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use weightsd_client::{Client, ClientError, ConnectOptions, FloatType, Layout, LoadRequest};
use weightsd_core::explain::sentence;

use crate::harness::{Home, PATIENCE, WITHOUT_VERIFYING, leases, until};

const REPO: &str = "test/z-image";
const SECONDS: &str = "WEIGHTSD_SOAK_SECONDS";
const CLIENTS: &str = "WEIGHTSD_SOAK_CLIENTS";
/// Without a wish of anybody's.
const SHORT: Duration = Duration::from_secs(10);
const PROCESSES: usize = 4;
const CLIENTS_MAX: usize = 1000;
const MARK: &str = "this was done: ";

/// Numbers that look random and are the same in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// One client until `end`: what it did, and how long it waited for each `GetStatus`, in microseconds.
async fn client(number: u64, end: Instant) -> Result<(usize, Vec<u64>), ClientError> {
    let mut dice = Dice(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let (mut deeds, mut waits) = (0, Vec::new());
    let connect = || Client::connect(ConnectOptions { deadline: PATIENCE, ..ConnectOptions::default() });
    let mut connected = connect().await?;
    let mut held = Vec::new();
    while Instant::now() < end {
        match dice.below(10) {
            0..4 => {
                let component = ["transformer", "vae", "text_encoder"][dice.below(3) as usize];
                let request = LoadRequest::new(REPO, component).layout(Layout::Source).dtype(FloatType::AsStored);
                let keep_alive = Duration::from_millis(dice.below(2) * 500);
                held.push(connected.load(request.keep_alive(keep_alive).deadline(PATIENCE), |_| ()).await?);
            }
            4..6 => {
                let asked = Instant::now();
                connected.status().await?;
                waits.push(asked.elapsed().as_micros() as u64);
            }
            6..8 => held.truncate(dice.below(2) as usize),
            // It goes without a word, with all that it has.
            8 => {
                held.clear();
                connected = connect().await?;
            }
            _ => tokio::time::sleep(Duration::from_millis(dice.below(2000))).await,
        }
        deeds += 1;
        // A client computes, too.
        tokio::time::sleep(Duration::from_millis(dice.below(1000))).await;
    }
    Ok((deeds, waits))
}

#[test]
#[ignore = "not a test: a process of the test below"]
fn soak_process() {
    let (Ok(clients), Ok(seconds)) = (env::var(CLIENTS), env::var(SECONDS)) else { return };
    let (clients, seconds): (usize, u64) = (clients.parse().unwrap(), seconds.parse().unwrap());
    weightsd_segment::file_limit::raise().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let end = Instant::now() + Duration::from_secs(seconds);
    let first = u64::from(std::process::id()) << 16;
    let done = runtime.block_on(async {
        let all: Vec<_> = (0..clients).map(|number| tokio::spawn(client(first + number as u64, end))).collect();
        let mut done = Vec::new();
        for one in all {
            done.push(one.await.unwrap());
        }
        done
    });
    let (mut deeds, mut waits, mut errors) = (0, Vec::new(), Vec::new());
    for one in done {
        match one {
            Ok((more, waited)) => {
                deeds += more;
                waits.extend(waited);
            }
            Err(error) => errors.push(sentence(&error)),
        }
    }
    println!("{MARK}{}", serde_json::to_string(&(deeds, waits, errors)).unwrap());
    // Ended by the test: the end of a process is part of it.
    let _ = std::io::stdin().lock().read_line(&mut String::new());
}

fn start(home: &Home, seconds: u64) -> Child {
    let mut command = home.around(Command::new(env::current_exe().unwrap()));
    command
        .args(["--exact", "soak::soak_process", "--nocapture", "--ignored", "--test-threads=1"])
        .env(SECONDS, seconds.to_string())
        .env(CLIENTS, (CLIENTS_MAX / PROCESSES).to_string());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

/// What the daemon has, as the system counts it: open files, threads, mappings, resident bytes.
fn takes(pid: u32) -> [usize; 4] {
    let count = |folder: &str| fs::read_dir(format!("/proc/{pid}/{folder}")).unwrap().count();
    let mappings = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap().lines().count();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kibibytes: usize = resident.trim().trim_end_matches(" kB").parse().unwrap();
    [count("fd"), count("task"), mappings, kibibytes << 10]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_clients_leave_the_daemon_as_it_was() {
    let seconds = env::var(SECONDS).map_or(SHORT, |seconds| Duration::from_secs(seconds.parse().unwrap())).as_secs();
    let home = Home::new();
    home.tiny(REPO);
    // Each client has a connection, and one more for descriptors.
    let [verify, off] = WITHOUT_VERIFYING;
    let daemon = home.daemon_with(&["--connections", "4096", verify, off]);
    let client = daemon.client().await;
    let (before, mut most) = (takes(daemon.pid()), 0);
    let mut processes: Vec<_> = (0..PROCESSES).map(|_| start(&home, seconds)).collect();
    // Half-way all that grows to a level has grown.
    tokio::time::sleep(Duration::from_secs(seconds / 2)).await;
    let half = takes(daemon.pid());
    let (mut deeds, mut waits) = (0, Vec::<u64>::new());
    for process in &mut processes {
        // Not taken: a process whose output nobody reads fails at its end.
        let mut lines = BufReader::new(process.stdout.as_mut().unwrap()).lines().map_while(Result::ok);
        let line = lines.find(|line| line.contains(MARK)).expect("it says what it did");
        let said = &line[line.find(MARK).unwrap() + MARK.len()..];
        let (more, waited, errors): (usize, Vec<u64>, Vec<String>) = serde_json::from_str(said).unwrap();
        assert_eq!(errors, [""; 0], "{}", home.log());
        most = most.max(client.status().await.unwrap().connections);
        deeds += more;
        waits.extend(waited);
    }
    for process in &mut processes {
        process.stdin.take().unwrap().write_all(b"\n").unwrap();
        assert!(process.wait().unwrap().success());
    }
    until("nobody holds anything", async || leases(&client).await == 0).await;
    until("they are gone", async || client.status().await.unwrap().connections == 1).await;
    until("nothing is loaded", async || client.status().await.unwrap().components == 0).await;
    until("files and threads are as before", async || {
        let after = takes(daemon.pid());
        // The lanes keep some threads for the next look.
        after[0] <= before[0] + 4 && after[1] <= before[1] + 8
    })
    .await;
    let after = takes(daemon.pid());
    waits.sort_unstable();
    let p99 = waits[waits.len() * 99 / 100];
    println!(
        "soak of {seconds} s: {deeds} deeds, up to {most} connections; GetStatus p50 {} us, p99 {p99} us; files, threads, \
         mappings, resident bytes {before:?} before, {half:?} half-way, {after:?} after",
        waits[waits.len() / 2]
    );
    assert!(deeds > CLIENTS_MAX, "{deeds}");
    // A level, and no slope: what a thousand connections take is taken half-way.
    assert!(after[3] <= half[3].max(before[3]) * 5 / 4 + (16 << 20), "{before:?} {half:?} {after:?}");
}
