//! What is kept of one robot: where its noise stands, and the actions that it was given last.
//!
//! Each connection of a server is a robot of its own. Its noise is that of a [`Policy`](steadyhand_gr00t::Policy) of its own:
//! inference 0 of episode 0 first, one more for each chunk of actions that it is given, whatever other clients ask for.

use crate::options::{Noise, Options, Rtc};
use crate::{Error, Result};
use steadyhand_gr00t::engine::ModelInput;
use steadyhand_gr00t::noise::gaussian;
use steadyhand_gr00t::policy::{Preparation, continuation};
use steadyhand_gr00t::rtc::RtcOptions;
use steadyhand_gr00t::{ActionChunk, Matrix, Observation};

/// Observations on the way to the engine.
#[derive(Debug)]
pub struct Asked {
    /// One for each observation.
    pub inputs: Vec<ModelInput>,
    /// That of the first one.
    pub noise: Noise,
    /// Whether they go on from the chunks before.
    pub rtc: bool,
}

/// One client's state.
#[derive(Debug, Default)]
pub struct Robot {
    seed: u64,
    episode: u32,
    inference: u32,
    /// The last chunks, one for each observation of a request.
    previous: Vec<ActionChunk>,
    /// Noise that was drawn ahead, and what of.
    ahead: Option<(Noise, Matrix)>,
}

impl Robot {
    /// A robot at the start of episode 0.
    pub fn new(seed: u64) -> Self {
        Robot { seed, ..Robot::default() }
    }

    /// The noise of the next request's first observation.
    pub fn noise(&self, options: &Options) -> Noise {
        options.noise.unwrap_or(Noise { seed: self.seed, episode: self.episode, inference: self.inference })
    }

    /// Draws the noise of the next request's first observation, so that the request need not wait for it. Of no effect
    /// on what it is.
    pub fn draw_ahead(&mut self, [rows, cols]: [usize; 2]) {
        let next = self.noise(&Options::default());
        if self.ahead.as_ref().is_none_or(|(of, _)| *of != next) {
            let Noise { seed, episode, inference } = next;
            self.ahead = Some((next, gaussian(seed, episode, inference, rows, cols)));
        }
    }

    /// Model inputs with their noise, `noise_shape: [action_horizon, max_action_dim]`, and, where it is asked for, the
    /// chunks that they go on from. They are made in the memory of `spare`.
    ///
    /// # Errors
    /// An observation that does not fit the processor, by its place where there is a batch; steps that do not fit the
    /// chunk before.
    pub fn prepare(
        &self,
        preparation: &Preparation,
        noise_shape: [usize; 2],
        observations: &[Observation],
        options: &Options,
        batched: bool,
        spare: &mut Vec<ModelInput>,
    ) -> Result<Asked> {
        let [rows, cols] = noise_shape;
        let noise = self.noise(options);
        let count = observations.len();
        let mut rtc = false;
        let mut inputs = Vec::with_capacity(count);
        for (place, observation) in observations.iter().enumerate() {
            let of = Noise { inference: noise.inference.wrapping_add(place as u32), ..noise };
            let values = match &self.ahead {
                Some((drawn, values)) if *drawn == of && [values.rows, values.cols] == noise_shape => {
                    values.clone()
                }
                _ => gaussian(of.seed, of.episode, of.inference, rows, cols),
            };
            let mut input = spare.pop().unwrap_or_default();
            preparation
                .prepare_into(observation, values, &mut input)
                .map_err(|error| at_place(error, place, batched))?;
            if let Some(asked) = &options.rtc {
                let own = self.previous(place, count);
                let previous = asked.previous.as_ref().map(|chunks| &chunks[place]).or(own);
                if let Some(previous) = previous {
                    let steps = steps(previous, asked);
                    let continued = continuation(preparation.processor(), observation, previous, &steps);
                    input.rtc = continued.map_err(|error| at_place(error, place, batched))?;
                    rtc = true;
                }
            }
            inputs.push(input);
        }
        Ok(Asked { inputs, noise, rtc })
    }

    /// The chunk that the observation at this place goes on from.
    pub fn previous(&self, place: usize, of: usize) -> Option<&ActionChunk> {
        (self.previous.len() == of).then(|| &self.previous[place])
    }

    /// Takes note of what it was given. Noise that a request names, or has along (`own_noise`), leaves the robot's own
    /// where it is.
    pub fn given(&mut self, options: &Options, own_noise: bool, chunks: Vec<ActionChunk>) {
        if options.noise.is_none() && !own_noise {
            self.inference = self.inference.wrapping_add(chunks.len() as u32);
        }
        self.previous = chunks;
    }

    /// Begins an episode: the one that is named, or the next one. One that nothing was asked of yet stays.
    pub fn reset(&mut self, episode: Option<u32>) -> u32 {
        self.episode = match (episode, self.inference) {
            (Some(episode), _) => episode,
            (None, 0) => self.episode,
            (None, _) => self.episode.wrapping_add(1),
        };
        self.inference = 0;
        self.previous.clear();
        self.episode
    }
}

/// How much of a chunk the next one takes: all of its steps are there to be taken of.
fn steps(previous: &ActionChunk, asked: &Rtc) -> RtcOptions {
    RtcOptions {
        action_horizon: previous.groups.first().map_or(0, |(_, actions)| actions.rows),
        overlap_steps: asked.overlap_steps,
        frozen_steps: asked.frozen_steps,
        ramp_rate: asked.ramp_rate,
    }
}

/// The error with the place of its observation, where there is a batch.
pub fn at_place(error: steadyhand_gr00t::Error, place: usize, batched: bool) -> Error {
    match batched {
        true => error.at(format!("observation {place}")).into(),
        false => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_advances_with_what_was_given_and_episodes_with_resets() {
        let mut robot = Robot::new(7);
        let own = Options::default();
        let named =
            Options { noise: Some(Noise { seed: 1, episode: 2, inference: 3 }), ..Options::default() };
        let at = |robot: &Robot| {
            let Noise { seed, episode, inference } = robot.noise(&Options::default());
            (seed, episode, inference)
        };
        assert_eq!(robot.reset(None), 0);
        assert_eq!(at(&robot), (7, 0, 0));
        // What is drawn ahead is what the next request gets, and moves nothing.
        robot.draw_ahead([2, 3]);
        let of = robot.noise(&own);
        assert_eq!(robot.ahead, Some((of, gaussian(7, 0, 0, 2, 3))));
        robot.given(&own, false, vec![ActionChunk::default(); 2]);
        assert_eq!(at(&robot), (7, 0, 2));
        robot.draw_ahead([2, 3]);
        assert_eq!(robot.ahead.as_ref().map(|(of, _)| of.inference), Some(2));
        assert!(robot.previous(1, 2).is_some() && robot.previous(0, 1).is_none());
        assert_eq!(robot.noise(&named).seed, 1);
        robot.given(&named, false, vec![ActionChunk::default()]);
        assert_eq!(at(&robot), (7, 0, 2));
        robot.given(&own, true, vec![ActionChunk::default()]);
        assert_eq!(at(&robot), (7, 0, 2));
        assert_eq!(robot.reset(None), 1);
        assert!(at(&robot) == (7, 1, 0) && robot.previous(0, 1).is_none());
        assert_eq!(robot.reset(Some(5)), 5);
    }
}
