//! A client in a process of its own: this test program, run again with the "test" below and instructions in the
//! environment. It says a line after each step, and goes on when it is sent one.

use std::{
    env,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use weightsd_client::{Client, ConnectOptions, FloatType, Layout, LoadRequest};
use weightsd_segment::MemoryUse;

use crate::harness::{Home, PATIENCE};

const JOB: &str = "WEIGHTSD_TEST_JOB";
const MANNER: &str = "WEIGHTSD_TEST_MANNER";
const MARK: &str = "client-process:";

/// What the process is to do: load the component as it is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    pub model: String,
    pub component: String,
    pub source_layout: bool,
}

/// How it is to do it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Manner {
    /// It connects, asks for the daemon's status, and waits for [`ClientProcess::go`].
    pub waits: bool,
    /// It leaves the tensors' bytes alone until it is told to read.
    pub leaves_pages_alone: bool,
    /// What it asks for.
    pub keep_alive_ms: Option<u64>,
}

/// What it says when it holds the component and has read all of it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Held {
    pub tensors: usize,
    pub bytes: u64,
    /// FNV-1a of all tensors' bytes, in name order.
    pub checksum: u64,
    pub error: Option<String>,
}

/// What it says of its memory.
#[derive(Debug, Serialize, Deserialize)]
pub struct Memory {
    pub resident: u64,
    pub shared: u64,
    pub private: u64,
    pub page_tables: u64,
}

/// The process, seen from the test. Killed when dropped.
pub struct ClientProcess {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl ClientProcess {
    pub fn start(home: &Home, job: &Job) -> Self {
        Self::start_so(home, job, &Manner::default())
    }

    pub fn start_so(home: &Home, job: &Job, manner: &Manner) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "client_process::client_process", "--nocapture", "--ignored", "--test-threads=1"])
            .env(JOB, serde_json::to_string(job).unwrap())
            .env(MANNER, serde_json::to_string(manner).unwrap())
            .env("WEIGHTSD_SOCKET", home.socket())
            .env("HF_HUB_CACHE", home.hub_cache())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it is connected; only one that waits says so.
    pub fn connected(&mut self) {
        let Memory { .. } = self.answer();
    }

    /// Lets it load.
    pub fn go(&mut self) {
        self.say("go");
    }

    /// Waits until it holds the component, or failed to.
    pub fn held(&mut self) -> Held {
        self.answer()
    }

    /// Asks it what memory it uses.
    pub fn memory(&mut self) -> Memory {
        self.say("memory");
        self.answer()
    }

    /// Has it read everything again.
    pub fn read_again(&mut self) -> Held {
        self.say("read");
        self.answer()
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn say(&mut self, word: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{word}").unwrap();
    }

    fn answer<T: for<'de> Deserialize<'de>>(&mut self) -> T {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.lines.read_line(&mut line).unwrap() > 0, "the client process ended");
            if let Some(at) = line.find(MARK) {
                return serde_json::from_str(&line[at + MARK.len()..]).unwrap();
            }
        }
    }
}

impl Drop for ClientProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tell(answer: &impl Serialize) {
    println!("{MARK}{}", serde_json::to_string(answer).unwrap());
}

#[test]
#[ignore = "not a test: the client process of other tests"]
fn client_process() {
    let Ok(job) = env::var(JOB) else { return };
    let job: Job = serde_json::from_str(&job).unwrap();
    let manner: Manner = serde_json::from_str(&env::var(MANNER).unwrap()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let layout = if job.source_layout { Layout::Source } else { Layout::Mlx };
    let mut request = LoadRequest::new(&job.model, &job.component).layout(layout).dtype(FloatType::AsStored);
    if let Some(keep_alive) = manner.keep_alive_ms {
        request = request.keep_alive(Duration::from_millis(keep_alive));
    }
    let mut lines = std::io::stdin().lock().lines().map(|line| line.unwrap());
    let options = ConnectOptions { deadline: PATIENCE, ..ConnectOptions::default() };
    let connected = runtime.block_on(Client::connect(options));
    if manner.waits {
        runtime.block_on(connected.as_ref().unwrap().status()).unwrap();
        tell_memory();
        for line in lines.by_ref().take_while(|line| line != "go") {
            assert_eq!(line, "memory");
            tell_memory();
        }
    }
    let loaded = connected.and_then(|client| runtime.block_on(client.load(request, |_| ())));
    let component = match loaded {
        Ok(component) => component,
        Err(error) => {
            return tell(&Held { tensors: 0, bytes: 0, checksum: 0, error: Some(error.to_string()) });
        }
    };
    let read = || {
        let bytes = component.tensors().map(|tensor| tensor.bytes().len() as u64).sum();
        let checksum = checksum(component.tensors().map(|tensor| tensor.bytes()));
        tell(&Held { tensors: component.tensors().len(), bytes, checksum, error: None });
    };
    if manner.leaves_pages_alone {
        tell(&Held { tensors: component.tensors().len(), bytes: 0, checksum: 0, error: None });
    } else {
        read();
    }
    for line in lines {
        match line.as_str() {
            "memory" => tell_memory(),
            _ => read(),
        }
    }
}

fn tell_memory() {
    let memory = MemoryUse::of_self().unwrap();
    tell(&Memory {
        resident: memory.resident,
        shared: memory.shared,
        private: memory.private,
        page_tables: memory.page_tables.unwrap_or_default(),
    });
}

/// FNV-1a over all tensors, as [`Held::checksum`].
pub fn checksum<'a>(tensors: impl Iterator<Item = &'a [u8]>) -> u64 {
    tensors.fold(0xcbf2_9ce4_8422_2325, fnv)
}

/// FNV-1a over words of eight bytes, and over what is left byte by byte.
fn fnv(mut hash: u64, bytes: &[u8]) -> u64 {
    let mut step = |value: u64| hash = (hash ^ value).wrapping_mul(0x0000_0100_0000_01b3);
    let (words, rest) = bytes.as_chunks::<8>();
    words.iter().for_each(|word| step(u64::from_le_bytes(*word)));
    rest.iter().for_each(|byte| step(u64::from(*byte)));
    hash
}
