//! The SigLIP2 vision tower on the device. Mirrors `model/vision.rs`.

use super::attention::{AttentionMask, Segment};
use super::builder::Builder;
use super::linear::{Fusion, Linear, Projection};
use super::norm::{Affine, Norm, NormAt};
use super::program::Tensor;
use super::tokens::DeviceImage;
use super::weights::Layout;
use crate::Result;
use steadyhand_gr00t::checkpoint::Weight;
use steadyhand_gr00t::model::vision as model;
use steadyhand_gr00t::ops::cpu::resize_positions;
use steadyhand_gr00t::ops::{Activation, Grid, Heads, Resize, Site};

/// Weights of the vision tower on the device.
pub struct Vision {
    patch_embedding: Linear,
    /// Resized on the host for each program.
    position_embedding: Weight,
    layers: Vec<Layer>,
    post_layernorm: Affine,
    heads: Heads,
    eps: f64,
    patch_size: usize,
}

struct Layer {
    norm1: Affine,
    query_key_value: Projection,
    output: Linear,
    norm2: Affine,
    fc1: Linear,
    fc2: Linear,
}

impl Vision {
    /// Lays the weights out.
    ///
    /// # Errors
    /// The policy asks for what no kernel does.
    pub fn lay_out(layout: &mut Layout, w: &model::Vision) -> Result<Self> {
        let at = &Site::new("vision");
        let layers = w.layers.iter().enumerate();
        Ok(Vision {
            patch_embedding: layout.linear(&w.patch_embedding, &(at / "patch_embedding"))?,
            position_embedding: w.position_embedding.clone(),
            layers: layers
                .map(|(index, layer)| Layer::lay_out(layout, layer, &(&(at / "layer") / index)))
                .collect::<Result<_>>()?,
            post_layernorm: match &w.post_layernorm {
                Some(norm) => layout.affine(norm, &(at / "post_layernorm"))?,
                None => {
                    return Err(unknown(
                        at,
                        "post_layernorm",
                        "expected a norm behind the layers, found none",
                    ));
                }
            },
            heads: w.heads,
            eps: w.eps,
            patch_size: w.patching.size,
        })
    }
}

impl Layer {
    fn lay_out(layout: &mut Layout, w: &model::Layer, at: &Site) -> Result<Self> {
        let part = |name: &str| (at / name, Some(at / "attention"));
        let model::Projection::Three(three) = &w.projection else {
            return Err(unknown(
                at,
                "linear",
                "expected queries, keys and values of a layer each, found one layer",
            ));
        };
        let parts = [(&three.query, part("query")), (&three.key, part("key")), (&three.value, part("value"))];
        Ok(Layer {
            norm1: layout.affine(&w.norm1, &(at / "norm1"))?,
            query_key_value: layout.projection(&parts.map(|(layer, (site, to))| (layer, site, to)))?,
            output: layout.linear(&w.output, &(at / "output"))?,
            norm2: layout.affine(&w.norm2, &(at / "norm2"))?,
            fc1: layout.linear(&w.fc1, &(at / "fc1"))?,
            fc2: layout.linear(&w.fc2, &(at / "fc2"))?,
        })
    }
}

/// A vision tower that no kernels are recorded for, which [`super::check`] refuses before.
fn unknown(at: &Site, operation: &'static str, what: &str) -> crate::Error {
    steadyhand_gr00t::Error::Shape { site: at.to_string(), operation, what: what.to_owned() }.into()
}

/// Patch features `[batch * patches of all images, hidden]`.
pub fn forward(b: &mut Builder, w: &Vision, images: &[DeviceImage], grids: &[Grid]) -> Result<Tensor> {
    let at = &Site::new("vision");
    let mask = one_image_each(b, grids)?;
    let embedded = at / "patch_embedding";
    let element = b.wide_operand(&(at / "patches"), std::slice::from_ref(&embedded))?;
    let patches = b.patches(images, w.patch_size, element, at / "patches")?;
    let positions = positions(b, w, grids, at / "position_embedding")?;
    let sum = at / "embeddings";
    let element = b.storage(&sum)?;
    let mut x = b.linear(&w.patch_embedding, &patches, element, embedded, Fusion::Add(&positions, sum))?;
    for (index, layer) in w.layers.iter().enumerate() {
        x = encoder_layer(b, w, layer, &x, &mask, &(&(at / "layer") / index))?;
    }
    let site = at / "post_layernorm";
    let element = b.storage(&site)?;
    b.norm(&x, layer_norm(&w.post_layernorm, w.eps, site), element)
}

fn encoder_layer(
    b: &mut Builder,
    vision: &Vision,
    w: &Layer,
    x: &Tensor,
    mask: &AttentionMask,
    at: &Site,
) -> Result<Tensor> {
    let element = b.operand(&(at / "norm1"), &[at / "query", at / "key", at / "value"])?;
    let h = b.norm(x, layer_norm(&w.norm1, vision.eps, at / "norm1"), element)?;
    let qkv = b.project(&w.query_key_value, &h, None)?;
    let element = b.operand(&(at / "attention"), &[at / "output"])?;
    let h = b.attention([&qkv[0], &qkv[1], &qkv[2]], vision.heads, mask, element, at / "attention")?;
    let element = b.storage(&(at / "residual1"))?;
    let x = b.linear(&w.output, &h, element, at / "output", Fusion::Add(x, at / "residual1"))?;
    let element = b.operand(&(at / "norm2"), &[at / "fc1"])?;
    let h = b.norm(&x, layer_norm(&w.norm2, vision.eps, at / "norm2"), element)?;
    let element = b.operand(&(at / "gelu"), &[at / "fc2"])?;
    let h = b.linear(&w.fc1, &h, element, at / "fc1", Fusion::Activate(Activation::GeluTanh, at / "gelu"))?;
    let element = b.storage(at)?;
    b.linear(&w.fc2, &h, element, at / "fc2", Fusion::Add(&x, at.clone()))
}

fn layer_norm(affine: &Affine, eps: f64, site: Site) -> NormAt<'_> {
    NormAt { norm: Norm::Layer, affine: Some(affine), eps, site }
}

/// Every image sees itself alone.
fn one_image_each(b: &mut Builder, grids: &[Grid]) -> Result<AttentionMask> {
    let mut segments = Vec::new();
    let mut start = 0;
    for grid in std::iter::repeat_n(grids, b.batch).flatten() {
        let patches = grid.patches();
        segments.push(Segment { query_start: start, queries: patches, key_start: start, keys: patches });
        start += patches;
    }
    b.attention_mask(&segments, false)
}

/// The position table resized to each image's grid, `[patches of all images, hidden]`: the same for every item.
fn positions(b: &mut Builder, w: &Vision, grids: &[Grid], at: Site) -> Result<Tensor> {
    let storage = b.storage(&at)?;
    let features = w.position_embedding.shape()[1];
    let mut values = resize_positions(&w.position_embedding, grids, Resize::Antialiased, storage.format());
    storage.format().round_slice(&mut values);
    let tensor = b.persistent_tensor(values.len() / features, features, storage)?;
    tensor.upload(&values)?;
    b.constant_tap(at, [1, tensor.rows, features], values);
    Ok(tensor)
}
