//! What is exported: the model or a part of it, by name, and what enters and leaves the parts that NVIDIA's exporter
//! cuts a model into.

use super::Blocks;
use crate::model::{Model, language, vision};
use crate::ops::ModelSite;
use crate::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// What is exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Component {
    /// One velocity of the diffusion transformer, on state and action tokens.
    Dit,
    /// Some of its blocks.
    Blocks(Blocks),
    /// The self-attention over the normalized features, where a model has it (N1.7).
    VlSelfAttention,
    /// The state to its tokens.
    StateEncoder,
    /// The actions of an Euler step and its time to tokens, before their positions are added.
    ActionEncoder,
    /// What the DiT gives to a velocity for each token.
    ActionDecoder,
    /// Backbone features, state and noise to actions, over all Euler steps.
    ActionHead,
    /// The vision tower: the images of an observation, as patches, to image tokens and what is added behind language
    /// layers; images to patch features where image tokens are made behind it (N1.6).
    Vit,
    /// The language layers: embeddings, with the images in their places, to backbone features.
    Llm,
    /// Images and token ids to backbone features.
    Backbone,
    /// Everything between a processor's two halves.
    Policy,
}

/// A tensor that enters or leaves a component that NVIDIA's exporter cuts a model into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edge {
    /// Its name in graphs of this crate.
    pub name: &'static str,
    /// Its name in graphs of NVIDIA's exporter (`export_onnx_n1d7.py`, `export_onnx_n1d6.py` of Isaac-GR00T).
    pub nvidia: &'static str,
    /// The tap that it is in a recording; none for the features and for what the DiT attends to, whose names depend on the
    /// model, and for masks.
    pub tap: Option<&'static str>,
    /// Whether the component gives it.
    pub is_output: bool,
    /// Whether the component has it in every model.
    pub is_everywhere: bool,
}

impl Edge {
    const fn input(name: &'static str, nvidia: &'static str, tap: &'static str) -> Edge {
        Edge { name, nvidia, tap: Some(tap), is_output: false, is_everywhere: true }
    }

    const fn output(name: &'static str, tap: &'static str) -> Edge {
        Edge { name, nvidia: "output", tap: Some(tap), is_output: true, is_everywhere: true }
    }

    /// An input that has NVIDIA's name everywhere.
    const fn taken(name: &'static str, tap: Option<&'static str>) -> Edge {
        Edge { name, nvidia: name, tap, is_output: false, is_everywhere: true }
    }

    /// The same of some models.
    const fn taken_by_some(name: &'static str, tap: Option<&'static str>) -> Edge {
        Edge { is_everywhere: false, ..Edge::taken(name, tap) }
    }

    /// An output of some models that has NVIDIA's name everywhere.
    const fn given_by_some(name: &'static str, tap: &'static str) -> Edge {
        Edge { is_output: true, ..Edge::taken_by_some(name, Some(tap)) }
    }

    /// Whether a graph calls it so.
    pub fn is_called(&self, name: &str) -> bool {
        name == self.name || name == self.nvidia
    }
}

/// The images of NVIDIA's `vit`.
pub(super) const PIXELS: &str = "pixel_values";
/// What NVIDIA's `llm` adds behind its first layers.
pub(super) const DEEPSTACK: [&str; 3] = ["deepstack_0", "deepstack_1", "deepstack_2"];

/// What several components take besides [`Component::edges`].
const SHARED_INPUTS: [&str; 3] = ["embodiment_id", "image_mask", "backbone_attention_mask"];

impl Component {
    /// Every component by its name, but for blocks of a DiT.
    pub const ALL: [(&'static str, Component); 10] = [
        ("vit", Component::Vit),
        ("llm", Component::Llm),
        ("dit", Component::Dit),
        ("vl_self_attention", Component::VlSelfAttention),
        ("state_encoder", Component::StateEncoder),
        ("action_encoder", Component::ActionEncoder),
        ("action_decoder", Component::ActionDecoder),
        ("action_head", Component::ActionHead),
        ("backbone", Component::Backbone),
        ("policy", Component::Policy),
    ];

    /// Whether graphs of it are made for images of certain sizes.
    pub fn takes_images(self) -> bool {
        matches!(self, Component::Vit | Component::Backbone | Component::Policy)
    }

    /// The sites of a model that lie in this component.
    ///
    /// # Errors
    /// As [`Model::sites`].
    pub fn sites(self, model: &Model) -> Result<Vec<ModelSite>> {
        let own = match self {
            Component::Blocks(blocks) => Component::Blocks(blocks.of(model)?.0),
            other => other,
        };
        let within = |site: &ModelSite| {
            let path = site.path.as_str();
            let part = path.split('.').next().unwrap_or_default();
            let backbone = matches!(part, "vision" | "connector" | "language");
            match own {
                Component::Policy => true,
                Component::Vit => part == "vision",
                Component::Llm => part == "language" && path != language::EMBEDDING,
                Component::Backbone => backbone,
                Component::ActionHead => !backbone,
                Component::Dit => matches!(part, "dit" | "timestep_embedding"),
                Component::Blocks(blocks) => {
                    matches!(part, "dit" | "timestep_embedding") && blocks.hold(path)
                }
                Component::VlSelfAttention => path.starts_with("action_head.vl_self_attention."),
                Component::StateEncoder => path.starts_with("action_head.state_"),
                Component::ActionEncoder => matches!(part, "action_encoder" | "action_features"),
                Component::ActionDecoder => part == "decoder",
            }
        };
        Ok(model.sites()?.into_iter().filter(within).collect())
    }

    /// The tensors that are its own; none of what is more than a part that NVIDIA's exporter cuts. Of blocks of a DiT those
    /// that they have in common with a whole one.
    pub fn edges(self) -> &'static [Edge] {
        const FEATURES: Edge = Edge { nvidia: "vl_embs", ..Edge::taken("vl_features", None) };
        const ADDED: [&str; 3] = ["vision.deepstack.0", "vision.deepstack.1", "vision.deepstack.2"];
        match self {
            Component::Vit => {
                const {
                    &[
                        Edge::taken(PIXELS, Some(vision::PATCHES)),
                        Edge::given_by_some("vit_embeds", "vision.post_layernorm"),
                        Edge::given_by_some("image_embeds", "vision.merger"),
                        Edge::given_by_some("deepstack_features", "vision.deepstack"),
                    ]
                }
            }
            Component::Llm => {
                const {
                    &[
                        Edge::taken("inputs_embeds", Some(language::INPUTS)),
                        Edge::taken("attention_mask", None),
                        Edge::taken_by_some("position_ids", Some("position_ids")),
                        Edge::taken_by_some("visual_pos_masks", None),
                        Edge::taken_by_some(DEEPSTACK[0], Some(ADDED[0])),
                        Edge::taken_by_some(DEEPSTACK[1], Some(ADDED[1])),
                        Edge::taken_by_some(DEEPSTACK[2], Some(ADDED[2])),
                        Edge { is_output: true, ..Edge::taken("embeddings", None) },
                    ]
                }
            }
            Component::Dit | Component::Blocks(_) => {
                const {
                    &[
                        Edge::input("state_action_tokens", "sa_embs", "dit.tokens"),
                        FEATURES,
                        Edge::input("timestep", "timestep", "timestep"),
                        Edge::output("dit_output", "dit.output"),
                    ]
                }
            }
            Component::VlSelfAttention => {
                const {
                    &[
                        Edge::input("vl_norm", "hidden_states", "action_head.vl_norm"),
                        Edge { nvidia: "output", is_output: true, ..FEATURES },
                    ]
                }
            }
            Component::StateEncoder => {
                const {
                    &[
                        Edge::input("state", "state", "action_head.state"),
                        Edge::output("state_features", "action_head.state_features"),
                    ]
                }
            }
            Component::ActionEncoder => {
                const {
                    &[
                        Edge::input("actions_in", "actions", "actions_in"),
                        Edge::input("timestep", "timesteps", "timestep"),
                        Edge::output("action_features", "action_features"),
                    ]
                }
            }
            Component::ActionDecoder => {
                const {
                    &[
                        Edge::input("dit_output", "model_output", "dit.output"),
                        Edge::output("decoder", "decoder"),
                    ]
                }
            }
            Component::ActionHead | Component::Backbone | Component::Policy => &[],
        }
    }

    /// The part that takes these inputs, by our names or NVIDIA's, of those that its exporter cuts.
    pub fn of_inputs(names: &[&str]) -> Option<Component> {
        let takes = |component: &Component| {
            let mut inputs =
                component.edges().iter().filter(|edge| !edge.is_output && edge.is_everywhere).peekable();
            let known = |name: &&str| {
                SHARED_INPUTS.contains(name) || component.edges().iter().any(|edge| edge.is_called(name))
            };
            inputs.peek().is_some()
                && inputs.all(|edge| names.iter().any(|name| edge.is_called(name)))
                && names.iter().all(known)
        };
        Component::ALL.into_iter().map(|(_, component)| component).find(takes)
    }
}

impl fmt::Display for Component {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Component::Blocks(blocks) = self {
            return blocks.fmt(formatter);
        }
        let found = Component::ALL.iter().find(|(_, component)| component == self);
        formatter.write_str(found.map_or("", |(name, _)| name))
    }
}

impl FromStr for Component {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        if let Ok(blocks) = name.parse() {
            return Ok(Component::Blocks(blocks));
        }
        let found = Component::ALL.iter().find(|(known, _)| *known == name);
        found.map(|(_, component)| *component).ok_or_else(|| {
            let known = Component::ALL.map(|(name, _)| name).join(", ");
            let what = format!("expected one of {known}, dit.blocks.FIRST:END, found `{name}`");
            Error::input("component", what)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_told_by_its_inputs() {
        let whole =
            [&["inputs_embeds", "attention_mask", "position_ids", "visual_pos_masks"][..], &DEEPSTACK]
                .concat();
        for (inputs, expected) in [
            (&["pixel_values"][..], Some(Component::Vit)),
            (&whole[..2], Some(Component::Llm)),
            (&whole, Some(Component::Llm)),
            (&["hidden_states"], Some(Component::VlSelfAttention)),
            (&["state", "embodiment_id"], Some(Component::StateEncoder)),
            (&["sa_embs", "vl_embs", "timestep", "image_mask"], Some(Component::Dit)),
            (&["inputs_embeds"], None),
            (&["pixel_values", "input_ids"], None),
            (&["pixel_values.0", "input_ids"], None),
            (&["inputs_embeds", "attention_mask", "timestep"], None),
            (&[], None),
        ] {
            assert_eq!(Component::of_inputs(inputs), expected, "{inputs:?}");
        }
    }
}
