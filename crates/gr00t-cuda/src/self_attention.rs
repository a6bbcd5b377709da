//! Self-attention over the backbone features on the device. Mirrors `model/self_attention.rs`.

use super::attention::{AttentionMask, Segment};
use super::builder::Builder;
use super::linear::{Fusion, Linear, Projection};
use super::norm::{Affine, Norm, NormAt};
use super::program::Tensor;
use super::weights::Layout;
use crate::Result;
use steadyhand_gr00t::model::self_attention as model;
use steadyhand_gr00t::ops::{Activation, Heads, Site};

/// Weights of the blocks on the device.
pub struct SelfAttention {
    blocks: Vec<Block>,
    heads: Heads,
}

struct Block {
    norm1: Affine,
    query_key_value: Projection,
    output: Linear,
    norm2: Affine,
    fc1: Linear,
    fc2: Linear,
}

impl SelfAttention {
    /// Lays the weights out.
    ///
    /// # Errors
    /// The policy asks for what no kernel does.
    pub fn lay_out(layout: &mut Layout, w: &model::SelfAttention, at: &Site) -> Result<Self> {
        let blocks = w.blocks.iter().enumerate();
        Ok(SelfAttention {
            blocks: blocks
                .map(|(index, block)| Block::lay_out(layout, block, &(&(at / "layer") / index)))
                .collect::<Result<_>>()?,
            heads: w.heads,
        })
    }
}

impl Block {
    fn lay_out(layout: &mut Layout, w: &model::Block, at: &Site) -> Result<Self> {
        let parts = [(&w.query, "query"), (&w.key, "key"), (&w.value, "value")];
        let parts = parts.map(|(layer, name)| (layer, at / name, Some(at / "attention")));
        Ok(Block {
            norm1: layout.affine(&w.norm1, &(at / "norm1"))?,
            query_key_value: layout.projection(&parts)?,
            output: layout.linear(&w.output, &(at / "attention_output"))?,
            norm2: layout.affine(&w.norm2, &(at / "norm2"))?,
            fc1: layout.linear(&w.fc1, &(at / "fc1"))?,
            fc2: layout.linear(&w.fc2, &(at / "fc2"))?,
        })
    }
}

/// Features `[batch * tokens, width]` to as many, and the site that they are the result of. Every token of an item sees
/// every other, and no token that is not there.
pub fn forward(b: &mut Builder, w: &SelfAttention, features: &Tensor, at: &Site) -> Result<(Tensor, Site)> {
    let tokens = features.rows / b.batch;
    let item = |item: usize| Segment {
        query_start: item * tokens,
        queries: tokens,
        key_start: item * tokens,
        keys: tokens,
    };
    let mask = b.attention_mask(&(0..b.batch).map(item).collect::<Vec<_>>(), false)?;
    let (mut x, mut site) = (features.clone(), at.clone());
    for (index, weights) in w.blocks.iter().enumerate() {
        site = &(at / "layer") / index;
        x = block(b, (w.heads, &mask), weights, &x, &site)?;
    }
    Ok((x, site))
}

fn block(
    b: &mut Builder,
    (heads, mask): (Heads, &AttentionMask),
    w: &Block,
    x: &Tensor,
    at: &Site,
) -> Result<Tensor> {
    let element = b.operand(&(at / "norm1"), &[at / "query", at / "key", at / "value"])?;
    let h = b.norm(x, layer_norm(&w.norm1, at / "norm1"), element)?;
    let qkv = b.project(&w.query_key_value, &h, None)?;
    let element = b.operand(&(at / "attention"), &[at / "attention_output"])?;
    let h = b.attention([&qkv[0], &qkv[1], &qkv[2]], heads, mask, element, at / "attention")?;
    let element = b.storage(&(at / "residual1"))?;
    let x = b.linear(&w.output, &h, element, at / "attention_output", Fusion::Add(x, at / "residual1"))?;
    let element = b.operand(&(at / "norm2"), &[at / "fc1"])?;
    let h = b.norm(&x, layer_norm(&w.norm2, at / "norm2"), element)?;
    let element = b.operand(&(at / "gelu"), &[at / "fc2"])?;
    let h = b.linear(&w.fc1, &h, element, at / "fc1", Fusion::Activate(Activation::GeluTanh, at / "gelu"))?;
    let element = b.storage(at)?;
    b.linear(&w.fc2, &h, element, at / "fc2", Fusion::Add(&x, at.clone()))
}

fn layer_norm(affine: &Affine, site: Site) -> NormAt<'_> {
    NormAt { norm: Norm::Layer, affine: Some(affine), eps: model::NORM_EPS, site }
}
