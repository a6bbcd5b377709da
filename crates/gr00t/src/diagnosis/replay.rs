//! Injects hypotheses into the reference and keeps those that explain the engine.

use super::hypotheses::at_site;
use super::local::{Examination, LocalError};
use crate::Result;
use crate::engine::{Engine, ModelInput};
use crate::fault::{Fault, FaultyEngine, Results};
use crate::model::Model;
use crate::observation::Matrix;
use crate::precision::PrecisionPolicy;
use steadyhand_fidelity::relative_l2;

/// A hypothesis and how much of the engine's error it leaves unexplained.
#[derive(Debug, Clone)]
pub struct Finding {
    /// What may have happened.
    pub fault: Fault,
    /// The error left when the reference makes the fault too: the largest local error in units of what a
    /// healthy engine shows, or the actions' relative L2 where only they are known.
    pub residual: f64,
    /// Whether nothing is left that rounding cannot explain.
    pub proven: bool,
}

impl Examination<'_> {
    /// Explains local errors: the findings, best first. `previous` is what a buffer that was not written
    /// still holds, see [`Examination::results_at`].
    ///
    /// # Errors
    /// The input does not fit the model.
    pub fn explain(&self, previous: &Results, errors: &[LocalError]) -> Result<Vec<Finding>> {
        let unexplained: Vec<&LocalError> = errors.iter().filter(|error| error.is_fault()).collect();
        let mut findings = Vec::new();
        for fault in at_site(&self.model.config, &unexplained) {
            let residual = if fault.is_opaque() {
                // Everything behind the place was judged with the engine's own values of it already.
                largest(unexplained.iter().copied().filter(|error| error.path != fault.place()))
            } else {
                let injected = Some((&fault, previous));
                largest(&self.localize(injected)?.errors)
            };
            // That a layer computes something else is a place, not yet a cause.
            let proven = residual <= 1.0 && !matches!(fault, Fault::OldWeights { .. });
            findings.push(Finding { proven, fault, residual });
        }
        // An exact account of what happened comes before one that only says where.
        findings.sort_by(|a, b| {
            (!a.proven, a.proven && a.fault.is_opaque())
                .cmp(&(!b.proven, b.proven && b.fault.is_opaque()))
                .then(a.residual.total_cmp(&b.residual))
        });
        Ok(findings)
    }
}

/// The largest local error in units of what a healthy engine shows.
fn largest<'a>(errors: impl IntoIterator<Item = &'a LocalError>) -> f64 {
    errors.into_iter().map(|error| error.error / error.expected).fold(0.0, f64::max)
}

/// Explains final actions: every fault of `faults` in a free run over all inputs, best first. `floor` is the
/// relative L2 that rounding alone gives.
///
/// # Errors
/// An input does not fit the model.
pub fn explain_actions(
    model: &Model,
    policy: &PrecisionPolicy,
    denoising_steps: usize,
    inputs: &[ModelInput],
    found: &[Matrix],
    faults: Vec<Fault>,
    floor: f64,
) -> Result<Vec<Finding>> {
    let found: Vec<f32> = found.iter().flat_map(|actions| &actions.data).copied().collect();
    let mut findings = Vec::new();
    for fault in faults {
        let mut engine = FaultyEngine::new(model, policy, denoising_steps, fault.clone());
        let mut actions = Vec::with_capacity(found.len());
        for input in inputs {
            actions.extend(engine.infer(std::slice::from_ref(input), None)?.swap_remove(0).data);
        }
        let residual = relative_l2(&found, &actions);
        findings.push(Finding { fault, residual, proven: residual <= floor });
    }
    findings.sort_by(|a, b| a.residual.total_cmp(&b.residual));
    Ok(findings)
}
