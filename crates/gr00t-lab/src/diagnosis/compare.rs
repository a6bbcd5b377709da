//! Two engines on the same observations and the same noise, in numbers.

use super::Observed;
use super::actions;
use super::baseline::Baseline;
use super::observe::{Subject, observe};
use super::report::ActionError;
use super::rounding::Rounding;
use super::setup::Setup;
use super::stored::{OfInference, Scratch};
use super::teacher_forced::Inputs;
use crate::{Error, Result};
use serde::Serialize;
use std::path::Path;
use steadyhand_fidelity::relative_l2;
use steadyhand_gr00t::precision::PrecisionPolicy;

/// What two engines differ by, and what rounding at the second one's precision gives.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// Inferences that both engines are known by.
    pub inferences: usize,
    /// What the second engine's actions differ by from the first one's.
    pub actions: ActionError,
    /// The first tap, in the order of execution, that differs by more than rounding gives.
    pub first_above_rounding: Option<String>,
    /// Every tap of the last inference that both engines show, in the order of execution.
    pub taps: Vec<TapDistance>,
}

/// One tap of the last inference.
#[derive(Debug, Clone, Serialize)]
pub struct TapDistance {
    /// The tap's name, with its Euler step.
    pub name: String,
    /// Relative L2 of the second engine's tensor to the first one's.
    pub distance: f64,
    /// What rounding at the second engine's precision gives here.
    pub rounding: f64,
}

/// Compares two engines; `a` is none for the f32 reference itself. `policy_b` is what the second engine says it runs
/// at. Tensors of running engines are kept in a folder of `scratch` meanwhile.
///
/// # Errors
/// Those of the engines; recordings that do not fit the setup or each other; tensors that cannot be kept.
pub fn compare(
    setup: &Setup,
    a: Option<(Subject, PrecisionPolicy)>,
    (mut b, policy_b): (Subject, PrecisionPolicy),
    scratch: Option<&Path>,
) -> Result<Comparison> {
    let scratch = Scratch::new(scratch)?;
    let physical = |subject: &Subject| matches!(subject, Subject::Physical(_));
    let setup = &Setup { physical: physical(&b) || a.as_ref().is_some_and(|(a, _)| physical(a)), ..*setup };
    let b = observe(&mut b, setup, &policy_b, Inputs::Own, (&scratch, 1))?;
    let setup = &setup.first(b.actions.len());
    let baseline = Baseline::run(setup, &policy_b, &b.taps, &scratch)?;
    let (actions_a, taps_a) = match a {
        // The reference ran already.
        None => (baseline.actions.clone(), baseline.taps.as_ref().map(|of| of.reference.clone())),
        Some((mut a, policy)) => {
            let found = observe(&mut a, setup, &policy, Inputs::Own, (&scratch, 1))?;
            let taps = found.last().map(|(_, taps)| taps.clone());
            (found.actions, taps)
        }
    };
    let (known_a, known_b) = (actions_a.len(), b.actions.len());
    if known_a != known_b {
        return Err(Error::input("a", format!("{known_a} inferences are known, of b {known_b}")));
    }
    let taps = match (&taps_a, b.last(), &baseline.taps) {
        (Some(a), Some((_, b)), Some(rounding)) => distances(a, b, rounding),
        _ => Vec::new(),
    };
    Ok(Comparison {
        inferences: known_b,
        actions: actions::compare(setup, &actions_a, &b.actions, baseline.expected())?,
        first_above_rounding: taps.iter().find(|tap| tap.distance > tap.rounding).map(|tap| tap.name.clone()),
        taps,
    })
}

/// Every tap that both engines gave for the last inference, in the order of execution. Two tensors at a time are in
/// memory.
fn distances(a: &OfInference, b: &OfInference, rounding: &Rounding) -> Vec<TapDistance> {
    let distance = |name: String| {
        let ((_, a), (_, b)) = (a.read(&name)?, b.read(&name)?);
        Some(TapDistance { distance: relative_l2(&b, &a), rounding: rounding.allowed(&name)?, name })
    };
    rounding.reference.taps().into_iter().filter_map(distance).collect()
}
