//! The SigLIP2 vision tower: images to patch features.
//!
//! Source: `modeling_siglip2.py` of Eagle-Block2A-2B-v2. All images of an observation form one sequence of
//! patches; attention stays inside an image.

use super::weights::{affine, linear};
use crate::Result;
use crate::checkpoint::{Loader, Weight};
use crate::config::VisionConfig;
use crate::ops::{Activation, Affine, Grid, Heads, ImageBatch, Linear, Mask, Ops, Site};

/// Weights of the vision tower.
#[derive(Debug, Clone)]
pub struct Vision {
    /// `[hidden_size, 3 * patch_size²]`, a patch ordered row, column, channel.
    pub patch_embedding: Linear,
    /// `[num_patches, hidden_size]`, a square table.
    pub position_embedding: Weight,
    /// Pre-norm transformer layers.
    pub layers: Vec<Layer>,
    /// `[hidden_size]`.
    pub post_layernorm: Affine,
    /// Heads of every layer.
    pub heads: Heads,
    /// `layer_norm_eps` of all norms.
    pub eps: f64,
    /// Pixels of a side of a patch.
    pub patch_size: usize,
}

/// One layer of the vision tower.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Before attention, `[hidden_size]`.
    pub norm1: Affine,
    /// `[hidden_size, hidden_size]`.
    pub query: Linear,
    /// `[hidden_size, hidden_size]`.
    pub key: Linear,
    /// `[hidden_size, hidden_size]`.
    pub value: Linear,
    /// `[hidden_size, hidden_size]`.
    pub output: Linear,
    /// Before the MLP, `[hidden_size]`.
    pub norm2: Affine,
    /// `[intermediate_size, hidden_size]`.
    pub fc1: Linear,
    /// `[hidden_size, intermediate_size]`.
    pub fc2: Linear,
}

impl Vision {
    pub(super) fn load(loader: &mut Loader, config: &VisionConfig) -> Self {
        let path = "backbone.model.vision_model.vision_model";
        let hidden = config.hidden_size;
        let patch = config.patch_size * config.patch_size * config.num_channels;
        Vision {
            patch_embedding: linear(loader, &format!("{path}.embeddings.patch_embedding"), patch, hidden),
            position_embedding: loader.weight(
                &format!("{path}.embeddings.position_embedding.weight"),
                &[config.num_patches, hidden],
            ),
            layers: (0..config.num_hidden_layers)
                .map(|layer| Layer::load(loader, &format!("{path}.encoder.layers.{layer}"), config))
                .collect(),
            post_layernorm: affine(loader, &format!("{path}.post_layernorm"), hidden),
            heads: config.heads(),
            eps: config.layer_norm_eps,
            patch_size: config.patch_size,
        }
    }
}

impl Layer {
    fn load(loader: &mut Loader, path: &str, config: &VisionConfig) -> Self {
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        Layer {
            norm1: affine(loader, &format!("{path}.layer_norm1"), hidden),
            query: linear(loader, &format!("{path}.self_attn.q_proj"), hidden, hidden),
            key: linear(loader, &format!("{path}.self_attn.k_proj"), hidden, hidden),
            value: linear(loader, &format!("{path}.self_attn.v_proj"), hidden, hidden),
            output: linear(loader, &format!("{path}.self_attn.out_proj"), hidden, hidden),
            norm2: affine(loader, &format!("{path}.layer_norm2"), hidden),
            fc1: linear(loader, &format!("{path}.mlp.fc1"), hidden, intermediate),
            fc2: linear(loader, &format!("{path}.mlp.fc2"), intermediate, hidden),
        }
    }
}

/// Patch features `[batch, patches of all images, hidden]`.
pub(super) fn forward<O: Ops>(
    ops: &O,
    w: &Vision,
    images: &[ImageBatch],
    grids: &[Grid],
    batch: usize,
) -> Result<O::Tensor> {
    let at = &Site::new("vision");
    let mask = Mask::Segments(grids.iter().map(|grid| grid.patches()).collect());
    let patches = ops.patches(images, w.patch_size, batch, at / "patches")?;
    let x = ops.linear(&patches, &w.patch_embedding, at / "patch_embedding")?;
    let positions = ops.resize_positions(&w.position_embedding, grids, at / "position_embedding")?;
    let mut x = ops.add(&x, &positions, at / "embeddings")?;
    for (index, layer) in w.layers.iter().enumerate() {
        x = encoder_layer(ops, w, layer, &x, &mask, &(&(at / "layer") / index))?;
    }
    ops.layer_norm(&x, Some(&w.post_layernorm), w.eps, at / "post_layernorm")
}

fn encoder_layer<O: Ops>(
    ops: &O,
    vision: &Vision,
    w: &Layer,
    x: &O::Tensor,
    mask: &Mask,
    at: &Site,
) -> Result<O::Tensor> {
    let h = ops.layer_norm(x, Some(&w.norm1), vision.eps, at / "norm1")?;
    let q = ops.linear(&h, &w.query, at / "query")?;
    let k = ops.linear(&h, &w.key, at / "key")?;
    let v = ops.linear(&h, &w.value, at / "value")?;
    let h = ops.attention(&q, &k, &v, vision.heads, mask, at / "attention")?;
    let h = ops.linear(&h, &w.output, at / "output")?;
    let x = ops.add(x, &h, at / "residual1")?;
    let h = ops.layer_norm(&x, Some(&w.norm2), vision.eps, at / "norm2")?;
    let h = ops.linear(&h, &w.fc1, at / "fc1")?;
    let h = ops.activation(&h, Activation::GeluTanh, at / "gelu")?;
    let h = ops.linear(&h, &w.fc2, at / "fc2")?;
    ops.add(&x, &h, at.clone())
}
