//! The backbone of GR00T N1.7.

use super::{Layers, Part, Stage};
use crate::config::Config;

/// The merger's result.
pub(super) const IMAGE_TOKENS: &str = "vision.merger";
/// What enters a piece that deployments cut out and is handed over by no part.
pub(super) const CUTS: [&str; 2] = ["vision.patches", "language.inputs"];

/// The parts, in the order of execution.
pub(super) fn backbone(config: &Config) -> Vec<Part> {
    let backbone = config.backbone();
    let vision = &backbone.vision;
    // What is added behind language layers is made while the vision tower runs.
    let deepstack = (0..vision.deepstack.len()).map(|index| format!("vision.deepstack.{index}"));
    vec![
        // The vision tower and its mergers, with the pixels.
        Part {
            outputs: deepstack.chain([IMAGE_TOKENS.to_owned()]).collect(),
            separates: true,
            layers: Some(Layers {
                note: format!(
                    "{0}x{0} patches of {1} frames, position table of {2}, deepstack after {3:?}",
                    vision.patch_size, vision.frames, vision.positions, vision.deepstack
                ),
                ..Layers::of_vision(vision)
            }),
            joined: Some(("mergers", &["vision.merger", "vision.deepstack"])),
            ..Part::new("vision", &["vision"], &["backbone.model.model.visual."], IMAGE_TOKENS)
        },
        // The language layers, with the prompt.
        Part {
            separates: true,
            layers: Some(Layers::of_language(&backbone.text, config.select_layer)),
            ..Part::new(
                "language",
                &["language", "backbone_features"],
                &["backbone.model.model.language_model.", "backbone.model.lm_head."],
                &features(config.select_layer, vision.deepstack.len()),
            )
        },
    ]
}

/// The last layer's result, with what is added behind it.
fn features(layers: usize, deepstack: usize) -> String {
    let last = layers.saturating_sub(1);
    if last < deepstack { format!("language.deepstack.{last}") } else { format!("language.layer.{last}") }
}

/// The stages, in the order of execution.
pub(super) const STAGES: [Stage; 2] = [
    Stage { name: "vision", sites: &["vision"], end: IMAGE_TOKENS, ..Stage::ONCE },
    Stage {
        name: "language",
        sites: &["language", "backbone_features"],
        end: "backbone_features",
        ..Stage::ONCE
    },
];
