//! What both engines are shown: observations of one episode, made into model inputs.

use crate::args::ObservationArgs;
use crate::calibration::DatasetAtHand;
use crate::commands::eval::load_parts;
use crate::demo_assets::{self, Demo};
use crate::engines;
use crate::episodes::{Observations, concatenated};
use crate::noise::{EpisodeNoise, NoiseSource};
use crate::synthetic::{self, Shapes, Synthetic};
use anyhow::{Result, ensure};
use std::path::{Path, PathBuf};
use steadyhand_gr00t::Observation;
use steadyhand_gr00t::config::Config;
use steadyhand_gr00t::engine::ModelInput;
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::policy::prepare;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::processor::Processor;
use steadyhand_gr00t_lab::diagnosis::Setup;
use steadyhand_lerobot::{Dataset, Kind};

/// A model, a processor, and observations in both their terms.
pub struct Scene {
    /// The checkpoint as it was named.
    pub checkpoint: String,
    /// Its folder; none where its weights are made up.
    pub folder: Option<PathBuf>,
    /// The dataset's folder, or what was observed instead.
    pub dataset: String,
    /// The dataset, as calibrations are asked about it; none where observations are made up.
    at_hand: Option<DatasetAtHand>,
    pub model: Model,
    pub processor: Processor,
    pub denoising_steps: usize,
    /// Of the noise where none was recorded, and of weights that are made up.
    pub seed: u64,
    pub episode: usize,
    /// Steps of the episode that were observed.
    pub steps: Vec<usize>,
    pub observations: Vec<Observation>,
    pub inputs: Vec<ModelInput>,
    /// Recorded actions of the whole episode, one row a step; empty where nothing was recorded.
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
        if let Some(name) = args.model_path.as_deref().and_then(Path::to_str)
            && let Some(config) = steadyhand_gr00t::synthetic::config(name)?
        {
            return Scene::synthetic(args, name, config, noise);
        }
        let Demo { checkpoint, dataset: dataset_path } =
            demo_assets::unless_given(args.model_path.as_deref(), args.dataset_path.as_deref())?;
        let (processor, model) =
            load_parts(&checkpoint, args.embodiment_tag.as_deref(), args.tokenizer.as_deref())?;
        let dataset = Dataset::open(&dataset_path)?;
        let traj_id = args.traj_id.unwrap_or(0);
        let episode = dataset.episode(traj_id)?;
        let spacing = usize::from(args.action_horizon.unwrap_or(16));
        let steps: Vec<usize> = (0..usize::from(args.inferences))
            .map(|i| i * spacing)
            .filter(|step| *step < episode.len())
            .collect();
        ensure!(!steps.is_empty(), "episode {traj_id}: no steps");
        let observed = Observations::open(&processor, &episode, steps.clone())?;
        let observations: Vec<Observation> =
            observed.map(|observed| Ok(observed?.1)).collect::<Result<_>>()?;
        let noise = open_noise(args, noise, traj_id, steps.len(), &model)?;
        let keys = &processor.modalities().action.modality_keys;
        Ok(Scene {
            recorded: concatenated(&episode, Kind::Action, keys)?,
            names: keys.iter().flat_map(|key| dataset.dimension_names(Kind::Action, key)).collect(),
            checkpoint: checkpoint.display().to_string(),
            folder: Some(checkpoint),
            at_hand: Some(DatasetAtHand::new(&dataset_path, args.allow_stale_calibration)),
            dataset: dataset_path.display().to_string(),
            inputs: prepared(&processor, &observations, &noise)?,
            model,
            processor,
            denoising_steps: usize::from(args.denoising_steps),
            seed: args.seed,
            episode: traj_id,
            steps,
            observations,
        })
    }

    /// Observations of random pixels for random weights of these sizes.
    fn synthetic(
        args: &ObservationArgs,
        name: &str,
        config: Config,
        noise: Option<NoiseSource>,
    ) -> Result<Self> {
        for (option, given) in [
            ("--dataset-path", args.dataset_path.is_some()),
            ("--embodiment-tag", args.embodiment_tag.is_some()),
            ("--tokenizer", args.tokenizer.is_some()),
            ("--traj-id", args.traj_id.is_some()),
            ("--action-horizon", args.action_horizon.is_some()),
        ] {
            ensure!(!given, "{option}: expected with a checkpoint folder, found with {name}");
        }
        let made = Synthetic::make(config, args.seed, &Shapes::default())?;
        let steps: Vec<usize> = (0..usize::from(args.inferences)).collect();
        let seed = |step: &usize| args.seed.wrapping_add(*step as u64);
        let observations: Vec<Observation> = steps.iter().map(|step| made.observation(seed(step))).collect();
        let noise = open_noise(args, noise, 0, steps.len(), &made.model)?;
        Ok(Scene {
            checkpoint: name.to_owned(),
            folder: None,
            dataset: format!("random observations of seed {}", args.seed),
            at_hand: None,
            inputs: prepared(&made.processor, &observations, &noise)?,
            model: made.model,
            processor: made.processor,
            denoising_steps: usize::from(args.denoising_steps),
            seed: args.seed,
            episode: 0,
            steps,
            observations,
            recorded: Vec::new(),
            names: Vec::new(),
        })
    }

    /// What a diagnosis shows both engines.
    pub fn setup(&self) -> Setup<'_> {
        Setup {
            model: &self.model,
            processor: &self.processor,
            denoising_steps: self.denoising_steps,
            observations: &self.observations,
            inputs: &self.inputs,
            steps: &self.steps,
            recorded: &self.recorded,
            names: &self.names,
        }
    }

    /// The precision policy of this name, checked as [`engines::policy`] does.
    ///
    /// # Errors
    /// As there, and for a calibration of another dataset, as [`DatasetAtHand::check`].
    pub fn policy(&self, name: &str) -> Result<PrecisionPolicy> {
        let Some(folder) = &self.folder else {
            return synthetic::policy(name, &self.model, &self.checkpoint, self.seed);
        };
        let policy = engines::policy(name, folder, &self.model, Some(self.processor.embodiment_tag()))?;
        if let Some(dataset) = &self.at_hand {
            dataset.check(&policy)?;
        }
        Ok(policy)
    }
}

/// The noise that the options ask for, else what came with an engine's recording, else the seed's.
fn open_noise(
    args: &ObservationArgs,
    recorded: Option<NoiseSource>,
    episode: usize,
    inferences: usize,
    model: &Model,
) -> Result<EpisodeNoise> {
    let chosen = args.noise.clone().map(NoiseSource::Recorded).or(recorded);
    let [horizon, dim] = [model.config.action_horizon, model.config.max_action_dim];
    chosen.unwrap_or(NoiseSource::Seed(args.seed)).open(episode, inferences, horizon, dim)
}

fn prepared(
    processor: &Processor,
    observations: &[Observation],
    noise: &EpisodeNoise,
) -> Result<Vec<ModelInput>> {
    let of = observations.iter().enumerate();
    of.map(|(index, observation)| Ok(prepare(processor, observation, noise.get(index))?)).collect()
}
