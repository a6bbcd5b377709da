//! The diffusion transformer: state and action tokens, conditioned on time and backbone features.
//!
//! Source: `AlternateVLDiT` and `DiT` in `dit.py`. Even blocks attend to the backbone features (every
//! `attend_text_every_n_blocks`-th of them to the text tokens, the others to the image tokens), odd
//! blocks to their own tokens.

use super::Prompt;
use super::weights::linear;
use crate::Result;
use crate::checkpoint::Loader;
pub use crate::config::Attends;
use crate::config::Config;
use crate::ops::{Activation, Heads, Leading, Linear, Mask, Ops, Site};
use std::ops::Range;

/// `norm_eps` of the blocks.
pub const NORM_EPS: f64 = 1e-5;
/// `eps` of `norm_out`, which differs from the blocks'.
pub const NORM_OUT_EPS: f64 = 1e-6;
/// `num_channels` of the timestep projection.
pub const TIME_CHANNELS: usize = 256;

/// Weights of the DiT.
#[derive(Debug, Clone)]
pub struct Dit {
    /// The frequencies of the timestep embedding, half as many as it has channels.
    pub time_frequencies: Vec<f32>,
    /// `[inner_dim, 256]`.
    pub time1: Linear,
    /// `[inner_dim, inner_dim]`.
    pub time2: Linear,
    /// Cross-attention and self-attention in turns.
    pub blocks: Vec<Block>,
    /// Shift and scale of the output norm, in that order.
    pub output_modulation: Linear,
    /// `[output_dim, inner_dim]`.
    pub output: Linear,
    /// Heads of every block.
    pub heads: Heads,
}

/// One block of the DiT.
#[derive(Debug, Clone)]
pub struct Block {
    /// What its keys and values come from.
    pub attends: Attends,
    /// Scale and shift of the first norm, in that order.
    pub modulation: Linear,
    /// `[inner_dim, inner_dim]`.
    pub query: Linear,
    /// `[inner_dim, inner_dim]`, or `[inner_dim, backbone_embedding_dim]` in cross-attention.
    pub key: Linear,
    /// As `key`.
    pub value: Linear,
    /// `[inner_dim, inner_dim]`.
    pub output: Linear,
    /// `[4 * inner_dim, inner_dim]`.
    pub fc1: Linear,
    /// `[inner_dim, 4 * inner_dim]`.
    pub fc2: Linear,
}

impl Dit {
    pub(super) fn load(loader: &mut Loader, config: &Config) -> Self {
        let path = "action_head.model";
        let dit = &config.diffusion_model_cfg;
        let inner = dit.inner_dim();
        let time = format!("{path}.timestep_encoder.timestep_embedder");
        Dit {
            // Some digits differ by version.
            time_frequencies: time_frequencies(),
            time1: linear(loader, &format!("{time}.linear_1"), TIME_CHANNELS, inner),
            time2: linear(loader, &format!("{time}.linear_2"), inner, inner),
            blocks: (0..dit.num_layers)
                .map(|index| {
                    let path = format!("{path}.transformer_blocks.{index}");
                    Block::load(loader, &path, config.attends(index), inner, config.backbone_embedding_dim)
                })
                .collect(),
            output_modulation: linear(loader, &format!("{path}.proj_out_1"), inner, 2 * inner),
            output: linear(loader, &format!("{path}.proj_out_2"), inner, dit.output_dim),
            heads: dit.heads(),
        }
    }
}

impl Block {
    fn load(loader: &mut Loader, path: &str, attends: Attends, inner: usize, backbone: usize) -> Self {
        let memory = if attends == Attends::Itself { inner } else { backbone };
        let mut linear =
            |name: &str, from: usize, to: usize| linear(loader, &format!("{path}.{name}"), from, to);
        Block {
            attends,
            modulation: linear("norm1.linear", inner, 2 * inner),
            query: linear("attn1.to_q", inner, inner),
            key: linear("attn1.to_k", memory, inner),
            value: linear("attn1.to_v", memory, inner),
            output: linear("attn1.to_out.0", inner, inner),
            fc1: linear("ff.net.0.proj", inner, 4 * inner),
            fc2: linear("ff.net.2", 4 * inner, inner),
        }
    }
}

/// Keys and values of the cross-attention blocks, of all blocks or of some in a row. They depend on the backbone features
/// alone, so one inference computes them once for all Euler steps.
pub(super) struct Memory<O: Ops> {
    /// The first of them.
    first: usize,
    blocks: Vec<Option<KeyValue<O>>>,
}

struct KeyValue<O: Ops> {
    key: O::Tensor,
    value: O::Tensor,
}

impl<O: Ops> Memory<O> {
    /// Of every block. A token that a block does not attend to is left out instead of masked: its probability is zero.
    pub(super) fn new(ops: &O, w: &Dit, features: &O::Tensor, prompt: &Prompt) -> Result<Self> {
        Memory::of_blocks(ops, w, 0..w.blocks.len(), features, prompt)
    }

    /// Of these blocks, of those that there are.
    pub(super) fn of_blocks(
        ops: &O,
        w: &Dit,
        range: Range<usize>,
        features: &O::Tensor,
        prompt: &Prompt,
    ) -> Result<Self> {
        let at = &Site::new("dit.block");
        let text = ops.select_tokens(features, &prompt.text)?;
        let images = ops.select_tokens(features, &prompt.images)?;
        let first = range.start;
        let mut blocks = Vec::with_capacity(range.len());
        for (index, block) in w.blocks.iter().enumerate().take(range.end).skip(first) {
            let memory = match block.attends {
                Attends::Itself => {
                    blocks.push(None);
                    continue;
                }
                Attends::Text => &text,
                Attends::Images => &images,
                Attends::Everything => features,
            };
            blocks.push(Some(KeyValue::project(ops, block, memory, &(at / index))?));
        }
        Ok(Memory { first, blocks })
    }
}

impl<O: Ops> KeyValue<O> {
    fn project(ops: &O, w: &Block, memory: &O::Tensor, at: &Site) -> Result<Self> {
        Ok(KeyValue {
            key: ops.linear(memory, &w.key, at / "key")?,
            value: ops.linear(memory, &w.value, at / "value")?,
        })
    }
}

/// Output tokens `[batch, tokens, output_dim]` for tokens `[batch, tokens, inner_dim]` at a time.
pub(super) fn forward<O: Ops>(
    ops: &O,
    w: &Dit,
    tokens: &O::Tensor,
    memory: &Memory<O>,
    bucket: usize,
    at: &Site,
) -> Result<O::Tensor> {
    let time = time(ops, w, bucket, at)?;
    let x = blocks(ops, w, tokens, memory, &time, at)?;
    output(ops, w, &x, &time, at)
}

/// The activated timestep embedding, `[1, 1, inner_dim]`.
pub(super) fn time<O: Ops>(ops: &O, w: &Dit, bucket: usize, at: &Site) -> Result<O::Tensor> {
    let time = timestep_embedding(ops, w, bucket, at)?;
    ops.activation(&time, Activation::Silu, at / "silu")
}

/// Tokens `[batch, tokens, inner_dim]` through the blocks that `memory` is of.
pub(super) fn blocks<O: Ops>(
    ops: &O,
    w: &Dit,
    tokens: &O::Tensor,
    memory: &Memory<O>,
    time: &O::Tensor,
    at: &Site,
) -> Result<O::Tensor> {
    let mut x = tokens.clone();
    let own = w.blocks.iter().enumerate().skip(memory.first);
    for ((index, weights), memory) in own.zip(&memory.blocks) {
        x = block(ops, w.heads, weights, &x, memory.as_ref(), time, &(&(at / "block") / index))?;
    }
    Ok(x)
}

/// What the last block gives to output tokens `[batch, tokens, output_dim]`.
pub(super) fn output<O: Ops>(
    ops: &O,
    w: &Dit,
    x: &O::Tensor,
    time: &O::Tensor,
    at: &Site,
) -> Result<O::Tensor> {
    let [shift, scale] = modulation(ops, &w.output_modulation, time, at / "output_modulation")?;
    let x = ops.layer_norm(x, None, NORM_OUT_EPS, at / "norm_out")?;
    let x = ops.modulate(&x, &scale, &shift, at / "modulated")?;
    ops.linear(&x, &w.output, at / "output")
}

/// One block. x: `[batch, tokens, inner_dim]`; memory: its keys and values where it does not attend to
/// itself; time: the activated timestep embedding, `[1, 1, inner_dim]`.
fn block<O: Ops>(
    ops: &O,
    heads: Heads,
    w: &Block,
    x: &O::Tensor,
    memory: Option<&KeyValue<O>>,
    time: &O::Tensor,
    at: &Site,
) -> Result<O::Tensor> {
    let [scale, shift] = modulation(ops, &w.modulation, time, at / "modulation")?;
    let h = ops.layer_norm(x, None, NORM_EPS, at / "norm1")?;
    let h = ops.modulate(&h, &scale, &shift, at / "modulated")?;
    let h = match memory {
        Some(memory) => attention(ops, heads, w, &h, memory, at)?,
        None => attention(ops, heads, w, &h, &KeyValue::project(ops, w, &h, at)?, at)?,
    };
    let x = ops.add(&h, x, at / "residual1")?;
    let h = ops.layer_norm(&x, None, NORM_EPS, at / "norm2")?;
    let h = ops.linear(&h, &w.fc1, at / "fc1")?;
    let h = ops.activation(&h, Activation::GeluTanh, at / "gelu")?;
    let h = ops.linear(&h, &w.fc2, at / "fc2")?;
    ops.add(&h, &x, at.clone())
}

fn attention<O: Ops>(
    ops: &O,
    heads: Heads,
    w: &Block,
    h: &O::Tensor,
    memory: &KeyValue<O>,
    at: &Site,
) -> Result<O::Tensor> {
    let q = ops.linear(h, &w.query, at / "query")?;
    let h = ops.attention(&q, &memory.key, &memory.value, heads, &Mask::None, at / "attention")?;
    ops.linear(&h, &w.output, at / "attention_output")
}

/// The two halves of a modulation, each `[1, 1, inner_dim]`, in the order the weights have them.
fn modulation<O: Ops>(ops: &O, w: &Linear, time: &O::Tensor, at: Site) -> Result<[O::Tensor; 2]> {
    let both = ops.linear(time, w, at)?;
    let half = ops.shape(&both)[2] / 2;
    Ok([ops.slice_features(&both, 0, half)?, ops.slice_features(&both, half, half)?])
}

/// `[1, 1, inner_dim]`. Source: diffusers' `Timesteps(256, flip_sin_to_cos=True, downscale_freq_shift=1)`
/// and `TimestepEmbedding`.
fn timestep_embedding<O: Ops>(ops: &O, w: &Dit, bucket: usize, at: &Site) -> Result<O::Tensor> {
    let x = ops.time_encoding(bucket, &w.time_frequencies, Leading::Cosines, at / "timestep_projection")?;
    let x = ops.linear(&x, &w.time1, at / "timestep_linear1")?;
    let x = ops.activation(&x, Activation::Silu, at / "timestep_silu")?;
    ops.linear(&x, &w.time2, at.sibling("timestep_embedding"))
}

/// `exp(-ln(10000) i / 127)` in f32, correctly rounded: the frequencies of the timestep embedding.
pub(super) fn time_frequencies() -> Vec<f32> {
    let exponent = |i: usize| -(10_000f32.ln()) * i as f32 / (TIME_CHANNELS / 2 - 1) as f32;
    (0..TIME_CHANNELS / 2).map(|i| libm::exp(f64::from(exponent(i))) as f32).collect()
}
