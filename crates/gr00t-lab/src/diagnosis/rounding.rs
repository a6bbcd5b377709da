//! The tensors between: what the engine gave, against the reference's and against what rounding gives.

use super::Observed;
use super::baseline::MARGIN;
use super::report::TapError;
use super::setup::Setup;
use super::stored::OfInference;
use super::teacher_forced::LocalError;
use crate::Result;
use std::collections::{BTreeMap, BTreeSet};
use steadyhand_fidelity::relative_l2;
use steadyhand_gr00t::engine::{CpuEngine, Engine};
use steadyhand_gr00t::ops::Site;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::probe::Probe;
use steadyhand_gr00t::topology::Topology;

/// What two correct f32 engines differ by at a tap: measured 1.1e-6 on the goldens; times 3.
const F32_TAP: f64 = 3.3e-6;

/// How far an engine's tensor lies from the reference's, errors from before included.
#[derive(Debug, Clone, Copy)]
pub struct Total {
    /// Relative L2; infinite where they cannot be compared.
    pub error: f64,
    /// What rounding gives.
    pub expected: f64,
}

/// Total and local error of every tap of an inference.
pub(super) fn table(
    topology: &Topology,
    totals: &BTreeMap<String, Total>,
    errors: &[LocalError],
) -> Vec<TapError> {
    let row = |error: &LocalError| {
        let total = totals.get(&error.name)?;
        let part = topology.part_of(&error.path).map_or("", |part| part.name);
        Some(TapError {
            name: error.name.clone(),
            step: Site::of_tap(&error.name).step(),
            part: part.to_owned(),
            total: total.error,
            expected: total.expected,
            local: error.error,
            local_expected: error.expected,
        })
    };
    errors.iter().filter_map(row).collect()
}

/// The taps of the f32 reference's last inference, and how far rounding moves each. As a probe it takes rounded runs.
pub struct Rounding {
    /// On disk, in the order of execution.
    pub reference: OfInference,
    /// By tap, the largest relative L2 of a rounded run so far.
    moved: BTreeMap<String, f64>,
}

impl Rounding {
    /// The reference alone, nothing rounded yet.
    pub fn new(reference: OfInference) -> Self {
        Rounding { reference, moved: BTreeMap::new() }
    }

    /// What rounding moves a tap by, everything before it included.
    fn of(&self, name: &str) -> Option<f64> {
        self.moved.get(name).copied()
    }

    /// What an engine's tap may differ by.
    pub fn allowed(&self, name: &str) -> Option<f64> {
        Some(self.of(name)? * MARGIN)
    }

    /// Every tap that the engine shows.
    pub(super) fn totals(&self, observed: &dyn Observed) -> BTreeMap<String, Total> {
        let total = |(name, moved): (&String, &f64)| {
            let ((_, found), (_, right)) = (observed.read(name)?, self.reference.read(name)?);
            Some((name.clone(), Total { error: relative_l2(&found, &right), expected: *moved }))
        };
        self.moved.iter().filter_map(total).collect()
    }
}

impl Probe for Rounding {
    fn tap(&mut self, name: &str, _: &[usize], values: &[f32]) {
        if let Some((_, reference)) = self.reference.read(name) {
            let moved = self.moved.entry(name.to_owned()).or_insert(F32_TAP);
            *moved = moved.max(relative_l2(values, &reference));
        }
    }
}

/// What can be said of a trace before its numbers are compared.
///
/// # Errors
/// The input does not fit the model.
pub(super) fn audit(setup: &Setup, policy: &PrecisionPolicy, taps: &OfInference) -> Result<Vec<String>> {
    let mut shapes = Shapes::default();
    let mut engine = CpuEngine::new(setup.model.clone(), policy.clone(), setup.denoising_steps);
    engine.infer(&setup.inputs[..1], Some(&mut shapes))?;
    let mut found = Vec::new();
    let names = taps.taps();
    for name in &names {
        let entry = taps.trace.entry(&OfInference::name(taps.inference, name))?;
        let Some(shape) = shapes.0.get(name) else {
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

/// The shape of every tap.
#[derive(Default)]
struct Shapes(BTreeMap<String, Vec<usize>>);

impl Probe for Shapes {
    fn tap(&mut self, name: &str, shape: &[usize], _: &[f32]) {
        self.0.insert(name.to_owned(), shape.to_vec());
    }
}

/// Names of recorded inputs, which no operation of the reference computes.
fn is_input(name: &str) -> bool {
    matches!(name, "input_ids" | "position_ids" | "embodiment_id")
        || name.starts_with("pixel_values.")
        || name.ends_with(".timestep")
}
