//! Self-attention over the backbone features, text and images alike: what the DiT attends to.
//!
//! Source: `SelfAttentionTransformer` in `dit.py`. Every token sees every other; nothing tells their order.

use super::weights::{affine, linear};
use crate::Result;
use crate::checkpoint::Loader;
use crate::config::SelfAttentionConfig;
use crate::ops::{Activation, Affine, Heads, Linear, Mask, Ops, Site};

/// `norm_eps` of the blocks.
pub const NORM_EPS: f64 = 1e-5;

/// Weights of the blocks.
#[derive(Debug, Clone)]
pub struct SelfAttention {
    /// Pre-norm transformer blocks.
    pub blocks: Vec<Block>,
    /// Heads of every block.
    pub heads: Heads,
}

/// One block; `width` is that of the features.
#[derive(Debug, Clone)]
pub struct Block {
    /// Before attention, `[width]`.
    pub norm1: Affine,
    /// `[width, width]`.
    pub query: Linear,
    /// `[width, width]`.
    pub key: Linear,
    /// `[width, width]`.
    pub value: Linear,
    /// `[width, width]`.
    pub output: Linear,
    /// Before the MLP, `[width]`.
    pub norm2: Affine,
    /// `[4 * width, width]`.
    pub fc1: Linear,
    /// `[width, 4 * width]`.
    pub fc2: Linear,
}

impl SelfAttention {
    pub(super) fn load(loader: &mut Loader, config: &SelfAttentionConfig, width: usize) -> Self {
        let path = "action_head.vl_self_attention.transformer_blocks";
        let blocks = 0..config.num_layers;
        SelfAttention {
            blocks: blocks.map(|index| Block::load(loader, &format!("{path}.{index}"), width)).collect(),
            heads: config.heads(),
        }
    }
}

impl Block {
    fn load(loader: &mut Loader, path: &str, width: usize) -> Self {
        // The official block has no `norm2`.
        let [norm1, norm2] = ["norm1", "norm3"].map(|name| affine(loader, &format!("{path}.{name}"), width));
        let mut linear =
            |name: &str, from: usize, to: usize| linear(loader, &format!("{path}.{name}"), from, to);
        Block {
            norm1,
            query: linear("attn1.to_q", width, width),
            key: linear("attn1.to_k", width, width),
            value: linear("attn1.to_v", width, width),
            output: linear("attn1.to_out.0", width, width),
            norm2,
            fc1: linear("ff.net.0.proj", width, 4 * width),
            fc2: linear("ff.net.2", 4 * width, width),
        }
    }
}

/// Features `[batch, tokens, width]` to as many.
pub(super) fn forward<O: Ops>(
    ops: &O,
    w: &SelfAttention,
    features: &O::Tensor,
    at: &Site,
) -> Result<O::Tensor> {
    let mut x = features.clone();
    for (index, weights) in w.blocks.iter().enumerate() {
        x = block(ops, w.heads, weights, &x, &(&(at / "layer") / index))?;
    }
    Ok(x)
}

fn block<O: Ops>(ops: &O, heads: Heads, w: &Block, x: &O::Tensor, at: &Site) -> Result<O::Tensor> {
    let h = ops.layer_norm(x, Some(&w.norm1), NORM_EPS, at / "norm1")?;
    let q = ops.linear(&h, &w.query, at / "query")?;
    let k = ops.linear(&h, &w.key, at / "key")?;
    let v = ops.linear(&h, &w.value, at / "value")?;
    let h = ops.attention(&q, &k, &v, heads, &Mask::None, at / "attention")?;
    let h = ops.linear(&h, &w.output, at / "attention_output")?;
    let x = ops.add(x, &h, at / "residual1")?;
    let h = ops.layer_norm(&x, Some(&w.norm2), NORM_EPS, at / "norm2")?;
    let h = ops.linear(&h, &w.fc1, at / "fc1")?;
    let h = ops.activation(&h, Activation::GeluTanh, at / "gelu")?;
    let h = ops.linear(&h, &w.fc2, at / "fc2")?;
    ops.add(&x, &h, at.clone())
}
