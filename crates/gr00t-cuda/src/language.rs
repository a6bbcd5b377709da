//! The Qwen3 language layers on the device. Mirrors `model/language.rs`.

use super::attention::{AttentionMask, Segment};
use super::builder::Builder;
use super::linear::{Fusion, Linear, Projection};
use super::norm::{Affine, Norm, NormAt};
use super::program::Tensor;
use super::rotary::{HeadNorms, Rotary};
use super::weights::{Layout, Region, Table};
use crate::Result;
use steadyhand_cuda_driver::DevicePtr;
use steadyhand_gr00t::model::Prompt;
use steadyhand_gr00t::model::language as model;
use steadyhand_gr00t::ops::{self, Activation, Grid, Heads, Operation, Places, Site};

/// Weights of the language layers on the device.
pub struct Language {
    embed_tokens: Table,
    layers: Vec<Layer>,
    /// Behind the layers, where the features pass it.
    norm: Option<Affine>,
    /// Layers behind which image tokens are added.
    deepstack: Vec<usize>,
    heads: Heads,
    eps: f64,
    rotary: ops::Rotary,
    rows_and_columns: bool,
}

struct Layer {
    input_norm: Affine,
    query_key_value: Projection,
    query_norm: Region,
    key_norm: Region,
    output: Linear,
    post_attention_norm: Affine,
    gate_up: Linear,
    down: Linear,
}

impl Language {
    /// Lays the weights out.
    ///
    /// # Errors
    /// The policy asks for what no kernel does.
    pub fn lay_out(layout: &mut Layout, w: &model::Language) -> Result<Self> {
        let at = &Site::new("language");
        let layers = w.layers.iter().enumerate();
        Ok(Language {
            embed_tokens: layout.table(&w.embed_tokens),
            layers: layers
                .map(|(index, layer)| Layer::lay_out(layout, layer, &(&(at / "layer") / index)))
                .collect::<Result<_>>()?,
            norm: w.normed.then(|| layout.scale(&w.norm, &(at / "norm"))).transpose()?,
            deepstack: w.deepstack.clone(),
            heads: w.heads,
            eps: w.eps,
            rotary: w.rotary.clone(),
            rows_and_columns: w.rows_and_columns,
        })
    }
}

impl Layer {
    fn lay_out(layout: &mut Layout, w: &model::Layer, at: &Site) -> Result<Self> {
        // Queries and keys are normalized and turned before they meet: they are stored, not operands.
        let parts = [(&w.query, "query"), (&w.key, "key"), (&w.value, "value")];
        Ok(Layer {
            input_norm: layout.scale(&w.input_norm, &(at / "norm1"))?,
            query_key_value: layout.projection(&parts.map(|(layer, name)| (layer, at / name, None)))?,
            query_norm: layout.vector(&w.query_norm, &(at / "query_norm"))?,
            key_norm: layout.vector(&w.key_norm, &(at / "key_norm"))?,
            output: layout.linear(&w.output, &(at / "output"))?,
            post_attention_norm: layout.scale(&w.post_attention_norm, &(at / "norm2"))?,
            gate_up: layout.gate_and_up(&w.gate, &w.up, [&(at / "gate"), &(at / "up")])?,
            down: layout.linear(&w.down, &(at / "down"))?,
        })
    }
}

/// What the layers share.
struct Shared<'w> {
    model: &'w Language,
    mask: AttentionMask,
    /// By layer: cosines and sines of every position, rounded as the layer's sites say.
    turns: Vec<DevicePtr>,
    tokens: usize,
}

/// What takes the places of a prompt's image tokens, of all items one after the other.
pub struct Images<'a> {
    /// In place of their embeddings, `[batch * image tokens, hidden]`.
    pub embeddings: &'a Tensor,
    /// Added behind layers, as many each.
    pub deepstack: &'a [Tensor],
    /// The grid of patches of each image of an item.
    pub grids: &'a [Grid],
}

/// Backbone features `[batch * tokens, hidden]`. ids: `[batch * tokens]`, u32.
pub fn forward(
    b: &mut Builder,
    w: &Language,
    ids: DevicePtr,
    prompt: &Prompt,
    images: &Images,
) -> Result<Tensor> {
    let at = &Site::new("language");
    let tokens = prompt.images.indices.len() + prompt.text.indices.len();
    let sources = b.constant_indices(image_sources(prompt, b.batch))?;
    let rows = b.batch * tokens;
    let mut x = b.embed(ids, &w.embed_tokens, (sources, rows), images.embeddings, at / "embedding")?;
    b.tap(&x, at / "inputs");
    let item = |item: usize| Segment {
        query_start: item * tokens,
        queries: tokens,
        key_start: item * tokens,
        keys: tokens,
    };
    let mask = b.attention_mask(&(0..b.batch).map(item).collect::<Vec<_>>(), true)?;
    let grids: Vec<Grid> = images.grids.iter().map(|grid| grid.blocks()).collect();
    let places = match w.rows_and_columns {
        true => Places::Prompt { images: &prompt.images, grids: &grids },
        false => Places::Sequence,
    };
    let layers = (0..w.layers.len()).map(|index| rope_sites(&(&(at / "layer") / index)));
    let turns = b.turns(&w.rotary, &places.coordinates(tokens), layers)?;
    let shared = Shared { model: w, turns, mask, tokens };
    for (index, layer) in w.layers.iter().enumerate() {
        x = decoder_layer(b, &shared, index, layer, &x, &(&(at / "layer") / index))?;
        for (deeper, _) in w.deepstack.iter().enumerate().filter(|(_, behind)| **behind == index) {
            if let Some(values) = images.deepstack.get(deeper) {
                x = b.add_rows(&x, sources, values, &(at / "deepstack") / deeper)?;
            }
        }
    }
    if let Some(norm) = &w.norm {
        let site = at / "norm";
        let element = b.storage(&site)?;
        x = b.norm(&x, rms_norm(norm, w.eps, site), element)?;
    }
    b.tap(&x, Site::new("backbone_features"));
    Ok(x)
}

/// The sites of a layer's rotated queries and keys.
fn rope_sites(layer: &Site) -> [Site; 2] {
    [layer / "query_rope", layer / "key_rope"]
}

fn decoder_layer(
    b: &mut Builder,
    shared: &Shared,
    index: usize,
    w: &Layer,
    x: &Tensor,
    at: &Site,
) -> Result<Tensor> {
    let eps = shared.model.eps;
    let element = b.operand(&(at / "norm1"), &[at / "query", at / "key", at / "value"])?;
    let h = b.norm(x, rms_norm(&w.input_norm, eps, at / "norm1"), element)?;
    let h = self_attention(b, shared, index, w, &h, at)?;
    let element = b.storage(&(at / "residual1"))?;
    let x = b.linear(&w.output, &h, element, at / "output", Fusion::Add(x, at / "residual1"))?;
    let element = b.operand(&(at / "norm2"), &[at / "gate", at / "up"])?;
    let h = b.norm(&x, rms_norm(&w.post_attention_norm, eps, at / "norm2"), element)?;
    let element = b.operand(&(at / "gated"), &[at / "down"])?;
    let gate =
        Fusion::Gate { activation: (Activation::Silu, at / "silu"), up: at / "up", gated: at / "gated" };
    let h = b.linear(&w.gate_up, &h, element, at / "gate", gate)?;
    let element = b.storage(at)?;
    b.linear(&w.down, &h, element, at / "down", Fusion::Add(&x, at.clone()))
}

fn self_attention(
    b: &mut Builder,
    shared: &Shared,
    index: usize,
    w: &Layer,
    h: &Tensor,
    at: &Site,
) -> Result<Tensor> {
    let Language { heads, eps, .. } = *shared.model;
    let qkv = b.project(&w.query_key_value, h, None)?;
    let norms = HeadNorms {
        query: &w.query_norm,
        key: &w.key_norm,
        eps,
        sites: [at / "query_norm", at / "key_norm"],
    };
    let rotary = Rotary {
        norms: Some(norms),
        turns: shared.turns[index],
        stores: shared.model.rotary.stores,
        tokens: shared.tokens,
        sites: rope_sites(at),
    };
    let element = b.operands(&(at / "attention"), Operation::Attention)?.compute;
    let turned = b.rotary([&qkv[0], &qkv[1], &qkv[2]], heads, rotary, element)?;
    let (query, key) = (heads.heads * heads.head_dim, heads.kv_heads * heads.head_dim);
    let q = turned.columns(0..query);
    let [k, v] = [query, query + key].map(|first| turned.columns(first..first + key));
    let element = b.operand(&(at / "attention"), &[at / "output"])?;
    b.attention([&q, &k, &v], heads, &shared.mask, element, at / "attention")
}

fn rms_norm(scale: &Affine, eps: f64, site: Site) -> NormAt<'_> {
    NormAt { norm: Norm::Rms, affine: Some(scale), eps, site }
}

/// For each token the image token that takes its place, or `u32::MAX`.
fn image_sources(prompt: &Prompt, batch: usize) -> Vec<u32> {
    let images = prompt.images.indices.len();
    let tokens = images + prompt.text.indices.len();
    let mut sources = vec![u32::MAX; batch * tokens];
    for item in 0..batch {
        for (image, token) in prompt.images.indices.iter().enumerate() {
            sources[item * tokens + token] = (item * images + image) as u32;
        }
    }
    sources
}
