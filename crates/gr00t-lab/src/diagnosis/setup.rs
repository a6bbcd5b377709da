//! What both engines are shown.

use crate::fault::{Fault, OtherImages, made_otherwise};
use steadyhand_gr00t::Observation;
use steadyhand_gr00t::engine::ModelInput;
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::processor::{ImageStep, PixelValues, Processor};

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
    /// Whether actions are compared as far as physical units tell them. A diagnosis sets it by itself for an engine that
    /// gives such actions alone.
    pub physical: bool,
}

impl Setup<'_> {
    /// The mistake of each step of the images' way left out, or added where the checkpoint does not ask for it, as far as
    /// the prompt and the images' sizes stay what they are: another number of tokens is no mistake that an engine of
    /// fixed shapes can make.
    pub fn images_made_otherwise(&self) -> Vec<Fault> {
        ImageStep::ALL.into_iter().filter_map(|step| self.without(step)).collect()
    }

    fn without(&self, step: ImageStep) -> Option<Fault> {
        let size = |image: &PixelValues| [image.height, image.width];
        let mut pairs: Vec<OtherImages> = Vec::with_capacity(self.inputs.len());
        for (observation, input) in self.observations.iter().zip(self.inputs) {
            // What cannot be made that way was not.
            let other = self.processor.encode_without(step, observation).ok().flatten()?;
            let own = input.images.pixels();
            let same = other.input_ids == input.input_ids
                && other.pixel_values.iter().map(size).eq(own.iter().map(size));
            if !same {
                return None;
            }
            pairs.push((own.into_owned(), other.pixel_values));
        }
        let differs = pairs.iter().any(|(right, other)| right != other);
        let what = match step {
            ImageStep::Crop => "without the centre crop",
            ImageStep::Letterbox if self.processor.letterboxes() => "without the bars of the letterbox",
            ImageStep::Letterbox => "with the bars of a letterbox",
        };
        differs.then(|| made_otherwise(what, pairs))
    }

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
