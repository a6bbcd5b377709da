//! What engines are shown side by side: observations of one episode, made into model inputs.

use super::{Frame, Frames, Scenery, Session, concatenated};
use crate::engine::ModelInput;
use crate::{Observation, Result};
use steadyhand_lerobot::Kind;

/// Observations in the robot's and in the model's terms, and what was recorded along with them.
pub struct Scene {
    /// Where they are from.
    pub session: Session,
    /// Their episode, 0 where they are made up.
    pub episode: usize,
    /// Steps of the episode that were observed.
    pub steps: Vec<usize>,
    /// One for each step.
    pub observations: Vec<Observation>,
    /// What the model is given, one for each step, with its noise.
    pub inputs: Vec<ModelInput>,
    /// Recorded actions of the whole episode, one row a step; empty where nothing was recorded.
    pub recorded: Vec<Vec<f32>>,
    /// Joint names of the recorded actions.
    pub names: Vec<String>,
}

impl Session {
    /// A scene of observations that came from elsewhere, with what the model is given for each: `origin` says where from.
    pub fn given(mut self, origin: String, members: Vec<(Observation, ModelInput)>) -> Scene {
        self.scenery = Scenery::Given(origin);
        let steps = (0..members.len()).collect();
        let (observations, inputs) = members.into_iter().unzip();
        let (recorded, names) = (Vec::new(), Vec::new());
        Scene { session: self, episode: 0, steps, observations, inputs, recorded, names }
    }

    /// The chosen observations of one episode, which the scene's recorded actions are of.
    ///
    /// # Errors
    /// As [`Session::for_each`]; an observation that does not fit the processor.
    pub fn scene(self, chosen: Frames) -> Result<Scene> {
        let frames = self.frames(chosen)?;
        let processor = &self.parts.processor;
        let inputs = frames.iter().map(|frame| frame.input(processor)).collect::<Result<Vec<_>>>()?;
        let episode = frames.first().map_or(0, |frame| frame.episode);
        let (mut recorded, mut names) = (Vec::new(), Vec::new());
        if let Scenery::Recorded { dataset, .. } = &self.scenery {
            let keys = &processor.modalities().action.modality_keys;
            recorded = concatenated(&dataset.episode(episode)?, Kind::Action, keys)?;
            names = keys.iter().flat_map(|key| dataset.dimension_names(Kind::Action, key)).collect();
        }
        let steps = frames.iter().map(|frame| frame.step).collect();
        let observations = frames.into_iter().map(|Frame { observation, .. }| observation).collect();
        Ok(Scene { session: self, episode, steps, observations, inputs, recorded, names })
    }
}
