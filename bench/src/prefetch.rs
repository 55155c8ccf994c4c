//! A cold component: how fast its bytes come into memory while a client has it mapped, against reading the files past the
//! page cache, and against touching the pages one after the other.

use std::{
    fs::{File, OpenOptions},
    hint::black_box,
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use tokio::runtime::{Builder, Runtime};
use weightsd_client::{Client, Layout, LoadRequest, Residency};
use weightsd_fixtures::{Checkpoint, Contents, Dims, Dtype};
use weightsd_segment::advice;

use crate::{
    samples::Samples,
    server::{Folder, Server},
};

const COMPONENT: &str = "transformer";
/// Bytes of one read past the page cache.
const BLOCK: usize = 8 << 20;
/// What such a read wants of addresses and offsets.
const ALIGNMENT: usize = 4096;
/// Linux's `O_DIRECT` on x86-64 and AArch64.
const DIRECT: i32 = if cfg!(target_arch = "aarch64") { 0o200_000 } else { 0o40_000 };
/// Bytes between two touched ones.
const PAGE: usize = 4096;

pub(crate) fn run(program: &Path, layers: u64, rounds: usize, folder: Option<&Path>) -> anyhow::Result<()> {
    let folder = folder.map_or_else(Folder::new, Folder::below)?;
    let mut dims = Dims::true_size();
    (dims.transformer.n_layers, dims.dtypes.transformer) = (layers, Dtype::BF16);
    let checkpoint = Checkpoint::new(&dims, Contents::Random { seed: 1 })?;
    let written = checkpoint.write_directory(folder.path().join("model"))?;
    let files: Vec<PathBuf> = written.weight_files_of(COMPONENT);
    let bytes: u64 = files.iter().map(|file| file.metadata().map(|metadata| metadata.len())).sum::<io::Result<_>>()?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let request = || LoadRequest::new(written.root.to_string_lossy(), COMPONENT).layout(Layout::Source);
    let mut times = [const { Vec::new() }; 3];
    for _ in 0..rounds {
        // One that has read nothing yet: what it brought into memory it takes to be there for a while.
        let (server, _) = Server::start(program, &folder)?;
        let client = runtime.block_on(Client::connect(server.options()))?;
        // In turns, so that what else the disk does meets all of them.
        times[0].push(cold(&files, || files.iter().try_for_each(|file| past_the_cache(file)).map_err(Into::into))?);
        times[1].push(cold(&files, || read_ahead(&runtime, &client, request()))?);
        times[2].push(cold(&files, || touch(&runtime, &client, request().residency(Residency::Lazy)))?);
    }
    println!("Cold {COMPONENT} of {:.2} GB, {rounds} rounds in turns.\n", bytes as f64 / 1e9);
    println!("| way | MB a second, median | : O_DIRECT |\n|---|---|---|");
    let [direct, ahead, touched] = times.map(Samples::from);
    let rate = |samples: &Samples| bytes as f64 / 1e6 / samples.p50().as_secs_f64();
    for (way, samples) in [
        ("read with O_DIRECT", &direct),
        ("`prefetch`, mapped meanwhile", &ahead),
        ("`lazy`, touched page by page", &touched),
    ] {
        println!("| {way} | {:.0} | {:.2} |", rate(samples), rate(samples) / rate(&direct));
    }
    Ok(())
}

/// Times `work` over files that are not in memory.
fn cold(files: &[PathBuf], work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Duration> {
    for file in files {
        let file = File::open(file)?;
        file.sync_all()?;
        advice::forget(&file, 0..file.metadata()?.len());
    }
    let began = Instant::now();
    work()?;
    Ok(began.elapsed())
}

fn past_the_cache(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().read(true).custom_flags(DIRECT).open(path)?;
    let mut buffer = vec![0; BLOCK + ALIGNMENT];
    let start = buffer.as_ptr().align_offset(ALIGNMENT);
    let mut offset = 0;
    loop {
        match file.read_at(&mut buffer[start..start + BLOCK], offset)? {
            0 => return Ok(()),
            read => offset += read as u64,
        }
    }
}

/// Until the daemon says that all of it is in memory.
fn read_ahead(runtime: &Runtime, client: &Client, request: LoadRequest) -> anyhow::Result<()> {
    runtime.block_on(async {
        let held = client.load(request, |_| ()).await?;
        while held.read_ahead().is_none_or(|step| step.bytes_done < step.bytes_total) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    })
}

fn touch(runtime: &Runtime, client: &Client, request: LoadRequest) -> anyhow::Result<()> {
    let held = runtime.block_on(client.load(request, |_| ()))?;
    for tensor in held.tensors() {
        for byte in tensor.bytes().iter().step_by(PAGE) {
            black_box(byte);
        }
    }
    drop(held);
    // The next way begins when nobody holds it.
    thread::sleep(Duration::from_millis(100));
    Ok(())
}
