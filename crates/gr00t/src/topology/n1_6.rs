//! The backbone of GR00T N1.6.

use super::{Layers, Part, Stage};
use crate::config::Config;

/// The connector's result.
pub(super) const IMAGE_TOKENS: &str = "connector";
/// What enters a piece that deployments cut out and is handed over by no part.
pub(super) const CUTS: [&str; 1] = ["language.inputs"];

/// The parts, in the order of execution.
pub(super) fn backbone(config: &Config) -> Vec<Part> {
    let backbone = config.backbone();
    vec![
        // The vision tower, with the pixels.
        Part {
            separates: true,
            layers: Some(Layers {
                note: format!(
                    "{0}x{0} patches, position table of {1}",
                    backbone.vision.patch_size, backbone.vision.positions
                ),
                ..Layers::of_vision(&backbone.vision)
            }),
            ..Part::new("vision", &["vision"], &["backbone.model.vision_model."], "vision.post_layernorm")
        },
        // Patches to image tokens.
        Part {
            separates: true,
            ..Part::new("connector", &["connector"], &["backbone.model.mlp1."], IMAGE_TOKENS)
        },
        // The language layers and their last norm, with the prompt.
        Part {
            separates: true,
            layers: Some(Layers::of_language(&backbone.text, config.select_layer)),
            ..Part::new(
                "language",
                &["language", "backbone_features"],
                &["backbone.model.language_model."],
                "language.norm",
            )
        },
    ]
}

/// The stages, in the order of execution.
pub(super) const STAGES: [Stage; 3] = [
    Stage { name: "vision", sites: &["vision"], end: "vision.post_layernorm", ..Stage::ONCE },
    Stage { name: "connector", sites: &["connector"], end: "connector", ..Stage::ONCE },
    Stage {
        name: "language",
        sites: &["language", "backbone_features"],
        end: "backbone_features",
        ..Stage::ONCE
    },
];
