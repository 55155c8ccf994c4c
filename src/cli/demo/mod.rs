//! `weightsd demo`: a small Z-Image-Turbo with the true names and rules, a daemon, two client processes, and what the
//! kernel says about the memory they share. Needs no network and no weights.

pub(super) mod client;

use std::{
    env,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use tokio::runtime::Runtime;
use weightsd_client::{Client, ConnectOptions};
use weightsd_samples::{Checkpoint, Contents, Dims};

use self::client::{Acquire, Report};
use super::{
    args::{Demo, Model},
    audit,
    output::{self, bytes, numbers, print, time},
    resolve,
};

const REPO: &str = "weightsd/z-image-turbo-demo";
const CLIENTS: usize = 2;
/// How long the daemon may take to answer its first call.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn run(command: &Demo, runtime: &Runtime) -> anyhow::Result<ExitCode> {
    let stage = Stage::new(command.keep)?;
    stage.write_checkpoint()?;
    let (mut daemon, connected) = stage.start_daemon(runtime)?;

    print("\n3. what the name means, and the audit from the headers alone")?;
    runtime.block_on(describe(&connected, &stage.cache))?;

    print(format_args!(
        "\n4. {CLIENTS} client processes load every component and read every page; what has to be computed is"
    ))?;
    print("   computed once: the transformer from F32 to BF16, the autoencoder's kernels, the transformer in 4 bits")?;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(DemoClient::start(&stage.socket, &stage.cache)?);
    }
    // Both hold everything before either is measured.
    for client in &mut clients {
        client.line()?;
    }
    let reports = clients.iter_mut().map(DemoClient::report).collect::<anyhow::Result<Vec<_>>>()?;
    print_acquires(&reports)?;
    print_memory(&clients, &reports)?;
    print("\n6. what the daemon says")?;
    runtime.block_on(super::status::list(
        &connected,
        &super::args::Ls { resident: true, images: false },
        output::Format::Text,
    ))?;

    for client in clients {
        client.end()?;
    }
    drop(connected);
    let began = Instant::now();
    daemon.terminate()?;
    print(format_args!("\n7. the clients let go; the daemon stopped in {}", time(began.elapsed())))?;
    if command.keep {
        print(format_args!("   the files stay in {}", stage.folder.path().display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A private folder for everything that the demo makes. The demo deletes it at the end, unless `--keep` is given.
struct Stage {
    folder: tempfile::TempDir,
    /// A Hugging Face cache.
    cache: PathBuf,
    socket: PathBuf,
}

impl Stage {
    fn new(keep: bool) -> anyhow::Result<Self> {
        let mut folder = tempfile::Builder::new()
            .prefix("weightsd-demo-")
            .permissions(std::fs::Permissions::from_mode(0o700))
            .tempdir()
            .context("a temporary directory")?;
        folder.disable_cleanup(keep);
        let (cache, socket) = (folder.path().join("hub"), folder.path().join("run/weightsd.sock"));
        std::fs::DirBuilder::new().mode(0o700).create(folder.path().join("run"))?;
        Ok(Self { folder, cache, socket })
    }

    fn write_checkpoint(&self) -> anyhow::Result<()> {
        let began = Instant::now();
        let checkpoint = Checkpoint::new(&Dims::demo(), Contents::Random { seed: 1 })?;
        checkpoint.write_hub_cache(&self.cache, REPO, "main")?;
        print(format_args!(
            "1. wrote a reduced Z-Image-Turbo, {}, in {}\n   {}",
            bytes(checkpoint.payload_bytes()),
            time(began.elapsed()),
            self.cache.display()
        ))?;
        Ok(())
    }

    fn start_daemon(&self, runtime: &Runtime) -> anyhow::Result<(Process, Client)> {
        let began = Instant::now();
        let (cache, own) = (self.cache.to_string_lossy(), self.folder.path().join("own"));
        let settings = ["--offline", "--hub-cache", &cache, "--own-cache", &own.to_string_lossy()];
        let mut daemon = Process::start("serve", &self.socket, &settings, Stdio::null())?;
        let connected = runtime.block_on(connect(&self.socket, &mut daemon))?;
        print(format_args!("\n2. weightsd (pid {}) answers after {}", daemon.id(), time(began.elapsed())))?;
        Ok((daemon, connected))
    }
}

async fn connect(socket: &Path, daemon: &mut Process) -> anyhow::Result<Client> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let options = ConnectOptions { socket: socket.to_owned(), ..ConnectOptions::default() };
        match Client::connect(options).await {
            Ok(client) => return Ok(client),
            Err(error) if Instant::now() > deadline => return Err(error.into()),
            Err(_) => {
                if let Some(status) = daemon.child.try_wait()? {
                    anyhow::bail!("the daemon ended: {status}");
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    }
}

async fn describe(client: &Client, cache: &Path) -> anyhow::Result<()> {
    let model = Model { model: REPO.to_owned(), hub_cache: Some(cache.to_owned()), offline: true, ..Model::default() };
    let resolved = client.resolve(resolve::selector(model.clone())).await?.model.unwrap_or_default();
    print(format_args!("   {} {} -> commit {}", resolved.repo, resolved.revision, resolved.commit))?;
    let answer = client.audit(resolve::selector(model), Vec::new()).await?;
    for report in &answer.reports {
        print(format_args!("   {}", audit::text(report, audit::Detail::Short)))?;
        anyhow::ensure!(report.clean, "the audit of the made-up checkpoint should be clean");
    }
    Ok(())
}

fn print_acquires(reports: &[Report]) -> anyhow::Result<()> {
    let mut table = output::table(&["   CLIENT", "COMPONENT", "TENSORS", "SIZE", "COMPUTED", "ACQUIRED IN", "", "AS"]);
    numbers(&mut table, &[2, 3, 4, 5]);
    for (number, report) in reports.iter().enumerate() {
        for Acquire { component, form, tensors, bytes: size, computed, micros, warm } in &report.acquires {
            table.add_row([
                format!("   {}", number + 1),
                component.clone(),
                tensors.to_string(),
                bytes(*size),
                bytes(*computed),
                time(Duration::from_micros(*micros)),
                if *warm { "warm" } else { "first" }.to_owned(),
                form.clone(),
            ]);
        }
    }
    print(table.trim_fmt())?;
    Ok(())
}

fn print_memory(clients: &[DemoClient], reports: &[Report]) -> anyhow::Result<()> {
    print("\n5. their memory, from the kernel's own accounting")?;
    let mut table = output::table(&["   CLIENT", "PID", "RESIDENT", "SHARED", "PRIVATE", "PAGE TABLES"]);
    numbers(&mut table, &[1, 2, 3, 4, 5]);
    for (number, (client, report)) in clients.iter().zip(reports).enumerate() {
        let memory = &report.memory;
        table.add_row([
            format!("   {}", number + 1),
            client.process.id().to_string(),
            bytes(memory.resident),
            bytes(memory.shared),
            bytes(memory.private),
            memory.page_tables.map_or("-".to_owned(), bytes),
        ]);
    }
    print(table.trim_fmt())?;
    let held: u64 = reports.iter().flat_map(|report| &report.acquires).map(|acquire| acquire.bytes).sum();
    print(format_args!("   they hold {} of tensors", bytes(held)))?;
    // Each page divided by the number of processes that map it: the sum is the memory in use.
    if let Some(exists) = reports.iter().map(|report| report.memory.proportional).sum::<Option<u64>>() {
        print(format_args!("   and occupy {} of memory together, all of their own included", bytes(exists)))?;
    }
    Ok(())
}

/// A process of this program, ended when dropped.
struct Process {
    child: Child,
}

impl Process {
    fn start(command: &str, socket: &Path, arguments: &[&str], input: Stdio) -> anyhow::Result<Self> {
        let program = env::current_exe().context("the path of this program")?;
        let child = Command::new(program)
            .arg("--socket")
            .arg(socket)
            .arg(command)
            .args(arguments)
            // The demo uses no socket, settings or log level of the user's own.
            .env_remove("LISTEN_FDS")
            .env("WEIGHTSD_CONFIG", "/dev/null")
            .env("WEIGHTSD_LOG", "warn")
            .stdin(input)
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start `weightsd {command}`"))?;
        Ok(Self { child })
    }

    fn id(&self) -> u32 {
        self.child.id()
    }

    fn terminate(&mut self) -> anyhow::Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let status = self.child.wait()?;
        anyhow::ensure!(status.success(), "the daemon ended with {status}");
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client process. It prints a line when it holds everything, and its report when it reads one.
struct DemoClient {
    process: Process,
    lines: BufReader<std::process::ChildStdout>,
}

impl DemoClient {
    fn start(socket: &Path, cache: &Path) -> anyhow::Result<Self> {
        let arguments = [REPO, "--hub-cache", &cache.to_string_lossy()];
        let mut process = Process::start("demo-client", socket, &arguments, Stdio::piped())?;
        let lines = BufReader::new(process.child.stdout.take().context("the client's output")?);
        Ok(Self { process, lines })
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        self.lines.read_line(&mut line)?;
        anyhow::ensure!(!line.is_empty(), "a client process ended early");
        Ok(line)
    }

    fn report(&mut self) -> anyhow::Result<Report> {
        self.process.child.stdin.as_mut().context("the client's input")?.write_all(b"report\n")?;
        Ok(serde_json::from_str(&self.line()?)?)
    }

    fn end(mut self) -> anyhow::Result<()> {
        drop(self.process.child.stdin.take());
        let status = self.process.child.wait()?;
        anyhow::ensure!(status.success(), "a client ended with {status}");
        Ok(())
    }
}
