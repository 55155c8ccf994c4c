//! Clients that all load at once: their loads a second, against the unary calls a second that they get instead.

use std::{
    path::Path,
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::runtime::{Builder, Runtime};
use weightsd_client::{Client, LoadRequest, proto::EvictRequest};
use weightsd_fixtures::{Checkpoint, Contents, Dims};

use crate::{
    acquire::as_stored,
    samples::ROUNDS,
    server::{Folder, Server},
};

/// How long each turn is.
const TURN: Duration = Duration::from_millis(500);
/// Files younger than this are looked at anew for each request.
const SETTLE: Duration = Duration::from_millis(300);

/// What all clients do in a turn.
#[derive(Clone, Copy)]
enum Work {
    Load,
    Unary,
}

pub(crate) fn run(program: &Path, clients: usize) -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let (server, _) = Server::start(program, &folder)?;
    let model = folder.path().join("model");
    Checkpoint::new(&Dims::true_size(), Contents::Sparse)?.write_directory(&model)?;
    thread::sleep(SETTLE);
    let request = as_stored(model.to_string_lossy());
    let connect = || -> anyhow::Result<(Runtime, Client)> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let client = runtime.block_on(Client::connect(server.options()))?;
        Ok((runtime, client))
    };
    let (runtime, client) = connect()?;
    // Holds it, so that everything below is warm.
    let held = runtime.block_on(client.load(request.clone(), |_| ()))?;
    let connected = (0..clients).map(|_| connect()).collect::<anyhow::Result<Vec<_>>>()?;
    println!("Loads of 24.6 GB, and unary calls (Evict, dry run), a second; {ROUNDS} rounds (sparse files).\n");
    println!("| clients | loads | unary calls | loads : calls |\n|---|---|---|---|");
    let [mut loads, mut calls] = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        loads.push(turn(&connected, &request, Work::Load)?);
        calls.push(turn(&connected, &request, Work::Unary)?);
    }
    let [loads, calls] = [middle(loads), middle(calls)];
    println!("| {clients} | {loads:.0} | {calls:.0} | {:.2} |", loads / calls);
    drop(held);
    Ok(())
}

fn middle(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// How often a second all clients together did `work`.
fn turn(clients: &[(Runtime, Client)], request: &LoadRequest, work: Work) -> anyhow::Result<f64> {
    let (begins, ends, done) = (Barrier::new(clients.len() + 1), AtomicBool::new(false), AtomicUsize::new(0));
    let once = |(runtime, client): &(Runtime, Client)| match work {
        Work::Load => runtime.block_on(client.load(request.clone(), |_| ())).map(drop),
        Work::Unary => {
            let request = EvictRequest { dry_run: true, ..EvictRequest::default() };
            runtime.block_on(client.evict(request)).map(drop)
        }
    };
    let one = |client: &(Runtime, Client)| -> anyhow::Result<()> {
        // What a client does for the first time is not measured.
        let warm = once(client);
        begins.wait();
        warm?;
        while !ends.load(Ordering::Relaxed) {
            once(client)?;
            done.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let one = &one;
        let all: Vec<_> = clients.iter().map(|client| scope.spawn(move || one(client))).collect();
        begins.wait();
        let began = Instant::now();
        thread::sleep(TURN);
        let (count, took) = (done.load(Ordering::Relaxed), began.elapsed());
        ends.store(true, Ordering::Relaxed);
        for client in all {
            client.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
        }
        Ok(count as f64 / took.as_secs_f64())
    })
}
