//! What one inference has to read and compute, stage by stage, from the sizes alone.
//!
//! The numbers are those of the mathematics under `model/`, not of an engine: every matrix of a stage is read
//! once a pass, a category-specific layer reads one slot, a table only the rows it looks up, and one
//! multiply-add is two floating-point operations. Norms, activations and additions are left out of the
//! operations, activations and caches out of the bytes, so a time that follows from them is a lower bound.

use crate::config::Config;
use crate::engine::ModelInput;
use crate::model::dit::{Attends, TIME_CHANNELS, attends};

/// Pixels per side of one image token, and of one patch, squared.
const TOKEN_PIXELS: usize = 28 * 28;
const PATCH_PIXELS: usize = 14 * 14;

/// The shapes of one batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Observations in the batch.
    pub batch: usize,
    /// Height and width in pixels of each image of one observation.
    pub images: Vec<[usize; 2]>,
    /// Tokens of one prompt, image tokens included.
    pub tokens: usize,
    /// State rows of one observation.
    pub state_horizon: usize,
    /// Euler steps.
    pub denoising_steps: usize,
}

impl Layout {
    /// The shapes of inputs that share a layout; none of them gives an empty batch.
    pub fn of(inputs: &[ModelInput], denoising_steps: usize) -> Self {
        let first = inputs.first();
        Layout {
            batch: inputs.len(),
            images: first.map_or(Vec::new(), |i| i.images.iter().map(|p| [p.height, p.width]).collect()),
            tokens: first.map_or(0, |input| input.input_ids.len()),
            state_horizon: first.map_or(0, |input| input.state.rows),
            denoising_steps,
        }
    }

    /// Image tokens of one prompt.
    pub fn image_tokens(&self) -> usize {
        self.images.iter().map(|[height, width]| height * width / TOKEN_PIXELS).sum()
    }

    /// All other tokens of one prompt.
    pub fn text_tokens(&self) -> usize {
        self.tokens.saturating_sub(self.image_tokens())
    }
}

/// One stage of an inference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stage {
    /// `vision`, `connector`, `language`, `action_prefix`, `action_encoder`, `modulation`, `dit` or
    /// `action_decoder`.
    pub name: &'static str,
    /// Parameters that the checkpoint holds for it.
    pub parameters: u64,
    /// Parameters read in one pass.
    pub read: u64,
    /// Passes in one inference: the Euler steps, or 1.
    pub passes: u64,
    /// Floating-point operations of all passes, for the whole batch.
    pub flops: u64,
    /// Whether it depends on the Euler step alone: an engine may compute it before any inference.
    pub constant: bool,
}

impl Stage {
    /// Bytes of weights read by all passes, at this many bytes a parameter.
    pub fn bytes(&self, parameter_bytes: u64) -> u64 {
        self.read * self.passes * parameter_bytes
    }

    /// The least seconds it can take on a device that reads `bandwidth` bytes and computes `rate` operations a
    /// second; 0 for a stage that needs no time in an inference.
    pub fn floor(&self, parameter_bytes: u64, bandwidth: f64, rate: f64) -> f64 {
        if self.constant {
            return 0.0;
        }
        (self.bytes(parameter_bytes) as f64 / bandwidth).max(self.flops as f64 / rate)
    }
}

/// The stages of an inference of `layout`, in their order.
pub fn stages(config: &Config, layout: &Layout) -> Vec<Stage> {
    vec![
        vision(config, layout),
        connector(config, layout),
        language(config, layout),
        action_prefix(config, layout),
        action_encoder(config, layout),
        modulation(config, layout),
        dit(config, layout),
        action_decoder(config, layout),
    ]
}

/// Sums the parts of one pass of a stage.
#[derive(Debug, Default)]
struct Pass {
    parameters: usize,
    read: usize,
    flops: usize,
}

impl Pass {
    /// `layers` times a matrix and its bias, for `rows` rows.
    fn linear(&mut self, layers: usize, rows: usize, from: usize, to: usize, bias: bool) {
        let size = from * to + if bias { to } else { 0 };
        self.vector(layers * size);
        self.flops += layers * 2 * rows * from * to;
    }

    /// A category-specific layer: one of `slots` matrices is used.
    fn category(&mut self, slots: usize, rows: usize, from: usize, to: usize) {
        self.parameters += slots * (from + 1) * to;
        self.read += (from + 1) * to;
        self.flops += 2 * rows * from * to;
    }

    /// Parameters that are all read, such as a norm's.
    fn vector(&mut self, size: usize) {
        self.parameters += size;
        self.read += size;
    }

    /// A table of which some rows are read.
    fn table(&mut self, rows: usize, used: usize, width: usize) {
        self.parameters += rows * width;
        self.read += used.min(rows) * width;
    }

    /// Scores and sums of an attention over `pairs` pairs of a query and a key.
    fn attention(&mut self, layers: usize, pairs: usize, width: usize) {
        self.flops += layers * 4 * pairs * width;
    }

    fn stage(self, name: &'static str, passes: usize) -> Stage {
        Stage {
            name,
            parameters: self.parameters as u64,
            read: self.read as u64,
            passes: passes as u64,
            flops: (self.flops * passes) as u64,
            constant: false,
        }
    }
}

fn vision(config: &Config, layout: &Layout) -> Stage {
    let vision = &config.eagle_config.vision_config;
    let (hidden, layers) = (vision.hidden_size, vision.num_hidden_layers);
    let patches: Vec<usize> = layout.images.iter().map(|[h, w]| h * w / PATCH_PIXELS).collect();
    let rows = layout.batch * patches.iter().sum::<usize>();
    let pairs = layout.batch * patches.iter().map(|patches| patches * patches).sum::<usize>();
    let mut pass = Pass::default();
    pass.linear(1, rows, vision.patch_size * vision.patch_size * vision.num_channels, hidden, true);
    pass.vector(vision.num_patches * hidden);
    pass.linear(4 * layers, rows, hidden, hidden, true);
    pass.linear(layers, rows, hidden, vision.intermediate_size, true);
    pass.linear(layers, rows, vision.intermediate_size, hidden, true);
    pass.attention(layers, pairs, hidden);
    pass.vector((2 * layers + 1) * 2 * hidden);
    pass.stage("vision", 1)
}

fn connector(config: &Config, layout: &Layout) -> Stage {
    let eagle = &config.eagle_config;
    let features = eagle.vision_config.hidden_size * eagle.unshuffle() * eagle.unshuffle();
    let hidden = eagle.text_config.hidden_size;
    let rows = layout.batch * layout.image_tokens();
    let mut pass = Pass::default();
    pass.vector(2 * features);
    pass.linear(1, rows, features, hidden, true);
    pass.linear(1, rows, hidden, hidden, true);
    pass.stage("connector", 1)
}

fn language(config: &Config, layout: &Layout) -> Stage {
    let text = &config.eagle_config.text_config;
    let (hidden, layers) = (text.hidden_size, config.select_layer);
    let query = text.num_attention_heads * text.head_dim;
    let key = text.num_key_value_heads * text.head_dim;
    let rows = layout.batch * layout.tokens;
    let mut pass = Pass::default();
    pass.table(text.vocab_size, layout.batch * layout.text_tokens(), hidden);
    pass.linear(layers, rows, hidden, query, false);
    pass.linear(2 * layers, rows, hidden, key, false);
    pass.linear(layers, rows, query, hidden, false);
    pass.linear(2 * layers, rows, hidden, text.intermediate_size, false);
    pass.linear(layers, rows, text.intermediate_size, hidden, false);
    pass.attention(layers, layout.batch * layout.tokens * (layout.tokens + 1) / 2, query);
    pass.vector(layers * (2 * hidden + 2 * text.head_dim) + hidden);
    pass.stage("language", 1)
}

/// What the action head computes before its first step: norm, state tokens, keys and values of cross-attention.
fn action_prefix(config: &Config, layout: &Layout) -> Stage {
    let (token, backbone, slots) =
        (config.input_embedding_dim, config.backbone_embedding_dim, config.max_num_embodiments);
    let rows = layout.batch * layout.state_horizon;
    let mut pass = Pass::default();
    pass.vector(if config.use_vlln { 2 * backbone } else { 0 });
    pass.category(slots, rows, config.max_state_dim, config.hidden_size);
    pass.category(slots, rows, config.hidden_size, token);
    for memory in memories(config, layout).into_iter().flatten() {
        pass.linear(2, layout.batch * memory, backbone, token, true);
    }
    pass.stage("action_prefix", 1)
}

fn action_encoder(config: &Config, layout: &Layout) -> Stage {
    let (token, slots, horizon) =
        (config.input_embedding_dim, config.max_num_embodiments, config.action_horizon);
    let rows = layout.batch * horizon;
    let mut pass = Pass::default();
    pass.category(slots, rows, config.max_action_dim, token);
    pass.category(slots, rows, 2 * token, token);
    pass.category(slots, rows, token, token);
    if config.add_pos_embed {
        pass.table(config.max_seq_len, horizon, token);
    }
    pass.stage("action_encoder", layout.denoising_steps)
}

/// The timestep embedding, and the scale and shift that every block makes of it.
fn modulation(config: &Config, layout: &Layout) -> Stage {
    let inner = config.diffusion_model_cfg.inner_dim();
    let mut pass = Pass::default();
    pass.linear(1, 1, TIME_CHANNELS, inner, true);
    pass.linear(1, 1, inner, inner, true);
    pass.linear(config.diffusion_model_cfg.num_layers + 1, 1, inner, 2 * inner, true);
    Stage { constant: true, ..pass.stage("modulation", layout.denoising_steps) }
}

fn dit(config: &Config, layout: &Layout) -> Stage {
    let dit = &config.diffusion_model_cfg;
    let inner = dit.inner_dim();
    let tokens = layout.state_horizon + config.action_horizon;
    let rows = layout.batch * tokens;
    let mut pass = Pass::default();
    for memory in memories(config, layout) {
        let own_keys_and_values = if memory.is_none() { 2 } else { 0 };
        pass.linear(2 + own_keys_and_values, rows, inner, inner, true);
        pass.linear(1, rows, inner, 4 * inner, true);
        pass.linear(1, rows, 4 * inner, inner, true);
        pass.attention(1, rows * memory.unwrap_or(tokens), inner);
    }
    pass.linear(1, rows, inner, dit.output_dim, true);
    pass.stage("dit", layout.denoising_steps)
}

fn action_decoder(config: &Config, layout: &Layout) -> Stage {
    let slots = config.max_num_embodiments;
    let rows = layout.batch * (layout.state_horizon + config.action_horizon);
    let mut pass = Pass::default();
    pass.category(slots, rows, config.hidden_size, config.hidden_size);
    pass.category(slots, rows, config.hidden_size, config.max_action_dim);
    pass.stage("action_decoder", layout.denoising_steps)
}

/// The backbone tokens that each block attends to; `None` for a block that attends to its own tokens.
fn memories(config: &Config, layout: &Layout) -> Vec<Option<usize>> {
    (0..config.diffusion_model_cfg.num_layers)
        .map(|block| match attends(config, block) {
            Attends::Itself => None,
            Attends::Text => Some(layout.text_tokens()),
            Attends::Images => Some(layout.image_tokens()),
            Attends::Everything => Some(layout.tokens),
        })
        .collect()
}

#[cfg(test)]
mod tests;
