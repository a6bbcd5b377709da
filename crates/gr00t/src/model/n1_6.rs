//! GR00T N1.6: where a checkpoint has the weights of its backbone, and the values that are its own.
//!
//! Eagle-Block2A-2B-v2: SigLIP2, a connector over pixel-unshuffled patches, Qwen3 with its final norm.

use super::connector::{Connector, Join};
use super::dit;
use super::language::Language;
use super::vision::{Layer, Projection, Three, Vision};
use super::weights::{affine, linear};
use crate::checkpoint::Loader;
use crate::config::{self, Config};
use crate::ops::{Patching, Resize};

/// What the names of the vision tower's tensors begin with, and those of no other version.
pub(super) const VISION: &str = "backbone.model.vision_model.vision_model";
/// Parts of published checkpoints that inference does not use.
pub(super) const UNUSED: [&str; 3] = [
    // SigLIP2's attention pooling: the connector takes the patches themselves.
    "backbone.model.vision_model.vision_model.head.",
    // The backbone hands on hidden states, never logits.
    "backbone.model.language_model.lm_head.",
    // Replaces the state during training with state dropout.
    "action_head.mask_token",
];

/// PyTorch's default for `nn.LayerNorm`.
const CONNECTOR_EPS: f64 = 1e-5;

pub(super) fn vision(loader: &mut Loader, config: &config::Vision) -> Vision {
    let hidden = config.hidden_size;
    let patching = Patching { size: config.patch_size, frames: 1, channels_first: false };
    let layer = |loader: &mut Loader, index: usize| {
        let (path, inner) = (format!("{VISION}.encoder.layers.{index}"), config.intermediate_size);
        let [norm1, norm2] =
            ["layer_norm1", "layer_norm2"].map(|name| affine(loader, &format!("{path}.{name}"), hidden));
        let mut linear =
            |name: &str, from: usize, to: usize| linear(loader, &format!("{path}.{name}"), from, to);
        Layer {
            norm1,
            projection: Projection::Three(Box::new(Three {
                query: linear("self_attn.q_proj", hidden, hidden),
                key: linear("self_attn.k_proj", hidden, hidden),
                value: linear("self_attn.v_proj", hidden, hidden),
            })),
            output: linear("self_attn.out_proj", hidden, hidden),
            norm2,
            fc1: linear("mlp.fc1", hidden, inner),
            fc2: linear("mlp.fc2", inner, hidden),
        }
    };
    let patches = format!("{VISION}.embeddings.patch_embedding");
    let positions = format!("{VISION}.embeddings.position_embedding.weight");
    Vision {
        patch_embedding: linear(loader, &patches, patching.features(), hidden),
        position_embedding: loader.weight(&positions, &[config.positions, hidden]),
        layers: (0..config.layers).map(|index| layer(loader, index)).collect(),
        post_layernorm: Some(affine(loader, &format!("{VISION}.post_layernorm"), hidden)),
        heads: config.heads,
        eps: config.eps,
        patching,
        resize: Resize::Antialiased,
        rotary: None,
    }
}

pub(super) fn connector(loader: &mut Loader, config: &config::Backbone) -> Connector {
    let path = "backbone.model.mlp1";
    let features = config.vision.hidden_size * config.vision.merge.pow(2);
    let hidden = config.text.hidden_size;
    Connector {
        norm: affine(loader, &format!("{path}.0"), features),
        eps: CONNECTOR_EPS,
        join: Join::PixelUnshuffle(config.vision.merge),
        fc1: linear(loader, &format!("{path}.1"), features, hidden),
        fc2: linear(loader, &format!("{path}.3"), hidden, hidden),
    }
}

pub(super) fn language(loader: &mut Loader, config: &Config) -> Language {
    let text = config.backbone().text;
    Language::load(loader, "backbone.model.language_model.model", &text, config.select_layer)
}

/// The frequencies of the timestep embedding, with the digits of the build of PyTorch that N1.6 is held to.
///
/// Frequency 4 lies 0.490 of a unit in the last place below a float. Correct rounding goes up to it, that build's
/// exponential (accurate to 0.51 units) goes down. At bucket 750 that one unit turns the angle by 4.5e-5 and moves the
/// embedding by 6e-6, ten times all other f32 error of the model together, so the reference follows PyTorch here.
pub(super) fn time_frequencies() -> Vec<f32> {
    let mut frequencies = dit::time_frequencies();
    frequencies[4] = frequencies[4].next_down();
    frequencies
}
