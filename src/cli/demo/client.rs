//! One of the demo's client processes: loads every component, reads every page, and reports its own memory.

use std::{
    hint::black_box,
    io::{self, BufRead as _},
    process::ExitCode,
    time::Instant,
};

use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;
use weightsd_client::{Client, Component, ConnectOptions, LoadRequest, Quantisation};
use weightsd_segment::MemoryUse;

use crate::cli::{args::DemoClient, output::print};

/// No page is smaller, so a step never skips one.
const STRIDE: usize = 4096;

/// The line of JSON that a client prints.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Report {
    pub(super) acquires: Vec<Acquire>,
    pub(super) memory: Memory,
}

/// One acquired component.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Acquire {
    pub(super) component: String,
    pub(super) form: String,
    pub(super) tensors: usize,
    pub(super) bytes: u64,
    pub(super) computed: u64,
    pub(super) micros: u64,
    pub(super) warm: bool,
}

/// [`MemoryUse`] of the client.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Memory {
    pub(super) resident: u64,
    pub(super) shared: u64,
    pub(super) private: u64,
    pub(super) proportional: Option<u64>,
    pub(super) page_tables: Option<u64>,
}

pub(in crate::cli) fn run(command: DemoClient, options: ConnectOptions, runtime: &Runtime) -> anyhow::Result<ExitCode> {
    let (components, acquires) = runtime.block_on(acquire(command, options))?;
    for component in &components {
        touch(component);
    }
    print("ready")?;
    // The demo answers when every client is ready.
    io::stdin().lock().read_line(&mut String::new())?;
    let memory = MemoryUse::of_self()?;
    let memory = Memory {
        resident: memory.resident,
        shared: memory.shared,
        private: memory.private,
        proportional: memory.proportional,
        page_tables: memory.page_tables,
    };
    print(serde_json::to_string(&Report { acquires, memory })?)?;
    // The demo closes this when it has measured.
    io::stdin().lock().read_line(&mut String::new())?;
    drop(components);
    Ok(ExitCode::SUCCESS)
}

async fn acquire(command: DemoClient, options: ConnectOptions) -> anyhow::Result<(Vec<Component>, Vec<Acquire>)> {
    let client = Client::connect(options).await?;
    let mut components = Vec::new();
    let mut acquires = Vec::new();
    for (name, bits) in [("transformer", None), ("text_encoder", None), ("vae", None), ("transformer", Some(4))] {
        let mut request =
            LoadRequest::new(&command.model, name).hub_cache(&command.hub_cache).client_name("demo client");
        if let Some(bits) = bits {
            request = request.quantise(Quantisation { bits, ..Quantisation::default() });
        }
        let began = Instant::now();
        let component = client.load(request, |_| ()).await?;
        let micros = u64::try_from(began.elapsed().as_micros())?;
        let info = component.info();
        acquires.push(Acquire {
            component: name.to_owned(),
            form: info.image.as_ref().map_or("as stored".to_owned(), |image| image.conversion.clone()),
            tensors: component.tensors().len(),
            bytes: info.tensor_bytes,
            computed: info.computed_bytes,
            micros,
            warm: info.warm,
        });
        components.push(component);
    }
    Ok((components, acquires))
}

/// Reads one byte of every page, so that the system maps it.
fn touch(component: &Component) {
    for tensor in component.tensors() {
        for byte in tensor.bytes().iter().step_by(STRIDE) {
            black_box(*byte);
        }
    }
}
