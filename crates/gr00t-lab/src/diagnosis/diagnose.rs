//! The whole diagnosis: from an engine to the verdict.

use super::actions;
use super::actions_alone;
use super::baseline::{Baseline, MARGIN, flat};
use super::euler;
use super::examine::Examinations;
use super::explain::{self, Explained};
use super::observe::{Subject, observe};
use super::replay::Progress;
use super::report::{Diagnosis, EulerSplit};
use super::rounding;
use super::setup::Setup;
use super::stored::Scratch;
use super::swaps::{self, Exchange};
use super::teacher_forced::Inputs;
use super::verdict::{self, Judgement, Verdict};
use crate::Result;
use std::path::PathBuf;
use steadyhand_fidelity::relative_l2;
use steadyhand_gr00t::precision::PrecisionPolicy;

/// What a diagnosis is told about the engine, and how far it goes.
#[derive(Debug, Clone)]
pub struct Options {
    /// What the engine says it runs at, which its rounding is judged by.
    pub policy: PrecisionPolicy,
    /// What its tensors were computed from.
    pub inputs: Inputs,
    /// When components are exchanged with the reference.
    pub swaps: SwapWhen,
    /// Where the tensors of running engines are kept until the end; the system's folder for temporary files otherwise.
    pub scratch: Option<PathBuf>,
}

/// When a running engine's components are exchanged with the reference, which takes 18 inferences of both. The verdict
/// does not depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SwapWhen {
    /// Never. What runs on threads of rayon's pool has no other choice: both engines would wait for each other there.
    Never,
    /// Where its actions err by more than rounding gives.
    ActionsErr,
    /// Always.
    Always,
}

/// Judges an engine: whether it gives the reference's actions, and if not, why. `progress` is told of what takes long.
///
/// # Errors
/// Those of the engine; a recording that does not fit the setup; tensors that cannot be kept.
pub fn diagnose(
    setup: &Setup,
    mut subject: Subject,
    options: &Options,
    progress: &dyn Fn(Progress),
) -> Result<Diagnosis> {
    let policy = &options.policy;
    let setup = &Setup { physical: matches!(subject, Subject::Physical(_)), ..*setup };
    let scratch = Scratch::new(options.scratch.as_deref())?;
    let mut evidence = observe(&mut subject, setup, policy, options.inputs, (&scratch, usize::MAX))?;
    let setup = &setup.first(evidence.actions.len());
    let baseline = Baseline::run(setup, policy, &evidence.taps, &scratch)?;
    evidence.prefer_unprobed(|actions| baseline.distance(actions), MARGIN * baseline.expected());
    let f32 = PrecisionPolicy::preset("f32")?;
    let (explained, taps) = if evidence.taps.is_empty() {
        (actions_alone::actions(setup, policy, &evidence, &baseline, progress)?, Vec::new())
    } else {
        let examined = Examinations::run(setup, policy, &f32, &evidence, &baseline)?;
        let explained = explain::tensors(&examined, &baseline, progress)?;
        let totals = baseline.totals.get(&explained.shown);
        let errors = &examined.of[&explained.shown].base.errors;
        let taps = totals.map_or(Vec::new(), |totals| rounding::table(&setup.model.topology, totals, errors));
        (explained, taps)
    };
    let actions = actions::compare(setup, &baseline.actions, &evidence.actions, baseline.expected())?;
    let euler = match evidence.last() {
        Some((_, taps)) if options.inputs == Inputs::Own => euler::split(setup, taps)?,
        _ => None,
    };
    let swaps = match (&mut subject, evidence.actions.last()) {
        (Subject::Live(engine), Some(actions))
            if options.swaps != SwapWhen::Never && engine.takes_tensors() =>
        {
            let (always, keeps_state) = (options.swaps == SwapWhen::Always, evidence.repeats == Some(false));
            let exchange = Exchange { engine: *engine, actions, keeps_state, always };
            swaps::run(setup, &baseline, exchange, progress)?
        }
        _ => None,
    };
    let Explained { found, findings, matches, considered, shown, unit, error } = explained;
    let tensors = (!evidence.taps.is_empty()).then_some(taps.len());
    let judgement = Judgement {
        evidence: verdict::Evidence {
            inferences: setup.inputs.len(),
            tensors,
            actions: relative_l2(&flat(&evidence.actions), &flat(&baseline.actions)),
            rounding: baseline.expected(),
            precision: policy.name().to_owned(),
            recorded: actions.mse_a.zip(actions.mse_b),
            hypotheses: considered.hypotheses,
            nearest: explain::nearest(&findings, error),
            repeats: evidence.repeats,
        },
        found,
    };
    Ok(Diagnosis {
        inferences: setup.inputs.len(),
        verdict: Verdict::from(judgement),
        shown,
        taps,
        hypotheses: explain::hypotheses(&findings, &matches, (unit, error)),
        considered,
        trajectories: actions::trajectories(setup, &baseline.actions, &evidence.actions)?,
        determinism: evidence.determinism(),
        audit: evidence.audit,
        euler: euler.filter(|split: &EulerSplit| worth_telling(split, &actions)),
        actions,
        swaps,
    })
}

/// Whether there is an error to split, or the split explains most of one: what rounding leaves of rounding is no news.
fn worth_telling(split: &EulerSplit, actions: &super::report::ActionError) -> bool {
    actions.relative_l2 > actions.expected * MARGIN || split.closure <= 0.5
}
