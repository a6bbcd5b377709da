//! A policy without its engine and what it is shown: the one way from options to model, processor, observations and
//! noise.
//!
//! A [`Session`] is a checkpoint folder on a LeRobot dataset, a checkpoint folder on observations of random pixels, or a
//! synthetic checkpoint (`synth:n1.6`) on such observations.

mod calibration;
mod noise;
mod observations;
pub mod rollout;
mod scene;
mod spread;
mod tensors;

pub use calibration::{CalibrationUsed, DatasetAtHand, Stale, dataset_hash};
pub use noise::{EpisodeNoise, NoiseSource};
pub use observations::{Observations, concatenated};
pub use rollout::{Acted, Actor, Rollout, RolloutConfig};
pub use scene::Scene;
pub use spread::spread;
pub use tensors::{Tensor, Tensors};

use crate::engine::ModelInput;
use crate::noise::gaussian;
use crate::policy::{Parts, Precision, prepare};
use crate::precision::PrecisionPolicy;
use crate::processor::Processor;
use crate::synthetic::{self, Shapes, Synthetic};
use crate::{Error, Matrix, Observation, Result};
use noise::counted;
use std::path::{Path, PathBuf};
use steadyhand_lerobot::{Dataset, VideoDecoder};

/// Frames of a checkpoint's cameras where observations are made up.
const CHECKPOINT_FRAME: [usize; 2] = [480, 640];
/// What a checkpoint is told to do where observations are made up.
const INSTRUCTION: &str = "pick up the squash from the counter and place it in the cabinet";

/// Options of a session.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// LeRobot dataset folder; observations of random pixels otherwise.
    pub dataset: Option<PathBuf>,
    /// As [`PolicyBuilder::embodiment_tag`](crate::PolicyBuilder::embodiment_tag).
    pub embodiment_tag: Option<String>,
    /// As [`PolicyBuilder::tokenizer`](crate::PolicyBuilder::tokenizer).
    pub tokenizer: Option<PathBuf>,
    /// Of synthetic weights and random observations.
    pub seed: u64,
    /// What a synthetic checkpoint is shown. `frame` is also that of a checkpoint folder's random observations.
    pub shapes: Shapes,
    /// Steps of an action chunk of a synthetic checkpoint, in place of its sizes' own.
    pub action_horizon: Option<usize>,
    /// What to do with calibrations of another dataset.
    pub stale: Stale,
    /// What decodes the dataset's videos.
    pub video_decoder: VideoDecoder,
}

/// Model, processor and where observations are from.
pub struct Session {
    /// The policy without its engine.
    pub parts: Parts,
    scenery: Scenery,
}

/// Where observations are from.
enum Scenery {
    Recorded {
        dataset: Box<Dataset>,
        at_hand: DatasetAtHand,
    },
    Random {
        seed: u64,
        frame: [usize; 2],
        instruction: String,
    },
    /// Given from outside, such as by a server's clients; where from.
    Given(String),
}

/// Which observations are taken.
#[derive(Debug, Clone, Copy)]
pub enum Frames<'a> {
    /// Every `spacing` steps from the start of one episode, at most `count` of them: as a robot is run. Their noise is
    /// that of inferences 0, 1, … of the episode.
    Along {
        /// Its number.
        episode: usize,
        /// Most observations.
        count: usize,
        /// Steps between two observations.
        spacing: usize,
        /// The initial noise.
        noise: &'a NoiseSource,
    },
    /// `count` observations spread evenly over all steps of these episodes, or of all episodes where none is named.
    /// Inference `step` of an episode gives their noise.
    Spread {
        /// Their numbers.
        episodes: &'a [usize],
        /// Most observations.
        count: usize,
        /// Of the noise.
        seed: u64,
    },
}

/// One observation and the noise that its actions start from.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Number of the episode, 0 where observations are made up.
    pub episode: usize,
    /// Step of the episode, or the number of a made-up observation.
    pub step: usize,
    /// What the robot sees.
    pub observation: Observation,
    /// `[action_horizon, max_action_dim]`.
    pub noise: Matrix,
}

impl Frame {
    /// The observation as the model takes it.
    ///
    /// # Errors
    /// It does not fit the processor.
    pub fn input(&self, processor: &Processor) -> Result<ModelInput> {
        prepare(processor, &self.observation, self.noise.clone())
    }
}

impl Session {
    /// Opens `checkpoint`, a folder or the name of synthetic sizes, and the dataset.
    ///
    /// # Errors
    /// As [`Parts::load`]; a dataset that cannot be opened; an option that does not go with synthetic weights.
    pub fn open(checkpoint: impl AsRef<Path>, options: &Options) -> Result<Self> {
        let checkpoint = checkpoint.as_ref();
        let name = checkpoint.display().to_string();
        options.shapes.check()?;
        if let Some(config) = synthetic::config(&name)? {
            options.refuse_with(&name)?;
            let action_horizon = options.action_horizon.unwrap_or(config.action_horizon);
            let config = crate::config::Config { action_horizon, ..config };
            let Synthetic { parts, frame, instruction } =
                Synthetic::make(&name, config, options.seed, &options.shapes)?;
            return Ok(Session {
                parts,
                scenery: Scenery::Random { seed: options.seed, frame, instruction },
            });
        }
        let (tag, tokenizer) = (options.embodiment_tag.as_deref(), options.tokenizer.as_deref());
        let parts = Parts::load(checkpoint, tag, tokenizer)?;
        let scenery = match &options.dataset {
            Some(folder) => Scenery::Recorded {
                dataset: Box::new(Dataset::open(folder)?.with_video_decoder(options.video_decoder)),
                at_hand: DatasetAtHand::new(folder, options.stale),
            },
            None => Scenery::Random {
                seed: options.seed,
                frame: options.shapes.frame.unwrap_or(CHECKPOINT_FRAME),
                instruction: INSTRUCTION.to_owned(),
            },
        };
        Ok(Session { parts, scenery })
    }

    /// The dataset; `None` where observations are made up.
    pub fn dataset(&self) -> Option<&Dataset> {
        match &self.scenery {
            Scenery::Recorded { dataset, .. } => Some(dataset),
            Scenery::Random { .. } | Scenery::Given(_) => None,
        }
    }

    /// The dataset's folder, or what is observed instead.
    pub fn observed(&self) -> String {
        match &self.scenery {
            Scenery::Recorded { dataset, .. } => dataset.path().display().to_string(),
            Scenery::Random { seed, .. } => format!("random observations of seed {seed}"),
            Scenery::Given(origin) => origin.clone(),
        }
    }

    /// [`dataset_hash`] of the dataset; `None` where observations are made up.
    ///
    /// # Errors
    /// As there.
    pub fn dataset_hash(&self) -> Result<Option<&str>> {
        match &self.scenery {
            Scenery::Recorded { at_hand, .. } => at_hand.hash().map(Some),
            Scenery::Random { .. } | Scenery::Given(_) => Ok(None),
        }
    }

    /// Number formats as [`Parts::precision`], whose calibration is of the dataset.
    ///
    /// # Errors
    /// As there, and as [`Session::calibration`].
    pub fn precision(&self, wanted: impl Into<Precision>) -> Result<PrecisionPolicy> {
        let policy = self.parts.precision(wanted)?;
        self.calibration(&policy)?;
        Ok(policy)
    }

    /// Where the scales of `policy` come from, where it is calibrated.
    ///
    /// # Errors
    /// A calibration of another dataset, unless the options allow it.
    pub fn calibration(&self, policy: &PrecisionPolicy) -> Result<Option<CalibrationUsed>> {
        match &self.scenery {
            Scenery::Recorded { at_hand, .. } => at_hand.check(policy),
            Scenery::Random { .. } | Scenery::Given(_) => Ok(None),
        }
    }

    /// An observation of random pixels and joint positions, whatever the dataset.
    pub fn random(&self, seed: u64) -> Observation {
        let (frame, instruction) = match &self.scenery {
            Scenery::Random { frame, instruction, .. } => (*frame, instruction.clone()),
            Scenery::Recorded { .. } | Scenery::Given(_) => (CHECKPOINT_FRAME, INSTRUCTION.to_owned()),
        };
        self.parts.processor.random_observation(seed, frame, instruction)
    }

    /// The chosen observations.
    ///
    /// # Errors
    /// As [`Session::for_each`].
    pub fn frames(&self, chosen: Frames) -> Result<Vec<Frame>> {
        let mut frames = Vec::new();
        self.for_each(chosen, |frame| {
            frames.push(frame);
            Ok(())
        })?;
        Ok(frames)
    }

    /// Calls `visit` with each of the chosen observations, one of them in memory at a time.
    ///
    /// # Errors
    /// An episode that does not exist or has no steps; a view or a joint group that the dataset lacks; a video that
    /// cannot be read; recorded noise that does not fit. The first error of `visit`.
    pub fn for_each(&self, chosen: Frames, visit: impl FnMut(Frame) -> Result<()>) -> Result<()> {
        match &self.scenery {
            Scenery::Recorded { dataset, .. } => self.for_each_recorded(dataset, chosen, visit),
            Scenery::Random { seed, .. } => self.for_each_random(*seed, chosen, visit),
            Scenery::Given(origin) => Err(Error::input(origin.clone(), "has no observations to choose of")),
        }
    }

    fn for_each_recorded(
        &self,
        dataset: &Dataset,
        chosen: Frames,
        mut visit: impl FnMut(Frame) -> Result<()>,
    ) -> Result<()> {
        let [horizon, dim] = self.parts.noise_shape();
        let processor = &self.parts.processor;
        match chosen {
            Frames::Along { episode: index, count, spacing, noise } => {
                let episode = dataset.episode(index)?;
                let steps: Vec<usize> = (0..episode.len()).step_by(spacing.max(1)).take(count).collect();
                if steps.is_empty() {
                    return Err(Error::input(format!("episode {index}"), "no steps"));
                }
                let noise = noise.open(index, steps.len(), horizon, dim)?;
                for (inference, observed) in
                    Observations::open(processor.modalities(), &episode, steps)?.enumerate()
                {
                    let (step, observation) = observed?;
                    visit(Frame { episode: index, step, observation, noise: noise.get(inference) })?;
                }
            }
            Frames::Spread { episodes, count, seed } => {
                for (index, steps) in spread(dataset, episodes, count)? {
                    let episode = dataset.episode(index)?;
                    for observed in Observations::open(processor.modalities(), &episode, steps)? {
                        let (step, observation) = observed?;
                        let noise = gaussian(seed, counted(index)?, counted(step)?, horizon, dim);
                        visit(Frame { episode: index, step, observation, noise })?;
                    }
                }
            }
        }
        Ok(())
    }

    fn for_each_random(
        &self,
        first: u64,
        chosen: Frames,
        mut visit: impl FnMut(Frame) -> Result<()>,
    ) -> Result<()> {
        let [horizon, dim] = self.parts.noise_shape();
        type Noise = Box<dyn Fn(usize) -> Result<Matrix>>;
        let (count, noise): (usize, Noise) = match chosen {
            Frames::Along { count, noise, .. } => {
                let noise = noise.open(0, count, horizon, dim)?;
                (count, Box::new(move |step| Ok(noise.get(step))))
            }
            // Each made-up observation is an episode of its own.
            Frames::Spread { count, seed, .. } => {
                (count, Box::new(move |step| Ok(gaussian(seed, counted(step)?, 0, horizon, dim))))
            }
        };
        for step in 0..count {
            let noise = noise(step)?;
            let observation = self.random(first.wrapping_add(step as u64));
            visit(Frame { episode: 0, step, observation, noise })?;
        }
        Ok(())
    }
}

impl Options {
    /// Fails where an option was given that only a checkpoint folder has.
    fn refuse_with(&self, synthetic: &str) -> Result<()> {
        for (option, given) in [
            ("dataset_path", self.dataset.is_some()),
            ("embodiment_tag", self.embodiment_tag.is_some()),
            ("tokenizer", self.tokenizer.is_some()),
        ] {
            if given {
                let what = format!("expected with a checkpoint folder, found with {synthetic}");
                return Err(Error::option(option, what));
            }
        }
        Ok(())
    }
}
