//! One episode, open loop: the policy sees the recorded observations, its actions are compared with the
//! recorded ones.
//!
//! The semantics are those of NVIDIA's `standalone_inference_script.py`: infer at steps 0, h, 2h, …, take
//! the first h rows of each chunk, prepare the next observation while the current one runs.

use super::noise::NoiseSource;
use super::observations::{Observations, concatenated};
use crate::engine::{ModelInput, one};
use crate::policy::{Policy, prepare};
use crate::processor::Processor;
use crate::{ActionChunk, Error, Matrix, Observation, Result};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Instant;
use steadyhand_lerobot::{Episode, Kind};

/// How an episode is run.
#[derive(Debug, Clone)]
pub struct RolloutConfig {
    /// Most steps to evaluate.
    pub steps: usize,
    /// Rows taken of each chunk.
    pub action_horizon: usize,
    /// The initial noise.
    pub noise: NoiseSource,
}

/// What an episode gave. Rows are steps, columns the action groups' dimensions side by side.
#[derive(Debug)]
pub struct Rollout {
    /// Action groups with their number of dimensions, in the order of the columns.
    pub groups: Vec<(String, usize)>,
    /// Un-normalized, absolute.
    pub prediction: Vec<Vec<f32>>,
    /// What the engine gave: `[action_horizon, max_action_dim]` of each inference.
    pub normalized: Vec<Matrix>,
    /// The recorded actions.
    pub ground_truth: Vec<Vec<f32>>,
    /// The recorded states, where they have the actions' dimensions.
    pub state: Option<Vec<Vec<f32>>>,
    /// Steps at which the policy was asked.
    pub inference_points: Vec<usize>,
    /// The task at the first step.
    pub instruction: String,
    /// Seconds waited for each observation to be ready.
    pub data_preparation_seconds: Vec<f64>,
    /// Seconds from each prepared input to its physical actions.
    pub inference_seconds: Vec<f64>,
}

/// An observation made ready in the background.
struct Prepared {
    observation: Observation,
    input: ModelInput,
}

/// Runs an episode. `progress` is told of each inference done; its error ends the run.
///
/// # Errors
/// The first of `progress`; the episode does not fit the policy, or its data cannot be read.
pub fn run(
    policy: &mut Policy,
    episode: &Episode,
    config: &RolloutConfig,
    progress: &mut dyn FnMut() -> Result<()>,
) -> Result<Rollout> {
    let processor = Arc::clone(policy.processor());
    check_horizon(&processor, config.action_horizon)?;
    let steps = config.steps.min(episode.len());
    let failed = |what: String| Error::input(format!("episode {}", episode.index()), what);
    if steps == 0 {
        let what = if episode.is_empty() { "its data has no rows" } else { "no steps to evaluate" };
        return Err(failed(what.to_owned()));
    }
    let inference_points: Vec<usize> = (0..steps).step_by(config.action_horizon).collect();
    let [horizon, dim] = policy.noise_shape();
    let noise = config.noise.open(episode.index(), inference_points.len(), horizon, dim)?;
    let modalities = processor.modalities();
    let mut ground_truth = concatenated(episode, Kind::Action, &modalities.action.modality_keys)?;
    ground_truth.truncate(steps);
    let mut state = concatenated(episode, Kind::State, &modalities.state.modality_keys)?;
    state.truncate(steps);
    let observations = Observations::open(&processor, episode, inference_points.clone())?;

    let mut rollout = Rollout {
        groups: Vec::new(),
        prediction: Vec::with_capacity(steps),
        normalized: Vec::with_capacity(inference_points.len()),
        state: (state[0].len() == ground_truth[0].len()).then_some(state),
        ground_truth,
        instruction: String::new(),
        data_preparation_seconds: Vec::with_capacity(inference_points.len()),
        inference_seconds: Vec::with_capacity(inference_points.len()),
        inference_points,
    };
    let processor = processor.as_ref();
    std::thread::scope(|scope| -> Result<()> {
        // No buffer: while an inference runs, the one next observation is prepared and then waits.
        let (ready, prepared) = sync_channel::<Result<Prepared>>(0);
        scope.spawn(move || {
            for (inference, observed) in observations.enumerate() {
                let next = observed.and_then(|(step, observation)| {
                    let input = prepare(processor, &observation, noise.get(inference))
                        .map_err(|error| error.at(format!("episode {}, step {step}", episode.index())))?;
                    Ok(Prepared { observation, input })
                });
                // The receiver is gone where an inference failed.
                if ready.send(next).is_err() {
                    break;
                }
            }
        });
        for inference in 0..rollout.inference_points.len() {
            let waiting = Instant::now();
            let stopped = |_| failed(format!("preparing observation {inference} stopped"));
            let Prepared { observation, input } = prepared.recv().map_err(stopped)??;
            let running = Instant::now();
            let actions = one(policy.engine_mut().infer(&[input], None)?)?;
            let chunk = processor.decode(&actions, &observation)?;
            rollout.inference_seconds.push(running.elapsed().as_secs_f64());
            rollout.data_preparation_seconds.push((running - waiting).as_secs_f64());
            rollout.normalized.push(actions);
            if inference == 0 {
                check_groups(&chunk, episode)?;
                rollout.instruction = observation.instruction;
            }
            rollout.take(&chunk, config.action_horizon, steps);
            progress()?;
        }
        Ok(())
    })?;
    Ok(rollout)
}

/// Whether every chunk has the rows that are taken of it.
///
/// # Errors
/// More rows than a chunk of the embodiment has: both numbers.
pub fn check_horizon(processor: &Processor, action_horizon: usize) -> Result<()> {
    let (rows, tag) = (processor.action_horizon(), processor.embodiment_tag());
    if action_horizon <= rows {
        return Ok(());
    }
    let what =
        format!("expected at most {rows}, the steps of an action chunk of {tag}, found {action_horizon}");
    Err(Error::input("action_horizon", what))
}

/// Whether the dataset recorded what the policy predicts, group by group.
fn check_groups(chunk: &ActionChunk, episode: &Episode) -> Result<()> {
    for (name, actions) in &chunk.groups {
        let (predicted, recorded) = (actions.cols, episode.group(Kind::Action, name)?.cols);
        if predicted != recorded {
            let what = format!(
                "expected {predicted} values, as the checkpoint's statistics.json has, found {recorded} in the dataset"
            );
            return Err(Error::input(format!("action.{name}"), what));
        }
    }
    Ok(())
}

impl Rollout {
    /// Appends the first `horizon` rows of a chunk, up to `steps` rows in all.
    fn take(&mut self, chunk: &ActionChunk, horizon: usize, steps: usize) {
        self.groups = chunk.groups.iter().map(|(name, actions)| (name.clone(), actions.cols)).collect();
        for row in 0..horizon.min(steps - self.prediction.len()) {
            self.prediction
                .push(chunk.groups.iter().flat_map(|(_, actions)| actions.row(row)).copied().collect());
        }
    }
}
