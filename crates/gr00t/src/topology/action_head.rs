//! The action head, which the versions of the model share but for what is between the features and the DiT.

use super::{Layers, Part, Stage};
use crate::config::Config;

/// The parts of it that deployments build as engines of their own.
pub(super) const PIECES: [&str; 3] = ["state_encoder", "dit", "euler"];

/// Paths of what enters and leaves those, as NVIDIA's export cuts it.
pub(super) const CUTS: [&str; 11] = [
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
];

/// The parts, in the order of execution; those from the action encoder on run in every Euler step.
pub(super) fn parts(config: &Config) -> Vec<Part> {
    let dit = &config.diffusion_model_cfg;
    let stack = config.vl_self_attention();
    // Self-attention over the features, with their norm. Without it the norm is the DiT's.
    let self_attention = stack.map(|stack| Part {
        separates: true,
        layers: Some(Layers {
            path: "action_head.vl_self_attention.layer",
            count: stack.num_layers,
            hidden: config.backbone_embedding_dim,
            heads: stack.heads(),
            // The official block's feed-forward width, which no field sets.
            feed_forward: 4 * config.backbone_embedding_dim,
            memory: Vec::new(),
            note: "text and images alike".to_owned(),
        }),
        ..Part::new(
            "vl_self_attention",
            &["action_head.vl_norm", "action_head.vl_self_attention"],
            &["action_head.vl_self_attention.", "action_head.vlln."],
            &format!("action_head.vl_self_attention.layer.{}", stack.num_layers - 1),
        )
    });
    let others = [
        // State tokens, with the state.
        Part::new(
            "state_encoder",
            &["action_head.state", "action_head.state_encoder", "action_head.state_features"],
            &["action_head.state_encoder."],
            "action_head.state_features",
        ),
        // The initial actions, and how far each of their steps is moved.
        Part::new("noise", &["noise", "actions_in", "rtc"], &[], "noise"),
        // Action tokens, with their positions.
        Part::new(
            "action_encoder",
            &["action_encoder", "action_features", "position_embedding", "action_tokens"],
            &["action_head.action_encoder.", "action_head.position_embedding."],
            if config.add_pos_embed { "action_tokens" } else { "action_features" },
        ),
        // The diffusion transformer, with the norm, keys and values of the features that it attends to.
        Part {
            layers: Some(Layers {
                path: "dit.block",
                count: dit.num_layers,
                hidden: dit.inner_dim(),
                heads: dit.heads(),
                // As above.
                feed_forward: 4 * dit.inner_dim(),
                memory: (0..dit.num_layers).map(|block| config.attends(block).name()).collect(),
                note: format!("output {}", dit.output_dim),
            }),
            joined: Some(("timestep_embedding", &["dit.timestep_linear1", "timestep_embedding"])),
            ..Part::new(
                "dit",
                &["dit", "timestep_embedding", "action_head.vl_norm"],
                &["action_head.model.", "action_head.vlln."],
                "dit.output",
            )
        },
        // The velocity.
        Part::new("decoder", &["decoder"], &["action_head.action_decoder."], "decoder"),
        // Actions moved along the velocity.
        Part::new("euler", &["euler", "action_pred"], &[], "euler"),
    ];
    self_attention.into_iter().chain(others).collect()
}

/// The stages, in the order of execution. A site belongs to the first stage that has it.
pub(super) const STAGES: [Stage; 5] = [
    // What the action head computes before its first step: norm, self-attention, state tokens, keys and values of
    // cross-attention.
    Stage {
        name: "action_prefix",
        sites: &["action_head", "dit", "noise", "rtc"],
        end: "actions_in",
        ..Stage::ONCE
    },
    Stage {
        name: "action_encoder",
        sites: &["action_encoder", "action_features", "position_embedding", "action_tokens"],
        end: "dit.tokens",
        ..Stage::EACH
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
        ..Stage::EACH
    },
    Stage { name: "dit", sites: &["dit"], end: "dit.output", ..Stage::EACH },
    Stage { name: "action_decoder", sites: &["decoder", "euler"], end: "euler", ..Stage::EACH },
];
