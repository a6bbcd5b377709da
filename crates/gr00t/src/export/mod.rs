//! Export: the model, or a component of it, recorded as an ONNX graph.

mod blocks;
mod component;

pub use blocks::Blocks;
pub use component::{Component, Edge};

use crate::model::{self, Batch, Model, Prompt, language, vision};
use crate::ops::onnx::{Interface, Metadata, Port, Products, Recorder, Value, Written, check};
use crate::ops::{ModelSite, Ops, Part, Site};
use crate::precision::PrecisionPolicy;
use crate::{Error, Result};
use component::{DEEPSTACK, PIXELS};
use std::path::Path;

/// The opset that graphs are recorded in unless told otherwise: the first with Gelu.
pub const DEFAULT_OPSET: i64 = 20;

/// Names and types of the graph's inputs and outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// This crate's own, floats in f32.
    Steady,
    /// Those of NVIDIA's exporter, floats in the storage format. For the components that it cuts a model into.
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
        recorder.write(&result, &name, self.metadata(checkpoint), path)
    }

    /// What the graph takes and gives, without writing it.
    ///
    /// # Errors
    /// The layout does not fit the model.
    pub fn ports(&self, model: &Model) -> Result<Vec<Port>> {
        let recorder = self.recorder(model)?;
        let (result, name) = self.record(model, &recorder)?;
        Ok(recorder.ports(&result, &name))
    }

    /// An empty graph, for a layout that fits.
    fn recorder(&self, model: &Model) -> Result<Recorder<'_>> {
        let layout = &self.layout;
        if self.takes_images() && layout.images.is_empty() {
            return Err(Error::input("image", "expected the size of at least one image, found none"));
        }
        if self.names == Names::Nvidia && self.component.edges().is_empty() {
            let what = format!("nvidia names are those of parts that it cuts, found {}", self.component);
            return Err(Error::input("io_names", what));
        }
        if self.component == Component::Vit
            && !model.topology.vision_gives_tokens()
            && layout.images.len() > 1
        {
            let what = format!(
                "expected one size, of which a graph takes any number of images, found {}",
                layout.images.len()
            );
            return Err(Error::input("image", what));
        }
        let mut sites = self.component.sites(model)?;
        if self.component == Component::Llm {
            // What enters has the formats of the sites that make it.
            let added =
                |path: &str| path.strip_prefix("vision.deepstack.").is_some_and(|rest| !rest.contains('.'));
            let enters = |site: &ModelSite| site.path == language::EMBEDDING || added(&site.path);
            sites.extend(model.sites()?.into_iter().filter(enters));
        }
        if let Component::Blocks(blocks) = self.component {
            sites.extend(model.sites()?.into_iter().filter(|site| blocks.are_entered_from(&site.path)));
        }
        check(self.policy, &sites)?;
        let image_token = model.config.image_token();
        Recorder::new(self.policy, self.products, self.opset, image_token, self.interface(model))
    }

    fn takes_images(&self) -> bool {
        self.component.takes_images()
    }

    fn record(&self, model: &Model, recorder: &Recorder) -> Result<(Value, String)> {
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
        let (result, name) = match self.component {
            Component::Blocks(blocks) => {
                return blocks.record(self, model, recorder, &prompt, features_shape);
            }
            Component::Vit => vit(model, recorder, batch),
            Component::Llm => llm(model, recorder, &prompt, batch),
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
        }?;
        Ok((result, name.to_owned()))
    }

    fn interface(&self, model: &Model) -> Interface {
        let nvidia = self.names == Names::Nvidia;
        let whole = model.topology.vision_gives_tokens();
        let (batch, tokens, own) = match (nvidia, self.component) {
            (true, Component::Llm) if whole => ("batch_size", "seq_len", ""),
            (true, Component::Llm) => ("batch_size", "sequence_length", ""),
            (true, _) => ("batch_size", "vl_seq_len", "sa_seq_len"),
            (false, Component::Vit) => ("images", "", ""),
            (false, _) => ("batch", "tokens", "state_action_tokens"),
        };
        // NVIDIA's graphs of these take one observation: its tensors have no dimension for more.
        let alone = whole && matches!(self.component, Component::Vit | Component::Llm);
        let prompt = [
            "input_ids",
            "image_mask",
            "backbone_attention_mask",
            "backbone_features",
            "vl_features",
            "vl_norm",
            "inputs_embeds",
            "attention_mask",
            "position_ids",
            "visual_pos_masks",
            "embeddings",
        ];
        let images = if nvidia { "num_vis_tokens" } else { "image_tokens" };
        let names = self.component.edges().iter().filter(|_| nvidia).map(|edge| (edge.name, edge.nvidia));
        let pixels = (self.component == Component::Vit).then_some(("pixel_values.0", PIXELS));
        Interface {
            names: names.chain(pixels).collect(),
            open_tokens: prompt
                .map(|name| (name, tokens))
                .into_iter()
                .chain(["state_action_tokens", "block", "dit_output", "decoder"].map(|name| (name, own)))
                .chain(DEEPSTACK.map(|name| (name, images)))
                .collect(),
            batch: (!alone).then_some(batch),
            rows: if alone {
                [PIXELS, "image_embeds"].into_iter().chain(DEEPSTACK).collect()
            } else {
                Vec::new()
            },
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
        if self.takes_images() {
            entries.push(("images", images.join(",")));
        }
        if matches!(self.component, Component::ActionHead | Component::Policy) {
            entries.push(("state_horizon", layout.state_horizon.to_string()));
            entries.push(("denoising_steps", layout.denoising_steps.to_string()));
        }
        entries.into_iter().map(|(key, value)| (format!("steadyhand.{key}"), value)).collect()
    }
}

/// The graph of the vision tower; the name of its last output.
fn vit(model: &Model, recorder: &Recorder, batch: &Batch) -> Result<(Value, &'static str)> {
    let grids = &model.grids(&batch.images)?;
    if !model.topology.vision_gives_tokens() {
        let patches = model.patches(recorder, batch)?;
        return Ok((model.see(recorder, &patches, grids)?.patches, "vit_embeds"));
    }
    let patches = grids.iter().map(|grid| grid.patches()).sum();
    let shape = [1, patches, model.vision.patching.features()];
    let patches = recorder.float_input(PIXELS, shape, &Site::new(vision::PATCHES));
    let seen = model.see(recorder, &patches, grids)?;
    let tokens = model.image_tokens(recorder, &seen.patches, grids)?;
    match recorder.stack(&seen.deepstack) {
        Some(deepstack) => {
            recorder.output(&tokens, "image_embeds");
            Ok((deepstack, "deepstack_features"))
        }
        None => Ok((tokens, "image_embeds")),
    }
}

/// The graph of the language layers; the name of its output.
fn llm(model: &Model, recorder: &Recorder, prompt: &Prompt, batch: &Batch) -> Result<(Value, &'static str)> {
    let (hidden, tokens) = (model.config.backbone().text.hidden_size, batch.input_ids[0].len());
    let embeddings =
        recorder.float_input("inputs_embeds", [1, tokens, hidden], &Site::new(language::EMBEDDING));
    let added = model.deepstack.len();
    let names = DEEPSTACK.get(..added).ok_or_else(|| {
        let what =
            format!("expected at most {} deepstack features, as NVIDIA's, found {added}", DEEPSTACK.len());
        Error::input("llm", what)
    })?;
    recorder.embeddings_input(&embeddings, model.language.rows_and_columns, added > 0);
    let deepstack: Vec<Value> = names
        .iter()
        .enumerate()
        .map(|(index, name)| {
            let at = &Site::new("vision.deepstack") / index;
            recorder.float_input(name, [1, prompt.images.indices.len(), hidden], &at)
        })
        .collect();
    Ok((model.read(recorder, &embeddings, &deepstack, prompt, &[])?, "embeddings"))
}
