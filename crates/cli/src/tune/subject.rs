//! What is tuned: a checkpoint on a dataset, the embedded demo, or random weights on random observations.

use super::args::TuneArgs;
use crate::calibration::dataset_hash;
use crate::commands::eval::load_parts;
use crate::commands::policy::spread;
use crate::episodes::Observations;
use crate::synthetic::{Shapes, Synthetic};
use anyhow::{Result, bail, ensure};
use std::path::{Path, PathBuf};
use steadyhand_gr00t::checkpoint::Checkpoint;
use steadyhand_gr00t::config::Config;
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::policy::prepare;
use steadyhand_gr00t::processor::Processor;
use steadyhand_gr00t::{Matrix, Observation, noise, synthetic};
use steadyhand_gr00t_lab::tuning::Spread;
use steadyhand_lerobot::{Dataset, Kind};

/// A policy and the frames that it is measured on.
pub struct Loaded {
    pub model: Model,
    pub processor: Processor,
    pub observations: Vec<Observation>,
    /// One for each observation.
    pub noise: Vec<Matrix>,
    pub spread: Option<Spread>,
    /// Fingerprint of the weights.
    pub checkpoint: String,
    /// Hash of the dataset.
    pub dataset: String,
    /// As it was asked for.
    pub name: String,
}

impl Loaded {
    /// Loads or makes up what the options ask for.
    ///
    /// # Errors
    /// A checkpoint or dataset that cannot be loaded, an option that does not go with it.
    pub fn load(args: &TuneArgs) -> Result<Self> {
        match &args.checkpoint {
            Some(name) => match synthetic::config(name)? {
                Some(config) => Loaded::synthetic(args, name, config),
                None => match &args.dataset_path {
                    Some(dataset) => Loaded::folders(args, Path::new(name), dataset),
                    None => bail!("--dataset: expected with a checkpoint folder, found none"),
                },
            },
            None => {
                ensure!(args.dataset_path.is_none(), "--dataset: expected with --checkpoint, found alone");
                let demo = crate::demo_assets::temporary()?;
                Loaded::folders(args, &demo.checkpoint, &demo.dataset)
            }
        }
    }

    fn synthetic(args: &TuneArgs, name: &str, config: Config) -> Result<Self> {
        for (option, given) in [
            ("--dataset", args.dataset_path.is_some()),
            ("--embodiment-tag", args.embodiment_tag.is_some()),
            ("--tokenizer", args.tokenizer.is_some()),
        ] {
            ensure!(!given, "{option}: expected with a checkpoint folder, found with {name}");
        }
        let [horizon, dim] = [config.action_horizon, config.max_action_dim];
        let made = Synthetic::make(config, args.seed, &Shapes::default())?;
        let seeds = (0..u64::from(args.frames)).map(|frame| args.seed.wrapping_add(frame));
        let observations = seeds.map(|seed| made.observation(seed)).collect();
        let Synthetic { model, processor, .. } = made;
        Ok(Loaded {
            noise: (0..args.frames).map(|frame| noise::gaussian(args.seed, frame, 0, horizon, dim)).collect(),
            model,
            processor,
            observations,
            spread: None,
            checkpoint: synthetic::fingerprint(name, args.seed),
            dataset: "random observations".to_owned(),
            name: name.to_owned(),
        })
    }

    fn folders(args: &TuneArgs, checkpoint: &Path, dataset_path: &PathBuf) -> Result<Self> {
        let (processor, model) =
            load_parts(checkpoint, args.embodiment_tag.as_deref(), args.tokenizer.as_deref())?;
        let dataset = Dataset::open(dataset_path)?;
        let [horizon, dim] = [model.config.action_horizon, model.config.max_action_dim];
        let keys = &processor.modalities().action.modality_keys;
        let mut actions: Vec<(Vec<f32>, usize)> = vec![Default::default(); keys.len()];
        let (mut observations, mut draws) = (Vec::new(), Vec::new());
        for (index, rows) in spread(&dataset, &[], args.frames as usize)? {
            let episode = dataset.episode(index)?;
            for (key, (values, cols)) in keys.iter().zip(&mut actions) {
                let group = episode.group(Kind::Action, key)?;
                *cols = group.cols;
                values.extend(group.data);
            }
            for observed in Observations::open(&processor, &episode, rows)? {
                let (row, observation) = observed?;
                let (episode, row) = (u32::try_from(index)?, u32::try_from(row)?);
                draws.push(noise::gaussian(args.seed, episode, row, horizon, dim));
                observations.push(observation);
            }
        }
        let groups =
            keys.iter().zip(&actions).map(|(key, (values, cols))| (key.as_str(), &values[..], *cols));
        Ok(Loaded {
            spread: Some(Spread::of("standard deviation of the dataset's actions", groups)),
            checkpoint: Checkpoint::open(checkpoint)?.fingerprint(),
            dataset: dataset_hash(dataset_path)?,
            name: match args.checkpoint {
                Some(_) => checkpoint.display().to_string(),
                None => "the embedded demo".to_owned(),
            },
            noise: draws,
            model,
            processor,
            observations,
        })
    }

    /// The observations as model input.
    ///
    /// # Errors
    /// One that does not fit the processor.
    pub fn inputs(&self) -> Result<Vec<steadyhand_gr00t::engine::ModelInput>> {
        let pairs = self.observations.iter().zip(&self.noise);
        pairs.map(|(observation, noise)| Ok(prepare(&self.processor, observation, noise.clone())?)).collect()
    }
}
