//! One modulated block of the denoiser.

use anyhow::Result;
use serde::Deserialize;
use weightsd_client::{
    Arrays,
    mlx_rs::{
        Array,
        builder::Builder as _,
        fast,
        macros::ModuleParameters,
        module::Module as _,
        nn::{Linear, LinearBuilder, RmsNorm, RmsNormBuilder},
        ops,
    },
};

use crate::{fill, silu};

#[derive(Deserialize)]
struct Config {
    dim: i32,
    n_heads: i32,
    norm_eps: f32,
}

/// By how much each pair of a head's features is turned: `[1, tokens, 1, pairs, 1]`.
pub(crate) struct Rotation<'a> {
    pub(crate) cos: &'a Array,
    pub(crate) sin: &'a Array,
}

#[derive(Debug, ModuleParameters)]
#[allow(non_snake_case, reason = "the name that the checkpoint has")]
struct Block {
    #[param]
    adaLN_modulation: Vec<Linear>,
    #[param]
    attention: Attention,
    #[param]
    attention_norm1: RmsNorm,
    #[param]
    attention_norm2: RmsNorm,
    #[param]
    feed_forward: FeedForward,
    #[param]
    ffn_norm1: RmsNorm,
    #[param]
    ffn_norm2: RmsNorm,
}

#[derive(Debug, ModuleParameters)]
struct Attention {
    heads: i32,
    #[param]
    to_q: Linear,
    #[param]
    to_k: Linear,
    #[param]
    to_v: Linear,
    #[param]
    to_out: Vec<Linear>,
    #[param]
    norm_q: RmsNorm,
    #[param]
    norm_k: RmsNorm,
}

#[derive(Debug, ModuleParameters)]
struct FeedForward {
    #[param]
    w1: Linear,
    #[param]
    w2: Linear,
    #[param]
    w3: Linear,
}

/// `x` is `[N, tokens, dim]`, `modulation` `[N, features]`.
pub(crate) fn run(
    config: &serde_json::Value,
    arrays: &Arrays,
    x: &Array,
    modulation: &Array,
    rotation: &Rotation<'_>,
) -> Result<Vec<(&'static str, Array)>> {
    let mut block = Block::new(&Config::deserialize(config)?, modulation.dim(-1))?;
    fill(&mut block, arrays, "layers.0")?;
    Ok(vec![("block", block.forward(x, modulation, rotation)?)])
}

impl Block {
    fn new(config: &Config, modulation: i32) -> Result<Block> {
        let &Config { dim, n_heads: heads, norm_eps } = config;
        let linear = |inputs, outputs| LinearBuilder::new(inputs, outputs).bias(false).build();
        let norm = |features, eps| RmsNormBuilder::new(features).eps(eps).build();
        let inner = (f64::from(dim) / 3.0 * 8.0) as i32;
        Ok(Block {
            adaLN_modulation: vec![LinearBuilder::new(modulation, 4 * dim).build()?],
            attention: Attention {
                heads,
                to_q: linear(dim, dim)?,
                to_k: linear(dim, dim)?,
                to_v: linear(dim, dim)?,
                to_out: vec![linear(dim, dim)?],
                norm_q: norm(dim / heads, 1e-5)?,
                norm_k: norm(dim / heads, 1e-5)?,
            },
            attention_norm1: norm(dim, norm_eps)?,
            attention_norm2: norm(dim, norm_eps)?,
            feed_forward: FeedForward { w1: linear(dim, inner)?, w2: linear(inner, dim)?, w3: linear(dim, inner)? },
            ffn_norm1: norm(dim, norm_eps)?,
            ffn_norm2: norm(dim, norm_eps)?,
        })
    }

    fn forward(&mut self, x: &Array, modulation: &Array, rotation: &Rotation<'_>) -> Result<Array> {
        let rows = self.adaLN_modulation[0].forward(modulation)?.expand_dims(1)?;
        let rows = rows.split_equal(4, 2)?;
        let [scale_msa, gate_msa, scale_mlp, gate_mlp] = rows.as_slice() else { anyhow::bail!("no four parts") };
        // In the dtype of the rest, to which a number of Rust's would not adapt.
        let one = Array::from_f32(1.0).as_dtype(x.dtype())?;

        let normed = self.attention_norm1.forward(x)?.multiply(one.add(scale_msa)?)?;
        let attention = self.attention.forward(&normed, rotation)?;
        let x = x.add(ops::tanh(gate_msa)?.multiply(self.attention_norm2.forward(&attention)?)?)?;
        let normed = self.ffn_norm1.forward(&x)?.multiply(one.add(scale_mlp)?)?;
        let fed = self.feed_forward.forward(&normed)?;
        Ok(x.add(ops::tanh(gate_mlp)?.multiply(self.ffn_norm2.forward(&fed)?)?)?)
    }
}

impl Attention {
    fn forward(&mut self, x: &Array, rotation: &Rotation<'_>) -> Result<Array> {
        let (images, tokens, features) = (x.dim(0), x.dim(1), x.dim(2));
        let width = features / self.heads;
        let heads = |x: Array| x.reshape(&[images, tokens, self.heads, width]);
        let first = |x: Array| x.transpose_axes(&[0, 2, 1, 3]);
        let queries = self.norm_q.forward(&heads(self.to_q.forward(x)?)?)?;
        let keys = self.norm_k.forward(&heads(self.to_k.forward(x)?)?)?;
        let values = heads(self.to_v.forward(x)?)?;
        let (queries, keys) = (rotation.turn(&queries)?, rotation.turn(&keys)?);
        let scale = (1.0 / f64::from(width).sqrt()) as f32;
        let (queries, keys, values) = (first(queries)?, first(keys)?, first(values)?);
        let mixed = fast::scaled_dot_product_attention(queries, keys, values, scale, None, None)?;
        let mixed = mixed.transpose_axes(&[0, 2, 1, 3])?.reshape(&[images, tokens, features])?;
        Ok(self.to_out[0].forward(&mixed)?)
    }
}

impl Rotation<'_> {
    /// Turns `x`, which is `[N, tokens, heads, features]`.
    fn turn(&self, x: &Array) -> Result<Array> {
        let (images, tokens, heads, features) = (x.dim(0), x.dim(1), x.dim(2), x.dim(3));
        let pairs = x.reshape(&[images, tokens, heads, features / 2, 2])?.split_equal(2, -1)?;
        let [a, b] = pairs.as_slice() else { anyhow::bail!("no pairs") };
        let left = a.multiply(self.cos)?.subtract(b.multiply(self.sin)?)?;
        let right = a.multiply(self.sin)?.add(b.multiply(self.cos)?)?;
        Ok(ops::concatenate(&[left, right], -1)?.reshape(x.shape())?)
    }
}

impl FeedForward {
    fn forward(&mut self, x: &Array) -> Result<Array> {
        let hidden = silu(&self.w1.forward(x)?)?.multiply(self.w3.forward(x)?)?;
        Ok(self.w2.forward(&hidden)?)
    }
}
