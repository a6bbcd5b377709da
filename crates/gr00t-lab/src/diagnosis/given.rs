//! What an engine was given: compared with what it should have been given, and used in its place.

use super::Observed;
use super::setup::Setup;
use super::teacher_forced::LocalError;
use steadyhand_fidelity::relative_l2;
use steadyhand_gr00t::engine::ModelInput;
use steadyhand_gr00t::model::action_head::timestep_bucket;

/// Pixels that went through another resampling of the same image are other pixels: only rounding is none. Measured
/// between f32 and f64 normalization: 1e-7; bf16 pixels, which the official code makes, are 2e-3 off. Times 2.
pub(super) const PIXELS: f64 = 4e-3;

/// One input that differs.
pub(super) struct Difference {
    /// As the operations' errors are, with the input's name as its path.
    pub(super) error: LocalError,
    /// What differs, as a sentence without its end.
    pub(super) description: String,
}

/// The inputs of one inference as the engine had them, where it shows them, and what differs.
pub(super) struct Given {
    pub(super) input: ModelInput,
    pub(super) differences: Vec<Difference>,
}

impl Given {
    /// Compares what the engine shows of its inputs. Noise and state are operations' results to the reference, and are
    /// compared as those.
    pub(super) fn new(setup: &Setup, inference: usize, observed: &dyn Observed) -> Self {
        let mut given = Given { input: setup.inputs[inference].clone(), differences: Vec::new() };
        given.ids(setup, observed);
        given.embodiment(setup, observed);
        given.pixels(observed);
        given.timesteps(setup, observed);
        given
    }

    fn differs(&mut self, name: String, path: &str, error: f64, expected: f64, description: String) {
        let error = LocalError {
            name,
            path: path.to_owned(),
            error,
            expected,
            peak: 1.0,
            blank: false,
            unshown: Vec::new(),
        };
        self.differences.push(Difference { error, description });
    }

    fn ids(&mut self, setup: &Setup, observed: &dyn Observed) {
        let Some((_, found)) = observed.read("input_ids") else { return };
        let right = &self.input.input_ids;
        let found: Vec<u32> = found.iter().map(|id| *id as u32).collect();
        if &found == right {
            return;
        }
        let image = setup.model.config.image_token();
        let differ: Vec<usize> =
            (0..found.len().min(right.len())).filter(|at| found[*at] != right[*at]).collect();
        let first = differ.first().map_or(String::new(), |at| {
            format!(", the first at {at}: {} instead of {}", found[*at], right[*at])
        });
        let (differing, all) = (differ.len() + found.len().abs_diff(right.len()), right.len());
        let description = format!("{} token ids for {all}, {differing} of them others{first}", found.len());
        let same_layout = found.len() == all
            && found.iter().zip(right).all(|(a, b)| (*a == image) == (*b == image))
            && found.iter().all(|id| (*id as usize) < setup.model.config.vocab_size());
        if same_layout {
            self.input.input_ids = found;
        }
        let share = differing as f64 / all.max(1) as f64;
        self.differs("input_ids".to_owned(), "input_ids", share, f64::MIN_POSITIVE, description);
    }

    fn embodiment(&mut self, setup: &Setup, observed: &dyn Observed) {
        let Some((_, found)) = observed.read("embodiment_id") else { return };
        let (Some(found), right) = (found.first().map(|id| *id as usize), self.input.embodiment_id) else {
            return;
        };
        if found == right {
            return;
        }
        if found < setup.model.config.max_num_embodiments {
            self.input.embodiment_id = found;
        }
        let description = format!("slot {found} instead of {right}");
        self.differs("embodiment_id".to_owned(), "embodiment_id", 1.0, f64::MIN_POSITIVE, description);
    }

    fn pixels(&mut self, observed: &dyn Observed) {
        for index in 0..self.input.images.len() {
            let name = format!("pixel_values.{index}");
            let Some((_, found)) = observed.read(&name) else { continue };
            let images = self.input.images.pixels();
            let right = images[index].data.len();
            let error = match found.len() == right {
                true => relative_l2(&found, &images[index].data),
                false => f64::INFINITY,
            };
            if error <= PIXELS {
                continue;
            }
            let description = match error.is_finite() {
                true => format!("image {index} lies {error:.2e} (relative L2) from the right one"),
                false => format!("image {index} has {} values instead of {right}", found.len()),
            };
            if error.is_finite() && found.iter().all(|value| value.is_finite()) {
                self.input.images.change(|images| images[index].data = found);
            }
            self.differs(name, "vision.patches", error, PIXELS, description);
        }
    }

    fn timesteps(&mut self, setup: &Setup, observed: &dyn Observed) {
        let (steps, buckets) = (setup.denoising_steps, setup.model.config.num_timestep_buckets);
        for step in 0..steps {
            let name = format!("step.{step}.timestep");
            let Some((_, found)) = observed.read(&name) else { continue };
            let right = timestep_bucket(step, steps, buckets);
            let Some(found) = found.first().filter(|found| **found != right as f32) else { continue };
            let description = format!("bucket {found} instead of {right} in Euler step {step}");
            self.differs(name, "timestep", 1.0, f64::MIN_POSITIVE, description);
        }
    }
}
