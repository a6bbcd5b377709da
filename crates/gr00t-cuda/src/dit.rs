//! The diffusion transformer on the device. Mirrors `model/dit.rs`.

use super::attention::{AttentionMask, Segment};
use super::builder::Builder;
use super::dit_persistent::Persistent;
use super::elements::{Element, Stored};
use super::linear::{Fusion, Linear, Projection};
use super::norm::{Modulation, Norm, NormAt};
use super::program::Tensor;
use super::weights::Layout;
use crate::Result;
use std::sync::Arc;
use steadyhand_cuda_driver::DevicePtr;
use steadyhand_gr00t::model::dit::{self as model, Attends};
use steadyhand_gr00t::ops::{Activation, Heads, Leading, Site, cpu};

/// Weights of the DiT on the device.
pub struct Dit {
    time_frequencies: Vec<f32>,
    time1: Linear,
    time2: Linear,
    pub(super) blocks: Vec<Block>,
    output_modulation: Linear,
    output: Linear,
    pub(super) heads: Heads,
    inner_dim: usize,
    /// Keys and values of all blocks that attend to the same tokens, in the order of the blocks.
    memories: Vec<(Attends, Projection)>,
}

pub(super) struct Block {
    pub(super) attends: Attends,
    modulation: Linear,
    /// Query, key and value where the block attends to itself, else the query.
    pub(super) own: Projection,
    pub(super) output: Linear,
    pub(super) fc1: Linear,
    pub(super) fc2: Linear,
}

impl Dit {
    /// Lays the weights out.
    ///
    /// # Errors
    /// The policy asks for what no kernel does.
    pub fn lay_out(layout: &mut Layout, w: &model::Dit) -> Result<Self> {
        let at = &Site::new("dit");
        let blocks = w.blocks.iter().enumerate();
        Ok(Dit {
            time_frequencies: w.time_frequencies.clone(),
            time1: layout.linear(&w.time1, &(at / "timestep_linear1"))?,
            time2: layout.linear(&w.time2, &Site::new("timestep_embedding"))?,
            blocks: blocks
                .map(|(index, block)| Block::lay_out(layout, block, &block_site(index)))
                .collect::<Result<_>>()?,
            output_modulation: layout.linear(&w.output_modulation, &(at / "output_modulation"))?,
            output: layout.linear(&w.output, &(at / "output"))?,
            heads: w.heads,
            inner_dim: w.heads.heads * w.heads.head_dim,
            memories: lay_out_memories(layout, w)?,
        })
    }

    /// The sites of all keys and values of cross-attention.
    pub fn memory_sites(&self) -> Vec<Site> {
        let parts = self.memories.iter().flat_map(|(_, projection)| &projection.parts);
        parts.map(|part| Site::new(&part.path)).collect()
    }

    /// Whether some block attends to text or images alone.
    pub fn tells_text_from_images(&self) -> bool {
        self.memories.iter().any(|(attends, _)| *attends != Attends::Everything)
    }
}

impl Block {
    fn lay_out(layout: &mut Layout, w: &model::Block, at: &Site) -> Result<Self> {
        let part = |name: &str| (at / name, Some(at / "attention"));
        let mut parts = vec![(&w.query, part("query"))];
        if w.attends == Attends::Itself {
            parts.extend([(&w.key, part("key")), (&w.value, part("value"))]);
        }
        let parts: Vec<_> = parts.into_iter().map(|(layer, (site, to))| (layer, site, to)).collect();
        Ok(Block {
            attends: w.attends,
            modulation: layout.linear(&w.modulation, &(at / "modulation"))?,
            own: layout.projection(&parts)?,
            output: layout.linear(&w.output, &(at / "attention_output"))?,
            fc1: layout.linear(&w.fc1, &(at / "fc1"))?,
            fc2: layout.linear(&w.fc2, &(at / "fc2"))?,
        })
    }
}

pub(super) fn block_site(index: usize) -> Site {
    &Site::new("dit.block") / index
}

/// Keys and values of the cross-attention blocks, those of the same tokens as one projection.
fn lay_out_memories(layout: &mut Layout, w: &model::Dit) -> Result<Vec<(Attends, Projection)>> {
    let mut memories = Vec::new();
    for attends in [Attends::Text, Attends::Images, Attends::Everything] {
        let mut parts = Vec::new();
        for (index, block) in w.blocks.iter().enumerate().filter(|(_, block)| block.attends == attends) {
            let at = &block_site(index);
            parts.push((&block.key, at / "key", Some(at / "attention")));
            parts.push((&block.value, at / "value", Some(at / "attention")));
        }
        if !parts.is_empty() {
            memories.push((attends, layout.projection(&parts)?));
        }
    }
    Ok(memories)
}

/// What depends on the Euler step alone, for all steps: computed once when the engine is loaded.
#[derive(Clone)]
pub struct Times {
    /// Of each block, then of the output norm: `[steps, 2 * inner_dim]`, f32.
    modulations: Vec<Tensor>,
    inner_dim: usize,
    /// The blocks in one kernel, or why they are not.
    in_one: Result<Arc<Persistent>, String>,
}

impl Times {
    /// The same with the blocks in one kernel, where that can be.
    #[must_use]
    pub fn in_one(self, in_one: Result<Arc<Persistent>, String>) -> Self {
        Times { in_one, ..self }
    }

    /// The blocks in one kernel, or why they are not.
    pub fn persistent(&self) -> Result<&Arc<Persistent>, &String> {
        self.in_one.as_ref()
    }

    /// How many steps there are.
    pub fn steps(&self) -> usize {
        self.modulations.first().map_or(0, |modulation| modulation.rows)
    }

    /// A block's scale in a step, `[inner_dim]`.
    ///
    /// # Errors
    /// The copy fails.
    pub(super) fn scale(&self, index: usize, step: usize) -> Result<Vec<f32>> {
        self.modulations[index].slice_rows(step..step + 1).columns(0..self.inner_dim).download()
    }

    /// The two halves of a modulation in a step.
    pub(super) fn halves(&self, index: usize, step: usize) -> [DevicePtr; 2] {
        let row = self.modulations[index].slice_rows(step..step + 1);
        [row.pointer(), row.columns(self.inner_dim..2 * self.inner_dim).pointer()]
    }
}

/// The timestep embeddings and modulations of the steps whose times are `buckets`. Rows are steps, so one GEMM
/// serves all of them.
pub fn times(b: &mut Builder, w: &Dit, buckets: &[usize]) -> Result<Times> {
    let at = &Site::new("dit");
    let frequencies = &w.time_frequencies;
    let projection = at / "timestep_projection";
    let storage = b.storage(&projection)?;
    let mut encoded = Vec::new();
    for (step, bucket) in buckets.iter().enumerate() {
        let mut row = cpu::time_encoding(*bucket, frequencies, Leading::Cosines, Element::F32.format());
        storage.format().round_slice(&mut row);
        b.constant_tap(in_step(&projection, step), [1, 1, row.len()], row.clone());
        encoded.extend(row);
    }
    let x = b.persistent_tensor(buckets.len(), 2 * frequencies.len(), Element::F32)?;
    x.upload(&encoded)?;
    let embedding = Site::new("timestep_embedding");
    let element = b.operand(&(at / "timestep_silu"), std::slice::from_ref(&embedding))?;
    let fusion = Fusion::Activate(Activation::Silu, at / "timestep_silu");
    let x = b.linear(&w.time1, &x, element, at / "timestep_linear1", fusion)?;
    let consumers: Vec<Site> = (0..w.blocks.len())
        .map(|index| &block_site(index) / "modulation")
        .chain([at / "output_modulation"])
        .collect();
    let element = b.operand(&(at / "silu"), &consumers)?;
    let time = b.linear(&w.time2, &x, element, embedding, Fusion::Activate(Activation::Silu, at / "silu"))?;
    let layers = w.blocks.iter().map(|block| &block.modulation).chain([&w.output_modulation]);
    let mut modulations = Vec::new();
    for (layer, site) in layers.zip(consumers) {
        let out = b.persistent_tensor(buckets.len(), layer.out_features, Element::F32)?;
        b.linear_into(layer, &time, &out, None, site, Fusion::Store)?;
        modulations.push(out);
    }
    let in_one = Err("it was not prepared".to_owned());
    Ok(Times { modulations, inner_dim: w.inner_dim, in_one })
}

fn in_step(site: &Site, step: usize) -> Site {
    Site::in_step(site.path(), step)
}

/// Normalized features, rearranged for the blocks that attend to them.
pub struct Features {
    /// The text tokens of all items, fusion the image tokens of all items; or all tokens in their order.
    pub tokens: Tensor,
    /// Text tokens of an item.
    pub text: usize,
    /// Image tokens of an item.
    pub images: usize,
}

/// Keys and values that cross-attention blocks attend to, and which of them each item sees.
pub struct Memory {
    /// By block; none where it attends to itself.
    pub(super) blocks: Vec<Option<KeyValue>>,
    /// A block's own tokens.
    own: AttentionMask,
}

pub(super) struct KeyValue {
    pub(super) key: Tensor,
    pub(super) value: Tensor,
    mask: AttentionMask,
}

/// Keys and values do not depend on the Euler step. tokens: state and action tokens of an item.
pub fn memory(b: &mut Builder, w: &Dit, features: &Features, tokens: usize) -> Result<Memory> {
    let mut blocks: Vec<Option<KeyValue>> = w.blocks.iter().map(|_| None).collect();
    for (attends, projection) in &w.memories {
        let (text, images) = (b.batch * features.text, b.batch * features.images);
        let (rows, keys) = match attends {
            Attends::Text => (0..text, features.text),
            Attends::Images => (text..text + images, features.images),
            _ => (0..text + images, features.text + features.images),
        };
        let projected = b.project(projection, &features.tokens.slice_rows(rows), None)?;
        let mask = item_by_item(b, tokens, keys)?;
        let members = w.blocks.iter().enumerate().filter(|(_, block)| block.attends == *attends);
        for ((index, _), pair) in members.zip(projected.chunks_exact(2)) {
            let (key, value, mask) = (pair[0].clone(), pair[1].clone(), mask.clone());
            blocks[index] = Some(KeyValue { key, value, mask });
        }
    }
    Ok(Memory { blocks, own: item_by_item(b, tokens, tokens)? })
}

/// Queries see the keys of their own item.
fn item_by_item(b: &mut Builder, queries: usize, keys: usize) -> Result<AttentionMask> {
    let item = |item: usize| Segment { query_start: item * queries, queries, key_start: item * keys, keys };
    b.attention_mask(&(0..b.batch).map(item).collect::<Vec<_>>(), false)
}

/// Output tokens `[batch * tokens, output_dim]` for tokens `[batch * tokens, inner_dim]` in an Euler step, stored as
/// `out`.
pub fn forward(
    b: &mut Builder,
    w: &Dit,
    tokens: &Tensor,
    memory: &Memory,
    times: &Times,
    step: usize,
    out: impl Into<Stored>,
) -> Result<Tensor> {
    let at = &Site::in_step("dit", step);
    let batch = b.batch;
    let one_by_one = |b: &mut Builder| blocks(b, w, tokens, memory, (times, step));
    let x = match times.persistent() {
        Ok(persistent) if persistent.takes(batch, tokens, memory) => {
            let memories = persistent.memories(b, memory)?;
            let whole = |x: &Tensor| persistent.params(tokens, memories, step, x);
            b.in_one(one_by_one, persistent.kernel(), whole)?
        }
        _ => one_by_one(b)?,
    };
    let [shift, scale] = times.halves(w.blocks.len(), step);
    let modulation = Modulation { scale, shift, site: at / "modulated" };
    let norm = plain_norm(model::NORM_OUT_EPS, at / "norm_out");
    let element = b.operand(&(at / "modulated"), &[at / "output"])?;
    let x = b.norm_modulate(&x, norm, &modulation, element)?;
    b.linear(&w.output, &x, out, at / "output", Fusion::Store)
}

/// All blocks, kernel by kernel.
fn blocks(
    b: &mut Builder,
    w: &Dit,
    tokens: &Tensor,
    memory: &Memory,
    (times, step): (&Times, usize),
) -> Result<Tensor> {
    let at = &Site::in_step("dit", step);
    let mut x = tokens.clone();
    for (index, weights) in w.blocks.iter().enumerate() {
        let [scale, shift] = times.halves(index, step);
        let at = &(&(at / "block") / index);
        let modulation = Modulation { scale, shift, site: at / "modulated" };
        x = block(b, w.heads, weights, &x, (memory, index), &modulation, at)?;
    }
    Ok(x)
}

/// One block. x: `[batch * tokens, inner_dim]`.
fn block(
    b: &mut Builder,
    heads: Heads,
    w: &Block,
    x: &Tensor,
    (memory, index): (&Memory, usize),
    modulation: &Modulation,
    at: &Site,
) -> Result<Tensor> {
    let consumers: &[Site] = match w.attends {
        Attends::Itself => &[at / "query", at / "key", at / "value"],
        _ => &[at / "query"],
    };
    let element = b.operand(&modulation.site, consumers)?;
    let h = b.norm_modulate(x, plain_norm(model::NORM_EPS, at / "norm1"), modulation, element)?;
    let own = b.project(&w.own, &h, at.step())?;
    let (key, value, mask) = match &memory.blocks[index] {
        Some(memory) => (&memory.key, &memory.value, &memory.mask),
        None => (&own[1], &own[2], &memory.own),
    };
    let element = b.operand(&(at / "attention"), &[at / "attention_output"])?;
    let h = b.attention([&own[0], key, value], heads, mask, element, at / "attention")?;
    let element = b.storage(&(at / "residual1"))?;
    let x = b.linear(&w.output, &h, element, at / "attention_output", Fusion::Add(x, at / "residual1"))?;
    let element = b.operand(&(at / "norm2"), &[at / "fc1"])?;
    let h = b.norm(&x, plain_norm(model::NORM_EPS, at / "norm2"), element)?;
    let element = b.operand(&(at / "gelu"), &[at / "fc2"])?;
    let h = b.linear(&w.fc1, &h, element, at / "fc1", Fusion::Activate(Activation::GeluTanh, at / "gelu"))?;
    let element = b.storage(at)?;
    b.linear(&w.fc2, &h, element, at / "fc2", Fusion::Add(&x, at.clone()))
}

fn plain_norm(eps: f64, site: Site) -> NormAt<'static> {
    NormAt { norm: Norm::Layer, affine: None, eps, site }
}
