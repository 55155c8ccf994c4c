//! Blocks of Z-Image in mlx-rs on the arrays of a component, for `tests/python/test_blocks.py`, which computes the same
//! in Python from the checkpoint's own files.

mod transformer;
mod vae;

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, ValueEnum};
use weightsd_client::{
    Arrays, Client, ConnectOptions, FloatType, LoadRequest,
    mlx_rs::{Array, module::ModuleParameters, ops},
};

/// Run blocks of Z-Image on arrays that a daemon lends
#[derive(Parser)]
struct Arguments {
    /// The daemon's socket
    #[arg(long)]
    socket: PathBuf,
    /// The model, as the daemon takes it
    #[arg(long)]
    model: String,
    /// Whose blocks are run
    #[arg(long)]
    component: Component,
    /// What the weights are cast to
    #[arg(long, default_value = "bf16")]
    dtype: Dtype,
    /// A safetensors file with what goes in, in the dtype of the weights
    #[arg(long)]
    inputs: PathBuf,
    /// The safetensors file that is written
    #[arg(long)]
    output: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum Component {
    /// `decoder.conv_in` and `decoder.up_blocks.2`
    Vae,
    /// `layers.0`
    Transformer,
}

#[derive(Clone, Copy, ValueEnum)]
enum Dtype {
    F32,
    Bf16,
    /// What the checkpoint has
    AsStored,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let Arguments { socket, model, component, dtype, inputs, output } = Arguments::parse();
    let client = Client::connect(ConnectOptions { socket, ..ConnectOptions::default() }).await?;
    let name = match component {
        Component::Vae => "vae",
        Component::Transformer => "transformer",
    };
    let dtype = match dtype {
        Dtype::F32 => FloatType::F32,
        Dtype::Bf16 => FloatType::Bf16,
        Dtype::AsStored => FloatType::AsStored,
    };
    let request = LoadRequest::new(model, name).dtype(dtype);
    let lent = client.load(request, |_| {}).await?;
    let config = serde_json::from_str(lent.config_json()).context("cannot read the component's config")?;
    let arrays = lent.arrays()?;
    println!("{}", arrays.report());
    let inputs = Array::load_safetensors(&inputs).with_context(|| format!("cannot read {}", inputs.display()))?;
    let input = |name: &str| inputs.get(name).with_context(|| format!("there is no input {name:?}"));
    let results = match component {
        Component::Vae => vae::run(&config, &arrays, input("latents")?)?,
        Component::Transformer => {
            let rotation = transformer::Rotation { cos: input("cos")?, sin: input("sin")? };
            transformer::run(&config, &arrays, input("x")?, input("modulation")?, &rotation)?
        }
    };
    Array::save_safetensors(results, None, &output).with_context(|| format!("cannot write {}", output.display()))
}

/// Gives a module the arrays that have its parameters' names below `prefix`: all of them, in its shapes.
fn fill(module: &mut impl ModuleParameters, arrays: &Arrays, prefix: &str) -> Result<()> {
    for (name, parameter) in module.parameters_mut().flatten() {
        let array = arrays.get(&format!("{prefix}.{name}"));
        let array = array.with_context(|| format!("there is no array {prefix}.{name}"))?;
        let (expected, found) = (parameter.shape(), array.shape());
        ensure!(found == expected, "array {prefix}.{name}: expected shape {expected:?}, found {found:?}");
        *parameter = array.clone();
    }
    Ok(())
}

/// In operations that are rounded one by one, where `mlx_rs::nn::silu` would compile one of its own.
fn silu(x: &Array) -> Result<Array> {
    Ok(x.multiply(ops::sigmoid(x)?)?)
}
