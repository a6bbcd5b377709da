//! A recording as an actor: what a server answered is given again where the same is observed.

use super::{Recorded, Recording};
use crate::options::Noise;
use crate::{Error, Result};
use std::collections::HashMap;
use steadyhand_gr00t::Observation;
use steadyhand_gr00t::processor::EmbodimentModalities;
use steadyhand_gr00t::session::rollout::Prepare;
use steadyhand_gr00t::session::{Acted, Actor, NoiseSource};

/// A server's replies along the episodes that it was asked about.
pub struct Replay {
    recording: Recording,
    name: String,
    modalities: EmbodimentModalities,
    /// Observations by their noise; of the same, the last.
    places: HashMap<(u64, u32, u32), usize>,
}

impl Replay {
    /// The replies of a recording of an embodiment of these modalities.
    ///
    /// # Errors
    /// As [`Recording::get`].
    pub fn new(recording: Recording, modalities: EmbodimentModalities) -> Result<Self> {
        let mut places = HashMap::new();
        for index in 0..recording.len() {
            let Noise { seed, episode, inference } = recording.noise_of(index)?;
            places.insert((seed, episode, inference), index);
        }
        let name = recording.path().display().to_string();
        Ok(Replay { recording, name, modalities, places })
    }

    /// What differs between what is observed and what was recorded.
    fn difference(observed: &Observation, recorded: &Recorded) -> Option<String> {
        let Observation { images, state, instruction } = &recorded.observation;
        let view = images.iter().find(|(view, frames)| observed.images.get(*view) != Some(frames));
        let group = state.iter().find(|(group, rows)| observed.state.get(*group) != Some(rows));
        let text = (observed.instruction != *instruction).then(|| "instruction".to_owned());
        let view = view.map(|(view, _)| format!("video.{view}"));
        view.or(group.map(|(group, _)| format!("state.{group}"))).or(text)
    }
}

impl Actor for Replay {
    type Ready = Noise;

    fn modalities(&self) -> &EmbodimentModalities {
        &self.modalities
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn begin(
        &mut self,
        episode: usize,
        _: usize,
        noise: &NoiseSource,
    ) -> steadyhand_gr00t::Result<Box<Prepare<Noise>>> {
        let NoiseSource::Seed(seed) = *noise else {
            let what = "expected a seed, which requests are found by";
            return Err(steadyhand_gr00t::Error::input(format!("{}: noise", self.name), what));
        };
        let what =
            |_| steadyhand_gr00t::Error::input("episode", format!("expected below 2^32, found {episode}"));
        let episode = u32::try_from(episode).map_err(what)?;
        Ok(Box::new(move |inference, _| Ok(Noise { seed, episode, inference: inference as u32 })))
    }

    fn act(&mut self, observation: &Observation, ready: Noise) -> steadyhand_gr00t::Result<Acted> {
        let Noise { seed, episode, inference } = ready;
        let place = format!("{}: seed {seed}, episode {episode}, inference {inference}", self.name);
        let wrong = |what: String| steadyhand_gr00t::Error::input(place.clone(), what);
        let index = self.places.get(&(seed, episode, inference));
        let index = index.ok_or_else(|| wrong("expected a request, found none".to_owned()))?;
        let recorded = self.recording.get(*index, &self.modalities).map_err(|error| match error {
            Error::Policy(error) => error,
            error => steadyhand_gr00t::Error::engine(error),
        })?;
        if let Some(differs) = Replay::difference(observation, &recorded) {
            return Err(wrong(format!("{differs}: expected what the dataset has, found something else")));
        }
        Ok(Acted { chunk: recorded.chunk, normalized: Some(recorded.actions), asked_noise: true })
    }
}
