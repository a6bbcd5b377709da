//! One episode, open loop: an actor sees the recorded observations, its actions are compared with the
//! recorded ones.
//!
//! The semantics are those of NVIDIA's `standalone_inference_script.py`: infer at steps 0, h, 2h, …, take
//! the first h rows of each chunk, prepare the next observation while the current one runs.

use super::noise::NoiseSource;
use super::observations::{Observations, concatenated};
use crate::engine::{ModelInput, one};
use crate::policy::Policy;
use crate::processor::EmbodimentModalities;
use crate::{ActionChunk, Error, Matrix, Observation, Result};
use std::sync::mpsc::sync_channel;
use std::time::Instant;
use steadyhand_lerobot::{Episode, Kind};

/// What gives actions along an episode: a policy that runs here, or a server that has one.
pub trait Actor {
    /// An observation on the way to its actions.
    type Ready: Send;

    /// What it observes and does.
    fn modalities(&self) -> &EmbodimentModalities;

    /// Whose actions they are, for errors: an embodiment's tag, or a server's address.
    fn name(&self) -> &str;

    /// Begins an episode of so many inferences. What is given makes an inference's observation ready, in another thread
    /// and while the actor acts on the one before.
    ///
    /// # Errors
    /// Noise that does not fit or that the actor cannot be given; a server that cannot be reached.
    fn begin(
        &mut self,
        episode: usize,
        inferences: usize,
        noise: &NoiseSource,
    ) -> Result<Box<Prepare<Self::Ready>>>;

    /// Actions for an observation that was made ready.
    ///
    /// # Errors
    /// Those of an engine or of a server.
    fn act(&mut self, observation: &Observation, ready: Self::Ready) -> Result<Acted>;
}

/// Makes the observation of an inference, counted from 0 within the episode, ready.
pub type Prepare<Ready> = dyn Fn(usize, &Observation) -> Result<Ready> + Send;

/// What an actor gave.
#[derive(Debug)]
pub struct Acted {
    /// Physical actions, one matrix `[steps, dim]` a group.
    pub chunk: ActionChunk,
    /// What the engine gave, `[action_horizon, max_action_dim]`, where it is known.
    pub normalized: Option<Matrix>,
    /// Whether they started from the noise that was asked for.
    pub asked_noise: bool,
}

impl Actor for Policy {
    type Ready = ModelInput;

    fn modalities(&self) -> &EmbodimentModalities {
        self.processor().modalities()
    }

    fn name(&self) -> &str {
        self.processor().embodiment_tag()
    }

    fn begin(
        &mut self,
        episode: usize,
        inferences: usize,
        noise: &NoiseSource,
    ) -> Result<Box<Prepare<ModelInput>>> {
        let [horizon, dim] = self.noise_shape();
        let noise = noise.open(episode, inferences, horizon, dim)?;
        let preparation = self.preparation();
        Ok(Box::new(move |inference, observation| preparation.prepare(observation, noise.get(inference))))
    }

    fn act(&mut self, observation: &Observation, ready: ModelInput) -> Result<Acted> {
        let actions = one(self.engine_mut().infer(&[ready], None)?)?;
        let chunk = self.processor().decode(&actions, observation)?;
        Ok(Acted { chunk, normalized: Some(actions), asked_noise: true })
    }
}

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
    /// What the engine gave: `[action_horizon, max_action_dim]` of each inference; none where only physical actions are
    /// known.
    pub normalized: Vec<Matrix>,
    /// Whether all actions started from the noise that was asked for.
    pub asked_noise: bool,
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
struct Prepared<Ready> {
    observation: Observation,
    ready: Ready,
}

/// Runs an episode. `progress` is told of each inference done; its error ends the run.
///
/// # Errors
/// The first of `progress`; the episode does not fit the actor, or its data cannot be read; those of the actor.
pub fn run<A: Actor>(
    actor: &mut A,
    episode: &Episode,
    config: &RolloutConfig,
    progress: &mut dyn FnMut() -> Result<()>,
) -> Result<Rollout> {
    let modalities = actor.modalities().clone();
    check_horizon(&modalities, actor.name(), config.action_horizon)?;
    let steps = config.steps.min(episode.len());
    let failed = |what: String| Error::input(format!("episode {}", episode.index()), what);
    if steps == 0 {
        let what = if episode.is_empty() { "its data has no rows" } else { "no steps to evaluate" };
        return Err(failed(what.to_owned()));
    }
    let inference_points: Vec<usize> = (0..steps).step_by(config.action_horizon).collect();
    let prepare = actor.begin(episode.index(), inference_points.len(), &config.noise)?;
    let mut ground_truth = concatenated(episode, Kind::Action, &modalities.action.modality_keys)?;
    ground_truth.truncate(steps);
    let mut state = concatenated(episode, Kind::State, &modalities.state.modality_keys)?;
    state.truncate(steps);
    let observations = Observations::open(&modalities, episode, inference_points.clone())?;

    let mut rollout = Rollout {
        groups: Vec::new(),
        prediction: Vec::with_capacity(steps),
        normalized: Vec::with_capacity(inference_points.len()),
        asked_noise: true,
        state: (state[0].len() == ground_truth[0].len()).then_some(state),
        ground_truth,
        instruction: String::new(),
        data_preparation_seconds: Vec::with_capacity(inference_points.len()),
        inference_seconds: Vec::with_capacity(inference_points.len()),
        inference_points,
    };
    std::thread::scope(|scope| -> Result<()> {
        // No buffer: while an inference runs, the one next observation is prepared and then waits.
        let (send, prepared) = sync_channel::<Result<Prepared<A::Ready>>>(0);
        scope.spawn(move || {
            for (inference, observed) in observations.enumerate() {
                let next = observed.and_then(|(step, observation)| {
                    let ready = prepare(inference, &observation)
                        .map_err(|error| error.at(format!("episode {}, step {step}", episode.index())))?;
                    Ok(Prepared { observation, ready })
                });
                // The receiver is gone where an inference failed.
                if send.send(next).is_err() {
                    break;
                }
            }
        });
        for inference in 0..rollout.inference_points.len() {
            let waiting = Instant::now();
            let stopped = |_| failed(format!("preparing observation {inference} stopped"));
            let Prepared { observation, ready } = prepared.recv().map_err(stopped)??;
            let running = Instant::now();
            let Acted { chunk, normalized, asked_noise } = actor.act(&observation, ready)?;
            rollout.inference_seconds.push(running.elapsed().as_secs_f64());
            rollout.data_preparation_seconds.push((running - waiting).as_secs_f64());
            rollout.normalized.extend(normalized);
            rollout.asked_noise &= asked_noise;
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

/// Whether every chunk has the rows that are taken of it. `name` is whose chunks they are.
///
/// # Errors
/// More rows than a chunk of the embodiment has: both numbers.
pub fn check_horizon(modalities: &EmbodimentModalities, name: &str, action_horizon: usize) -> Result<()> {
    let rows = modalities.action.delta_indices.len();
    if action_horizon <= rows {
        return Ok(());
    }
    let what =
        format!("expected at most {rows}, the steps of an action chunk of {name}, found {action_horizon}");
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
