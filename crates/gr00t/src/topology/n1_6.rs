//! The parts and stages of GR00T N1.6.

use super::{Cuts, Layers, Part, Stage};
use crate::config::Config;

/// As NVIDIA's export cuts it.
pub(super) const CUTS: Cuts = Cuts {
    outputs: &[
        "vision.post_layernorm",
        "connector",
        "language.norm",
        "action_head.state_features",
        "dit.output",
        "euler",
    ],
    tensors: &[
        "vision.post_layernorm",
        "connector",
        "backbone_features",
        "action_head.vl_norm",
        "action_head.state",
        "action_head.state_features",
        "noise",
        "actions_in",
        "action_features",
        "dit.tokens",
        "dit.output",
        "decoder",
        "action_pred",
    ],
    copies: &["backbone_features", "actions_in", "dit.tokens", "action_pred"],
};

/// The parts, in the order of execution; those from the action encoder on run in every Euler step.
pub(super) fn parts(config: &Config) -> Vec<Part> {
    let (vision, text) = (&config.eagle_config.vision_config, &config.eagle_config.text_config);
    let dit = &config.diffusion_model_cfg;
    let part =
        Part { name: "", sites: &[], weights: &[], output: "", separates: false, layers: None, joined: None };
    vec![
        // The vision tower, with the pixels.
        Part {
            name: "vision",
            sites: &["vision"],
            weights: &["backbone.model.vision_model."],
            output: "vision.post_layernorm",
            separates: true,
            layers: Some(Layers {
                path: "vision.layer",
                count: vision.num_hidden_layers,
                hidden: vision.hidden_size,
                heads: vision.heads(),
                feed_forward: vision.intermediate_size,
                memory: Vec::new(),
                note: format!(
                    "{0}x{0} patches, position table of {1}",
                    vision.patch_size, vision.num_patches
                ),
            }),
            ..part.clone()
        },
        // Patches to image tokens.
        Part {
            name: "connector",
            sites: &["connector"],
            weights: &["backbone.model.mlp1."],
            output: "connector",
            separates: true,
            ..part.clone()
        },
        // The language layers and their last norm, with the prompt.
        Part {
            name: "language",
            sites: &["language", "backbone_features"],
            weights: &["backbone.model.language_model."],
            output: "language.norm",
            separates: true,
            layers: Some(Layers {
                path: "language.layer",
                count: config.select_layer,
                hidden: text.hidden_size,
                heads: text.heads(),
                feed_forward: text.intermediate_size,
                memory: Vec::new(),
                note: format!(
                    "{} key-value heads, vocabulary of {}",
                    text.num_key_value_heads, text.vocab_size
                ),
            }),
            ..part.clone()
        },
        // State tokens, with the state.
        Part {
            name: "state_encoder",
            sites: &["action_head.state", "action_head.state_encoder", "action_head.state_features"],
            weights: &["action_head.state_encoder."],
            output: "action_head.state_features",
            ..part.clone()
        },
        // The initial actions.
        Part { name: "noise", sites: &["noise", "actions_in"], output: "noise", ..part.clone() },
        // Action tokens, with their positions.
        Part {
            name: "action_encoder",
            sites: &["action_encoder", "action_features", "position_embedding", "action_tokens"],
            weights: &["action_head.action_encoder.", "action_head.position_embedding."],
            output: if config.add_pos_embed { "action_tokens" } else { "action_features" },
            ..part.clone()
        },
        // The diffusion transformer, with the norm, keys and values of the features that it attends to.
        Part {
            name: "dit",
            sites: &["dit", "timestep_embedding", "action_head.vl_norm"],
            weights: &["action_head.model.", "action_head.vlln."],
            output: "dit.output",
            layers: Some(Layers {
                path: "dit.block",
                count: dit.num_layers,
                hidden: dit.inner_dim(),
                heads: dit.heads(),
                // The official block's feed-forward width, which no field sets.
                feed_forward: 4 * dit.inner_dim(),
                memory: (0..dit.num_layers).map(|block| config.attends(block).name()).collect(),
                note: format!("output {}", dit.output_dim),
            }),
            joined: Some(("timestep_embedding", &["dit.timestep_linear1", "timestep_embedding"])),
            ..part.clone()
        },
        // The velocity.
        Part {
            name: "decoder",
            sites: &["decoder"],
            weights: &["action_head.action_decoder."],
            output: "decoder",
            ..part.clone()
        },
        // Actions moved along the velocity.
        Part { name: "euler", sites: &["euler", "action_pred"], output: "euler", ..part },
    ]
}

/// The stages, in the order of execution. A site belongs to the first stage that has it.
pub(super) fn stages() -> &'static [Stage] {
    const ONCE: Stage = Stage { name: "", in_steps: false, sites: &[], end: "", constant: false };
    const EACH: Stage = Stage { in_steps: true, ..ONCE };
    &[
        Stage { name: "vision", sites: &["vision"], end: "vision.post_layernorm", ..ONCE },
        Stage { name: "connector", sites: &["connector"], end: "connector", ..ONCE },
        Stage {
            name: "language",
            sites: &["language", "backbone_features"],
            end: "backbone_features",
            ..ONCE
        },
        // What the action head computes before its first step: norm, state tokens, keys and values of cross-attention.
        Stage { name: "action_prefix", sites: &["action_head", "dit", "noise"], end: "actions_in", ..ONCE },
        Stage {
            name: "action_encoder",
            sites: &["action_encoder", "action_features", "position_embedding", "action_tokens"],
            end: "dit.tokens",
            ..EACH
        },
        // The timestep embedding, and the scale and shift that every block makes of it.
        Stage {
            name: "modulation",
            sites: &[
                "dit.timestep_projection",
                "dit.timestep_linear1",
                "dit.timestep_silu",
                "timestep_embedding",
                "dit.silu",
                "dit.block.*.modulation",
                "dit.output_modulation",
            ],
            end: "dit.output_modulation",
            constant: true,
            ..EACH
        },
        Stage { name: "dit", sites: &["dit"], end: "dit.output", ..EACH },
        Stage { name: "action_decoder", sites: &["decoder", "euler"], end: "euler", ..EACH },
    ]
}
