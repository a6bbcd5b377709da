//! The f32 reference, and what rounding alone moves it by.

use super::rounding::Rounding;
use super::setup::Setup;
use super::stored::Scratch;
use crate::{Error, Result};
use steadyhand_fidelity::relative_l2;
use steadyhand_gr00t::Matrix;
use steadyhand_gr00t::engine::{CpuEngine, Engine};
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::probe::Probe;

/// Rounding at random is run with so many seeds.
const REPLICAS: u64 = 3;
/// Relative L2 of normalized actions between two correct f32 engines: measured 3.6e-7 between the official code
/// and the reference on the demo; times 4.
pub const F32_ACTIONS: f64 = 1.5e-6;
/// An engine is healthy up to so many times the error that rounding gives: engines that fuse other operations
/// round in other places. The official bf16 run lies 0.95 to 1.09
/// times the emulated error from f32 on the goldens.
pub const MARGIN: f64 = 2.0;

/// The f32 reference, and what rounding moves it by.
pub struct Baseline {
    /// Normalized, one matrix an inference.
    pub actions: Vec<Matrix>,
    /// The same rounded to the nearest, then at random.
    rounded: Vec<Vec<Matrix>>,
    /// The tensors of the last inference, where they were asked for.
    pub taps: Option<Rounding>,
}

impl Baseline {
    /// Runs the f32 reference, the same at `policy`, and at `policy` rounding at random. With `scratch`, the last
    /// inference's tensors are kept there and those of the rounded runs compared with them.
    ///
    /// # Errors
    /// An input does not fit the model; the tensors cannot be kept.
    pub fn run(setup: &Setup, policy: &PrecisionPolicy, scratch: Option<&Scratch>) -> Result<Self> {
        let engine =
            |policy: PrecisionPolicy| CpuEngine::new(setup.model.clone(), policy, setup.denoising_steps);
        let Some((last, before)) = setup.inputs.split_last() else {
            return Err(Error::input("inputs", "expected at least one inference, found none"));
        };
        let mut reference = engine(PrecisionPolicy::preset("f32")?);
        let mut actions = reference.infer(before, None)?;
        let mut taps = None;
        match scratch {
            Some(scratch) => {
                let (last, stored) = scratch.record(&mut reference, last)?;
                actions.push(last);
                taps = Some(Rounding::new(stored));
            }
            None => actions.extend(reference.infer(std::slice::from_ref(last), None)?),
        }
        let mut policies = vec![policy.clone()];
        policies.extend((0..REPLICAS).map(|seed| policy.clone().stochastic(seed)));
        let mut rounded = Vec::new();
        for (index, policy) in policies.into_iter().enumerate() {
            let mut engine = engine(policy);
            let mut actions = engine.infer(before, None)?;
            // One run to the nearest and one at random: what the others would add is not worth their reading.
            let probe = taps.as_mut().filter(|_| index < 2).map(|taps| taps as &mut dyn Probe);
            actions.extend(engine.infer(std::slice::from_ref(last), probe)?);
            rounded.push(actions);
        }
        Ok(Baseline { actions, rounded, taps })
    }

    /// Relative L2 of an engine's actions over all inferences.
    pub fn distance(&self, actions: &[Matrix]) -> f64 {
        relative_l2(&flat(actions), &flat(&self.actions))
    }

    /// Relative L2 that rounding gives over all inferences.
    pub fn expected(&self) -> f64 {
        self.rounded.iter().map(|rounded| self.distance(rounded)).fold(F32_ACTIONS, f64::max)
    }

    /// Relative L2 that rounding gives in the last inference.
    pub fn expected_of_last(&self) -> f64 {
        let last = |actions: &[Matrix]| flat(&actions[actions.len().saturating_sub(1)..]);
        let right = last(&self.actions);
        self.rounded.iter().map(|rounded| relative_l2(&last(rounded), &right)).fold(F32_ACTIONS, f64::max)
    }
}

pub(super) fn flat(actions: &[Matrix]) -> Vec<f32> {
    actions.iter().flat_map(|matrix| &matrix.data).copied().collect()
}
