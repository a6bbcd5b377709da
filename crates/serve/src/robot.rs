//! What a server keeps of one client: where its noise stands, and the actions that it was given last.
//!
//! Each connection is a robot of its own. Its noise is that of a [`Policy`](steadyhand_gr00t::Policy) of its own:
//! inference 0 of episode 0 first, one more for each chunk of actions that it is given, whatever other clients ask for.

use crate::options::{Noise, Options};
use steadyhand_gr00t::ActionChunk;

/// One client's state.
#[derive(Debug, Default)]
pub struct Robot {
    seed: u64,
    episode: u32,
    inference: u32,
    /// The last chunks, one for each observation of a request.
    previous: Vec<ActionChunk>,
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

    /// The chunk that the observation at this place goes on from.
    pub fn previous(&self, place: usize, of: usize) -> Option<&ActionChunk> {
        (self.previous.len() == of).then(|| &self.previous[place])
    }

    /// Takes note of what it was given. Noise that a request names leaves the robot's own where it is.
    pub fn given(&mut self, options: &Options, chunks: Vec<ActionChunk>) {
        if options.noise.is_none() {
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
        robot.given(&own, vec![ActionChunk::default(); 2]);
        assert_eq!(at(&robot), (7, 0, 2));
        assert!(robot.previous(1, 2).is_some() && robot.previous(0, 1).is_none());
        assert_eq!(robot.noise(&named).seed, 1);
        robot.given(&named, vec![ActionChunk::default()]);
        assert_eq!(at(&robot), (7, 0, 2));
        assert_eq!(robot.reset(None), 1);
        assert!(at(&robot) == (7, 1, 0) && robot.previous(0, 1).is_none());
        assert_eq!(robot.reset(Some(5)), 5);
    }
}
