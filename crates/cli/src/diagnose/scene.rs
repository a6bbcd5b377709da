//! What both engines are shown: observations of one episode, made into model inputs.

use crate::args::ObservationArgs;
use crate::commands::eval::load_parts;
use crate::demo_assets::{self, Demo};
use crate::engines;
use crate::episodes::{Observations, concatenated};
use crate::noise::NoiseSource;
use anyhow::{Result, ensure};
use std::path::PathBuf;
use steadyhand_gr00t::Observation;
use steadyhand_gr00t::engine::ModelInput;
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::policy::prepare;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::processor::Processor;
use steadyhand_lerobot::{Dataset, Kind};

/// A model, a processor, and observations in both their terms.
pub struct Scene {
    pub checkpoint: PathBuf,
    pub dataset: PathBuf,
    pub model: Model,
    pub processor: Processor,
    pub denoising_steps: usize,
    pub episode: usize,
    /// Steps of the episode that were observed.
    pub steps: Vec<usize>,
    pub observations: Vec<Observation>,
    pub inputs: Vec<ModelInput>,
    /// Recorded actions of the whole episode, one row a step.
    pub recorded: Vec<Vec<f32>>,
    /// Joint names of the recorded actions.
    pub names: Vec<String>,
}

impl Scene {
    /// Loads everything. `noise` is what an engine's recording came with.
    ///
    /// # Errors
    /// A file does not fit: named with the field.
    pub fn load(args: &ObservationArgs, noise: Option<NoiseSource>) -> Result<Self> {
        let Demo { checkpoint, dataset: dataset_path } =
            demo_assets::unless_given(args.model_path.as_deref(), args.dataset_path.as_deref())?;
        let (processor, model) =
            load_parts(&checkpoint, args.embodiment_tag.as_deref(), args.tokenizer.as_deref())?;
        let dataset = Dataset::open(&dataset_path)?;
        let episode = dataset.episode(args.traj_id)?;
        let spacing = usize::from(args.action_horizon);
        let steps: Vec<usize> = (0..usize::from(args.inferences))
            .map(|i| i * spacing)
            .filter(|step| *step < episode.len())
            .collect();
        ensure!(!steps.is_empty(), "episode {}: no steps", args.traj_id);
        let chosen = args.noise.clone().map(NoiseSource::Recorded).or(noise);
        let [horizon, dim] = [model.config.action_horizon, model.config.max_action_dim];
        let noise =
            chosen.unwrap_or(NoiseSource::Seed(args.seed)).open(args.traj_id, steps.len(), horizon, dim)?;
        let (mut observations, mut inputs) = (Vec::new(), Vec::new());
        for (inference, observed) in Observations::open(&processor, &episode, steps.clone())?.enumerate() {
            let (_, observation) = observed?;
            inputs.push(prepare(&processor, &observation, noise.get(inference))?);
            observations.push(observation);
        }
        let keys = &processor.modalities().action.modality_keys;
        Ok(Scene {
            recorded: concatenated(&episode, Kind::Action, keys)?,
            names: keys.iter().flat_map(|key| dataset.dimension_names(Kind::Action, key)).collect(),
            checkpoint,
            dataset: dataset_path,
            model,
            processor,
            denoising_steps: usize::from(args.denoising_steps),
            episode: args.traj_id,
            steps,
            observations,
            inputs,
        })
    }

    /// The precision policy of this name, checked as [`engines::policy`] does.
    ///
    /// # Errors
    /// As there.
    pub fn policy(&self, name: &str) -> Result<PrecisionPolicy> {
        engines::policy(name, &self.checkpoint, &self.model, Some(self.processor.embodiment_tag()))
    }
}
