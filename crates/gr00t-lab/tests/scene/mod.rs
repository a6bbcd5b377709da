//! A made-up policy of the smallest size and two observations of it, which a diagnosis works on.

use steadyhand_gr00t::Observation;
use steadyhand_gr00t::engine::ModelInput;
use steadyhand_gr00t::noise::gaussian;
use steadyhand_gr00t::policy::prepare;
use steadyhand_gr00t::synthetic::{Shapes, Synthetic, tiny};
use steadyhand_gr00t_lab::diagnosis::Setup;

pub struct Scene {
    pub made: Synthetic,
    observations: [Observation; 2],
    /// One of each observation.
    pub inputs: Vec<ModelInput>,
}

impl Scene {
    pub fn new() -> Self {
        let made = Synthetic::make("synth:tiny", tiny(), 3, &Shapes::default()).expect("consistent sizes");
        let [rows, cols] = made.parts.noise_shape();
        let observations = [made.observation(1), made.observation(2)];
        let input = |(index, observation)| {
            let noise = gaussian(5, 0, index, rows, cols);
            prepare(&made.parts.processor, observation, noise).expect("an observation that fits")
        };
        let inputs = (0u32..).zip(&observations).map(input).collect();
        Scene { made, observations, inputs }
    }

    pub fn setup(&self, denoising_steps: usize) -> Setup<'_> {
        Setup {
            model: &self.made.parts.model,
            processor: &self.made.parts.processor,
            denoising_steps,
            observations: &self.observations,
            inputs: &self.inputs,
            steps: &[0, 1],
            recorded: &[],
            names: &[],
            physical: false,
        }
    }
}
