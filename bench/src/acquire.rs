//! A warm component: from the request to a checked table of tensors whose every byte is addressable.

use std::{hint::black_box, path::Path, time::Duration};

use anyhow::ensure;
use tokio::runtime::{Builder, Runtime};
use weightsd_client::{Client, Component, FloatType, Handoff, LoadRequest, Residency, proto::EvictRequest};
use weightsd_fixtures::{Checkpoint, Contents, Dims, Dtype};

use crate::{
    baseline,
    samples::{Samples, Way, in_turns, millis},
    server::{Folder, Server},
};

/// Files younger than this are looked at anew for each request.
const SETTLE: Duration = Duration::from_millis(300);
const COMPONENT: &str = "transformer";

pub(crate) fn run(program: &Path, python: &Path, count: usize) -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let (server, _) = Server::start(program, &folder)?;
    // One thread, as in a process that has better things to do with its others.
    let runtime = Builder::new_current_thread().enable_all().build()?;
    println!("Warm acquire of a Z-Image transformer, {count} samples each in rounds, times in ms (sparse files).\n");
    println!("| size GB | tensors | way | p50 | p90 | p99 | p50 : unary | p50 : safe_open |");
    println!("|---|---|---|---|---|---|---|---|");
    for (name, dims) in [("small", small()), ("many", many()), ("bf16", bf16()), ("f32", Dims::true_size())] {
        let checkpoint = Checkpoint::new(&dims, Contents::Sparse)?;
        let written = checkpoint.write_directory(folder.path().join(name))?;
        std::thread::sleep(SETTLE);
        let files = written.weight_files_of(COMPONENT);
        let transformer = checkpoint.component(COMPONENT);
        let tensors = transformer.tensors().len();
        let size = transformer.payload_bytes() as f64 / 1e9;
        let request = || as_stored(written.root.to_string_lossy());

        let client = runtime.block_on(Client::connect(server.options()))?;
        let held = held(&runtime, &client, request(), (tensors, files.len()))?;
        // Half before and half after the others, since another process cannot take turns with them.
        let mut python_times = baseline::safe_open(python, &files, count / 20, tensors)?;
        let mut ways = ways((&runtime, &server, &client), &request);
        ways.push(("raw open + mmap, no table", Box::new(|| baseline::open_and_map(&files))));
        let parse = || baseline::open_and_parse(&files);
        ways.push(("raw open + mmap + safetensors crate's table", Box::new(parse)));
        let samples = in_turns(count, &mut ways)?;
        python_times.extend(baseline::safe_open(python, &files, count / 20, tensors)?);
        drop(held);

        let python = Samples::from(python_times);
        let rows = ways.iter().map(|(way, _)| *way).zip(&samples).chain([("Python safe_open + get_slice", &python)]);
        for (way, times) in rows {
            let [p50, p90, p99] = [50, 90, 99].map(|percent| millis(times.percentile(percent)));
            let (to_unary, to_python) = (times.ratio_to(&samples[0]), times.ratio_to(&python));
            println!("| {size:.1} | {tensors} | {way} | {p50} | {p90} | {p99} | {to_unary:.2} | {to_python:.2} |");
        }
    }
    Ok(())
}

/// The tensors as the files have them, and without reading ahead: what is measured is neither an image nor the disk.
pub(crate) fn as_stored(model: impl Into<String>) -> LoadRequest {
    LoadRequest::new(model, COMPONENT).dtype(FloatType::AsStored).residency(Residency::Lazy)
}

/// Holds the component, so that everything else is warm.
fn held(
    runtime: &Runtime,
    client: &Client,
    request: LoadRequest,
    (tensors, files): (usize, usize),
) -> anyhow::Result<Component> {
    let component = acquire(runtime, client, request)?;
    let info = component.info();
    ensure!(
        info.computed_bytes == 0,
        "{} bytes lie in an image, and the rows are about the files",
        info.computed_bytes
    );
    let found = (info.tensor_count as usize, info.segments.len());
    ensure!(found == (tensors, files), "found tensors and files {found:?}, expected {:?}", (tensors, files));
    Ok(component)
}

/// A call that gets nothing, and the ways to get a warm component from the daemon.
fn ways<'a>(
    (runtime, server, client): (&'a Runtime, &'a Server, &'a Client),
    request: &'a dyn Fn() -> LoadRequest,
) -> Vec<Way<'a>> {
    let unary = move || {
        black_box(runtime.block_on(client.evict(EvictRequest { dry_run: true, ..EvictRequest::default() }))?);
        Ok(())
    };
    let reused = move || acquire(runtime, client, request()).map(drop);
    let by_path = move || acquire(runtime, client, request().handoff(Handoff::Path)).map(drop);
    let connected = move || {
        let client = runtime.block_on(Client::connect(server.options()))?;
        acquire(runtime, &client, request()).map(drop)
    };
    let read = move || {
        let component = acquire(runtime, client, request())?;
        for tensor in component.tensors() {
            black_box(tensor.bytes().first());
        }
        Ok(())
    };
    vec![
        ("one unary RPC on the same connection (Evict, dry run)", Box::new(unary)),
        ("weightsd, connection reused", Box::new(reused)),
        ("weightsd, connection reused, files by path", Box::new(by_path)),
        ("weightsd, new connection", Box::new(connected)),
        ("weightsd, connection reused, and one byte of each tensor read", Box::new(read)),
    ]
}

fn acquire(runtime: &Runtime, client: &Client, request: LoadRequest) -> anyhow::Result<Component> {
    let component = runtime.block_on(client.load(request, |_| ()))?;
    black_box(component.tensors().map(|tensor| tensor.bytes().as_ptr()).max());
    Ok(component)
}

/// 0.2 GB with the tensors of the real one.
fn small() -> Dims {
    let mut dims = Dims::true_size();
    dims.transformer.dim = 320;
    (dims.transformer.n_heads, dims.transformer.n_kv_heads) = (5, 5);
    dims.transformer.axes_dims = [16, 24, 24];
    dims.shard_bytes_max.transformer = 80_000_000;
    dims
}

/// Ten times as many tensors: more layers.
fn many() -> Dims {
    let mut dims = small();
    dims.transformer.n_layers = 329;
    dims.shard_bytes_max.transformer = 800_000_000;
    dims
}

/// 12.3 GB.
fn bf16() -> Dims {
    let mut dims = Dims::true_size();
    dims.dtypes.transformer = Dtype::BF16;
    dims.shard_bytes_max.transformer = 5_000_000_000;
    dims
}
