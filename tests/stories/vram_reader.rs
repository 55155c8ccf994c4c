//! A reader of a component in the memory of a card, in a process of its own with the stand-in for a driver: this test program,
//! run again. It says a line after each step, and goes on when it is sent one.

use std::{
    env,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
};

use weightsd_client::{CardTensors, Client, ConnectOptions, FloatType, Layout, LoadRequest};
use weightsd_gpu::{Piece, Stream};
use weightsd_gpu_stand_in::{FOLDER, library};

use crate::{
    client_process::checksum,
    harness::{Home, PATIENCE},
};

const JOB: &str = "WEIGHTSD_TEST_CARD_JOB";
const MARK: &str = "vram-reader:";

/// The process, seen from the test. Killed when dropped.
pub struct Reader {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Reader {
    /// One that loads `component` of `model` onto the card `device`, and says the checksum of what it reads there.
    pub fn start(home: &Home, cards: &Path, model: &str, component: &str, device: &str) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "vram_reader::vram_reader", "--nocapture", "--ignored", "--test-threads=1"])
            .env(JOB, format!("{model} {component} {device}"))
            .env("WEIGHTSD_SOCKET", home.socket())
            .env("HF_HUB_CACHE", home.hub_cache())
            .env(FOLDER, cards)
            .env(weightsd_gpu::LIBRARY, library())
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

    /// What it says after the step.
    pub fn said(&mut self) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.lines.read_line(&mut line).unwrap() > 0, "the reader ended");
            if let Some(at) = line.find(MARK) {
                return line[at + MARK.len()..].trim().to_owned();
            }
        }
    }

    /// Has it do something: `read`, `write`, `release` (the lease, and nothing else).
    pub fn does(&mut self, word: &str) -> String {
        writeln!(self.child.stdin.as_mut().unwrap(), "{word}").unwrap();
        self.said()
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn say(what: impl std::fmt::Display) {
    println!("{MARK}{what}");
}

fn read(tensors: &CardTensors) -> String {
    let mut stream = Stream::new(tensors.mapping().context()).unwrap();
    let content: Vec<Vec<u8>> = tensors
        .iter()
        .map(|tensor| {
            assert!(tensor.offset().is_multiple_of(256));
            let mut bytes = vec![0; usize::try_from(tensor.length()).unwrap()];
            stream.get(tensors.mapping(), tensor.offset(), &mut bytes).unwrap();
            bytes
        })
        .collect();
    checksum(content.iter().map(Vec::as_slice)).to_string()
}

/// What comes of a write to the memory.
fn write(tensors: &CardTensors) -> String {
    let mut stream = Stream::new(tensors.mapping().context()).unwrap();
    let written =
        stream.put(tensors.mapping(), &[Piece { offset: 0, bytes: b"mine" }], &mut [0; 4]).map(<[u8]>::to_vec);
    written.map_or_else(|error| error.to_string(), |_| "written".to_owned())
}

// The connection goes on while the thread waits for a line.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "not a test: the reader of the stories about cards"]
async fn vram_reader() {
    let Ok(job) = env::var(JOB) else { return };
    let [model, component, device] = job.split(' ').collect::<Vec<_>>().try_into().unwrap();
    let socket = env::var_os("WEIGHTSD_SOCKET").unwrap().into();
    let client = Client::connect(ConnectOptions { socket, deadline: PATIENCE }).await.unwrap();
    let card = weightsd_client::card(device).unwrap().id();
    let request = LoadRequest::new(model, component).dtype(FloatType::AsStored).layout(Layout::Source);
    let mut held = match client.load_on_card(request.device(card.to_string()), |_| ()).await {
        Ok(component) => Some(component),
        Err(error) => return say(error),
    };
    let tensors = held.as_ref().unwrap().map().unwrap();
    assert_eq!(tensors.card().id(), card);
    say(read(&tensors));
    for line in std::io::stdin().lines() {
        match line.unwrap().as_str() {
            "read" => say(read(&tensors)),
            "write" => say(write(&tensors)),
            "release" => {
                drop(held.take());
                say("released");
            }
            other => panic!("{other}"),
        }
    }
}
