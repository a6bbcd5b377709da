//! Injects hypotheses into the reference and keeps those that explain the engine.

use super::reuse::Visit;
use super::teacher_forced::{Examination, LocalError, Localization, distance, is_blank};
use crate::backbone::Backbone;
use crate::fault::{Change, Effect, Fault, FaultyEngine, Injection, Results, Suspect, candidates};
use std::collections::{BTreeMap, BTreeSet};
use steadyhand_fidelity::relative_l2;
use steadyhand_gr00t::Result;
use steadyhand_gr00t::engine::{CpuEngine, Engine, ModelInput};
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::observation::Matrix;
use steadyhand_gr00t::ops::Site;
use steadyhand_gr00t::ops::cpu::Intervention;
use steadyhand_gr00t::precision::PrecisionPolicy;

/// How far a search is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is done.
    pub task: Task,
    /// How often it was done.
    pub done: usize,
    /// How often it is done in all.
    pub of: usize,
}

/// What takes long in a diagnosis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// A run of the reference with a hypothesis in it.
    Hypotheses,
    /// A run of both engines with a component exchanged.
    Mixtures,
}

/// A hypothesis and how much of the engine's error it leaves unexplained.
#[derive(Debug, Clone)]
pub struct Finding {
    /// What may have happened.
    pub fault: Fault,
    /// The error left when the reference makes the fault too: the largest local error of the operations that it
    /// changes, in units of what a healthy engine shows there, or the actions' relative L2 where only they are known.
    pub residual: f64,
    /// Whether what it leaves is no more than rounding gives, of an error that was much more.
    pub proven: bool,
    /// Names of the taps whose errors it explains.
    pub explains: BTreeSet<String>,
}

/// An error must exceed what rounding gives by so much that an explanation of it means something: one that takes 1.01
/// to 0.94 proves nothing.
pub(super) const GAIN: f64 = 3.0;

/// A rival explains an error as well where it leaves at most twice as much as the best, or as this share of what a
/// healthy engine may show.
pub(super) const AS_WELL: f64 = 0.1;

/// What leaves more than this share of the first error at its place explains nothing, and is told nowhere.
const WORTH: f64 = 0.5;

/// What explains more comes before its part: all layers before the first of them, both encodings before one. The same
/// mistake elsewhere too need only be proven; another must leave as little.
pub(super) fn prefer_wider(findings: &mut [Finding]) {
    while let Some(best) = findings.first().filter(|best| best.proven) {
        let as_well = (2.0 * best.residual).max(AS_WELL);
        let wider = findings.iter().position(|other| {
            let contains =
                other.explains.len() > best.explains.len() && best.explains.is_subset(&other.explains);
            let little = other.residual <= as_well || other.fault.is_alike(&best.fault);
            other.proven && contains && little
        });
        match wider {
            Some(wider) => findings[..=wider].rotate_right(1),
            None => break,
        }
    }
}

/// Best first: what is proven, then what can only be recognised by its place, then by what is left.
fn sort(findings: &mut [Finding]) {
    let rank = |finding: &Finding| match (finding.proven, finding.fault.opaque && finding.residual <= 1.0) {
        (true, _) => 0,
        (false, true) => 1,
        (false, false) => 2,
    };
    findings.sort_by(|a, b| rank(a).cmp(&rank(b)).then(a.residual.total_cmp(&b.residual)));
}

impl Examination<'_> {
    /// Explains the first local error of `base` that rounding cannot give: the findings, best first. `previous` is what
    /// a buffer that was not written still holds, see [`Examination::results_at`]. A hypothesis that only changes the
    /// first bad result is judged from that result, any other is replayed; `progress` is told before each replay.
    ///
    /// # Errors
    /// The input does not fit the model.
    pub fn explain(
        &self,
        previous: &Results,
        base: &Localization,
        progress: &dyn Fn(Progress),
    ) -> Result<Vec<Finding>> {
        self.explain_but(&BTreeSet::new(), previous, base, progress)
    }

    /// [`Examination::explain`] of what remains when the errors of the taps `explained` are accounted for.
    pub(super) fn explain_but(
        &self,
        explained: &BTreeSet<String>,
        previous: &Results,
        base: &Localization,
        progress: &dyn Fn(Progress),
    ) -> Result<Vec<Finding>> {
        let open = |error: &&LocalError| error.is_fault() && !explained.contains(&error.name);
        let unexplained: Vec<&LocalError> = base.errors.iter().filter(open).collect();
        let Some(first) = unexplained.first().copied() else { return Ok(Vec::new()) };
        let place = FirstError::new(self, base, first)?;
        let layer = self.model.topology.layer_of(&first.path);
        let suspect = Suspect {
            model: self.model,
            formats: self.policy.formats(&Site::new(&first.path)),
            site: &first.path,
            unshown: &first.unshown,
            layer,
            common: &common_path(&unexplained),
            peak: first.peak,
            made_otherwise: self.made_otherwise,
        };
        let faults = candidates(&suspect);
        let judged: Vec<Option<Finding>> =
            faults.iter().map(|fault| place.judge(fault, previous, &unexplained)).collect();
        let judged = self.screen(base, first, previous, faults.iter().zip(judged))?;
        let (of, mut done) = (judged.iter().filter(|finding| finding.is_none()).count(), 0);
        let mut findings = Vec::new();
        for (fault, judged) in faults.into_iter().zip(judged) {
            findings.push(match judged {
                Some(finding) => finding,
                None => {
                    progress(Progress { task: Task::Hypotheses, done, of });
                    done += 1;
                    let left = self.replay(base, &fault, previous)?;
                    weigh(fault, first, &base.errors, &left, &unexplained)
                }
            });
        }
        let is_linear = |finding: &Finding| {
            finding.fault.kind == "transposed-weight" && finding.fault.place == first.path
        };
        let open = findings.iter().any(is_linear) && !findings.iter().any(|finding| finding.proven);
        let clipped = if open { self.clipped_at(base, first)? } else { None };
        if let Some(fault) = clipped {
            let left = self.replay(base, &fault, previous)?;
            findings.push(weigh(fault, first, &base.errors, &left, &unexplained));
        }
        sort(&mut findings);
        prefer_wider(&mut findings);
        Ok(findings)
    }

    /// Gives up those hypotheses that are not judged yet and leave more than half of the first error where it is made: only
    /// the others are worth a replay of all that they change.
    fn screen<'f>(
        &self,
        base: &Localization,
        first: &LocalError,
        previous: &Results,
        faults: impl Iterator<Item = (&'f Fault, Option<Finding>)>,
    ) -> Result<Vec<Option<Finding>>> {
        // The same change of the only operation that is computed otherwise does the same, whatever else is changed.
        let mut known: Vec<(Change, bool)> = Vec::new();
        let mut screened = Vec::new();
        for (fault, judged) in faults {
            if judged.is_some() {
                screened.push(judged);
                continue;
            }
            let change = match fault.effect {
                Effect::Operation(change) if self.is_alone(base, first, fault) => Some(change),
                _ => None,
            };
            let before = known.iter().find(|(known, _)| Some(*known) == change).map(|(_, useless)| *useless);
            let useless = match before {
                Some(useless) => useless,
                None => match self.replay_at(base, first, fault, previous)? {
                    Some(left) => left > first.expected && (left > WORTH * first.error || left.is_infinite()),
                    None => false,
                },
            };
            known.extend(change.filter(|_| before.is_none()).map(|change| (change, useless)));
            let explains = BTreeSet::new();
            let given_up =
                || Finding { fault: fault.clone(), residual: largest([first]), proven: false, explains };
            screened.push(useless.then(given_up));
        }
        Ok(screened)
    }

    /// Whether the reference with `fault` in it leaves no more than rounding gives of the errors that the fault
    /// changes, among them the first at `path`; the residual.
    pub(super) fn verify(
        &self,
        fault: &Fault,
        path: &str,
        previous: &Results,
        base: &Localization,
    ) -> Result<f64> {
        let unexplained: Vec<&LocalError> = base.errors.iter().filter(|error| error.is_fault()).collect();
        let Some(first) = unexplained.iter().find(|error| error.path == path) else { return Ok(0.0) };
        let place = FirstError::new(self, base, first)?;
        if let Some(finding) = place.judge(fault, previous, &unexplained) {
            return Ok(finding.residual);
        }
        let left = self.replay(base, fault, previous)?;
        Ok(weigh(fault.clone(), first, &base.errors, &left, &unexplained).residual)
    }
}

/// What a replay with `fault` in it leaves: `left` of the errors `base`, by tap.
fn weigh(
    fault: Fault,
    first: &LocalError,
    base: &[LocalError],
    left: &[LocalError],
    unexplained: &[&LocalError],
) -> Finding {
    let before: BTreeMap<&str, f64> = base.iter().map(|error| (error.name.as_str(), error.error)).collect();
    // Errors that stay as they are, to the last bit, have nothing to do with the fault.
    let changed = |error: &&LocalError| {
        before.get(error.name.as_str()).is_none_or(|before| before.to_bits() != error.error.to_bits())
    };
    let changed: Vec<&LocalError> = left.iter().filter(changed).collect();
    let reaches = changed.iter().any(|error| error.name == first.name);
    let residual = match reaches {
        true => largest(changed.iter().copied()),
        false => largest([first]),
    };
    let healed = |name: &String| changed.iter().any(|error| error.name == *name && !error.is_fault());
    let explains = unexplained.iter().map(|error| error.name.clone()).filter(healed).collect();
    // Two tensors without a number in them are alike, whatever was done.
    let compared = changed.iter().any(|error| error.name == first.name && !error.blank);
    let proven = residual <= 1.0 && largest([first]) >= GAIN && !fault.opaque && compared;
    Finding { fault, residual, proven, explains }
}

/// The longest path that all of the places in the first one's part of the model lie at or below.
fn common_path(errors: &[&LocalError]) -> String {
    let mut common: Vec<&str> = errors[0].path.split('.').collect();
    for error in errors {
        let shared = common.iter().zip(error.path.split('.')).take_while(|(a, b)| **a == *b).count();
        if shared > 0 {
            common.truncate(shared);
        }
    }
    common.join(".")
}

/// A place that errs: what it should have given, and what the engine gave.
struct FirstError<'a> {
    first: &'a LocalError,
    /// Each visit of the place, with the reference's values and the engine's.
    results: Vec<(&'a Visit, Vec<f32>, Vec<f32>)>,
    /// Whether nothing of the place is handed on but the engine's own tensors.
    confined: bool,
}

impl<'a> FirstError<'a> {
    fn new(examination: &Examination, base: &'a Localization, first: &'a LocalError) -> Result<Self> {
        let path = first.path.as_str();
        let visits = || base.visits.iter().filter(|(_, visit)| visit.site.path() == path);
        if visits().next().is_none() || !visits().all(|(_, visit)| visit.taken) {
            return Ok(FirstError { first, results: Vec::new(), confined: false });
        }
        let mut right = examination.results_at(path, Some(base))?;
        let both = |(name, visit): (&String, &'a Visit)| {
            Some((visit, right.remove(name)?, examination.observed.read(name)?.1))
        };
        let results = visits().filter_map(both).collect();
        Ok(FirstError { first, results, confined: true })
    }

    /// What a fault leaves that only changes the result here, or can only be recognised by its place; none for any
    /// other, which has to be replayed.
    fn judge(&self, fault: &Fault, previous: &Results, unexplained: &[&LocalError]) -> Option<Finding> {
        let at_place = unexplained.iter().filter(|error| error.path == self.first.path);
        let here: BTreeSet<String> = at_place.map(|error| error.name.clone()).collect();
        let found = |residual: f64, proven| Finding {
            fault: fault.clone(),
            residual,
            proven,
            explains: if residual <= 1.0 { here.clone() } else { BTreeSet::new() },
        };
        if fault.opaque {
            // Everything behind the place was judged with the engine's own values of it already.
            let elsewhere = unexplained.iter().copied().filter(|error| error.path != fault.place);
            return Some(found(largest(elsewhere), false));
        }
        if !self.confined || !fault.changes_a_result() || fault.place != self.first.path {
            return None;
        }
        let injection = Injection::new(fault, previous);
        let (mut worst, mut compared) = (0.0f64, false);
        for (visit, right, engines) in &self.results {
            let mut values = right.clone();
            injection.result(&visit.site, visit.shape, &mut values);
            let expected = visit.error.as_ref()?.expected;
            worst = worst.max(distance(engines, &values) / expected);
            compared |= !is_blank(engines, &values);
        }
        Some(found(worst, worst <= 1.0 && largest([self.first]) >= GAIN && compared))
    }
}

/// The largest local error in units of what a healthy engine shows.
pub(super) fn largest<'a>(errors: impl IntoIterator<Item = &'a LocalError>) -> f64 {
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
    /// The relative L2 that a healthy engine may show.
    pub floor: f64,
    /// Actions of an input, by its place, as far as the engine's are known.
    pub seen: &'a dyn Fn(usize, Matrix) -> Result<Matrix>,
}

impl ActionsOnly<'_> {
    /// Explains the actions: every fault of `faults` in a free run over all inputs, best first. A fault is proven where
    /// it leaves no more than the floor, of all inferences together and of each but for a factor of two. `progress` is
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
            progress(Progress { task: Task::Hypotheses, done, of });
            let mut engine = FaultyEngine::new(self.model, self.policy, self.denoising_steps, fault.clone());
            let (mut actions, mut each) = (Vec::with_capacity(found.len()), 0.0f64);
            let shown = self.inputs.iter().zip(&backbones).zip(self.found).enumerate();
            for (place, ((input, backbone), found)) in shown {
                let spared = Some(backbone).filter(|backbone| backbone.is_spared(|at| fault.touches(at)));
                let made = (self.seen)(place, engine.infer_behind(input, spared)?)?.data;
                each = each.max(relative_l2(&found.data, &made));
                actions.extend(made);
            }
            let residual = relative_l2(&found, &actions);
            let proven = residual <= self.floor && each <= 2.0 * self.floor && !fault.opaque;
            findings.push(Finding { fault, residual, proven, explains: BTreeSet::new() });
        }
        findings.sort_by(|a, b| a.residual.total_cmp(&b.residual));
        Ok(findings)
    }

    /// The backbone of each input, without a fault.
    fn backbones(&self) -> Result<Vec<Backbone>> {
        let mut engine = CpuEngine::new(self.model.clone(), self.policy.clone(), self.denoising_steps);
        let backbone = |input| {
            let mut backbone = Backbone::new(&self.model.topology);
            engine.infer(std::slice::from_ref(input), Some(&mut backbone))?;
            Ok(backbone)
        };
        self.inputs.iter().map(backbone).collect()
    }
}
