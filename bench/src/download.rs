//! From the hub to verified files in the cache: weightsd against curl and against Python's huggingface_hub, on the same
//! hub in the same run. curl verifies nothing; a second form pipes through sha256sum, which is what verification costs
//! a tool that does not hash on the way.

use std::{
    fs::{self, File},
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::runtime::Runtime;
use weightsd_client::{
    Client, ConnectOptions,
    proto::{ModelSelector, PullRequest},
};
use weightsd_fixtures::hub::Hub;

use crate::{
    samples::Samples,
    server::{Folder, Server},
};

/// Says how long it took in nanoseconds, so that the start of Python does not count.
const PYTHON: &str = "\
import sys, time
from huggingface_hub import snapshot_download
began = time.perf_counter_ns()
snapshot_download(sys.argv[1], cache_dir=sys.argv[2])
print(time.perf_counter_ns() - began)
";

/// Files of a repository, and their bytes.
struct Case {
    repo: &'static str,
    files: Vec<(String, u64)>,
}

impl Case {
    fn bytes(&self) -> u64 {
        self.files.iter().map(|(_, bytes)| bytes).sum()
    }
}

/// One way of downloading a repository.
type Way<'a> = (&'static str, Box<dyn Fn(&Case) -> anyhow::Result<Duration> + 'a>);

pub(crate) fn run(
    program: &Path,
    python: &Path,
    megabytes: u64,
    rounds: usize,
    below: Option<&Path>,
) -> anyhow::Result<()> {
    let folder = below.map_or_else(Folder::new, Folder::below)?;
    let hub = Hub::start()?;
    let bytes = megabytes * 1_000_000;
    let shard = |number: usize| (format!("model-{number:05}-of-00004.safetensors"), bytes / 4);
    let cases = [
        Case { repo: "bench/one", files: vec![("model.safetensors".to_owned(), bytes)] },
        Case { repo: "bench/four", files: (1..=4).map(shard).collect() },
    ];
    for case in &cases {
        let root = folder.path().join(case.repo);
        case.files.iter().try_for_each(|(name, bytes)| write_random(&root.join(name), *bytes))?;
        hub.publish_directory(case.repo, "main", &root)?;
    }
    let into = folder.path().join("into");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ways: [Way<'_>; 5] = [
        ("curl, nothing verified", Box::new(|case| curl(&hub, case, &into))),
        ("curl, tee, sha256sum", Box::new(|case| curl_and_hash(&hub, case, &into))),
        ("weightsd pull, verified", Box::new(|case| weightsd(&hub, case, program, &into, &runtime))),
        ("Python snapshot_download", Box::new(|case| snapshot_download(&hub, case, python, &into))),
        ("the disk: write and nothing else", Box::new(|case| write_only(case, &into))),
    ];
    println!("| files | way | seconds (p50 of {rounds}) | MB/s | ratio to curl |\n|---|---|---|---|---|");
    for case in &cases {
        let mut times = vec![Vec::new(); ways.len()];
        for round in 0..rounds {
            for at in 0..ways.len() {
                // Nobody always comes after the same one, and inherits what that one did to memory and disk.
                let at = (at + round) % ways.len();
                let (way, times) = (&ways[at], &mut times[at]);
                let _ = fs::remove_dir_all(&into);
                fs::create_dir_all(&into)?;
                // What the last one left in memory is not written at this one's cost.
                Command::new("sync").status()?;
                times.push(way.1(case).with_context(|| way.0)?);
            }
        }
        let times: Vec<Duration> = times.into_iter().map(|times| Samples::from(times).p50()).collect();
        for ((name, _), time) in ways.iter().zip(&times) {
            let rate = case.bytes() as f64 / 1e6 / time.as_secs_f64();
            let ratio = times[0].as_secs_f64() / time.as_secs_f64();
            println!("| {} | {name} | {:.2} | {rate:.0} | {ratio:.2} |", case.files.len(), time.as_secs_f64());
        }
    }
    Ok(())
}

/// Bytes that no disk and no network can make smaller.
fn write_random(path: &Path, bytes: u64) -> anyhow::Result<()> {
    fs::create_dir_all(path.parent().context("a file has a folder")?)?;
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ bytes;
    for byte in path.as_os_str().as_encoded_bytes() {
        state = state.wrapping_mul(31).wrapping_add(u64::from(*byte));
    }
    for _ in 0..bytes / 8 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        file.write_all(&state.to_le_bytes())?;
    }
    file.write_all(&vec![0; usize::try_from(bytes % 8)?])?;
    Ok(file.flush()?)
}

fn timed(mut command: Command) -> anyhow::Result<Duration> {
    command.env("NO_PROXY", "127.0.0.1,localhost").stdout(Stdio::null()).stdin(Stdio::null());
    let began = Instant::now();
    let status = command.status()?;
    anyhow::ensure!(status.success(), "{command:?} ended with {status}");
    Ok(began.elapsed())
}

fn url(hub: &Hub, case: &Case, file: &str) -> String {
    format!("{}/{}/resolve/main/{file}", hub.endpoint(), case.repo)
}

fn curl(hub: &Hub, case: &Case, into: &Path) -> anyhow::Result<Duration> {
    let mut command = Command::new("curl");
    command.args(["--no-progress-meter", "--fail", "--location", "--parallel"]).stderr(Stdio::null());
    for (file, _) in &case.files {
        command.arg("--output").arg(into.join(file)).arg(url(hub, case, file));
    }
    timed(command)
}

fn curl_and_hash(hub: &Hub, case: &Case, into: &Path) -> anyhow::Result<Duration> {
    let one = |(file, _): &(String, u64)| {
        let (url, path) = (url(hub, case, file), into.join(file));
        format!("curl -sSfL '{url}' | tee '{}' | sha256sum > /dev/null", path.display())
    };
    let script = case.files.iter().map(one).collect::<Vec<_>>().join(" & ");
    let mut command = Command::new("bash");
    command.args(["-o", "pipefail", "-c", &format!("{script} & wait")]);
    timed(command)
}

fn snapshot_download(hub: &Hub, case: &Case, python: &Path, into: &Path) -> anyhow::Result<Duration> {
    let mut command = Command::new(python);
    command.args(["-c", PYTHON, case.repo]).arg(into.join("hub"));
    command
        .env("HF_ENDPOINT", hub.endpoint())
        .env("HF_HOME", into.join("home"))
        .env("HF_HUB_DISABLE_PROGRESS_BARS", "1");
    command.env("NO_PROXY", "127.0.0.1,localhost").stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output().with_context(|| format!("{}: run .ci/python first", python.display()))?;
    anyhow::ensure!(output.status.success(), "Python ended with {}", output.status);
    Ok(Duration::from_nanos(String::from_utf8(output.stdout)?.trim().parse()?))
}

fn weightsd(hub: &Hub, case: &Case, program: &Path, into: &Path, runtime: &Runtime) -> anyhow::Result<Duration> {
    let folder = Folder::below(into)?;
    let settings = ["--hub-endpoint", &hub.endpoint(), "--free-space", "0B"];
    let (server, _) = Server::start_with(program, &folder, &settings)?;
    runtime.block_on(async {
        let options = ConnectOptions { deadline: Duration::from_secs(600), ..server.options() };
        let client = Client::connect(options).await?;
        let model = ModelSelector { spec: case.repo.to_owned(), ..ModelSelector::default() };
        let began = Instant::now();
        let report = client.pull(PullRequest { model: Some(model), ..PullRequest::default() }, |_| {}).await?;
        anyhow::ensure!(report.bytes_fetched == case.bytes(), "{} bytes came", report.bytes_fetched);
        Ok(began.elapsed())
    })
}

/// What the disk takes in one stream, from memory: no download can be faster for long.
fn write_only(case: &Case, into: &Path) -> anyhow::Result<Duration> {
    let buffer = vec![0x5a_u8; 1 << 20];
    let began = Instant::now();
    for (name, bytes) in &case.files {
        let mut file = File::create(PathBuf::from(into).join(name))?;
        let mut left = *bytes;
        while left > 0 {
            let piece = left.min(buffer.len() as u64);
            file.write_all(&buffer[..usize::try_from(piece)?])?;
            left -= piece;
        }
    }
    Ok(began.elapsed())
}
