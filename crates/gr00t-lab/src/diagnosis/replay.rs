//! Injects hypotheses into the reference and keeps those that explain the engine.

use super::hypotheses::at_site;
use super::local::{Examination, LocalError, Localization, distance};
use super::reuse::{Backbone, Visit};
use crate::fault::{Fault, FaultyEngine, Injection, Results};
use steadyhand_fidelity::relative_l2;
use steadyhand_gr00t::Result;
use steadyhand_gr00t::engine::{CpuEngine, Engine, ModelInput};
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::observation::Matrix;
use steadyhand_gr00t::ops::cpu::Intervention;
use steadyhand_gr00t::precision::PrecisionPolicy;

/// How far a search is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Hypotheses replayed.
    pub done: usize,
    /// Hypotheses to replay in all.
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
    /// Explains the local errors of `base`: the findings, best first. `previous` is what a buffer that was not written
    /// still holds, see [`Examination::results_at`]. A hypothesis that only changes the first bad result is judged from
    /// that result, any other is replayed; `progress` is told before each replay.
    ///
    /// # Errors
    /// The input does not fit the model.
    pub fn explain(
        &self,
        previous: &Results,
        base: &Localization,
        progress: &dyn Fn(Progress),
    ) -> Result<Vec<Finding>> {
        let unexplained: Vec<&LocalError> = base.errors.iter().filter(|error| error.is_fault()).collect();
        let Some(first) = unexplained.first() else { return Ok(Vec::new()) };
        let place = BadPlace::new(self, base, &first.path)?;
        let faults = at_site(&self.model.config, &unexplained);
        let judged: Vec<Option<f64>> = faults
            .iter()
            .map(|fault| match fault.is_opaque() {
                // Everything behind the place was judged with the engine's own values of it already.
                true => {
                    Some(largest(unexplained.iter().copied().filter(|error| error.path != fault.place())))
                }
                false => place.residual(fault, previous),
            })
            .collect();
        let (of, mut done) = (judged.iter().filter(|residual| residual.is_none()).count(), 0);
        let mut findings = Vec::new();
        for (fault, judged) in faults.into_iter().zip(judged) {
            let residual = match judged {
                Some(residual) => residual,
                None => {
                    progress(Progress { done, of });
                    done += 1;
                    largest(&self.replay(base, &fault, previous)?)
                }
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

/// A place that errs: what it should have given, and what the engine gave.
struct BadPlace<'a> {
    path: &'a str,
    /// Each visit of the place, with the reference's values and the engine's.
    results: Vec<(&'a Visit, Vec<f32>, Vec<f32>)>,
    /// The largest error elsewhere.
    elsewhere: f64,
    /// Whether nothing of the place is handed on but the engine's own tensors.
    confined: bool,
}

impl<'a> BadPlace<'a> {
    fn new(examination: &Examination, base: &'a Localization, path: &'a str) -> Result<Self> {
        let visits = || base.visits.iter().filter(|(_, visit)| visit.site.path() == path);
        let elsewhere = largest(base.errors.iter().filter(|error| error.path != path));
        if !visits().all(|(_, visit)| visit.taken) {
            return Ok(BadPlace { path, results: Vec::new(), elsewhere, confined: false });
        }
        let mut right = examination.results_at(path, Some(base))?;
        let both = |(name, visit): (&String, &'a Visit)| {
            Some((visit, right.remove(name)?, examination.observed.read(name)?.1))
        };
        let results = visits().filter_map(both).collect();
        Ok(BadPlace { path, results, elsewhere, confined: true })
    }

    /// What a fault that only changes the result here leaves; none for any other, which has to be replayed.
    fn residual(&self, fault: &Fault, previous: &Results) -> Option<f64> {
        if !self.confined || !fault.changes_a_result() || fault.place() != self.path {
            return None;
        }
        let injection = Injection::new(fault, previous);
        let mut worst = self.elsewhere;
        for (visit, right, found) in &self.results {
            let mut values = right.clone();
            injection.result(&visit.site, visit.shape, &mut values);
            let expected = visit.error.as_ref()?.expected;
            worst = worst.max(distance(found, &values) / expected);
        }
        Some(worst)
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
        let backbones = self.backbones()?;
        let mut findings = Vec::new();
        let of = faults.len();
        for (done, fault) in faults.into_iter().enumerate() {
            progress(Progress { done, of });
            let mut engine = FaultyEngine::new(self.model, self.policy, self.denoising_steps, fault.clone());
            let mut actions = Vec::with_capacity(found.len());
            for (input, backbone) in self.inputs.iter().zip(&backbones) {
                let spared = Some(backbone).filter(|backbone| backbone.is_spared(|at| fault.touches(at)));
                actions.extend(engine.infer_behind(input, spared)?.data);
            }
            let residual = relative_l2(&found, &actions);
            findings.push(Finding { fault, residual, proven: residual <= self.floor });
        }
        findings.sort_by(|a, b| a.residual.total_cmp(&b.residual));
        Ok(findings)
    }

    /// The backbone of each input, without a fault.
    fn backbones(&self) -> Result<Vec<Backbone>> {
        let mut engine = CpuEngine::new(self.model.clone(), self.policy.clone(), self.denoising_steps);
        let backbone = |input| {
            let mut backbone = Backbone::default();
            engine.infer(std::slice::from_ref(input), Some(&mut backbone))?;
            Ok(backbone)
        };
        self.inputs.iter().map(backbone).collect()
    }
}
