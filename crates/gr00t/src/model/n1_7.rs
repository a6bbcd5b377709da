//! GR00T N1.7: where a checkpoint has the weights of its backbone, and the values that are its own.
//!
//! Cosmos-Reason2-2B, a Qwen3-VL: patches of two frames in squares of 2x2, rows and columns turned into queries and keys of
//! the vision tower and of the language layers, layers of the vision tower that reach the language layers by connectors of
//! their own (deepstack), features before the final norm.
//!
//! Source: `modeling_qwen3_vl.py` of transformers 4.57.3, `gr00t_n1d7.py`.

use super::connector::{Connector, Join};
use super::dit;
use super::language::Language;
use super::vision::{Layer, Projection, Vision};
use super::weights::{affine, convolution, linear};
use crate::checkpoint::Loader;
use crate::config::{self, Config};
use crate::ops::{Patching, Resize, Rotary, Stores};

/// What the names of the vision tower's tensors begin with, and those of no other version.
pub(super) const VISION: &str = "backbone.model.model.visual";
/// Parts of published checkpoints that inference does not use.
pub(super) const UNUSED: [&str; 2] = [
    // The backbone hands on hidden states, never logits.
    "backbone.model.lm_head.",
    // Of checkpoints that were trained with a dropout for each embodiment.
    "action_head.dropout_prob_by_embodiment",
];

/// Base of the frequencies by which a patch's row and column turn.
const VISION_THETA: f64 = 1e4;

pub(super) fn vision(loader: &mut Loader, config: &config::Vision) -> Vision {
    let (hidden, head_dim) = (config.hidden_size, config.heads.head_dim);
    let patching = Patching { size: config.patch_size, frames: config.frames, channels_first: true };
    let kernel = [hidden, 3, patching.frames, patching.size, patching.size];
    let layer = |loader: &mut Loader, index: usize| {
        let (path, inner) = (format!("{VISION}.blocks.{index}"), config.intermediate_size);
        let [norm1, norm2] = ["norm1", "norm2"].map(|name| affine(loader, &format!("{path}.{name}"), hidden));
        let mut linear =
            |name: &str, from: usize, to: usize| linear(loader, &format!("{path}.{name}"), from, to);
        Layer {
            norm1,
            projection: Projection::Joined(linear("attn.qkv", hidden, 3 * hidden)),
            output: linear("attn.proj", hidden, hidden),
            norm2,
            fc1: linear("mlp.linear_fc1", hidden, inner),
            fc2: linear("mlp.linear_fc2", inner, hidden),
        }
    };
    // A quarter of a head turns by the row, a quarter by the column.
    let quarter = Rotary::frequencies(head_dim / 4, VISION_THETA);
    Vision {
        patch_embedding: convolution(loader, &format!("{VISION}.patch_embed.proj"), &kernel),
        position_embedding: loader.weight(&format!("{VISION}.pos_embed.weight"), &[config.positions, hidden]),
        layers: (0..config.layers).map(|index| layer(loader, index)).collect(),
        post_layernorm: None,
        heads: config.heads,
        eps: config.eps,
        patching,
        resize: Resize::AlignedCorners,
        rotary: Some(Rotary {
            head_dim,
            axes: [vec![0; quarter.len()], vec![1; quarter.len()]].concat(),
            frequencies: [quarter.clone(), quarter].concat(),
            stores: Stores::Angles,
        }),
    }
}

/// What takes the places of the image tokens.
pub(super) fn connector(loader: &mut Loader, config: &config::Backbone) -> Connector {
    merger(loader, &format!("{VISION}.merger"), config, true)
}

/// What is added behind the language layers, by the layer of the vision tower that it looks at.
pub(super) fn deepstack(loader: &mut Loader, config: &config::Backbone) -> Vec<(usize, Connector)> {
    let path = |index: usize| format!("{VISION}.deepstack_merger_list.{index}");
    let layers = config.vision.deepstack.iter().copied().enumerate();
    layers.map(|(index, layer)| (layer, merger(loader, &path(index), config, false))).collect()
}

fn merger(loader: &mut Loader, path: &str, config: &config::Backbone, norm_first: bool) -> Connector {
    let (patch, count) = (config.vision.hidden_size, config.vision.merge.pow(2));
    let joined = patch * count;
    Connector {
        norm: affine(loader, &format!("{path}.norm"), if norm_first { patch } else { joined }),
        eps: config.vision.eps,
        join: Join::InOrder { count, norm_first },
        fc1: linear(loader, &format!("{path}.linear_fc1"), joined, joined),
        fc2: linear(loader, &format!("{path}.linear_fc2"), joined, config.text.hidden_size),
    }
}

pub(super) fn language(loader: &mut Loader, config: &Config) -> Language {
    let backbone = config.backbone();
    let text = &backbone.text;
    let plain = Language::load(loader, "backbone.model.model.language_model", text, config.select_layer);
    let axes = text.rope_sections.map(|sections| interleaved(text.heads.head_dim / 2, sections));
    let rotary = plain.rotary.clone();
    Language {
        normed: false,
        deepstack: (0..backbone.vision.deepstack.len()).collect(),
        rotary: Rotary { axes: axes.unwrap_or_else(|| rotary.axes.clone()), ..rotary },
        rows_and_columns: text.rope_sections.is_some(),
        ..plain
    }
}

/// Which of time, row and column each of `count` frequencies turns by (interleaved M-RoPE): row and column take turns with
/// time as long as their sections last.
fn interleaved(count: usize, [_, rows, cols]: [usize; 3]) -> Vec<usize> {
    let axis = |index: usize| match index % 3 {
        1 if index < 3 * rows => 1,
        2 if index < 3 * cols => 2,
        _ => 0,
    };
    (0..count).map(axis).collect()
}

/// The frequencies of the timestep embedding, with the digits of the build of PyTorch that N1.7 is held to, which is another
/// than N1.6's: it rounds frequency 10 up, by 0.506 of a unit in the last place, and 52 down, by 0.503. At bucket 875 the
/// first moves the embedding by 3e-6.
pub(super) fn time_frequencies() -> Vec<f32> {
    let mut frequencies = dit::time_frequencies();
    frequencies[10] = frequencies[10].next_up();
    frequencies[52] = frequencies[52].next_down();
    frequencies
}
