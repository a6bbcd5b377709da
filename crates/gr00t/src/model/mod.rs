//! The mathematics of GR00T N1.6, written once over [`Ops`].
//!
//! Tensors are `[batch, tokens, features]`. The weights keep the checkpoint's own names.

pub mod action_head;
mod batch;
pub mod connector;
pub mod dit;
pub mod language;
pub mod vision;
mod weights;

pub use batch::{Batch, Layout, Prompt};

use crate::checkpoint::{Checkpoint, Loader};
use crate::config::Config;
use crate::ops::{Grid, ImageBatch, ModelSite, Ops, Part, ShapeInference, Site, Tokens, Visit};
use crate::topology::Topology;
use crate::{Error, Result};
use std::collections::BTreeSet;

/// The whole model: where its weights lie, and its sizes.
#[derive(Debug, Clone)]
pub struct Model {
    /// Sizes.
    pub config: Config,
    /// SigLIP2.
    pub vision: vision::Vision,
    /// Image patches to language tokens.
    pub connector: connector::Connector,
    /// Qwen3.
    pub language: language::Language,
    /// State and action encoders, DiT, action decoder.
    pub action_head: action_head::ActionHead,
    /// Its parts and stages.
    pub topology: Topology,
    checkpoint: Option<Checkpoint>,
}

impl Model {
    /// Finds the model's tensors in a checkpoint.
    ///
    /// # Errors
    /// One error naming every missing, wrongly shaped and unexpected tensor.
    pub fn load(checkpoint: &Checkpoint, config: Config) -> Result<Self> {
        let mut loader = Loader::new(checkpoint);
        let model = Model::take(&mut loader, config);
        loader.finish()?;
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
        Model {
            vision: vision::Vision::load(loader, &config.eagle_config.vision_config),
            connector: connector::Connector::load(loader, &config.eagle_config),
            language: language::Language::load(loader, &config.eagle_config.text_config, config.select_layer),
            action_head: action_head::ActionHead::load(loader, &config),
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
        let grids = self.grids(&batch.images)?;
        let patches = vision::forward(ops, &self.vision, &batch.images, &grids, batch.len())?;
        let images = connector::forward(ops, &self.connector, &patches, &grids)?;
        let features = language::forward(ops, &self.language, &batch.input_ids, &prompt.images, &images)?;
        ops.tap(&features, Site::new("backbone_features"));
        Ok(features)
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
        let patch = self.config.eagle_config.vision_config.patch_size;
        let step = patch * self.config.eagle_config.unshuffle();
        let grid = |image: &ImageBatch| {
            let (height, width) = (image.height, image.width);
            if height == 0 || width == 0 || height % step != 0 || width % step != 0 {
                let what =
                    format!("expected height and width to be multiples of {step}, found {height}x{width}");
                return Err(Error::input("pixel_values", what));
            }
            Ok(Grid { rows: height / patch, cols: width / patch })
        };
        images.iter().map(grid).collect()
    }

    /// Fails where the prompt has not as many image tokens as the images give.
    pub fn check_image_tokens(&self, prompt: &Prompt, grids: &[Grid]) -> Result<()> {
        let unshuffle = self.config.eagle_config.unshuffle();
        let expected: usize = grids.iter().map(|grid| grid.patches() / (unshuffle * unshuffle)).sum();
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
