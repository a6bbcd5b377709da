//! What explains an engine of which only the actions are known.

use super::baseline::{Baseline, MARGIN};
use super::explain::{Explained, cause, likeness_as_cause};
use super::likeness::{self, Likeness, Pair};
use super::observe::Evidence;
use super::replay::{AS_WELL, ActionsOnly, Finding, GAIN, Progress};
use super::report::Considered;
use super::setup::Setup;
use super::verdict::{Cause, Located, Unit};
use crate::Result;
use crate::fault::{Effect, catalogue};
use std::ops::Range;
use steadyhand_fidelity::relative_l2;
use steadyhand_gr00t::ops::Site;
use steadyhand_gr00t::precision::PrecisionPolicy;

/// Explains an engine of which only the actions are known. Only what brings them back to what rounding gives is a
/// cause.
///
/// # Errors
/// An input does not fit the model.
pub(super) fn actions(
    setup: &Setup,
    policy: &PrecisionPolicy,
    evidence: &Evidence,
    baseline: &Baseline,
    progress: &dyn Fn(Progress),
) -> Result<Explained> {
    let floor = baseline.expected() * MARGIN;
    let error = baseline.distance(&evidence.actions);
    let mut explained = Explained {
        found: Vec::new(),
        findings: Vec::new(),
        matches: Vec::new(),
        considered: Considered::default(),
        shown: setup.inputs.len() - 1,
        unit: Unit::RelativeL2,
        error,
    };
    if error <= floor {
        return Ok(explained);
    }
    let likeness = of_actions(evidence, baseline, floor);
    if let Some(likeness) = likeness.filter(|likeness| likeness.residual <= floor && error >= GAIN * floor) {
        let cause = Cause {
            left: likeness.residual,
            unit: Unit::RelativeL2,
            ..likeness_as_cause("action_pred", &likeness, None)
        };
        explained.found = vec![from_actions("action_pred", cause, floor, evidence, baseline)];
        explained.matches = vec![("action_pred".to_owned(), likeness)];
        return Ok(explained);
    }
    let (mut findings, considered) = search(setup, policy, evidence, baseline, floor, progress)?;
    if error < GAIN * floor {
        findings.iter_mut().for_each(|finding| finding.proven = false);
    }
    if let Some(best) = findings.first().filter(|best| best.proven) {
        // The same mistake in a part and in all layers of it may be one and the same, to the last bit.
        let within = |a: &str, b: &str| Site::new(a).is_within(b) || Site::new(b).is_within(a);
        let equal = |other: &Finding| {
            within(&other.fault.place, &best.fault.place)
                && other.residual.to_bits() == best.residual.to_bits()
        };
        let same = |other: &Finding| {
            other.fault.is_alike(&best.fault) && (other.fault.place == best.fault.place || equal(other))
        };
        let as_well = (2.0 * best.residual).max(AS_WELL * floor);
        let rival = |other: &&Finding| other.proven && other.residual <= as_well && !same(other);
        if !findings.iter().any(|other| rival(&other)) {
            let cause = Cause { unit: Unit::RelativeL2, ..cause(best) };
            explained.found = vec![from_actions(&best.fault.place, cause, floor, evidence, baseline)];
        }
    }
    Ok(Explained { findings, considered, ..explained })
}

/// A cause that was proven from the actions alone.
fn from_actions(place: &str, cause: Cause, floor: f64, evidence: &Evidence, baseline: &Baseline) -> Located {
    let errs = |inference: &usize| {
        let (found, right) = (&evidence.actions[*inference].data, &baseline.actions[*inference].data);
        relative_l2(found, right) > MARGIN * baseline.expected_of(*inference)
    };
    Located {
        place: place.to_owned(),
        inferences: (0..evidence.actions.len()).filter(errs).collect(),
        steps: Vec::new(),
        error: None,
        expected: floor,
        unshown: Vec::new(),
        slot_unshown: false,
        shown_by: None,
        cause: Some(cause),
        likeness: None,
        rivals: Vec::new(),
    }
}

/// What the actions look like that lie beyond rounding.
fn of_actions(evidence: &Evidence, baseline: &Baseline, floor: f64) -> Option<Likeness> {
    let zeros: Vec<f32> = vec![0.0; baseline.actions[0].data.len()];
    let mut pairs = Vec::new();
    let shape = [baseline.actions[0].rows, baseline.actions[0].cols];
    for (inference, found) in evidence.actions.iter().enumerate() {
        let right = &baseline.actions[inference].data;
        if relative_l2(&found.data, right) <= MARGIN * baseline.expected_of(inference) {
            continue;
        }
        let previous = match inference.checked_sub(1) {
            Some(before) => &baseline.actions[before].data,
            None => &zeros,
        };
        pairs.push(Pair { right, found: &found.data, shape: &shape, floor, previous: Some(previous) });
    }
    likeness::common(&pairs, &[]).into_iter().next()
}

/// Replays every fault of the catalogue on the inference that errs most, with the one before it where that leaves something
/// behind, and the best of them on all.
fn search(
    setup: &Setup,
    policy: &PrecisionPolicy,
    evidence: &Evidence,
    baseline: &Baseline,
    floor: f64,
    progress: &dyn Fn(Progress),
) -> Result<(Vec<Finding>, Considered)> {
    const BEST: usize = 16;
    let replay = |inferences: Range<usize>, faults| {
        let engine = ActionsOnly {
            model: setup.model,
            policy,
            denoising_steps: setup.denoising_steps,
            inputs: &setup.inputs[inferences.clone()],
            found: &evidence.actions[inferences.clone()],
            floor,
            seen: &|place, actions| setup.seen(inferences.start + place, actions),
        };
        engine.explain(faults, progress)
    };
    let declared = |path: &str| policy.formats(&Site::new(path));
    let faults = [catalogue(setup.model, &declared), setup.images_made_otherwise()].concat();
    let errs = |inference: &usize| {
        relative_l2(&evidence.actions[*inference].data, &baseline.actions[*inference].data)
    };
    // The first inference has none before it, which a stale buffer needs.
    let of_all = (0..setup.inputs.len()).skip(usize::from(setup.inputs.len() > 1));
    let worst = of_all.max_by(|a, b| errs(a).total_cmp(&errs(b))).unwrap_or_default();
    let (stale, others): (Vec<_>, Vec<_>) =
        faults.into_iter().partition(|fault| matches!(fault.effect, Effect::Stale));
    let mut screened = replay(worst..worst + 1, others)?;
    screened.extend(replay(worst.saturating_sub(1)..worst + 1, stale)?);
    screened.sort_by(|a, b| a.residual.total_cmp(&b.residual));
    let hypotheses = screened.len();
    let best: Vec<_> = screened.into_iter().take(BEST).map(|finding| finding.fault).collect();
    let considered = Considered { hypotheses, replays: hypotheses + best.len() };
    Ok((replay(0..setup.inputs.len(), best)?, considered))
}
