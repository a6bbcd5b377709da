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

/// How far a search is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Hypotheses replayed.
    pub done: usize,
    /// Hypotheses in all.
    pub of: usize,
}

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
    /// still holds, see [`Examination::results_at`]. A replay costs an inference; `progress` is told before each.
    ///
    /// # Errors
    /// The input does not fit the model.
    pub fn explain(
        &self,
        previous: &Results,
        errors: &[LocalError],
        progress: &dyn Fn(Progress),
    ) -> Result<Vec<Finding>> {
        let unexplained: Vec<&LocalError> = errors.iter().filter(|error| error.is_fault()).collect();
        let mut findings = Vec::new();
        let faults = at_site(&self.model.config, &unexplained);
        let of = faults.len();
        for (done, fault) in faults.into_iter().enumerate() {
            progress(Progress { done, of });
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

/// An engine of which only the actions are known.
#[derive(Clone, Copy)]
pub struct ActionsOnly<'a> {
    /// The model that the engine should compute.
    pub model: &'a Model,
    /// What the engine says it runs at.
    pub policy: &'a PrecisionPolicy,
    /// Euler steps.
    pub denoising_steps: usize,
    /// What the engine was given.
    pub inputs: &'a [ModelInput],
    /// The normalized actions it gave.
    pub found: &'a [Matrix],
    /// The relative L2 that rounding alone gives.
    pub floor: f64,
}

impl ActionsOnly<'_> {
    /// Explains the actions: every fault of `faults` in a free run over all inputs, best first. `progress` is
    /// told before each.
    ///
    /// # Errors
    /// An input does not fit the model.
    pub fn explain(&self, faults: Vec<Fault>, progress: &dyn Fn(Progress)) -> Result<Vec<Finding>> {
        let found: Vec<f32> = self.found.iter().flat_map(|actions| &actions.data).copied().collect();
        let mut findings = Vec::new();
        let of = faults.len();
        for (done, fault) in faults.into_iter().enumerate() {
            progress(Progress { done, of });
            let mut engine = FaultyEngine::new(self.model, self.policy, self.denoising_steps, fault.clone());
            let mut actions = Vec::with_capacity(found.len());
            for input in self.inputs {
                actions.extend(engine.infer(std::slice::from_ref(input), None)?.swap_remove(0).data);
            }
            let residual = relative_l2(&found, &actions);
            findings.push(Finding { fault, residual, proven: residual <= self.floor });
        }
        findings.sort_by(|a, b| a.residual.total_cmp(&b.residual));
        Ok(findings)
    }
}
