//! The vision tower: images to patch features.
//!
//! Source: `modeling_siglip2.py` of Eagle-Block2A-2B-v2 and `Qwen3VLVisionModel` of transformers. All images of an
//! observation form one sequence of patches; attention stays inside an image.

use crate::Result;
use crate::checkpoint::Weight;
use crate::ops::{
    Activation, Affine, Grid, Heads, ImageBatch, Linear, Mask, Ops, Patching, Places, Resize, Rotary, Site,
};

/// The site of the patches.
pub const PATCHES: &str = "vision.patches";

/// Weights of the vision tower.
#[derive(Debug, Clone)]
pub struct Vision {
    /// `[hidden_size, patching.features()]`.
    pub patch_embedding: Linear,
    /// A square table, `[positions, hidden_size]`.
    pub position_embedding: Weight,
    /// Pre-norm transformer layers.
    pub layers: Vec<Layer>,
    /// `[hidden_size]`, where there is one behind the layers.
    pub post_layernorm: Option<Affine>,
    /// Heads of every layer.
    pub heads: Heads,
    /// Epsilon of all norms.
    pub eps: f64,
    /// How images become patches.
    pub patching: Patching,
    /// How the table of positions is resized to an image.
    pub resize: Resize,
    /// How queries and keys are rotated by a patch's row and column, where they are.
    pub rotary: Option<Rotary>,
}

/// One layer of the vision tower.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Before attention, `[hidden_size]`.
    pub norm1: Affine,
    /// To queries, keys and values.
    pub projection: Projection,
    /// `[hidden_size, hidden_size]`.
    pub output: Linear,
    /// Before the MLP, `[hidden_size]`.
    pub norm2: Affine,
    /// `[intermediate_size, hidden_size]`.
    pub fc1: Linear,
    /// `[hidden_size, intermediate_size]`.
    pub fc2: Linear,
}

/// What makes queries, keys and values.
#[derive(Debug, Clone)]
pub enum Projection {
    /// A layer for each.
    Three(Box<Three>),
    /// One layer, `[3 * hidden_size, hidden_size]`: queries, then keys, then values.
    Joined(Linear),
}

/// A layer `[hidden_size, hidden_size]` each.
#[derive(Debug, Clone)]
pub struct Three {
    /// Queries.
    pub query: Linear,
    /// Keys.
    pub key: Linear,
    /// Values.
    pub value: Linear,
}

/// The patches of all images, `[batch, patches, patching.features()]`.
pub(super) fn patches<O: Ops>(
    ops: &O,
    w: &Vision,
    images: &[ImageBatch],
    grids: &[Grid],
    batch: usize,
) -> Result<O::Tensor> {
    ops.patches(images, grids, w.patching, batch, Site::new(PATCHES))
}

/// Patches to their features `[batch, patches, hidden]`. `each` is given the result of every layer.
pub(super) fn forward<O: Ops>(
    ops: &O,
    w: &Vision,
    patches: &O::Tensor,
    grids: &[Grid],
    mut each: impl FnMut(usize, &O::Tensor) -> Result<()>,
) -> Result<O::Tensor> {
    let at = &Site::new("vision");
    let mask = Mask::Segments(grids.iter().map(|grid| grid.patches()).collect());
    let x = ops.linear(patches, &w.patch_embedding, at / "patch_embedding")?;
    let positions =
        ops.resize_positions(&w.position_embedding, grids, w.resize, at / "position_embedding")?;
    let mut x = ops.add(&x, &positions, at / "embeddings")?;
    for (index, layer) in w.layers.iter().enumerate() {
        x = encoder_layer(ops, w, layer, &x, grids, &mask, &(&(at / "layer") / index))?;
        each(index, &x)?;
    }
    match &w.post_layernorm {
        Some(norm) => ops.layer_norm(&x, Some(norm), w.eps, at / "post_layernorm"),
        None => Ok(x),
    }
}

fn encoder_layer<O: Ops>(
    ops: &O,
    vision: &Vision,
    w: &Layer,
    x: &O::Tensor,
    grids: &[Grid],
    mask: &Mask,
    at: &Site,
) -> Result<O::Tensor> {
    let h = ops.layer_norm(x, Some(&w.norm1), vision.eps, at / "norm1")?;
    let [mut q, mut k, v] = project(ops, &w.projection, &h, at)?;
    if let Some(rotary) = &vision.rotary {
        let places = Places::Patches(grids);
        q = ops.rotary(&q, rotary, &places, at / "query_rope")?;
        k = ops.rotary(&k, rotary, &places, at / "key_rope")?;
    }
    let h = ops.attention(&q, &k, &v, vision.heads, mask, at / "attention")?;
    let h = ops.linear(&h, &w.output, at / "output")?;
    let x = ops.add(x, &h, at / "residual1")?;
    let h = ops.layer_norm(&x, Some(&w.norm2), vision.eps, at / "norm2")?;
    let h = ops.linear(&h, &w.fc1, at / "fc1")?;
    let h = ops.activation(&h, Activation::GeluTanh, at / "gelu")?;
    let h = ops.linear(&h, &w.fc2, at / "fc2")?;
    ops.add(&x, &h, at.clone())
}

/// Queries, keys and values, each `[batch, patches, hidden]`.
fn project<O: Ops>(ops: &O, w: &Projection, h: &O::Tensor, at: &Site) -> Result<[O::Tensor; 3]> {
    match w {
        Projection::Three(three) => Ok([
            ops.linear(h, &three.query, at / "query")?,
            ops.linear(h, &three.key, at / "key")?,
            ops.linear(h, &three.value, at / "value")?,
        ]),
        Projection::Joined(all) => {
            let all = ops.linear(h, all, at / "qkv")?;
            let width = ops.shape(&all)[2] / 3;
            let part = |index: usize| ops.slice_features(&all, index * width, width);
            Ok([part(0)?, part(1)?, part(2)?])
        }
    }
}
