//! The flow-matching action head on the device. Mirrors `model/action_head.rs`.

use super::builder::Builder;
use super::dit::{self, Dit, Features, Memory, Times};
use super::elements::Element;
use super::linear::{Fusion, Linear, RowMap};
use super::norm::{Affine, Norm, NormAt, Rows};
use super::operands::Placed;
use super::program::Tensor;
use super::self_attention::{self, SelfAttention};
use super::tokens::EulerStep;
use super::weights::Layout;
use crate::Result;
use std::ops::Range;
use steadyhand_cuda_driver::DevicePtr;
use steadyhand_gr00t::checkpoint::Weight;
use steadyhand_gr00t::model::Prompt;
use steadyhand_gr00t::model::action_head as model;
use steadyhand_gr00t::ops::{Activation, Leading, Operation, Site, cpu};

/// Weights of the action head on the device, but for those of the embodiments.
pub struct ActionHead {
    vl_norm: Option<Affine>,
    vl_self_attention: Option<SelfAttention>,
    /// Read on the host for each program.
    position_embedding: Option<Weight>,
    /// The diffusion transformer.
    pub dit: Dit,
    action_horizon: usize,
    action_dim: usize,
    state_dim: usize,
    /// State rows that one token stands for; without it each row is a token.
    state_rows: Option<usize>,
    /// Width of the state and action tokens.
    token_dim: usize,
}

/// The path of the self-attention over the features.
const VL_SELF_ATTENTION: &str = "action_head.vl_self_attention";

/// One embodiment's slice of the category-specific layers.
pub struct Embodiment {
    state_encoder: [Linear; 2],
    action_encoder: [Linear; 3],
    action_decoder: [Linear; 2],
}

impl ActionHead {
    /// Lays the weights out.
    ///
    /// # Errors
    /// The policy asks for what no kernel does.
    pub fn lay_out(layout: &mut Layout, w: &model::ActionHead) -> Result<Self> {
        let site = Site::new("action_head.vl_norm");
        Ok(ActionHead {
            vl_norm: w.vl_norm.as_ref().map(|norm| layout.affine(norm, &site)).transpose()?,
            vl_self_attention: w
                .vl_self_attention
                .as_ref()
                .map(|stack| SelfAttention::lay_out(layout, stack, &Site::new(VL_SELF_ATTENTION)))
                .transpose()?,
            position_embedding: w.position_embedding.clone(),
            dit: Dit::lay_out(layout, &w.dit)?,
            action_horizon: w.action_horizon,
            action_dim: w.action_dim,
            state_dim: w.state_dim,
            state_rows: w.state_rows,
            token_dim: w.action_encoder[2].weight.shape()[2],
        })
    }
}

impl Embodiment {
    /// Lays the slice of embodiment `slot` out.
    ///
    /// # Errors
    /// The policy asks for what no kernel does.
    pub fn lay_out(layout: &mut Layout, w: &model::ActionHead, slot: usize) -> Result<Self> {
        let mut layer = |layer, site: &str| layout.category(layer, slot, &Site::new(site));
        let ([state1, state2], [action1, action2, action3]) = (&w.state_encoder, &w.action_encoder);
        let [decoder1, decoder2] = &w.action_decoder;
        Ok(Embodiment {
            state_encoder: [
                layer(state1, "action_head.state_encoder.layer1")?,
                layer(state2, "action_head.state_features")?,
            ],
            action_encoder: [
                layer(action1, "action_encoder.layer1")?,
                layer(action2, "action_encoder.layer2")?,
                layer(action3, "action_features")?,
            ],
            action_decoder: [layer(decoder1, "decoder.layer1")?, layer(decoder2, "decoder")?],
        })
    }
}

/// What an inference starts from, on the device, f32 without padding.
#[derive(Debug, Clone, Copy)]
pub struct Inputs {
    /// `[batch * state_horizon, state_dim]`.
    pub state: DevicePtr,
    /// `[batch * action_horizon, action_dim]`.
    pub noise: DevicePtr,
    /// By how much each value follows the velocity, as `noise`; wholly where there is none.
    pub strength: Option<DevicePtr>,
    /// State rows of an item.
    pub state_horizon: usize,
}

impl Inputs {
    /// State tokens of an item, and the values of one.
    fn state_tokens(&self, w: &ActionHead) -> (usize, usize) {
        match w.state_rows {
            Some(rows) => (1, rows * w.state_dim),
            None => (self.state_horizon, w.state_dim),
        }
    }
}

/// What the steps of an inference share.
struct Shared<'w> {
    head: &'w ActionHead,
    embodiment: &'w Embodiment,
    memory: Memory,
    times: &'w Times,
    /// State tokens, which stay, and action tokens, which each step writes.
    tokens: Tensor,
    /// Position of each action token, `[action_horizon, token_dim]`.
    positions: Option<Tensor>,
    actions: Tensor,
    /// The actions as an operand of the action encoder.
    operand: Tensor,
    strength: Option<Tensor>,
    state_tokens: usize,
}

/// Normalized actions `[batch * action_horizon, action_dim]`, f32 without padding, after as many Euler steps as
/// `buckets` has times. features: `[batch * tokens, backbone_embedding_dim]`.
pub fn forward(
    b: &mut Builder,
    (w, embodiment, times): (&ActionHead, &Embodiment, &Times),
    features: &Tensor,
    prompt: &Prompt,
    inputs: Inputs,
    buckets: &[usize],
) -> Result<Tensor> {
    let shared =
        b.stage("action_prefix", |b| prepare(b, (w, embodiment, times), features, prompt, inputs))?;
    for (step, bucket) in buckets.iter().enumerate() {
        euler_step(b, &shared, (step, buckets.len()), *bucket)?;
    }
    b.tap(&shared.actions, Site::new("action_pred"));
    Ok(shared.actions)
}

/// Everything of an inference that does not change from step to step.
fn prepare<'w>(
    b: &mut Builder,
    (w, embodiment, times): (&'w ActionHead, &'w Embodiment, &'w Times),
    features: &Tensor,
    prompt: &Prompt,
    inputs: Inputs,
) -> Result<Shared<'w>> {
    let (state_tokens, _) = inputs.state_tokens(w);
    let tokens = state_tokens + w.action_horizon;
    let features = attended_features(b, w, features, prompt)?;
    let memory = dit::memory(b, &w.dit, &features, tokens)?;
    let element = b.storage(&Site::new("action_head.state_features"))?;
    let element = element.common(b.storage(&Site::new("action_tokens"))?);
    let all_tokens = b.persistent_tensor(b.batch * tokens, w.token_dim, element)?;
    encode_state(b, w, embodiment, inputs, &all_tokens)?;
    let site = Site::new("action_head.state_features");
    let state = item_rows(&all_tokens, b.batch, 0..state_tokens);
    b.hand_over(&site, vec![state])?;
    let positions = w.position_embedding.as_ref().map(|table| positions(b, w, table, times.steps()));
    let rows = b.batch * w.action_horizon;
    let actions = b.packed_tensor(rows, w.action_dim, Element::F32)?;
    let compute = b.operands(&Site::new("action_encoder.layer1"), Operation::CategoryLinear)?.compute;
    let operand = b.persistent_tensor(rows, w.action_dim, compute)?;
    b.input(inputs.noise, Placed { out: &actions, copy: Some(&operand) }, Site::new("noise"))?;
    let copies = vec![vec![actions.clone()], vec![operand.clone()]];
    b.hand_over(&Site::new("noise"), copies)?;
    let strength = match inputs.strength {
        Some(values) => {
            let strength = b.packed_tensor(rows, w.action_dim, Element::F32)?;
            b.input(values, Placed { out: &strength, copy: None }, Site::new("rtc.strength"))?;
            Some(strength)
        }
        None => None,
    };
    let positions = positions.transpose()?;
    Ok(Shared {
        head: w,
        embodiment,
        memory,
        times,
        tokens: all_tokens,
        positions,
        actions,
        operand,
        strength,
        state_tokens,
    })
}

/// From the actions at a step's time to those at the next.
fn euler_step(b: &mut Builder, shared: &Shared, (step, steps): (usize, usize), bucket: usize) -> Result<()> {
    let site = |path| Site::in_step(path, step);
    b.tap(&shared.actions, site("actions_in"));
    b.stage("action_encoder", |b| encode_actions(b, shared, step, bucket))?;
    b.tap(&shared.tokens, site("dit.tokens"));
    let element = b.operand(&site("dit.output"), &[site("decoder.layer1")])?;
    let Shared { head, tokens, memory, times, .. } = shared;
    let output = b.stage("dit", |b| dit::forward(b, &head.dit, tokens, memory, times, step, element))?;
    b.hand_over(&site("dit.output"), vec![vec![output.clone()]])?;
    b.stage("action_decoder", |b| decode_actions(b, shared, &output, (step, steps)))
}

/// The velocity, and the actions moved along it.
fn decode_actions(
    b: &mut Builder,
    shared: &Shared,
    output: &Tensor,
    (step, steps): (usize, usize),
) -> Result<()> {
    let site = |path| Site::in_step(path, step);
    let [hidden, decoded] = &shared.embodiment.action_decoder;
    let element = b.operand(&site("decoder.relu"), &[site("decoder")])?;
    let relu = Fusion::Activate(Activation::Relu, site("decoder.relu"));
    let x = b.linear(hidden, output, element, site("decoder.layer1"), relu)?;
    let element = b.storage(&site("decoder"))?;
    let velocity = b.linear(decoded, &x, element, site("decoder"), Fusion::Store)?;
    b.hand_over(&site("decoder"), vec![vec![velocity.clone()]])?;
    let operand = (step + 1 < steps).then_some(&shared.operand);
    b.euler(EulerStep {
        velocity: &velocity,
        actions: &shared.actions,
        operand,
        strength: shared.strength.as_ref(),
        horizon: shared.head.action_horizon,
        dt: 1.0 / steps as f64,
        at: site("euler"),
    })?;
    let copies = [Some(&shared.actions), operand].into_iter().flatten();
    b.hand_over(&site("euler"), copies.map(|copy| vec![copy.clone()]).collect())
}

/// What the DiT attends to: the backbone's features behind their norm and their self-attention, text and image tokens apart
/// where blocks tell them apart.
fn attended_features(b: &mut Builder, w: &ActionHead, x: &Tensor, prompt: &Prompt) -> Result<Features> {
    let (text, images) = (prompt.text.indices.len(), prompt.images.indices.len());
    let mut rows = Rows::default();
    if w.dit.tells_text_from_images() {
        rows.out = Some(b.constant_indices(text_before_images(prompt, b.batch))?);
    }
    let norm = if w.vl_norm.is_some() { Norm::Layer } else { Norm::None };
    let site = Site::new("action_head.vl_norm");
    let norm = NormAt { norm, affine: w.vl_norm.as_ref(), eps: model::NORM_EPS, site };
    let Some(stack) = &w.vl_self_attention else {
        let element = match norm.norm {
            Norm::None => x.element.into(),
            _ => b.operand(&norm.site, &w.dit.memory_sites())?,
        };
        let tokens = b.tensor(x.rows, x.features, element)?;
        b.norm_into(x, norm, None, rows, &tokens)?;
        return Ok(Features { tokens, text, images });
    };
    let element = b.storage(&norm.site)?;
    let x = if norm.norm == Norm::None { x.clone() } else { b.norm(x, norm, element)? };
    let (x, site) = self_attention::forward(b, stack, &x, &Site::new(VL_SELF_ATTENTION))?;
    b.hand_over(&site, vec![vec![x.clone()]])?;
    if rows.out.is_none() {
        return Ok(Features { tokens: x, text, images });
    }
    let element = b.operand(&site, &w.dit.memory_sites())?;
    let tokens = b.tensor(x.rows, x.features, element)?;
    let moved = NormAt { norm: Norm::None, affine: None, eps: 0.0, site };
    b.norm_into(&x, moved, None, rows, &tokens)?;
    Ok(Features { tokens, text, images })
}

/// Where each token goes so that the text tokens of all items come first, fusion the image tokens of all items.
fn text_before_images(prompt: &Prompt, batch: usize) -> Vec<u32> {
    let (text, images) = (&prompt.text.indices, &prompt.images.indices);
    let tokens = text.len() + images.len();
    let mut rows = vec![0; batch * tokens];
    for item in 0..batch {
        for (index, token) in text.iter().enumerate() {
            rows[item * tokens + token] = (item * text.len() + index) as u32;
        }
        for (index, token) in images.iter().enumerate() {
            rows[item * tokens + token] = (batch * text.len() + item * images.len() + index) as u32;
        }
    }
    rows
}

/// Puts the state tokens before the place of the action tokens.
fn encode_state(
    b: &mut Builder,
    w: &ActionHead,
    embodiment: &Embodiment,
    inputs: Inputs,
    tokens: &Tensor,
) -> Result<()> {
    let at = &Site::new("action_head");
    let [layer1, layer2] = &embodiment.state_encoder;
    let element = b.wide_operand(&(at / "state"), &[at / "state_encoder.layer1"])?;
    let (count, values) = inputs.state_tokens(w);
    let state = b.tensor(b.batch * count, values, element)?;
    b.input(inputs.state, Placed { out: &state, copy: None }, at / "state")?;
    let element = b.operand(&(at / "state_encoder.relu"), &[at / "state_features"])?;
    let relu = Fusion::Activate(Activation::Relu, at / "state_encoder.relu");
    let x = b.linear(layer1, &state, element, at / "state_encoder.layer1", relu)?;
    let map = RowMap { item_rows: count, item_stride: tokens.rows / b.batch, item_offset: 0 };
    b.linear_into(layer2, &x, tokens, Some(map), at / "state_features", Fusion::Store)
}

/// Puts the action tokens of a step after the state tokens.
fn encode_actions(b: &mut Builder, shared: &Shared, step: usize, bucket: usize) -> Result<()> {
    let Shared { head: w, embodiment, .. } = shared;
    let at = &Site::in_step("action_encoder", step);
    let features = at.sibling("action_features");
    let [layer1, layer2, layer3] = &embodiment.action_encoder;
    let encoded = with_time(b, shared, bucket, at)?;
    let left = encoded.columns(0..w.token_dim);
    b.linear_into(layer1, &shared.operand, &left, None, at / "layer1", Fusion::Store)?;
    let element = b.operand(&(at / "swish"), std::slice::from_ref(&features))?;
    let swish = Fusion::Activate(Activation::Swish, at / "swish");
    let x = b.linear(layer2, &encoded, element, at / "layer2", swish)?;
    let item_stride = w.action_horizon + shared.state_tokens;
    let map = RowMap { item_rows: w.action_horizon, item_stride, item_offset: shared.state_tokens };
    let (fusion, site) = match &shared.positions {
        Some(positions) => {
            let site = at.sibling("action_tokens");
            (Fusion::Add(positions, site.clone()), site)
        }
        None => (Fusion::Store, features.clone()),
    };
    b.linear_into(layer3, &x, &shared.tokens, Some(map), features, fusion)?;
    let tokens = item_rows(&shared.tokens, b.batch, shared.state_tokens..item_stride);
    b.hand_over(&site, vec![tokens])
}

/// These rows of every item.
fn item_rows(x: &Tensor, batch: usize, rows: Range<usize>) -> Vec<Tensor> {
    let stride = x.rows / batch;
    (0..batch).map(|item| x.slice_rows(item * stride + rows.start..item * stride + rows.end)).collect()
}

/// `[batch * action_horizon, 2 * token_dim]` with the step's time in its right half.
fn with_time(b: &mut Builder, shared: &Shared, bucket: usize, at: &Site) -> Result<Tensor> {
    let (rows, token_dim) = (shared.operand.rows, shared.head.token_dim);
    let site = at / "time";
    let storage = b.storage(&site)?.format();
    let frequencies = model::time_frequencies(token_dim / 2);
    let mut time = cpu::time_encoding(bucket, &frequencies, Leading::Sines, Element::F32.format());
    storage.round_slice(&mut time);
    let element = b.wide_operand(&site, &[at / "layer2"])?;
    let tensor = b.persistent_tensor(rows, token_dim + time.len(), element)?;
    let row: Vec<f32> = std::iter::repeat_n(0.0, token_dim).chain(time.iter().copied()).collect();
    tensor.upload(&row.repeat(rows))?;
    b.constant_tap(site, [1, 1, time.len()], time);
    Ok(tensor)
}

/// The first rows of the position table, the same in every step.
fn positions(b: &mut Builder, w: &ActionHead, table: &Weight, steps: usize) -> Result<Tensor> {
    let site = Site::new("position_embedding");
    let storage = b.storage(&site)?;
    let mut values = vec![0.0; w.action_horizon * w.token_dim];
    table.read_into(0..values.len(), storage.format(), &mut values);
    let tensor = b.persistent_tensor(w.action_horizon, w.token_dim, storage)?;
    tensor.upload(&values)?;
    for step in 0..steps {
        let shape = [1, w.action_horizon, w.token_dim];
        b.constant_tap(Site::in_step(site.path(), step), shape, values.clone());
    }
    Ok(tensor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use steadyhand_gr00t::ops::{Part, Tokens};

    #[test]
    fn text_comes_before_images_in_the_memory() {
        let prompt = Prompt {
            images: Tokens { part: Part::Images, indices: vec![1, 2] },
            text: Tokens { part: Part::Text, indices: vec![0, 3] },
        };
        assert_eq!(text_before_images(&prompt, 1), [0, 2, 3, 1]);
        assert_eq!(text_before_images(&prompt, 2), [0, 4, 5, 1, 2, 6, 7, 3]);
    }
}
