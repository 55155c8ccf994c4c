//! What a process does without weightsd: open the files itself.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::Context as _;
use weightsd_segment::{FileIdentity, View};

/// Opens each file and maps it: the floor under everything.
pub(crate) fn open_and_map(files: &[PathBuf]) -> anyhow::Result<()> {
    for file in files {
        let identity = FileIdentity::of_file(&File::open(file)?)?;
        std::hint::black_box(View::open_and_map(file, &identity)?.1.as_ptr());
    }
    Ok(())
}

/// Opens and maps each file and parses its header with the `safetensors` crate: what a Rust process does by itself.
pub(crate) fn open_and_parse(files: &[PathBuf]) -> anyhow::Result<()> {
    for file in files {
        let identity = FileIdentity::of_file(&File::open(file)?)?;
        let (_, view) = View::open_and_map(file, &identity)?;
        let bytes = view.bytes(0, identity.length).context("the whole file")?;
        let (_, metadata) = safetensors::SafeTensors::read_metadata(bytes)?;
        std::hint::black_box(metadata.tensors().len());
    }
    Ok(())
}

/// Python's `safe_open` over the files: open, list the names, get a lazy slice of each tensor. Nothing is read.
const SAFE_OPEN: &str = r#"
import json, sys, time
from safetensors import safe_open
count, files = int(sys.argv[1]), sys.argv[2:]
times = []
for run in range(count + count // 10):
    began = time.perf_counter_ns()
    table = {}
    for file in files:
        opened = safe_open(file, framework="np")
        for name in opened.keys():
            table[name] = opened.get_slice(name)
    times.append(time.perf_counter_ns() - began)
print(json.dumps({"tensors": len(table), "times": times[count // 10:]}))
"#;

#[derive(serde::Deserialize)]
struct PythonTimes {
    tensors: usize,
    times: Vec<u64>,
}

/// Times of `safe_open`, in a Python process that has everything imported.
pub(crate) fn safe_open(
    python: &Path,
    files: &[PathBuf],
    count: usize,
    tensors: usize,
) -> anyhow::Result<Vec<Duration>> {
    let output = Command::new(python)
        .args(["-c", SAFE_OPEN, &count.to_string()])
        .args(files)
        .output()
        .with_context(|| format!("cannot run {}: `.ci/python` makes it", python.display()))?;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answer: PythonTimes = serde_json::from_slice(&output.stdout)?;
    anyhow::ensure!(answer.tensors == tensors, "Python found {} tensors, expected {tensors}", answer.tensors);
    Ok(answer.times.into_iter().map(Duration::from_nanos).collect())
}
