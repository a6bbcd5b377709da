//! Local errors: what each operation of an engine adds to the error it was handed.

use super::Observed;
use crate::Result;
use crate::engine::{ModelInput, infer_by_layout};
use crate::fault::{Fault, Injection, Results};
use crate::model::Model;
use crate::ops::cpu::Cpu;
use crate::ops::{Activation, Mask, Site};
use crate::precision::PrecisionPolicy;
use crate::probe::Edit;
use std::cell::RefCell;
use steadyhand_fidelity::{Format, relative_l2};

/// An operation's error when it is given the engine's own inputs.
#[derive(Debug, Clone)]
pub struct LocalError {
    /// The tap's name, with its Euler step.
    pub name: String,
    /// The site's path, without the step.
    pub path: String,
    /// Relative L2 between the engine's result and the reference's on the same inputs. Infinite where they
    /// differ in shape or in which values are finite.
    pub error: f64,
    /// What a healthy engine of this precision may show here.
    pub expected: f64,
    /// The engine's largest absolute value, relative to the reference's.
    pub peak: f64,
}

impl LocalError {
    /// Whether rounding cannot explain the error.
    pub fn is_fault(&self) -> bool {
        self.error > self.expected
    }
}

/// Sums in f32 in another order differ by up to this, relative to the result. Measured between two orders of
/// summation over the taps of the goldens: 4e-7 at most; times 2.5.
const F32_LOCAL: f64 = 1e-6;

/// A healthy engine may round once more or once less than the reference within an operation, which moves
/// results by up to half a unit in the last place: its relative L2 stays below the unit roundoff. Times 1.25.
const ROUNDING_MARGIN: f64 = 1.25;

/// The local error of every tap that the engine gave, in the order of execution. `fault` is made in the
/// reference; `previous` is what the engine gave for the inference before.
///
/// # Errors
/// The input does not fit the model.
pub fn localize(
    model: &Model,
    policy: &PrecisionPolicy,
    denoising_steps: usize,
    input: &ModelInput,
    observed: &dyn Observed,
    fault: Option<(&Fault, &Results)>,
) -> Result<Vec<LocalError>> {
    let injection = fault.map(|(fault, previous)| Injection { fault, previous, current: RefCell::default() });
    let (mut model, mut input, mut run_policy) = (model.clone(), input.clone(), policy.clone());
    if let Some((fault, _)) = fault {
        fault.damage_model(&mut model, &mut run_policy);
        fault.damage_inputs(std::slice::from_mut(&mut input));
    }
    let forced = Forced { observed, injection, policy, errors: RefCell::default(), kept: None };
    infer_by_layout(&model, &[input], denoising_steps, None, &mut |batch, probe| {
        model.infer(&Cpu::new(&run_policy, probe).with_edit(&forced), batch)
    })?;
    Ok(forced.errors.into_inner())
}

/// What the engine should have given at `path`, by tap name: the reference's results on the engine's own
/// inputs to it. A buffer that is not written in the next inference still holds them.
///
/// # Errors
/// The input does not fit the model.
pub fn results_at(
    model: &Model,
    policy: &PrecisionPolicy,
    denoising_steps: usize,
    input: &ModelInput,
    observed: &dyn Observed,
    path: &str,
) -> Result<Results> {
    let kept = Some((path, RefCell::default()));
    let forced = Forced { observed, injection: None, policy, errors: RefCell::default(), kept };
    infer_by_layout(model, std::slice::from_ref(input), denoising_steps, None, &mut |batch, probe| {
        model.infer(&Cpu::new(policy, probe).with_edit(&forced), batch)
    })?;
    Ok(forced.kept.map(|(_, results)| results.into_inner()).unwrap_or_default())
}

/// Puts the engine's tensors in the place of the reference's, after comparing the two.
struct Forced<'a> {
    observed: &'a dyn Observed,
    injection: Option<Injection<'a>>,
    /// What the engine says it runs at.
    policy: &'a PrecisionPolicy,
    errors: RefCell<Vec<LocalError>>,
    /// A path whose results are kept, and those results.
    kept: Option<(&'a str, RefCell<Results>)>,
}

impl Edit for Forced<'_> {
    fn result(&self, at: &Site, shape: [usize; 3], values: &mut [f32]) {
        if let Some(injection) = &self.injection {
            injection.result(at, shape, values);
        }
        let name = at.to_string();
        if let Some((path, results)) = &self.kept {
            if at.path() == *path {
                results.borrow_mut().insert(name.clone(), values.to_vec());
            }
        }
        let Some((_, found)) = self.observed.read(&name) else { return };
        let error = distance(&found, values);
        let storage = self.policy.formats(at).storage;
        let expected = (f64::from(storage.epsilon()) / 2.0 * ROUNDING_MARGIN).max(F32_LOCAL);
        let path = at.path().to_owned();
        let peak = peak(&found) / peak(values).max(f64::MIN_POSITIVE);
        self.errors.borrow_mut().push(LocalError { name, path, error, expected, peak });
        if found.len() == values.len() {
            values.copy_from_slice(&found);
        }
    }

    fn eps(&self, at: &Site, eps: f64) -> f64 {
        self.injection.as_ref().map_or(eps, |injection| injection.eps(at, eps))
    }

    fn activation(&self, at: &Site, kind: Activation) -> Activation {
        self.injection.as_ref().map_or(kind, |injection| injection.activation(at, kind))
    }

    fn mask(&self, at: &Site, mask: &Mask) -> Mask {
        self.injection.as_ref().map_or_else(|| mask.clone(), |injection| injection.mask(at, mask))
    }

    fn time(&self, at: &Site, bucket: usize) -> usize {
        self.injection.as_ref().map_or(bucket, |injection| injection.time(at, bucket))
    }

    fn angles(&self, at: &Site) -> Format {
        self.injection.as_ref().map_or(Format::F32, |injection| injection.angles(at))
    }

    fn embodiment(&self, at: &Site, slot: usize) -> usize {
        self.injection.as_ref().map_or(slot, |injection| injection.embodiment(at, slot))
    }
}

/// Relative L2 over the values that are finite in both; infinite where one side alone is not finite. A NaN
/// that the operation was handed is not its own error.
fn distance(found: &[f32], expected: &[f32]) -> f64 {
    if found.len() != expected.len() {
        return f64::INFINITY;
    }
    if found.iter().chain(expected).all(|value| value.is_finite()) {
        return relative_l2(found, expected);
    }
    let mut pairs = (Vec::new(), Vec::new());
    for (found, expected) in found.iter().zip(expected) {
        match (found.is_finite(), expected.is_finite()) {
            (true, true) => {
                pairs.0.push(*found);
                pairs.1.push(*expected);
            }
            (false, false) => {}
            _ => return f64::INFINITY,
        }
    }
    relative_l2(&pairs.0, &pairs.1)
}

fn peak(values: &[f32]) -> f64 {
    values.iter().fold(0.0, |peak, value| f64::from(value.abs()).max(peak))
}
