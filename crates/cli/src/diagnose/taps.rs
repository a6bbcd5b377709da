//! The tensors between: what the engine gave, against the reference's and against what rounding gives.

use super::actions::MARGIN;
use super::scene::Scene;
use super::subject::OfInference;
use super::types::TapError;
use anyhow::Result;
use std::collections::{BTreeMap, BTreeSet};
use steadyhand_fidelity::relative_l2;
use steadyhand_gr00t::diagnosis::{LocalError, Observed};
use steadyhand_gr00t::engine::{CpuEngine, Engine};
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::probe::Recorder;

/// What two correct f32 engines differ by at a tap: measured 1.1e-6 on the goldens; times 3.
const F32_TAP: f64 = 3.3e-6;

/// Total and local error of every tap of the last inference.
///
/// # Errors
/// The input does not fit the model.
pub fn table(
    scene: &Scene,
    policy: &PrecisionPolicy,
    observed: Option<&dyn Observed>,
    errors: &[LocalError],
) -> Result<Vec<TapError>> {
    let Some(observed) = observed else { return Ok(Vec::new()) };
    let rounding = Rounding::measure(scene, policy)?;
    let row = |error: &LocalError| {
        let total = rounding.distance(&error.name, observed)?;
        let step = error.name.strip_prefix("step.").and_then(|rest| rest.split('.').next());
        Some(TapError {
            name: error.name.clone(),
            step: step.and_then(|step| step.parse().ok()),
            total,
            expected: rounding.of(&error.name)?,
            local: error.error,
            local_expected: error.expected,
        })
    };
    Ok(errors.iter().filter_map(row).collect())
}

/// What rounding at `policy` may move each tap of the last inference by, everything before it included.
///
/// # Errors
/// The input does not fit the model.
pub fn rounding(scene: &Scene, policy: &PrecisionPolicy) -> Result<BTreeMap<String, f64>> {
    let rounding = Rounding::measure(scene, policy)?;
    let names = rounding.reference.tensors.keys();
    Ok(names.filter_map(|name| Some((name.clone(), rounding.of(name)? * MARGIN))).collect())
}

/// The taps of the last inference: of the f32 reference, and of the same rounded to the nearest and at random.
struct Rounding {
    reference: Recorder,
    rounded: [Recorder; 2],
}

impl Rounding {
    fn measure(scene: &Scene, policy: &PrecisionPolicy) -> Result<Self> {
        let record = |policy: PrecisionPolicy| -> Result<Recorder> {
            let mut recorder = Recorder::all();
            let mut engine = CpuEngine::new(scene.model.clone(), policy, scene.denoising_steps);
            engine.infer(&scene.inputs[scene.inputs.len() - 1..], Some(&mut recorder))?;
            Ok(recorder)
        };
        let reference = record(PrecisionPolicy::preset("f32")?)?;
        Ok(Rounding { reference, rounded: [record(policy.clone())?, record(policy.clone().stochastic(0))?] })
    }

    /// Relative L2 to the reference's tap; none where the reference has none, infinite where `taps` has none.
    fn distance(&self, name: &str, taps: &dyn Observed) -> Option<f64> {
        let (_, expected) = self.reference.tensors.get(name)?;
        Some(taps.read(name).map_or(f64::INFINITY, |(_, values)| relative_l2(&values, expected)))
    }

    /// What rounding moves a tap by.
    fn of(&self, name: &str) -> Option<f64> {
        self.rounded.iter().try_fold(F32_TAP, |worst, taps| Some(self.distance(name, taps)?.max(worst)))
    }
}

/// What can be said of a trace before its numbers are compared.
///
/// # Errors
/// The input does not fit the model.
pub fn audit(scene: &Scene, policy: &PrecisionPolicy, taps: &OfInference) -> Result<Vec<String>> {
    let mut recorder = Recorder::all();
    let mut engine = CpuEngine::new(scene.model.clone(), policy.clone(), scene.denoising_steps);
    engine.infer(&scene.inputs[..1], Some(&mut recorder))?;
    let mut found = Vec::new();
    let names = taps.taps();
    for name in &names {
        let entry = taps.trace.entry(&OfInference::name(taps.inference, name))?;
        let Some((shape, _)) = recorder.tensors.get(name) else {
            if !is_input(name) {
                found.push(format!("{name}: the reference has no tensor of this name"));
            }
            continue;
        };
        let trimmed = |shape: &[usize]| shape.iter().copied().filter(|dim| *dim != 1).collect::<Vec<_>>();
        if trimmed(shape) != trimmed(&entry.shape) {
            found.push(format!("{name}: expected shape {shape:?}, found {:?}", entry.shape));
        }
        // Reading it once finds what later reads would only miss.
        let values = taps.trace.read(&entry.name)?;
        let bad = values.iter().filter(|value| !value.is_finite()).count();
        if bad > 0 {
            found.push(format!("{name}: {bad} of {} values are not finite", values.len()));
        }
    }
    let dtypes: BTreeSet<String> = names
        .iter()
        .filter_map(|name| taps.trace.entry(&OfInference::name(taps.inference, name)).ok())
        .map(|entry| entry.dtype.to_string())
        .collect();
    found.push(format!(
        "{} tensors an inference, of types {}",
        names.len(),
        dtypes.into_iter().collect::<Vec<_>>().join(", ")
    ));
    Ok(found)
}

/// Names of recorded inputs, which no operation of the reference computes.
fn is_input(name: &str) -> bool {
    matches!(name, "input_ids" | "embodiment_id")
        || name.starts_with("pixel_values.")
        || name.ends_with(".timestep")
}
