//! A warm component through the clients in other languages, against the Rust client in the same run.

use std::{hint::black_box, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, ensure};
use tokio::runtime::{Builder, Runtime};
use weightsd_client::{Client, Layout, LoadRequest, Residency};
use weightsd_fixtures::{Checkpoint, Contents, Dims};

use crate::{
    samples::{ROUNDS, Samples, millis},
    server::{Folder, Server},
};

/// Files younger than this are looked at anew for each request.
const SETTLE: Duration = Duration::from_millis(300);

const COMPONENT: &str = "transformer";

/// Measures each command, which is called with socket, model, component and number of samples behind its own words, and
/// prints an empty line and then nanoseconds.
pub(crate) fn run(program: &Path, commands: &[String], count: usize, folder: Option<&Path>) -> anyhow::Result<()> {
    let folder = folder.map_or_else(Folder::new, Folder::below)?;
    let (server, _) = Server::start(program, &folder)?;
    let model = folder.path().join("model");
    Checkpoint::new(&Dims::true_size(), Contents::Sparse)?.write_directory(&model)?;
    std::thread::sleep(SETTLE);
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let client = runtime.block_on(Client::connect(server.options()))?;
    let request =
        || LoadRequest::new(model.to_string_lossy(), COMPONENT).layout(Layout::Source).residency(Residency::Lazy);
    // Holds it, so that everything below is warm.
    let held = runtime.block_on(client.load(request(), |_| ()))?;
    let each = count / ROUNDS;
    let mut times = vec![Vec::new(); commands.len() + 1];
    for _ in 0..ROUNDS {
        times[0].extend(rust(&runtime, &client, &request, each)?);
        for (command, times) in commands.iter().zip(&mut times[1..]) {
            times.extend(other(command, &server, &model, each)?);
        }
    }
    drop(held);
    let names = std::iter::once("Rust".to_owned()).chain(commands.iter().map(|command| name(command)));
    println!(
        "Warm load of {COMPONENT}, 24.6 GB, {count} samples each in {ROUNDS} rounds, times in ms (sparse files).\n"
    );
    println!("| client | p50 | p90 | p99 | p50 : Rust |\n|---|---|---|---|---|");
    let rust = Samples::from(times[0].clone()).p50();
    for (name, times) in names.zip(times) {
        let samples = Samples::from(times);
        println!(
            "| {name} | {} | {} | {} | {:.2} |",
            millis(samples.p50()),
            millis(samples.percentile(90)),
            millis(samples.percentile(99)),
            samples.p50().as_secs_f64() / rust.as_secs_f64()
        );
    }
    Ok(())
}

/// Loads through the Rust client on one thread, after a tenth as many that are thrown away.
fn rust(
    runtime: &Runtime,
    client: &Client,
    request: &impl Fn() -> LoadRequest,
    count: usize,
) -> anyhow::Result<Vec<Duration>> {
    let mut times = Vec::with_capacity(count);
    for sample in 0..count + count / 10 {
        let began = std::time::Instant::now();
        let component = runtime.block_on(client.load(request(), |_| ()))?;
        black_box(component.tensors().map(|tensor| tensor.bytes().as_ptr()).max());
        drop(component);
        if sample >= count / 10 {
            times.push(began.elapsed());
        }
    }
    Ok(times)
}

fn other(command: &str, server: &Server, model: &Path, count: usize) -> anyhow::Result<Vec<Duration>> {
    let mut words = command.split_whitespace();
    let program = words.next().context("a command has a program")?;
    let output = Command::new(program)
        .args(words)
        .arg(server.options().socket)
        .arg(model)
        .arg(COMPONENT)
        .arg(count.to_string())
        .output()
        .with_context(|| format!("cannot run `{command}`"))?;
    let (said, wrong) = (String::from_utf8(output.stdout)?, String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "`{command}` ended with {}: {wrong}", output.status);
    let (_, numbers) = said.split_once('\n').context("it prints an empty line first")?;
    let times: Result<Vec<_>, _> = numbers.lines().map(|line| line.parse().map(Duration::from_nanos)).collect();
    let times = times.with_context(|| format!("`{command}` said {said}"))?;
    ensure!(times.len() == count, "`{command}` measured {} loads of {count}", times.len());
    Ok(times)
}

/// The last word of a command, without its folder.
fn name(command: &str) -> String {
    let program = command.split_whitespace().last().unwrap_or(command);
    program.rsplit('/').next().unwrap_or(program).to_owned()
}
