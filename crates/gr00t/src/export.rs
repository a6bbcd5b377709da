//! Export: the model, or a component of it, recorded as an ONNX graph.

use crate::model::{self, Batch, Model};
use crate::ops::Site;
use crate::ops::onnx::{Interface, Metadata, Port, Products, Recorder, Value, Written, check};
use crate::ops::{ModelSite, Ops, Part};
use crate::precision::PrecisionPolicy;
use crate::{Error, Result};
use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// The opset that graphs are recorded in unless told otherwise: the first with Gelu.
pub const DEFAULT_OPSET: i64 = 20;

/// What is exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Component {
    /// One velocity of the diffusion transformer, on state and action tokens.
    Dit,
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
    /// Images and token ids to backbone features.
    Backbone,
    /// Everything between a processor's two halves.
    Policy,
}

/// Names and types of the graph's inputs and outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// This crate's own, floats in f32.
    Steady,
    /// Those of NVIDIA's exporter, floats in the storage format. For the components that it cuts the action head into.
    Nvidia,
}

/// A tensor that enters or leaves a component of the action head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edge {
    /// Its name in graphs of this crate.
    pub name: &'static str,
    /// Its name in graphs of NVIDIA's exporter (`export_onnx_n1d7.py` of Isaac-GR00T).
    pub nvidia: &'static str,
    /// The tap that it is in a recording; none for what the DiT attends to, which depends on the model.
    pub tap: Option<&'static str>,
    /// Whether the component gives it.
    pub is_output: bool,
}

impl Edge {
    const fn input(name: &'static str, nvidia: &'static str, tap: &'static str) -> Edge {
        Edge { name, nvidia, tap: Some(tap), is_output: false }
    }

    const fn output(name: &'static str, tap: &'static str) -> Edge {
        Edge { name, nvidia: "output", tap: Some(tap), is_output: true }
    }

    /// Whether a graph calls it so.
    pub fn is_called(&self, name: &str) -> bool {
        name == self.name || name == self.nvidia
    }
}

/// What several components take besides [`Component::edges`].
const SHARED_INPUTS: [&str; 3] = ["embodiment_id", "image_mask", "backbone_attention_mask"];

/// What a graph depends on that is not in its inputs.
#[derive(Debug, Clone)]
pub struct Layout {
    /// Height and width of each image, in the order of the prompt.
    pub images: Vec<[usize; 2]>,
    /// State rows of one observation.
    pub state_horizon: usize,
    /// Euler steps, unrolled.
    pub denoising_steps: usize,
}

/// How to export.
#[derive(Debug, Clone)]
pub struct Export<'a> {
    /// What is exported.
    pub component: Component,
    /// Number formats.
    pub policy: &'a PrecisionPolicy,
    /// How matrix products of narrow operands are recorded.
    pub products: Products,
    /// Version of ONNX's operators.
    pub opset: i64,
    /// Names of inputs and outputs.
    pub names: Names,
    /// Sizes that the graph is made for.
    pub layout: Layout,
}

impl Export<'_> {
    /// Writes the graph to `path` and its tensors to `path.data`. `checkpoint` identifies the weights and goes
    /// into the metadata.
    ///
    /// # Errors
    /// The layout does not fit the model, or a file cannot be written.
    pub fn write(&self, model: &Model, checkpoint: &str, path: &Path) -> Result<Written> {
        let recorder = self.recorder(model)?;
        let (result, name) = self.record(model, &recorder)?;
        recorder.write(&result, name, self.metadata(checkpoint), path)
    }

    /// What the graph takes and gives, without writing it.
    ///
    /// # Errors
    /// The layout does not fit the model.
    pub fn ports(&self, model: &Model) -> Result<Vec<Port>> {
        let recorder = self.recorder(model)?;
        let (result, name) = self.record(model, &recorder)?;
        Ok(recorder.ports(&result, name))
    }

    /// An empty graph, for a layout that fits.
    fn recorder(&self, model: &Model) -> Result<Recorder<'_>> {
        let layout = &self.layout;
        if self.takes_images() && layout.images.is_empty() {
            return Err(Error::input("image", "expected the size of at least one image, found none"));
        }
        if self.names == Names::Nvidia && self.component.edges().is_empty() {
            let what =
                format!("nvidia names are those of parts of the action head, found {}", self.component);
            return Err(Error::input("io_names", what));
        }
        check(self.policy, &self.component.sites(model)?)?;
        let image_token = model.config.image_token();
        Recorder::new(self.policy, self.products, self.opset, image_token, self.interface())
    }

    fn takes_images(&self) -> bool {
        matches!(self.component, Component::Backbone | Component::Policy)
    }

    fn record(&self, model: &Model, recorder: &Recorder) -> Result<(Value, &'static str)> {
        let layout = &self.layout;
        let sizes: &[[usize; 2]] = if self.takes_images() { &layout.images } else { &[] };
        let (horizon, steps) = (layout.state_horizon, layout.denoising_steps);
        let shapes = model::Layout::example(&model.config, sizes, horizon, steps);
        // Without images a prompt has one image token all the same.
        let shapes = model::Layout { image_tokens: shapes.image_tokens.max(1), ..shapes };
        let batch = &Batch::of_layout(&model.config, &shapes)?;
        let prompt = model.prompt(batch)?;
        let config = &model.config;
        let tokens = batch.input_ids[0].len();
        let features_shape = [1, tokens, config.backbone_embedding_dim];
        match self.component {
            Component::Policy => Ok((model.infer(recorder, batch)?, "action_pred")),
            Component::Backbone => {
                let features = model.backbone(recorder, &prompt, batch)?;
                recorder.output_part(Part::Images, "image_mask")?;
                Ok((features, "backbone_features"))
            }
            Component::ActionHead => {
                let features = recorder.input(Vec::new(), features_shape, Site::new("backbone_features"))?;
                let features = recorder.prompt_input(&features);
                Ok((model.actions(recorder, &features, &prompt, batch)?, "action_pred"))
            }
            Component::Dit => {
                let at = &Site::new("dit");
                let count = config.state_shape(self.layout.state_horizon)[0] + config.action_horizon;
                let shape = [1, count, config.input_embedding_dim];
                let tokens = recorder.input(Vec::new(), shape, at / "state_action_tokens")?;
                let features = recorder.input(Vec::new(), features_shape, at / "vl_features")?;
                recorder.time_input();
                let features = recorder.prompt_input(&features);
                Ok((model.dit(recorder, &tokens, &features, &prompt, 0)?, "dit_output"))
            }
            Component::VlSelfAttention => {
                let features =
                    recorder.input(Vec::new(), features_shape, Site::new("action_head.vl_norm"))?;
                Ok((model.vl_self_attention(recorder, &features)?, "vl_features"))
            }
            Component::StateEncoder => Ok((model.state_encoder(recorder, batch)?, "state_features")),
            Component::ActionEncoder => {
                let shape = [1, config.action_horizon, config.max_action_dim];
                let actions = recorder.input(Vec::new(), shape, Site::new("actions_in"))?;
                recorder.time_input();
                Ok((model.action_encoder(recorder, &actions, 0, batch)?, "action_features"))
            }
            Component::ActionDecoder => {
                let count = config.state_shape(self.layout.state_horizon)[0] + config.action_horizon;
                let shape = [1, count, config.diffusion_model_cfg.output_dim];
                let output = recorder.input(Vec::new(), shape, Site::new("dit_output"))?;
                Ok((model.action_decoder(recorder, &output, batch)?, "decoder"))
            }
        }
    }

    fn interface(&self) -> Interface {
        let nvidia = self.names == Names::Nvidia;
        let (batch, tokens, own) = match nvidia {
            true => ("batch_size", "vl_seq_len", "sa_seq_len"),
            false => ("batch", "tokens", "state_action_tokens"),
        };
        let prompt = [
            "input_ids",
            "image_mask",
            "backbone_attention_mask",
            "backbone_features",
            "vl_features",
            "vl_norm",
        ];
        let names = self.component.edges().iter().filter(|_| nvidia).map(|edge| (edge.name, edge.nvidia));
        Interface {
            names: names.collect(),
            open_tokens: prompt
                .map(|name| (name, tokens))
                .into_iter()
                .chain(["state_action_tokens", "dit_output", "decoder"].map(|name| (name, own)))
                .collect(),
            batch,
            stored_formats: nvidia,
        }
    }

    fn metadata(&self, checkpoint: &str) -> Metadata {
        let layout = &self.layout;
        let images: Vec<String> = layout.images.iter().map(|[h, w]| format!("{h}x{w}")).collect();
        let products = match self.products {
            Products::Native => "native",
            Products::Widened => "widened",
        };
        let mut entries = vec![
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("checkpoint", checkpoint.to_owned()),
            ("component", self.component.to_string()),
            ("precision", self.policy.identity()),
            ("products", products.to_owned()),
        ];
        if matches!(self.component, Component::Backbone | Component::Policy) {
            entries.push(("images", images.join(",")));
        }
        if matches!(self.component, Component::ActionHead | Component::Policy) {
            entries.push(("state_horizon", layout.state_horizon.to_string()));
            entries.push(("denoising_steps", layout.denoising_steps.to_string()));
        }
        entries.into_iter().map(|(key, value)| (format!("steadyhand.{key}"), value)).collect()
    }
}

impl Component {
    /// Every component by its name.
    pub const ALL: [(&'static str, Component); 8] = [
        ("dit", Component::Dit),
        ("vl_self_attention", Component::VlSelfAttention),
        ("state_encoder", Component::StateEncoder),
        ("action_encoder", Component::ActionEncoder),
        ("action_decoder", Component::ActionDecoder),
        ("action_head", Component::ActionHead),
        ("backbone", Component::Backbone),
        ("policy", Component::Policy),
    ];

    /// The sites of a model that lie in this component.
    ///
    /// # Errors
    /// As [`Model::sites`].
    pub fn sites(self, model: &Model) -> Result<Vec<ModelSite>> {
        let within = |site: &ModelSite| {
            let path = site.path.as_str();
            let part = path.split('.').next().unwrap_or_default();
            let backbone = matches!(part, "vision" | "connector" | "language");
            match self {
                Component::Policy => true,
                Component::Backbone => backbone,
                Component::ActionHead => !backbone,
                Component::Dit => matches!(part, "dit" | "timestep_embedding"),
                Component::VlSelfAttention => path.starts_with("action_head.vl_self_attention."),
                Component::StateEncoder => path.starts_with("action_head.state_"),
                Component::ActionEncoder => matches!(part, "action_encoder" | "action_features"),
                Component::ActionDecoder => part == "decoder",
            }
        };
        Ok(model.sites()?.into_iter().filter(within).collect())
    }

    /// The tensors that are its own; none of what is more than a part of the action head.
    pub fn edges(self) -> &'static [Edge] {
        const FEATURES: Edge = Edge { name: "vl_features", nvidia: "vl_embs", tap: None, is_output: false };
        match self {
            Component::Dit => {
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

    /// The part of the action head that takes these inputs, by our names or NVIDIA's.
    pub fn of_inputs(names: &[&str]) -> Option<Component> {
        let takes = |component: &Component| {
            let mut inputs = component.edges().iter().filter(|edge| !edge.is_output).peekable();
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
        let found = Component::ALL.iter().find(|(_, component)| component == self);
        formatter.write_str(found.map_or("", |(name, _)| name))
    }
}

impl FromStr for Component {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Component::ALL.iter().find(|(known, _)| *known == name);
        found.map(|(_, component)| *component).ok_or_else(|| {
            let known = Component::ALL.map(|(name, _)| name).join(", ");
            Error::input("component", format!("expected one of {known}, found `{name}`"))
        })
    }
}
