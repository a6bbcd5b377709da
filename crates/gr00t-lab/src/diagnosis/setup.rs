//! What both engines are shown.

use steadyhand_gr00t::Observation;
use steadyhand_gr00t::engine::ModelInput;
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::processor::Processor;

/// A model, its processor, and observations of one episode in both their terms.
#[derive(Clone, Copy)]
pub struct Setup<'a> {
    /// The model that the engine should compute.
    pub model: &'a Model,
    /// What makes physical actions of normalized ones.
    pub processor: &'a Processor,
    /// Euler steps.
    pub denoising_steps: usize,
    /// One for each inference.
    pub observations: &'a [Observation],
    /// What the model should be given, one for each inference, with the noise.
    pub inputs: &'a [ModelInput],
    /// Steps of the episode that were observed, one for each inference.
    pub steps: &'a [usize],
    /// Recorded actions of the whole episode, one row a step; empty where nothing was recorded.
    pub recorded: &'a [Vec<f32>],
    /// Joint names of the recorded actions.
    pub names: &'a [String],
}

impl Setup<'_> {
    /// The same with the first `inferences` alone.
    #[must_use]
    pub fn first(self, inferences: usize) -> Self {
        let inferences = inferences.min(self.inputs.len());
        Setup {
            observations: &self.observations[..inferences],
            inputs: &self.inputs[..inferences],
            steps: &self.steps[..inferences],
            ..self
        }
    }
}
