//! The vision tower on the device. Mirrors `model/vision.rs`.

use super::attention::{AttentionMask, Segment};
use super::builder::Builder;
use super::linear::{Fusion, Linear, Projection};
use super::norm::{Affine, Norm, NormAt};
use super::program::Tensor;
use super::rotary::Rotary;
use super::tokens::DeviceImage;
use super::weights::Layout;
use crate::Result;
use steadyhand_cuda_driver::DevicePtr;
use steadyhand_gr00t::checkpoint::Weight;
use steadyhand_gr00t::model::vision as model;
use steadyhand_gr00t::ops::cpu::resize_positions;
use steadyhand_gr00t::ops::{self, Activation, Grid, Heads, Operation, Patching, Places, Resize, Site};

/// Weights of the vision tower on the device.
pub struct Vision {
    patch_embedding: Linear,
    /// Resized on the host for each program.
    position_embedding: Weight,
    layers: Vec<Layer>,
    post_layernorm: Option<Affine>,
    heads: Heads,
    eps: f64,
    patching: Patching,
    resize: Resize,
    rotary: Option<ops::Rotary>,
}

struct Layer {
    norm1: Affine,
    query_key_value: QueryKeyValue,
    output: Linear,
    norm2: Affine,
    fc1: Linear,
    fc2: Linear,
}

enum QueryKeyValue {
    /// Layers of their own, whose results are operands of attention.
    Three(Projection),
    /// One layer.
    Joined(Linear),
}

impl Vision {
    /// Lays the weights out.
    ///
    /// # Errors
    /// The policy asks for what no kernel does.
    pub fn lay_out(layout: &mut Layout, w: &model::Vision) -> Result<Self> {
        let at = &Site::new("vision");
        let layers = w.layers.iter().enumerate();
        let post_layernorm = w.post_layernorm.as_ref();
        Ok(Vision {
            patch_embedding: layout.linear(&w.patch_embedding, &(at / "patch_embedding"))?,
            position_embedding: w.position_embedding.clone(),
            layers: layers
                .map(|(index, layer)| {
                    Layer::lay_out(layout, layer, w.rotary.is_some(), &(&(at / "layer") / index))
                })
                .collect::<Result<_>>()?,
            post_layernorm: post_layernorm
                .map(|norm| layout.affine(norm, &(at / "post_layernorm")))
                .transpose()?,
            heads: w.heads,
            eps: w.eps,
            patching: w.patching,
            resize: w.resize,
            rotary: w.rotary.clone(),
        })
    }
}

impl Layer {
    fn lay_out(layout: &mut Layout, w: &model::Layer, turned: bool, at: &Site) -> Result<Self> {
        // What is turned before attention is stored, no operand.
        let part = |name: &str| (at / name, (!turned).then(|| at / "attention"));
        let query_key_value = match &w.projection {
            model::Projection::Three(three) => {
                let parts =
                    [(&three.query, part("query")), (&three.key, part("key")), (&three.value, part("value"))];
                let parts = parts.map(|(layer, (site, to))| (layer, site, to));
                QueryKeyValue::Three(layout.projection(&parts)?)
            }
            model::Projection::Joined(all) => QueryKeyValue::Joined(layout.linear(all, &(at / "qkv"))?),
        };
        Ok(Layer {
            norm1: layout.affine(&w.norm1, &(at / "norm1"))?,
            query_key_value,
            output: layout.linear(&w.output, &(at / "output"))?,
            norm2: layout.affine(&w.norm2, &(at / "norm2"))?,
            fc1: layout.linear(&w.fc1, &(at / "fc1"))?,
            fc2: layout.linear(&w.fc2, &(at / "fc2"))?,
        })
    }
}

/// What the layers share.
struct Shared<'w> {
    model: &'w Vision,
    mask: AttentionMask,
    /// By layer, where queries and keys are turned: cosines and sines of every patch.
    turns: Vec<DevicePtr>,
    /// Patches of an item.
    patches: usize,
}

/// Patch features `[batch * patches of all images, hidden]`. `each` is given the result of every layer.
pub fn forward(
    b: &mut Builder,
    w: &Vision,
    images: &[DeviceImage],
    grids: &[Grid],
    mut each: impl FnMut(&mut Builder, usize, &Tensor) -> Result<()>,
) -> Result<Tensor> {
    let at = &Site::new("vision");
    let embedded = at / "patch_embedding";
    let element = b.wide_operand(&(at / "patches"), std::slice::from_ref(&embedded))?;
    let patches = b.patches(images, grids, w.patching, element, at / "patches")?;
    let positions = positions(b, w, grids, at / "position_embedding")?;
    let sum = at / "embeddings";
    let element = b.storage(&sum)?;
    let mut x = b.linear(&w.patch_embedding, &patches, element, embedded, Fusion::Add(&positions, sum))?;
    let patches = grids.iter().map(|grid| grid.patches()).sum();
    let layers = (0..w.layers.len()).map(|index| rope_sites(&(&(at / "layer") / index)));
    let turns = match &w.rotary {
        Some(rotary) => b.turns(rotary, &Places::Patches(grids).coordinates(patches), layers)?,
        None => Vec::new(),
    };
    let shared = Shared { model: w, mask: one_image_each(b, grids)?, turns, patches };
    for (index, layer) in w.layers.iter().enumerate() {
        x = encoder_layer(b, &shared, (index, layer), &x, &(&(at / "layer") / index))?;
        each(b, index, &x)?;
    }
    let Some(norm) = &w.post_layernorm else { return Ok(x) };
    let site = &(at / "post_layernorm");
    let element = b.storage(site)?;
    let x = b.norm(&x, layer_norm(norm, w.eps, site.clone()), element)?;
    b.hand_over(site, vec![vec![x.clone()]])?;
    Ok(x)
}

fn encoder_layer(
    b: &mut Builder,
    shared: &Shared,
    (index, w): (usize, &Layer),
    x: &Tensor,
    at: &Site,
) -> Result<Tensor> {
    let (eps, heads) = (shared.model.eps, shared.model.heads);
    let norm1 = layer_norm(&w.norm1, eps, at / "norm1");
    let [q, k, v] = match &w.query_key_value {
        QueryKeyValue::Three(projection) => {
            let element = b.operand(&(at / "norm1"), &[at / "query", at / "key", at / "value"])?;
            let h = b.norm(x, norm1, element)?;
            let all = b.project(projection, &h, None)?;
            [all[0].clone(), all[1].clone(), all[2].clone()]
        }
        QueryKeyValue::Joined(linear) => {
            let site = at / "qkv";
            let element = b.operand(&(at / "norm1"), std::slice::from_ref(&site))?;
            let h = b.norm(x, norm1, element)?;
            let element = b.storage(&site)?;
            thirds(&b.linear(linear, &h, element, site, Fusion::Store)?)
        }
    };
    let [q, k, v] = match &shared.model.rotary {
        // Values come along as they are.
        Some(ops::Rotary { stores, .. }) => {
            let (turns, tokens) = (shared.turns[index], shared.patches);
            let element = b.operands(&(at / "attention"), Operation::Attention)?.compute;
            let rotary = Rotary { norms: None, turns, stores: *stores, tokens, sites: rope_sites(at) };
            thirds(&b.rotary([&q, &k, &v], heads, rotary, element)?)
        }
        None => [q, k, v],
    };
    let element = b.operand(&(at / "attention"), &[at / "output"])?;
    let h = b.attention([&q, &k, &v], heads, &shared.mask, element, at / "attention")?;
    let element = b.storage(&(at / "residual1"))?;
    let x = b.linear(&w.output, &h, element, at / "output", Fusion::Add(x, at / "residual1"))?;
    let element = b.operand(&(at / "norm2"), &[at / "fc1"])?;
    let h = b.norm(&x, layer_norm(&w.norm2, eps, at / "norm2"), element)?;
    let element = b.operand(&(at / "gelu"), &[at / "fc2"])?;
    let h = b.linear(&w.fc1, &h, element, at / "fc1", Fusion::Activate(Activation::GeluTanh, at / "gelu"))?;
    let element = b.storage(at)?;
    b.linear(&w.fc2, &h, element, at / "fc2", Fusion::Add(&x, at.clone()))
}

/// The sites of a layer's rotated queries and keys.
fn rope_sites(layer: &Site) -> [Site; 2] {
    [layer / "query_rope", layer / "key_rope"]
}

/// Queries, keys and values that lie side by side.
fn thirds(all: &Tensor) -> [Tensor; 3] {
    let width = all.features / 3;
    [0, 1, 2].map(|part| all.columns(part * width..(part + 1) * width))
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
    let mut values = resize_positions(&w.position_embedding, grids, w.resize, storage.format());
    storage.format().round_slice(&mut values);
    let tensor = b.persistent_tensor(values.len() / features, features, storage)?;
    tensor.upload(&values)?;
    b.constant_tap(at, [1, tensor.rows, features], values);
    Ok(tensor)
}
