//! The mathematics of GR00T, written once over [`Ops`].
//!
//! `vision`, `connector`, `language`, `self_attention`, `dit` and `action_head` compute; what the versions of the model
//! do not share is values in their weights. `n1_6` and `n1_7` say where a checkpoint has those weights, and give the values.
//!
//! Tensors are `[batch, tokens, features]`.

pub mod action_head;
mod batch;
pub mod connector;
pub mod dit;
pub mod language;
mod n1_6;
mod n1_7;
pub mod self_attention;
pub mod vision;
mod weights;

pub use batch::{Batch, Layout, Prompt};

use crate::checkpoint::{Checkpoint, Loader};
use crate::config::Config;
use crate::ops::{Grid, ImageBatch, ModelSite, Ops, Part, ShapeInference, Site, Tokens, Visit};
use crate::topology::Topology;
use crate::version::Version;
use crate::{Error, Result};
use std::collections::BTreeSet;
use std::ops::Range;

/// The whole model: where its weights lie, and its sizes.
#[derive(Debug, Clone)]
pub struct Model {
    /// Sizes.
    pub config: Config,
    /// Images to patches.
    pub vision: vision::Vision,
    /// Image patches to language tokens.
    pub connector: connector::Connector,
    /// The same of layers of the vision tower, by their number, for what is added behind language layers.
    pub deepstack: Vec<(usize, connector::Connector)>,
    /// Qwen3.
    pub language: language::Language,
    /// State and action encoders, DiT, action decoder.
    pub action_head: action_head::ActionHead,
    /// Its parts and stages.
    pub topology: Topology,
    checkpoint: Option<Checkpoint>,
}

/// What the vision tower makes of images.
#[derive(Debug, Clone)]
pub struct Seen<T> {
    /// `[batch, patches, hidden]` of the tower.
    pub patches: T,
    /// What is added behind language layers, each `[batch, image tokens, hidden]` of those.
    pub deepstack: Vec<T>,
}

impl Model {
    /// Finds the model's tensors in a checkpoint.
    ///
    /// # Errors
    /// The tensors of another version than the configuration's; one error naming every missing, wrongly shaped and
    /// unexpected tensor.
    pub fn load(checkpoint: &Checkpoint, config: Config) -> Result<Self> {
        check_version(checkpoint, config.version)?;
        let unused: &[&str] = match config.version {
            Version::N1_6 => &n1_6::UNUSED,
            Version::N1_7 => &n1_7::UNUSED,
        };
        let mut loader = Loader::new(checkpoint);
        let model = Model::take(&mut loader, config);
        loader.finish(unused)?;
        Ok(Model { checkpoint: Some(checkpoint.clone()), ..model })
    }

    /// The checkpoint that the weights lie in; `None` for weights that a seed determines.
    pub fn checkpoint(&self) -> Option<&Checkpoint> {
        self.checkpoint.as_ref()
    }

    /// A model of random weights that a seed determines, for measuring without a checkpoint. No weight is held
    /// in memory: an element is made when it is read ([`crate::checkpoint::Synthetic`]).
    ///
    /// # Errors
    /// Sizes that do not fit each other, named by field.
    pub fn synthetic(config: Config, seed: u64) -> Result<Self> {
        config.check().map_err(|what| Error::input("config", what))?;
        Ok(Model::take(&mut Loader::synthetic(seed), config))
    }

    fn take(loader: &mut Loader, config: Config) -> Self {
        let backbone = config.backbone();
        let (vision, connector, deepstack, language) = match config.version {
            Version::N1_6 => (
                n1_6::vision(loader, &backbone.vision),
                n1_6::connector(loader, &backbone),
                Vec::new(),
                n1_6::language(loader, &config),
            ),
            Version::N1_7 => (
                n1_7::vision(loader, &backbone.vision),
                n1_7::connector(loader, &backbone),
                n1_7::deepstack(loader, &backbone),
                n1_7::language(loader, &config),
            ),
        };
        let mut action_head = action_head::ActionHead::load(loader, &config);
        action_head.dit.time_frequencies = match config.version {
            Version::N1_6 => n1_6::time_frequencies(),
            Version::N1_7 => n1_7::time_frequencies(),
        };
        Model {
            vision,
            connector,
            deepstack,
            language,
            action_head,
            topology: Topology::of(&config),
            config,
            checkpoint: None,
        }
    }

    /// Normalized actions `[batch, action_horizon, max_action_dim]` for a batch.
    ///
    /// # Errors
    /// A tensor of the batch does not fit the model: named with the shapes.
    pub fn infer<O: Ops>(&self, ops: &O, batch: &Batch) -> Result<O::Tensor> {
        let prompt = self.prompt(batch)?;
        let features = self.backbone(ops, &prompt, batch)?;
        self.actions(ops, &features, &prompt, batch)
    }

    /// The first half of [`Model::infer`]: backbone features `[batch, tokens, backbone_embedding_dim]`.
    ///
    /// # Errors
    /// As [`Model::infer`].
    pub fn backbone<O: Ops>(&self, ops: &O, prompt: &Prompt, batch: &Batch) -> Result<O::Tensor> {
        let grids = &self.grids(&batch.images)?;
        let patches = vision::patches(ops, &self.vision, &batch.images, grids, batch.len())?;
        let seen = self.see(ops, &patches, grids)?;
        let images = self.image_tokens(ops, &seen.patches, grids)?;
        let embeddings = language::embed(ops, &self.language, &batch.input_ids, &prompt.images, &images)?;
        self.read(ops, &embeddings, &seen.deepstack, prompt, grids)
    }

    /// The images of a batch as the vision tower takes them, `[batch, patches, values of a patch]`.
    ///
    /// # Errors
    /// As [`Model::infer`].
    pub fn patches<O: Ops>(&self, ops: &O, batch: &Batch) -> Result<O::Tensor> {
        vision::patches(ops, &self.vision, &batch.images, &self.grids(&batch.images)?, batch.len())
    }

    /// The vision tower alone: patches of images of these grids to what it makes of them.
    ///
    /// # Errors
    /// As [`Model::infer`].
    pub fn see<O: Ops>(&self, ops: &O, patches: &O::Tensor, grids: &[Grid]) -> Result<Seen<O::Tensor>> {
        let mut deepstack = Vec::with_capacity(self.deepstack.len());
        let patches = vision::forward(ops, &self.vision, patches, grids, |layer, patches| {
            for (_, connector) in self.deepstack.iter().filter(|(from, _)| *from == layer) {
                let at = &Site::new("vision.deepstack") / deepstack.len();
                deepstack.push(connector::forward(ops, connector, patches, grids, &at)?);
            }
            Ok(())
        })?;
        Ok(Seen { patches, deepstack })
    }

    /// The connector alone: patch features to what takes the places of image tokens, `[batch, image tokens, hidden]`.
    ///
    /// # Errors
    /// As [`Model::infer`].
    pub fn image_tokens<O: Ops>(&self, ops: &O, patches: &O::Tensor, grids: &[Grid]) -> Result<O::Tensor> {
        connector::forward(ops, &self.connector, patches, grids, &Site::new(self.topology.image_tokens))
    }

    /// The language layers alone: embeddings with the images in their places, `[batch, tokens, hidden]`, and what is
    /// added behind layers to backbone features.
    ///
    /// # Errors
    /// As [`Model::infer`].
    pub fn read<O: Ops>(
        &self,
        ops: &O,
        embeddings: &O::Tensor,
        deepstack: &[O::Tensor],
        prompt: &Prompt,
        grids: &[Grid],
    ) -> Result<O::Tensor> {
        let grids: Vec<Grid> = grids.iter().map(|grid| grid.blocks()).collect();
        let images = language::Images { tokens: &prompt.images, grids: &grids, deepstack };
        let features = language::forward(ops, &self.language, embeddings, &images)?;
        ops.tap(&features, Site::new("backbone_features"));
        Ok(features)
    }

    /// Where each token of a prompt stands in time, rows and columns, for a model whose language layers know of more
    /// than their order.
    ///
    /// # Errors
    /// As [`Model::infer`].
    pub fn token_places(&self, batch: &Batch) -> Result<Option<Vec<[usize; 3]>>> {
        let (prompt, grids) = (self.prompt(batch)?, self.grids(&batch.images)?);
        let grids: Vec<Grid> = grids.iter().map(|grid| grid.blocks()).collect();
        let tokens = batch.input_ids.first().map_or(0, Vec::len);
        let places = self.language.places(&prompt.images, &grids);
        Ok(self.language.rows_and_columns.then(|| places.coordinates(tokens)))
    }

    /// The second half of [`Model::infer`]: normalized actions for backbone features.
    ///
    /// # Errors
    /// As [`Model::infer`].
    pub fn actions<O: Ops>(
        &self,
        ops: &O,
        features: &O::Tensor,
        prompt: &Prompt,
        batch: &Batch,
    ) -> Result<O::Tensor> {
        action_head::forward(ops, &self.action_head, features, prompt, batch)
    }

    /// The diffusion transformer alone: state and action tokens `[batch, tokens, input_embedding_dim]` at
    /// the time `bucket`, conditioned on normalized features, to `[batch, tokens, output_dim]`.
    ///
    /// # Errors
    /// As [`Model::infer`].
    pub fn dit<O: Ops>(
        &self,
        ops: &O,
        tokens: &O::Tensor,
        features: &O::Tensor,
        prompt: &Prompt,
        bucket: usize,
    ) -> Result<O::Tensor> {
        let dit = &self.action_head.dit;
        let memory = dit::Memory::new(ops, dit, features, prompt)?;
        dit::forward(ops, dit, tokens, &memory, bucket, &Site::new("dit"))
    }

    /// What the blocks of the diffusion transformer are told of the time `bucket`, `[1, 1, inner_dim]`.
    ///
    /// # Errors
    /// As [`Model::infer`].
    pub fn dit_time<O: Ops>(&self, ops: &O, bucket: usize) -> Result<O::Tensor> {
        dit::time(ops, &self.action_head.dit, bucket, &Site::new("dit"))
    }

    /// Some blocks of the diffusion transformer alone: tokens `[batch, tokens, inner_dim]` and what [`Model::dit_time`]
    /// gave to tokens of the same shape.
    ///
    /// # Errors
    /// As [`Model::infer`].
    pub fn dit_blocks<O: Ops>(
        &self,
        ops: &O,
        blocks: Range<usize>,
        tokens: &O::Tensor,
        time: &O::Tensor,
        features: &O::Tensor,
        prompt: &Prompt,
    ) -> Result<O::Tensor> {
        let dit = &self.action_head.dit;
        let memory = dit::Memory::of_blocks(ops, dit, blocks, features, prompt)?;
        dit::blocks(ops, dit, tokens, &memory, time, &Site::new("dit"))
    }

    /// What the last block of the diffusion transformer gives to its output, `[batch, tokens, output_dim]`.
    ///
    /// # Errors
    /// As [`Model::infer`].
    pub fn dit_output<O: Ops>(&self, ops: &O, x: &O::Tensor, time: &O::Tensor) -> Result<O::Tensor> {
        dit::output(ops, &self.action_head.dit, x, time, &Site::new("dit"))
    }

    /// The self-attention over the backbone features alone: normalized features `[batch, tokens,
    /// backbone_embedding_dim]` to what the DiT attends to.
    ///
    /// # Errors
    /// As [`Model::infer`]; a model without it.
    pub fn vl_self_attention<O: Ops>(&self, ops: &O, features: &O::Tensor) -> Result<O::Tensor> {
        let stack = self.action_head.vl_self_attention.as_ref().ok_or_else(|| {
            let what = format!(
                "expected a model with self-attention over the features, found {}",
                self.config.version
            );
            Error::input("vl_self_attention", what)
        })?;
        self_attention::forward(ops, stack, features, &Site::new("action_head.vl_self_attention"))
    }

    /// The state encoder alone: the batch's state to tokens `[batch, state tokens, input_embedding_dim]`.
    ///
    /// # Errors
    /// As [`Model::infer`].
    pub fn state_encoder<O: Ops>(&self, ops: &O, batch: &Batch) -> Result<O::Tensor> {
        action_head::encode_state(ops, &self.action_head, batch, &Site::new("action_head"))
    }

    /// The action encoder alone: actions `[batch, action_horizon, max_action_dim]` at the time `bucket` to tokens `[batch,
    /// action_horizon, input_embedding_dim]`, before their positions are added.
    ///
    /// # Errors
    /// As [`Model::infer`].
    pub fn action_encoder<O: Ops>(
        &self,
        ops: &O,
        actions: &O::Tensor,
        bucket: usize,
        batch: &Batch,
    ) -> Result<O::Tensor> {
        action_head::encode_actions(
            ops,
            &self.action_head,
            actions,
            action_head::Time { step: 0, bucket },
            batch,
        )
    }

    /// The action decoder alone: what the DiT gives, `[batch, tokens, output_dim]`, to a velocity for each token.
    ///
    /// # Errors
    /// As [`Model::infer`].
    pub fn action_decoder<O: Ops>(&self, ops: &O, output: &O::Tensor, batch: &Batch) -> Result<O::Tensor> {
        action_head::decode(ops, &self.action_head, output, 0, batch)
    }

    /// Every operation of an inference of this layout, in the order of execution: the model's own code, run over
    /// operations that only take notes.
    ///
    /// # Errors
    /// A layout that does not fit the model.
    pub fn visits(&self, layout: &Layout) -> Result<Vec<Visit>> {
        let ops = ShapeInference::new(self.config.image_token());
        self.infer(&ops, &Batch::of_layout(&self.config, layout)?)?;
        Ok(ops.visits())
    }

    /// Every site of the model with the operation that makes it, in the order in which an inference first reaches
    /// them.
    ///
    /// # Errors
    /// None for a model that was loaded: its shapes fit.
    pub fn sites(&self) -> Result<Vec<ModelSite>> {
        let mut known = BTreeSet::new();
        let visits = self.visits(&Layout::smallest(&self.config))?.into_iter();
        let sites =
            visits.map(|visit| ModelSite { path: visit.site.path().to_owned(), operation: visit.operation });
        Ok(sites.filter(|site| known.insert(site.path.clone())).collect())
    }

    /// Patches of each image, checked against the patch size.
    pub fn grids(&self, images: &[ImageBatch]) -> Result<Vec<Grid>> {
        let vision = self.config.backbone().vision;
        let (patch, step) = (vision.patch_size, self.config.image_token_side());
        let block = match self.connector.join {
            connector::Join::PixelUnshuffle(_) => 1,
            connector::Join::InOrder { .. } => vision.merge,
        };
        let grid = |image: &ImageBatch| {
            let (height, width) = (image.height, image.width);
            if height == 0 || width == 0 || height % step != 0 || width % step != 0 {
                let what =
                    format!("expected height and width to be multiples of {step}, found {height}x{width}");
                return Err(Error::input("pixel_values", what));
            }
            if image.frames != 1 && image.frames != vision.frames {
                let what = format!("expected 1 or {} frames, found {}", vision.frames, image.frames);
                return Err(Error::input("pixel_values", what));
            }
            Ok(Grid { rows: height / patch, cols: width / patch, block })
        };
        images.iter().map(grid).collect()
    }

    /// Fails where the prompt has not as many image tokens as the images give.
    pub fn check_image_tokens(&self, prompt: &Prompt, grids: &[Grid]) -> Result<()> {
        let each = self.config.backbone().vision.merge.pow(2);
        let expected: usize = grids.iter().map(|grid| grid.patches() / each).sum();
        let found = prompt.images.indices.len();
        if expected == found {
            return Ok(());
        }
        let what = format!("expected {expected} image tokens for these images, found {found}");
        Err(Error::input("input_ids", what))
    }

    /// Where the prompts of a batch have image tokens and where others.
    ///
    /// # Errors
    /// Prompts of different layouts.
    pub fn prompt(&self, batch: &Batch) -> Result<Prompt> {
        let id = self.config.image_token();
        let kinds = |ids: &[u32]| (0..ids.len()).partition::<Vec<usize>, _>(|i| ids[*i] == id);
        let first = batch.input_ids.first().map(|ids| kinds(ids)).unwrap_or_default();
        let same = |ids: &Vec<u32>| ids.len() == batch.input_ids[0].len() && kinds(ids) == first;
        if !batch.input_ids.iter().all(same) {
            return Err(Error::input("input_ids", "expected image tokens at the same places in a batch"));
        }
        let (images, text) = first;
        Ok(Prompt {
            images: Tokens { part: Part::Images, indices: images },
            text: Tokens { part: Part::Text, indices: text },
        })
    }
}

/// Whether the tensors are those of this version.
fn check_version(checkpoint: &Checkpoint, expected: Version) -> Result<()> {
    let begins = |version: Version| match version {
        Version::N1_6 => n1_6::VISION,
        Version::N1_7 => n1_7::VISION,
    };
    let has = |version: Version| {
        let start = format!("{}.", begins(version));
        checkpoint.tensors().find(|(name, _)| name.starts_with(&start)).map(|(name, _)| (version, name))
    };
    match Version::ALL.into_iter().find_map(has) {
        Some((found, name)) if found != expected => Err(Error::file(
            checkpoint.folder(),
            format!(
                "expected the tensors of {expected}, as config.json's model_type `{}` says, found those of {found}: {name}",
                expected.model_type()
            ),
        )),
        _ => Ok(()),
    }
}
