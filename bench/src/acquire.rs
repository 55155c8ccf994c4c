//! A warm component: from the request to a checked table of tensors whose every byte is addressable.

use std::{hint::black_box, path::Path, time::Duration};

use tokio::runtime::{Builder, Runtime};
use weightsd_client::{Client, Component, Handoff, LoadRequest, proto::EvictRequest};
use weightsd_fixtures::{Checkpoint, Contents, Dims, Dtype};

use crate::{
    baseline,
    samples::{Samples, millis},
    server::{Folder, Server},
};

/// Files younger than this are looked at anew for each request.
const SETTLE: Duration = Duration::from_millis(300);

pub(crate) fn run(program: &Path, python: &Path, count: usize) -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let (server, _) = Server::start(program, &folder)?;
    // One thread, as in a process that has better things to do with its others.
    let runtime = Builder::new_current_thread().enable_all().build()?;
    println!("Warm acquire of a Z-Image transformer, {count} samples each, times in ms (sparse files).\n");
    println!("| size GB | tensors | way | p50 | p90 | p99 | p50 : safe_open |\n|---|---|---|---|---|---|---|");
    for (name, dims) in [("small", small()), ("bf16", bf16()), ("f32", Dims::true_size())] {
        let checkpoint = Checkpoint::new(&dims, Contents::Sparse)?;
        let written = checkpoint.write_directory(folder.path().join(name))?;
        std::thread::sleep(SETTLE);
        let files = written.weight_files_of("transformer");
        let transformer = checkpoint.component("transformer");
        let tensors = transformer.tensors().len();
        let size = transformer.payload_bytes() as f64 / 1e9;
        let request = || LoadRequest::new(written.root.to_string_lossy(), "transformer");

        let python = baseline::safe_open(python, &files, count / 10, tensors)?;
        let row = |way: &str, samples: &Samples| {
            println!(
                "| {size:.1} | {tensors} | {way} | {} | {} | {} | {:.2} |",
                millis(samples.p50()),
                millis(samples.percentile(90)),
                millis(samples.percentile(99)),
                samples.p50().as_secs_f64() / python.p50().as_secs_f64()
            );
        };
        for (way, samples) in ways(&runtime, &server, count, &request)? {
            row(way, &samples);
        }
        row("raw open + mmap, no table", &Samples::take(count, || baseline::open_and_map(&files))?);
        row("raw open + mmap + safetensors crate's table", &Samples::take(count, || baseline::open_and_parse(&files))?);
        row("Python safe_open + get_slice", &python);
    }
    Ok(())
}

/// Times the ways to get a warm component from the daemon, and one call that gets nothing.
fn ways(
    runtime: &Runtime,
    server: &Server,
    count: usize,
    request: &dyn Fn() -> LoadRequest,
) -> anyhow::Result<Vec<(&'static str, Samples)>> {
    let client = runtime.block_on(Client::connect(server.options()))?;
    // Holds it, so that everything below is warm.
    let _held = acquire(runtime, &client, request())?;
    let reused = Samples::take(count, || acquire(runtime, &client, request()).map(drop))?;
    let by_path = Samples::take(count, || acquire(runtime, &client, request().handoff(Handoff::Path)).map(drop))?;
    let connected = Samples::take(count, || {
        let client = runtime.block_on(Client::connect(server.options()))?;
        acquire(runtime, &client, request()).map(drop)
    })?;
    let read = Samples::take(count, || {
        let component = acquire(runtime, &client, request())?;
        for tensor in component.tensors() {
            black_box(tensor.bytes().first());
        }
        Ok(())
    })?;
    let unary = Samples::take(count, || {
        black_box(runtime.block_on(client.evict(EvictRequest { dry_run: true, ..EvictRequest::default() }))?);
        Ok(())
    })?;
    Ok(vec![
        ("weightsd, connection reused", reused),
        ("weightsd, connection reused, files by path", by_path),
        ("weightsd, new connection", connected),
        ("weightsd, connection reused, and one byte of each tensor read", read),
        ("one unary RPC on the same connection (Evict, dry run)", unary),
    ])
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

/// 12.3 GB.
fn bf16() -> Dims {
    let mut dims = Dims::true_size();
    dims.dtypes.transformer = Dtype::BF16;
    dims.shard_bytes_max.transformer = 5_000_000_000;
    dims
}
