//! The front door: a policy is opened from a checkpoint folder and asked for actions.
//!
//! ```text
//! Observation → Processor::encode → ModelInput → Engine::infer → Processor::decode → ActionChunk
//! ```

mod builder;
mod described;
mod parts;
mod prepare;

pub use builder::PolicyBuilder;
pub use described::{Described, Group, View};
pub use parts::{Parts, Precision, check_horizon, check_processor, load_model, precision};
pub use prepare::{Preparation, continuation, prepare};

use crate::engine::{Engine, ModelInput, one};
use crate::noise::gaussian;
use crate::observation::{ActionChunk, Matrix, Observation};
use crate::processor::Processor;
use crate::rtc::RtcOptions;
use crate::{Error, Result};
use std::borrow::Borrow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The processor and an engine of one checkpoint, for one embodiment.
///
/// # Initial noise
/// An inference starts from random actions. A policy draws them from its seed: inference `i` of episode `e` starts from
/// [`gaussian`]`(seed, e, i, action_horizon, max_action_dim)`. A new policy stands at inference 0 of episode 0, every
/// action chunk it gives advances it by one, and [`Policy::start_episode`] moves it. These are the numbers that `steady
/// eval` starts from with the same seed, on any engine and machine. A call that fails draws nothing.
pub struct Policy {
    processor: Arc<Processor>,
    engine: Box<dyn Engine + Send>,
    /// `[action_horizon, max_action_dim]` of the model.
    noise_shape: [usize; 2],
    seed: u64,
    episode: u32,
    inference: u32,
}

impl Policy {
    /// The policy of a checkpoint folder of one embodiment, on the CPU reference in f32, with the checkpoint's
    /// tokenizer, 4 Euler steps and seed 42. [`Policy::builder`] sets others.
    ///
    /// # Errors
    /// As [`PolicyBuilder::open`].
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        Policy::builder(folder.as_ref()).open()
    }

    /// Options of a policy of the checkpoint in `folder`.
    pub fn builder(folder: impl Into<PathBuf>) -> PolicyBuilder {
        PolicyBuilder::new(folder.into())
    }

    /// A policy of parts that were loaded before: `engine` was opened for the model of `parts`.
    pub fn new(parts: &Parts, engine: Box<dyn Engine + Send>, seed: u64) -> Self {
        let noise_shape = parts.noise_shape();
        Policy {
            processor: Arc::clone(&parts.processor),
            engine,
            noise_shape,
            seed,
            episode: 0,
            inference: 0,
        }
    }

    /// Physical actions for an observation, by joint group, from the noise of the next inference.
    ///
    /// # Errors
    /// The observation does not fit the embodiment: the view, joint group or `instruction` is named.
    pub fn act(&mut self, observation: &Observation) -> Result<ActionChunk> {
        let chunk = self.act_with_noise(observation, self.noise(self.inference))?;
        self.inference = self.inference.wrapping_add(1);
        Ok(chunk)
    }

    /// [`Policy::act`] from `noise: [action_horizon, max_action_dim]` of the model, standard normal values. The policy's
    /// own noise stays where it is.
    ///
    /// # Errors
    /// As [`Policy::act`]; noise of another shape.
    pub fn act_with_noise(&mut self, observation: &Observation, noise: Matrix) -> Result<ActionChunk> {
        let input = self.preparation().prepare(observation, noise)?;
        self.infer(observation, input)
    }

    /// [`Policy::act`], going on from the chunk before (real-time chunking): the last `overlap_steps` of the first
    /// `action_horizon` steps of `previous`, in physical units as they were given, are the beginning of the new chunk. Its
    /// first `frozen_steps` stay as they are, up to the precision of the model's normalization and where that clips.
    ///
    /// # Errors
    /// As [`Policy::act`]; steps that do not fit each other or the chunk before; an engine that cannot.
    pub fn act_after(
        &mut self,
        observation: &Observation,
        previous: &ActionChunk,
        options: &RtcOptions,
    ) -> Result<ActionChunk> {
        let mut input = self.preparation().prepare(observation, self.noise(self.inference))?;
        input.rtc = continuation(&self.processor, observation, previous, options)?;
        let chunk = self.infer(observation, input)?;
        self.inference = self.inference.wrapping_add(1);
        Ok(chunk)
    }

    /// Actions for several observations, in order: those that as many calls of [`Policy::act`] give, to the bit.
    /// Observations with the same image sizes and prompt length share a batch.
    ///
    /// # Errors
    /// As [`Policy::act`], naming the observation by its place; no actions are given then.
    pub fn act_batch<O: Borrow<Observation>>(&mut self, observations: &[O]) -> Result<Vec<ActionChunk>> {
        let noise =
            (0..observations.len()).map(|place| self.noise(self.inference.wrapping_add(place as u32)));
        let chunks = self.act_batch_with_noise(observations, noise.collect())?;
        self.inference = self.inference.wrapping_add(chunks.len() as u32);
        Ok(chunks)
    }

    /// [`Policy::act_batch`] from noise of the caller's, one matrix for each observation.
    ///
    /// # Errors
    /// As there; noise for more or fewer observations.
    pub fn act_batch_with_noise<O: Borrow<Observation>>(
        &mut self,
        observations: &[O],
        noise: Vec<Matrix>,
    ) -> Result<Vec<ActionChunk>> {
        if noise.len() != observations.len() {
            let what = format!("expected {} matrices, found {}", observations.len(), noise.len());
            return Err(Error::input("noise", what));
        }
        let place = |index: usize| move |error: Error| error.at(format!("observation {index}"));
        let preparation = self.preparation();
        let members = observations.iter().zip(noise).enumerate();
        let inputs = members.map(|(index, (observation, noise))| {
            preparation.prepare(observation.borrow(), noise).map_err(place(index))
        });
        let inputs = inputs.collect::<Result<Vec<_>>>()?;
        let actions = self.engine.infer(&inputs, None)?;
        let results = actions.iter().zip(observations).enumerate();
        let decode = |(index, (actions, observation)): (usize, (&Matrix, &O))| {
            self.processor.decode(actions, observation.borrow()).map_err(place(index))
        };
        results.map(decode).collect()
    }

    /// The part of [`Policy::act_with_noise`] before the engine, for threads that look ahead.
    pub fn preparation(&self) -> Preparation {
        Preparation::new(&self.processor, self.engine.as_ref())
    }

    /// The part of [`Policy::act_with_noise`] after [`Preparation::prepare`].
    ///
    /// # Errors
    /// The input does not fit the model.
    pub fn infer(&mut self, observation: &Observation, input: ModelInput) -> Result<ActionChunk> {
        let actions = one(self.engine.infer(&[input], None)?)?;
        self.processor.decode(&actions, observation)
    }

    /// The noise of an inference of the episode at hand, `[action_horizon, max_action_dim]`.
    fn noise(&self, inference: u32) -> Matrix {
        let [rows, cols] = self.noise_shape;
        gaussian(self.seed, self.episode, inference, rows, cols)
    }

    /// The seed of its noise.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The next noise is that of inference 0 of this episode.
    pub fn start_episode(&mut self, episode: u32) {
        (self.episode, self.inference) = (episode, 0);
    }

    /// What the embodiment observes and does: names, frames and widths, to fill an [`Observation`] by.
    pub fn describe(&self) -> Described {
        Described::of(&self.processor)
    }

    /// Steps of an action chunk.
    pub fn action_horizon(&self) -> usize {
        self.processor.action_horizon()
    }

    /// The shape of an inference's noise: `[action_horizon, max_action_dim]` of the model.
    pub fn noise_shape(&self) -> [usize; 2] {
        self.noise_shape
    }

    /// Observations to model input and back. Shared with the threads that look ahead.
    pub fn processor(&self) -> &Arc<Processor> {
        &self.processor
    }

    /// What runs the model.
    pub fn engine(&self) -> &dyn Engine {
        self.engine.as_ref()
    }

    /// What runs the model, without the rest.
    pub fn into_engine(self) -> Box<dyn Engine + Send> {
        self.engine
    }

    /// What runs the model, to run it without the processor.
    pub fn engine_mut(&mut self) -> &mut dyn Engine {
        self.engine.as_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Reference;
    use crate::precision::PrecisionPolicy;
    use crate::probe::Probe;
    use crate::synthetic::{self, Shapes, Synthetic};

    fn policy(made: &Synthetic, seed: u64) -> Policy {
        made.parts.policy(&Reference, "f32", 2, seed).expect("opens")
    }

    fn made() -> Synthetic {
        Synthetic::make("synth:tiny", synthetic::tiny(), 3, &Shapes::default()).expect("consistent sizes")
    }

    #[test]
    fn noise_comes_from_seed_episode_and_inference() {
        let made = made();
        let observation = made.observation(1);
        let [rows, cols] = made.parts.noise_shape();
        let mut policy = policy(&made, 7);
        policy.start_episode(5);
        let first = policy.act(&observation).expect("acts");
        let bad = policy.act(&Observation::default()).expect_err("refused").to_string();
        assert!(bad.contains("expected"), "{bad}");
        let second = policy.act(&observation).expect("acts");
        for (inference, found) in [(0, first), (1, second)] {
            let noise = gaussian(7, 5, inference, rows, cols);
            assert_eq!(policy.act_with_noise(&observation, noise).expect("acts"), found);
        }
    }

    #[test]
    fn a_batch_gives_what_single_calls_give() {
        let made = made();
        let observations: Vec<Observation> = (0..3).map(|seed| made.observation(seed)).collect();
        let (mut single, mut batch) = (policy(&made, 7), policy(&made, 7));
        let expected: Vec<ActionChunk> =
            observations.iter().map(|observation| single.act(observation).expect("acts")).collect();
        assert_eq!(batch.act_batch(&observations).expect("acts"), expected);
        let next = single.act(&observations[0]).expect("acts");
        assert_eq!(batch.act_batch(&[&observations[0]]).expect("acts"), [next]);
        let mixed = [observations[0].clone(), Observation::default()];
        let error = batch.act_batch(&mixed).expect_err("refused").to_string();
        assert!(error.starts_with("observation 1: "), "{error}");
    }

    /// The frozen steps of a chunk are the last steps of the one before, in physical units, whatever the noise; what comes
    /// behind goes on from them.
    #[test]
    fn a_chunk_goes_on_from_the_one_before() {
        for (name, config) in [("synth:tiny", synthetic::tiny()), ("synth:tiny-n1.7", synthetic::tiny_n1_7())]
        {
            let made = Synthetic::make(name, config, 3, &Shapes::default()).expect("consistent sizes");
            let mut policy = policy(&made, 7);
            let observation = made.observation(1);
            let previous = policy.act(&observation).expect("acts");
            let options =
                RtcOptions { action_horizon: 16, overlap_steps: 8, frozen_steps: 3, ramp_rate: 6.0 };
            let next = policy.act_after(&observation, &previous, &options).expect("acts");
            for ((group, next), (_, previous)) in next.groups.iter().zip(&previous.groups) {
                for step in 0..3 {
                    let pairs = next.row(step).iter().zip(previous.row(8 + step));
                    for (found, expected) in pairs {
                        let apart = (found - expected).abs();
                        assert!(apart <= 1e-5 * expected.abs().max(1.0), "{name} {group} {step}: {apart}");
                    }
                }
                assert_ne!(next.row(7), previous.row(15), "{name} {group}");
            }
            let refused = |options: &RtcOptions, policy: &mut Policy| {
                policy.act_after(&observation, &previous, options).expect_err("refused").to_string()
            };
            let error = refused(&RtcOptions { action_horizon: 99, ..options }, &mut policy);
            assert!(error.starts_with("rtc.action_horizon: "), "{error}");
        }
    }

    /// Takes frames, and gives them to the reference.
    struct TakesFrames(Box<dyn Engine + Send>);

    impl Engine for TakesFrames {
        fn name(&self) -> &str {
            "takes frames"
        }

        fn precision(&self) -> &PrecisionPolicy {
            self.0.precision()
        }

        fn takes_raw_images(&self) -> bool {
            true
        }

        fn infer(&mut self, inputs: &[ModelInput], probe: Option<&mut dyn Probe>) -> Result<Vec<Matrix>> {
            assert!(inputs.iter().all(|input| input.images.raw().is_some()), "expected frames");
            self.0.infer(inputs, probe)
        }
    }

    /// An engine that processes frames is given them, as they are in the observation; one that does not, given them all the
    /// same, makes of them what the processor does.
    #[test]
    fn an_engine_that_takes_frames_is_given_them() {
        let made = made();
        let reference = made.parts.engine(&Reference, "f32", 2).expect("opens");
        let mut taking = Policy::new(&made.parts, Box::new(TakesFrames(reference)), 7);
        let mut plain = policy(&made, 7);
        let observations: Vec<Observation> = (0..2).map(|seed| made.observation(seed)).collect();
        let input = taking.preparation().prepare(&observations[0], Matrix::default()).expect("fits");
        let frame = observations[0].images.values().next().map(|frames| &*frames[0]);
        let given = input.images.raw().map(|images| images[0].frame());
        assert!(frame.zip(given).is_some_and(|(frame, given)| std::ptr::eq(frame, given)), "a copy");
        assert_eq!(taking.act(&observations[0]).expect("acts"), plain.act(&observations[0]).expect("acts"));
        let (found, expected) = (taking.act_batch(&observations), plain.act_batch(&observations));
        assert_eq!(found.expect("acts"), expected.expect("acts"));
        // Memory that held frames is used for pixels.
        let mut used = input;
        let noise = || plain.noise(0);
        plain.preparation().prepare_into(&observations[1], noise(), &mut used).expect("fits");
        let fresh = prepare(plain.processor(), &observations[1], noise()).expect("fits");
        assert_eq!((used.images.pixels(), used.input_ids), (fresh.images.pixels(), fresh.input_ids));
    }

    #[test]
    fn a_policy_moves_between_threads() {
        fn is_send<T: Send>(_: &T) {}
        is_send(&policy(&made(), 1));
    }
}
