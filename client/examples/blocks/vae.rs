//! The first convolution of the decoder and one of its blocks without attention, on images as `[N, H, W, C]`.

use anyhow::Result;
use serde::Deserialize;
use weightsd_client::{
    Arrays,
    mlx_rs::{
        Array,
        builder::Builder as _,
        macros::ModuleParameters,
        module::Module as _,
        nn::{Conv2d, Conv2dBuilder, GroupNorm, GroupNormBuilder},
        ops,
    },
};

use crate::{fill, silu};

/// The block in whose first layer the number of channels changes.
const BLOCK: usize = 2;

#[derive(Deserialize)]
struct Config {
    block_out_channels: Vec<i32>,
    latent_channels: i32,
    layers_per_block: usize,
    norm_num_groups: i32,
}

#[derive(Debug, ModuleParameters)]
struct UpBlock {
    #[param]
    resnets: Vec<Resnet>,
    #[param]
    upsamplers: Vec<Upsampler>,
}

#[derive(Debug, ModuleParameters)]
struct Resnet {
    #[param]
    norm1: GroupNorm,
    #[param]
    conv1: Conv2d,
    #[param]
    norm2: GroupNorm,
    #[param]
    conv2: Conv2d,
    #[param]
    conv_shortcut: Option<Conv2d>,
}

#[derive(Debug, ModuleParameters)]
struct Upsampler {
    #[param]
    conv: Conv2d,
}

pub(crate) fn run(config: &serde_json::Value, arrays: &Arrays, latents: &Array) -> Result<Vec<(&'static str, Array)>> {
    let config = Config::deserialize(config)?;
    let channels: Vec<i32> = config.block_out_channels.iter().rev().copied().collect();
    let mut conv_in = convolution(config.latent_channels, channels[0], 3)?;
    fill(&mut conv_in, arrays, "decoder.conv_in")?;
    let mut block = UpBlock::new(&config, channels[BLOCK - 1], channels[BLOCK])?;
    fill(&mut block, arrays, &format!("decoder.up_blocks.{BLOCK}"))?;

    let first = conv_in.forward(latents)?;
    let resnet = block.resnets[0].forward(&first)?;
    let whole = block.forward(&first)?;
    Ok(vec![("conv_in", first), ("resnet", resnet), ("up_block", whole)])
}

impl UpBlock {
    fn new(config: &Config, inputs: i32, outputs: i32) -> Result<UpBlock> {
        let resnet = |number| Resnet::new(config.norm_num_groups, if number == 0 { inputs } else { outputs }, outputs);
        let resnets = (0..=config.layers_per_block).map(resnet).collect::<Result<_>>()?;
        Ok(UpBlock { resnets, upsamplers: vec![Upsampler { conv: convolution(outputs, outputs, 3)? }] })
    }

    fn forward(&mut self, x: &Array) -> Result<Array> {
        let mut x = x.clone();
        for resnet in &mut self.resnets {
            x = resnet.forward(&x)?;
        }
        for upsampler in &mut self.upsamplers {
            x = upsampler.conv.forward(&doubled(&x)?)?;
        }
        Ok(x)
    }
}

impl Resnet {
    fn new(groups: i32, inputs: i32, outputs: i32) -> Result<Resnet> {
        Ok(Resnet {
            norm1: norm(groups, inputs)?,
            conv1: convolution(inputs, outputs, 3)?,
            norm2: norm(groups, outputs)?,
            conv2: convolution(outputs, outputs, 3)?,
            conv_shortcut: (inputs != outputs).then(|| convolution(inputs, outputs, 1)).transpose()?,
        })
    }

    fn forward(&mut self, x: &Array) -> Result<Array> {
        let hidden = self.conv1.forward(&silu(&self.norm1.forward(x)?)?)?;
        let hidden = self.conv2.forward(&silu(&self.norm2.forward(&hidden)?)?)?;
        let x = match &mut self.conv_shortcut {
            Some(shortcut) => shortcut.forward(x)?,
            None => x.clone(),
        };
        Ok(x.add(hidden)?)
    }
}

/// Each pixel as four.
fn doubled(x: &Array) -> Result<Array> {
    let &[images, height, width, channels] = x.shape() else { anyhow::bail!("{:?} are no images", x.shape()) };
    let wide = x.reshape(&[images, height, 1, width, 1, channels])?;
    let wide = ops::broadcast_to(wide, &[images, height, 2, width, 2, channels])?;
    Ok(wide.reshape(&[images, 2 * height, 2 * width, channels])?)
}

fn convolution(inputs: i32, outputs: i32, size: i32) -> Result<Conv2d> {
    Ok(Conv2dBuilder::new(inputs, outputs, size).padding(size / 2).build()?)
}

fn norm(groups: i32, channels: i32) -> Result<GroupNorm> {
    Ok(GroupNormBuilder::new(groups, channels).eps(1e-6).pytorch_compatible(true).build()?)
}
