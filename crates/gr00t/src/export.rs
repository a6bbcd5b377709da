//! Export: the model, or a component of it, recorded as an ONNX graph.

use crate::model::{self, Batch, Model};
use crate::ops::Site;
use crate::ops::onnx::{Interface, Metadata, Port, Products, Recorder, Value, Written, check};
use crate::ops::{ModelSite, Ops, Part};
use crate::precision::PrecisionPolicy;
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// The opset that graphs are recorded in unless told otherwise: the first with Gelu.
pub const DEFAULT_OPSET: i64 = 20;

/// What is exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Component {
    /// One velocity of the diffusion transformer, on state and action tokens: what NVIDIA's exporter exports.
    Dit,
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
    /// Those of NVIDIA's exporter, floats in the storage format. For [`Component::Dit`] only.
    Nvidia,
}

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
        if self.names == Names::Nvidia && self.component != Component::Dit {
            let what = format!("nvidia names are those of a dit, found {}", self.component);
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
        }
    }

    fn interface(&self) -> Interface {
        let nvidia = self.names == Names::Nvidia;
        let (batch, tokens, own) = match nvidia {
            true => ("batch_size", "vl_seq_len", "sa_seq_len"),
            false => ("batch", "tokens", "state_action_tokens"),
        };
        let prompt =
            ["input_ids", "image_mask", "backbone_attention_mask", "backbone_features", "vl_features"];
        let names =
            [("state_action_tokens", "sa_embs"), ("vl_features", "vl_embs"), ("dit_output", "output")];
        Interface {
            names: if nvidia { BTreeMap::from(names) } else { BTreeMap::new() },
            open_tokens: prompt
                .map(|name| (name, tokens))
                .into_iter()
                .chain(["state_action_tokens", "dit_output"].map(|name| (name, own)))
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
    pub const ALL: [(&'static str, Component); 4] = [
        ("dit", Component::Dit),
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
            let part = site.path.split('.').next().unwrap_or_default();
            let backbone = matches!(part, "vision" | "connector" | "language");
            match self {
                Component::Policy => true,
                Component::Backbone => backbone,
                Component::ActionHead => !backbone,
                Component::Dit => matches!(part, "dit" | "timestep_embedding"),
            }
        };
        Ok(model.sites()?.into_iter().filter(within).collect())
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
