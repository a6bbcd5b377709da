//! The f32 reference, and what rounding alone moves it by.

use super::rounding::{Rounding, Total};
use super::setup::Setup;
use super::stored::{OfInference, Scratch};
use crate::{Error, Result};
use std::collections::BTreeMap;
use steadyhand_fidelity::relative_l2;
use steadyhand_gr00t::Matrix;
use steadyhand_gr00t::engine::{CpuEngine, Engine, ModelInput};
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
    /// By inference, what the engine's tensors differ by from the reference's, and what rounding moves those by.
    pub totals: BTreeMap<usize, BTreeMap<String, Total>>,
    /// Relative L2 of what one last place of physical actions makes of normalized ones, where only those are known.
    last_place: f64,
}

impl Baseline {
    /// Runs the f32 reference, the same at `policy`, and at `policy` rounding at random. The tensors of inferences that
    /// `taps` has are compared with the reference's and with those of the rounded runs. Of the reference's, one
    /// inference at a time is in `scratch`, and the last stays there.
    ///
    /// # Errors
    /// An input does not fit the model; the tensors cannot be kept.
    pub fn run(
        setup: &Setup,
        policy: &PrecisionPolicy,
        taps: &BTreeMap<usize, OfInference>,
        scratch: &Scratch,
    ) -> Result<Self> {
        let engine =
            |policy: PrecisionPolicy| CpuEngine::new(setup.model.clone(), policy, setup.denoising_steps);
        let mut reference = engine(PrecisionPolicy::preset("f32")?);
        let mut policies = vec![policy.clone()];
        policies.extend((0..REPLICAS).map(|seed| policy.clone().stochastic(seed)));
        let mut engines: Vec<CpuEngine> = policies.into_iter().map(engine).collect();
        let mut baseline = Baseline {
            actions: Vec::new(),
            rounded: vec![Vec::new(); engines.len()],
            taps: None,
            totals: BTreeMap::new(),
            last_place: 0.0,
        };
        for (inference, input) in setup.inputs.iter().enumerate() {
            let observed = taps.get(&inference);
            baseline.add(
                &mut reference,
                &mut engines,
                input,
                observed.map(|taps| (taps, scratch, inference)),
            )?;
        }
        if baseline.actions.is_empty() {
            return Err(Error::input("inputs", "expected at least one inference, found none"));
        }
        if setup.physical {
            baseline.last_place = setup.last_place(&baseline.actions)?;
            for actions in std::iter::once(&mut baseline.actions).chain(&mut baseline.rounded) {
                for (inference, actions) in actions.iter_mut().enumerate() {
                    *actions = setup.seen(inference, std::mem::take(actions))?;
                }
            }
        }
        Ok(baseline)
    }

    /// Runs one inference of every engine.
    fn add(
        &mut self,
        reference: &mut CpuEngine,
        engines: &mut [CpuEngine],
        input: &ModelInput,
        compared: Option<(&OfInference, &Scratch, usize)>,
    ) -> Result<()> {
        let mut rounding = None;
        match compared {
            Some((_, scratch, _)) => {
                let (actions, stored) = scratch.record(reference, input)?;
                self.actions.push(actions);
                rounding = Some(Rounding::new(stored));
            }
            None => self.actions.extend(reference.infer(std::slice::from_ref(input), None)?),
        }
        for (index, (engine, actions)) in engines.iter_mut().zip(&mut self.rounded).enumerate() {
            // One run to the nearest and one at random: what the others would add is not worth their reading.
            let probe = rounding.as_mut().filter(|_| index < 2).map(|taps| taps as &mut dyn Probe);
            actions.extend(engine.infer(std::slice::from_ref(input), probe)?);
        }
        if let (Some(rounding), Some((taps, scratch, inference))) = (rounding, compared) {
            self.totals.insert(inference, rounding.totals(taps));
            if let Some(before) = self.taps.replace(rounding) {
                scratch.discard(&before.reference)?;
            }
        }
        Ok(())
    }

    /// Relative L2 of an engine's actions over all inferences.
    pub fn distance(&self, actions: &[Matrix]) -> f64 {
        relative_l2(&flat(actions), &flat(&self.actions))
    }

    /// Relative L2 that rounding gives over all inferences.
    pub fn expected(&self) -> f64 {
        let least = F32_ACTIONS + self.last_place;
        self.rounded.iter().map(|rounded| self.distance(rounded)).fold(least, f64::max)
    }

    /// Relative L2 that rounding gives in one inference.
    pub fn expected_of(&self, inference: usize) -> f64 {
        let of = |actions: &[Matrix]| actions.get(inference).map(|of| of.data.clone()).unwrap_or_default();
        let right = of(&self.actions);
        let least = F32_ACTIONS + self.last_place;
        self.rounded.iter().map(|rounded| relative_l2(&of(rounded), &right)).fold(least, f64::max)
    }
}

pub(super) fn flat(actions: &[Matrix]) -> Vec<f32> {
    actions.iter().flat_map(|matrix| &matrix.data).copied().collect()
}
