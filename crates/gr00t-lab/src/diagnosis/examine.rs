//! Local errors of every inference, with rounding as the referee.
//!
//! An error is one only where rounding can give it neither at the operation itself nor in all: not where the tensor
//! lies within what rounding moves it by, not where the operation gives what it would in wider formats than declared,
//! and not where the same operations, rounded in other ways that the declared precision allows, differ as much.

use super::Observed;
use super::baseline::{Baseline, MARGIN};
use super::given::Given;
use super::observe::Evidence;
use super::setup::Setup;
use super::stored::OfInference;
use super::teacher_forced::{Examination, Inputs, LocalError, Localization, distance};
use crate::Result;
use crate::fault::{Fault, Results};
use std::collections::{BTreeMap, BTreeSet};
use steadyhand_fidelity::Format;
use steadyhand_gr00t::ops::Site;
use steadyhand_gr00t::precision::{Formats, PrecisionPolicy};

/// One inference, examined.
pub(super) struct Examined {
    /// The run with the engine's tensors; errors that rounding can give are marked as expected.
    pub(super) base: Localization,
    /// What is expected at taps where it is not one operation's rounding.
    pub(super) expected: BTreeMap<String, f64>,
}

/// All inferences of an engine that shows tensors.
pub(super) struct Examinations<'a> {
    pub(super) setup: &'a Setup<'a>,
    pub(super) policy: &'a PrecisionPolicy,
    pub(super) evidence: &'a Evidence,
    /// By inference, what the engine was given.
    pub(super) given: BTreeMap<usize, Given>,
    /// By inference.
    pub(super) of: BTreeMap<usize, Examined>,
    /// Other ways in which the images may have been made; none where no inference errs.
    pub(super) made_otherwise: Vec<Fault>,
}

impl<'a> Examinations<'a> {
    /// Examines every inference whose tensors are known. `policy` is what the engine says it runs at.
    ///
    /// # Errors
    /// An input does not fit the model.
    pub(super) fn run(
        setup: &'a Setup<'a>,
        policy: &'a PrecisionPolicy,
        f32: &'a PrecisionPolicy,
        evidence: &'a Evidence,
        baseline: &Baseline,
    ) -> Result<Self> {
        let isolated = evidence.inputs == Inputs::Recorded;
        // Stages that ran by themselves had the recording's inputs, which an f32 run made.
        let policy = if isolated { f32 } else { policy };
        let given =
            |(inference, taps): (&usize, &OfInference)| (*inference, Given::new(setup, *inference, taps));
        let given = evidence.taps.iter().map(given).collect();
        let (of, made_otherwise) = (BTreeMap::new(), Vec::new());
        let mut all = Examinations { setup, policy, evidence, given, of, made_otherwise };
        for inference in evidence.taps.keys().copied() {
            let totals = baseline.totals.get(&inference).cloned().unwrap_or_default();
            let allowed = totals.iter().map(|(name, total)| (name.clone(), total.expected * MARGIN));
            let allowed: BTreeMap<String, f64> = allowed.collect();
            let mut expected = if isolated { allowed.clone() } else { BTreeMap::new() };
            let base = all.examination(inference, &expected).localize()?;
            if !isolated {
                for error in base.errors.iter().filter(|error| error.is_fault()) {
                    let within =
                        totals.get(&error.name).is_some_and(|total| total.error <= total.expected * MARGIN);
                    // One operation in f32 is judged by itself: what its result lies off in all says less.
                    let rounds = !error.unshown.is_empty() || rounds(policy, &error.path);
                    if within && rounds {
                        expected.insert(error.name.clone(), error.error);
                    }
                }
                all.tolerate(inference, &base, &mut expected)?;
            }
            let mut base = marked(base, &expected);
            let differences = all.given[&inference].differences.iter().map(|of| of.error.clone());
            base.errors.splice(0..0, differences);
            all.of.insert(inference, Examined { base, expected });
        }
        if all.of.values().any(|one| one.base.errors.iter().any(LocalError::is_fault)) {
            all.made_otherwise = setup.images_made_otherwise();
        }
        Ok(all)
    }

    /// One inference, for runs of the reference with the engine's tensors.
    pub(super) fn examination<'b>(
        &'b self,
        inference: usize,
        expected: &'b BTreeMap<String, f64>,
    ) -> Examination<'b> {
        Examination {
            model: self.setup.model,
            policy: self.policy,
            denoising_steps: self.setup.denoising_steps,
            input: &self.given[&inference].input,
            observed: &self.evidence.taps[&inference],
            inputs: self.evidence.inputs,
            expected,
            made_otherwise: &self.made_otherwise,
        }
    }

    /// One examined inference and what came of it.
    pub(super) fn at(&self, inference: usize) -> (Examination<'_>, &Localization) {
        let examined = &self.of[&inference];
        (self.examination(inference, &examined.expected), &examined.base)
    }

    /// What a buffer that was not written still holds in an inference: the right results of the one before.
    ///
    /// # Errors
    /// The input does not fit the model.
    pub(super) fn previous(&self, inference: usize, path: &str) -> Result<Results> {
        match inference.checked_sub(1).filter(|before| self.of.contains_key(before)) {
            Some(before) => {
                let (examination, base) = self.at(before);
                Ok(examination.results_at(path, Some(base))?)
            }
            None => Ok(Results::new()),
        }
    }

    /// Expects what other ways of rounding give at the taps that err, where the engine rounds at all.
    fn tolerate(
        &self,
        inference: usize,
        base: &Localization,
        expected: &mut BTreeMap<String, f64>,
    ) -> Result<()> {
        let examination = self.examination(inference, expected);
        let open = |error: &&LocalError| error.is_fault() && !expected.contains_key(&error.name);
        let open: Vec<&LocalError> = base.errors.iter().filter(open).collect();
        let unshown = open.iter().flat_map(|error| error.unshown.iter().cloned());
        let paths: BTreeSet<String> = open.iter().map(|error| error.path.clone()).chain(unshown).collect();
        let variants = variants(self.policy, &paths);
        if open.is_empty() || variants.is_empty() {
            return Ok(());
        }
        let erring: BTreeSet<&str> = open.iter().map(|error| error.path.as_str()).collect();
        let wanted = |at: &Site| erring.contains(at.path());
        let right = examination.results_where(self.policy, &wanted, None)?;
        let mut allowed: BTreeMap<String, f64> = BTreeMap::new();
        for variant in &variants {
            let made = examination.results_where(variant, &wanted, None)?;
            for error in &open {
                let (Some(right), Some(made)) = (right.get(&error.name), made.get(&error.name)) else {
                    continue;
                };
                let moved = distance(made, right);
                let allowed = allowed.entry(error.name.clone()).or_insert(error.expected);
                *allowed = allowed.max(if moved.is_finite() { MARGIN * moved } else { 0.0 });
                let found = self.evidence.taps[&inference].read(&error.name);
                // What the engine gives is what this way of rounding gives.
                if found.is_some_and(|(_, found)| distance(&found, made) <= error.expected) {
                    *allowed = allowed.max(error.error);
                }
            }
        }
        expected.extend(allowed);
        Ok(())
    }
}

/// The run with what is expected at its errors.
fn marked(mut base: Localization, expected: &BTreeMap<String, f64>) -> Localization {
    let visits = base.visits.values_mut().filter_map(|visit| visit.error.as_mut());
    for error in base.errors.iter_mut().chain(&mut base.copies).chain(visits) {
        if let Some(expected) = expected.get(&error.name) {
            error.expected = error.expected.max(*expected);
        }
    }
    base
}

/// Whether the operation at `path` rounds to less than f32, or its weights or activations do.
fn rounds(policy: &PrecisionPolicy, path: &str) -> bool {
    let Formats { storage, compute, weights, activations, .. } = policy.formats(&Site::new(path));
    storage != Format::F32 || compute != Format::F32 || weights.is_some() || activations.is_some()
}

/// Other ways to round than the reference's that an engine of the declared precision may take at these paths; none
/// where it does not round: all in f32, inner values of an operation in f32, statistics of norms and softmax in the
/// declared format, and rounding at random.
fn variants(policy: &PrecisionPolicy, paths: &BTreeSet<String>) -> Vec<PrecisionPolicy> {
    let formats = |path: &String| policy.formats(&Site::new(path));
    if !paths.iter().any(|path| rounds(policy, path)) {
        return Vec::new();
    }
    let (mut wide, mut narrow) = (policy.clone(), policy.clone());
    for path in paths {
        let Formats { storage, compute, weights, activations, .. } = formats(path);
        let other = |compute, accumulate| Formats {
            weights,
            activations,
            ..Formats::new(storage, compute, accumulate)
        };
        wide = wide.with(path, other(Format::F32, Format::F32));
        // Products that accumulate in fp16 are emulated term by term, and are another engine's choice.
        if path.contains("norm") || path.ends_with("attention") {
            narrow = narrow.with(path, other(compute, storage));
        }
    }
    let mut variants = vec![wide, narrow, policy.clone().stochastic(1), policy.clone().stochastic(2)];
    variants.extend(PrecisionPolicy::preset("f32"));
    variants
}
