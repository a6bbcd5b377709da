//! The flow-matching action head: backbone features and state to actions.
//!
//! Source: `Gr00tN1d6ActionHead` in `gr00t_n1d6.py`, `Gr00tN1d7ActionHead` in `gr00t_n1d7.py`.

use super::self_attention::{self, SelfAttention};
use super::weights::{affine, category_linear};
use super::{Batch, Prompt, dit};
use crate::checkpoint::{Loader, Weight};
use crate::config::Config;
use crate::ops::{Activation, Affine, CategoryLinear, Leading, Ops, Site};
use crate::{Error, Result};

/// PyTorch's default for `nn.LayerNorm`.
pub const NORM_EPS: f64 = 1e-5;

/// Weights of the action head.
#[derive(Debug, Clone)]
pub struct ActionHead {
    /// `vlln`, `[backbone_embedding_dim]`, where the checkpoint uses it.
    pub vl_norm: Option<Affine>,
    /// Behind it, where the model has it.
    pub vl_self_attention: Option<SelfAttention>,
    /// The state of one token → `hidden_size` → `input_embedding_dim`, with ReLU between.
    pub state_encoder: [CategoryLinear; 2],
    /// W1 of the actions, W2 of those and the time encoding, W3 of the swish of that.
    pub action_encoder: [CategoryLinear; 3],
    /// `[max_seq_len, input_embedding_dim]`.
    pub position_embedding: Option<Weight>,
    /// The diffusion transformer.
    pub dit: dit::Dit,
    /// `hidden_size` → `hidden_size` → `max_action_dim`, with ReLU between.
    pub action_decoder: [CategoryLinear; 2],
    /// Buckets of the flow-matching time.
    pub num_timestep_buckets: usize,
    /// Rows of an action chunk.
    pub action_horizon: usize,
    /// `max_action_dim`.
    pub action_dim: usize,
    /// `max_state_dim`.
    pub state_dim: usize,
    /// State rows that one token stands for, oldest first; without it each row is a token.
    pub state_rows: Option<usize>,
}

impl ActionHead {
    pub(super) fn load(loader: &mut Loader, config: &Config) -> Self {
        let (state, action) = (config.max_state_dim, config.max_action_dim);
        let (hidden, token) = (config.hidden_size, config.input_embedding_dim);
        let vl_norm =
            config.use_vlln.then(|| affine(loader, "action_head.vlln", config.backbone_embedding_dim));
        let position_embedding = config
            .add_pos_embed
            .then(|| loader.weight("action_head.position_embedding.weight", &[config.max_seq_len, token]));
        let vl_self_attention = config
            .vl_self_attention()
            .map(|stack| SelfAttention::load(loader, stack, config.backbone_embedding_dim));
        let dit = dit::Dit::load(loader, config);
        let mut layer = |name: &str, from: usize, to: usize| {
            category_linear(loader, &format!("action_head.{name}"), config.max_num_embodiments, from, to)
        };
        ActionHead {
            vl_norm,
            vl_self_attention,
            position_embedding,
            dit,
            state_encoder: [
                layer("state_encoder.layer1", state * config.state_rows().unwrap_or(1), hidden),
                layer("state_encoder.layer2", hidden, token),
            ],
            action_encoder: [
                layer("action_encoder.W1", action, token),
                layer("action_encoder.W2", 2 * token, token),
                layer("action_encoder.W3", token, token),
            ],
            action_decoder: [
                layer("action_decoder.layer1", hidden, hidden),
                layer("action_decoder.layer2", hidden, action),
            ],
            num_timestep_buckets: config.num_timestep_buckets,
            action_horizon: config.action_horizon,
            action_dim: action,
            state_dim: state,
            state_rows: config.state_rows(),
        }
    }
}

/// Integrates the velocity field from noise at t = 0 to actions at t = 1:
/// `[batch, action_horizon, max_action_dim]`. features: `[batch, tokens, backbone_embedding_dim]`.
pub(super) fn forward<O: Ops>(
    ops: &O,
    w: &ActionHead,
    features: &O::Tensor,
    prompt: &Prompt,
    batch: &Batch,
) -> Result<O::Tensor> {
    let at = &Site::new("action_head");
    let features = match &w.vl_norm {
        Some(norm) => ops.layer_norm(features, Some(norm), NORM_EPS, at / "vl_norm")?,
        None => features.clone(),
    };
    let features = match &w.vl_self_attention {
        Some(stack) => self_attention::forward(ops, stack, &features, &(at / "vl_self_attention"))?,
        None => features,
    };
    let state = encode_state(ops, w, batch, at)?;
    let memory = dit::Memory::new(ops, &w.dit, &features, prompt)?;
    let shape = [batch.len(), w.action_horizon, w.action_dim];
    let mut actions = ops.input(batch.noise.clone(), shape, Site::new("noise"))?;
    let strength = match &batch.strength {
        Some(steps) => {
            // The same for all values of a step.
            let values = steps.iter().flat_map(|strength| vec![*strength; w.action_dim]).collect();
            Some(ops.input(values, [1, w.action_horizon, w.action_dim], Site::new("rtc.strength"))?)
        }
        None => None,
    };
    let steps = batch.denoising_steps;
    if steps == 0 {
        return Err(Error::input("denoising_steps", "expected at least 1, found 0"));
    }
    for step in 0..steps {
        ops.tap(&actions, Site::in_step("actions_in", step));
        let bucket = timestep_bucket(step, steps, w.num_timestep_buckets);
        let velocity = velocity(ops, w, &actions, &state, &memory, Time { step, bucket }, batch)?;
        let dt = 1.0 / steps as f64;
        actions = ops.euler(&actions, &velocity, strength.as_ref(), dt, Site::in_step("euler", step))?;
    }
    ops.tap(&actions, Site::new("action_pred"));
    Ok(actions)
}

/// A point on the way from noise to actions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Time {
    /// The Euler step.
    pub step: usize,
    /// The flow-matching time in buckets, what the model is given.
    pub bucket: usize,
}

/// The velocity at the actions, `[batch, action_horizon, max_action_dim]`.
fn velocity<O: Ops>(
    ops: &O,
    w: &ActionHead,
    actions: &O::Tensor,
    state: &O::Tensor,
    memory: &dit::Memory<O>,
    time: Time,
    batch: &Batch,
) -> Result<O::Tensor> {
    let site = |path| Site::in_step(path, time.step);
    let encoded = encode_actions(ops, w, actions, time, batch)?;
    let encoded = match &w.position_embedding {
        Some(table) => {
            let positions = ops.table_rows(table, w.action_horizon, site("position_embedding"))?;
            ops.add(&encoded, &positions, site("action_tokens"))?
        }
        None => encoded,
    };
    let tokens = ops.concat_tokens(state, &encoded)?;
    ops.tap(&tokens, site("dit.tokens"));
    let output = dit::forward(ops, &w.dit, &tokens, memory, time.bucket, &site("dit"))?;
    let decoded = decode(ops, w, &output, time.step, batch)?;
    ops.last_tokens(&decoded, w.action_horizon)
}

/// What the DiT gives, `[batch, tokens, output_dim]`, to a velocity for each of its tokens: `[batch, tokens, max_action_dim]`.
pub(super) fn decode<O: Ops>(
    ops: &O,
    w: &ActionHead,
    output: &O::Tensor,
    step: usize,
    batch: &Batch,
) -> Result<O::Tensor> {
    let site = |path| Site::in_step(path, step);
    let [hidden, decoded] = &w.action_decoder;
    let x = ops.category_linear(output, hidden, &batch.embodiment_ids, site("decoder.layer1"))?;
    let x = ops.activation(&x, Activation::Relu, site("decoder.relu"))?;
    ops.category_linear(&x, decoded, &batch.embodiment_ids, site("decoder"))
}

/// State tokens `[batch, state_horizon, input_embedding_dim]`, or one of all rows.
pub(super) fn encode_state<O: Ops>(ops: &O, w: &ActionHead, batch: &Batch, at: &Site) -> Result<O::Tensor> {
    let shape = match w.state_rows {
        Some(rows) => [batch.len(), 1, rows * w.state_dim],
        None => [batch.len(), batch.state_horizon, w.state_dim],
    };
    let state = ops.input(batch.state.clone(), shape, at / "state")?;
    let [layer1, layer2] = &w.state_encoder;
    let x = ops.category_linear(&state, layer1, &batch.embodiment_ids, at / "state_encoder.layer1")?;
    let x = ops.activation(&x, Activation::Relu, at / "state_encoder.relu")?;
    ops.category_linear(&x, layer2, &batch.embodiment_ids, at / "state_features")
}

/// Action tokens `[batch, action_horizon, input_embedding_dim]`, before positions.
/// Source: `MultiEmbodimentActionEncoder` in `embodiment_conditioned_mlp.py`.
pub(super) fn encode_actions<O: Ops>(
    ops: &O,
    w: &ActionHead,
    actions: &O::Tensor,
    time: Time,
    batch: &Batch,
) -> Result<O::Tensor> {
    let at = &Site::in_step("action_encoder", time.step);
    let [layer1, layer2, layer3] = &w.action_encoder;
    let x = ops.category_linear(actions, layer1, &batch.embodiment_ids, at / "layer1")?;
    let frequencies = time_frequencies(ops.shape(&x)[2] / 2);
    let encoding = ops.time_encoding(time.bucket, &frequencies, Leading::Sines, at / "time")?;
    let x = ops.concat_features(&x, &encoding)?;
    let x = ops.category_linear(&x, layer2, &batch.embodiment_ids, at / "layer2")?;
    let x = ops.activation(&x, Activation::Swish, at / "swish")?;
    ops.category_linear(&x, layer3, &batch.embodiment_ids, at.sibling("action_features"))
}

/// What the model is told of Euler step `step` of `steps`: `int(t * buckets)` with t = step / steps.
pub fn timestep_bucket(step: usize, steps: usize, buckets: usize) -> usize {
    (step as f64 / steps as f64 * buckets as f64) as usize
}

/// `count` frequencies from 1 down to almost 1/10000.
/// Source: `SinusoidalPositionalEncoding` in `flowmatching_modules.py`.
pub fn time_frequencies(count: usize) -> Vec<f32> {
    let step = 10_000f32.ln() / count as f32;
    (0..count).map(|i| (-(i as f32) * step).exp()).collect()
}
