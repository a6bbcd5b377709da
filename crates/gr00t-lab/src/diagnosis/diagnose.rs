//! The whole diagnosis: from an engine to the verdict.

use super::Observed;
use super::actions::{self, MARGIN};
use super::baseline::Baseline;
use super::euler;
use super::observe::{Evidence, Subject, observe};
use super::replay::{ActionsOnly, Finding, Progress};
use super::report::{Considered, Diagnosis};
use super::rounding;
use super::setup::Setup;
use super::stored::Scratch;
use super::swaps::{self, Exchange};
use super::teacher_forced::{Examination, Inputs, LocalError};
use super::verdict;
use crate::Result;
use crate::fault::{Results, catalogue};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use steadyhand_fidelity::{Match, MatchContext};
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
    let scratch = Scratch::new(options.scratch.as_deref())?;
    // The one before the last is what a stale buffer still holds.
    let evidence = observe(&mut subject, setup, policy, options.inputs, (&scratch, 2))?;
    let setup = &setup.first(evidence.actions.len());
    let baseline = Baseline::run(setup, policy, evidence.last().is_some().then_some(&scratch))?;
    let Explained { errors, findings, matches, considered } =
        explain(setup, policy, &evidence, &baseline, progress)?;
    let faulty = errors.iter().any(LocalError::is_fault);
    let actions = actions::compare(setup, &baseline.actions, &evidence.actions, baseline.expected())?;
    let euler = match evidence.last() {
        Some((_, taps)) if options.inputs == Inputs::Own => euler::split(setup, taps)?,
        _ => None,
    };
    let swaps = match (&mut subject, evidence.actions.last()) {
        (Subject::Live(engine), Some(actions)) if options.swaps != SwapWhen::Never => {
            let keeps_state = evidence.keeps_state;
            let exchange =
                Exchange { engine: *engine, actions, keeps_state, always: options.swaps == SwapWhen::Always };
            swaps::run(setup, &baseline, exchange, progress)?
        }
        _ => None,
    };
    let shown = baseline.taps.as_ref().zip(evidence.last());
    Ok(Diagnosis {
        inferences: setup.inputs.len(),
        verdict: verdict::judge(&actions, faulty, &findings, &euler, policy.name()),
        taps: shown.map_or(Vec::new(), |(rounding, (_, taps))| rounding::table(rounding, taps, &errors)),
        hypotheses: verdict::hypotheses(&findings, &matches),
        considered,
        trajectories: actions::trajectories(setup, &baseline.actions, &evidence.actions)?,
        audit: evidence.audit,
        determinism: evidence.determinism,
        actions,
        euler,
        swaps,
    })
}

/// What was made of the evidence.
#[derive(Default)]
struct Explained {
    /// Local errors of the last inference.
    errors: Vec<LocalError>,
    /// Faults that were replayed, best first.
    findings: Vec<Finding>,
    /// What turns the reference's tensor at the first bad place into the engine's: the place and the matches.
    matches: Option<(String, Vec<Match>)>,
    considered: Considered,
}

/// Local errors of the last inference, and what explains them; or what explains the actions alone.
fn explain(
    setup: &Setup,
    policy: &PrecisionPolicy,
    evidence: &Evidence,
    baseline: &Baseline,
    progress: &dyn Fn(Progress),
) -> Result<Explained> {
    let Some((last, taps)) = evidence.last() else {
        let error = baseline.distance(&evidence.actions);
        if error <= baseline.expected() * MARGIN {
            return Ok(Explained::default());
        }
        let (findings, considered) = search(setup, policy, evidence, baseline, progress)?;
        return Ok(Explained { findings, considered, ..Explained::default() });
    };
    // Stages that ran by themselves had the recording's inputs, which an f32 run made.
    let recorded = PrecisionPolicy::preset("f32")?;
    let (runs_at, expected) = match (evidence.inputs, &baseline.taps) {
        (Inputs::Recorded, Some(rounding)) => (&recorded, rounding.all_allowed()),
        _ => (policy, BTreeMap::new()),
    };
    let examine = |inference: usize| Examination {
        expected: &expected,
        model: setup.model,
        policy: runs_at,
        denoising_steps: setup.denoising_steps,
        input: &setup.inputs[inference],
        observed: &evidence.taps[&inference],
        inputs: evidence.inputs,
    };
    let base = examine(last).localize()?;
    let Some(place) = base.errors.iter().find(|error| error.is_fault()) else {
        return Ok(Explained { errors: base.errors, ..Explained::default() });
    };
    let previous = match last.checked_sub(1) {
        Some(before) => examine(before).results_at(&place.path, None)?,
        None => Results::new(),
    };
    let replays = Cell::new(0);
    let findings = examine(last).explain(&previous, &base, &|told| {
        replays.set(told.of);
        progress(told);
    })?;
    let mut matches = None;
    if let Some((shape, found)) = taps.read(&place.name) {
        let right = examine(last).results_at(&place.path, Some(&base))?;
        let text = &setup.model.config.eagle_config.text_config;
        let groups = [
            setup.model.config.diffusion_model_cfg.num_attention_heads,
            setup.model.config.eagle_config.vision_config.num_attention_heads,
            text.num_attention_heads,
            text.num_key_value_heads,
        ];
        let context = MatchContext {
            floor: place.expected,
            previous: previous.get(&place.name).map(Vec::as_slice),
            groups: &groups,
            ..MatchContext::default()
        };
        let right = right.get(&place.name).map_or(&[][..], Vec::as_slice);
        matches = Some((place.name.clone(), steadyhand_fidelity::explain(right, &found, &shape, &context)));
    }
    let considered = Considered { hypotheses: findings.len(), replays: replays.get() };
    Ok(Explained { findings, matches, errors: base.errors, considered })
}

/// Replays every fault of the catalogue on the first two inferences, and the best of them on all.
fn search(
    setup: &Setup,
    policy: &PrecisionPolicy,
    evidence: &Evidence,
    baseline: &Baseline,
    progress: &dyn Fn(Progress),
) -> Result<(Vec<Finding>, Considered)> {
    /// Two, because a stale buffer shows only in the second.
    const SCREENED: usize = 2;
    const KEPT: usize = 12;
    let floor = baseline.expected() * MARGIN;
    let replay = |inferences: usize, faults| {
        let inferences = inferences.min(setup.inputs.len());
        let engine = ActionsOnly {
            model: setup.model,
            policy,
            denoising_steps: setup.denoising_steps,
            inputs: &setup.inputs[..inferences],
            found: &evidence.actions[..inferences],
            floor,
        };
        engine.explain(faults, progress)
    };
    let screened = replay(SCREENED, catalogue(&setup.model.config))?;
    let hypotheses = screened.len();
    let best: Vec<_> = screened.into_iter().take(KEPT).map(|finding| finding.fault).collect();
    let considered = Considered { hypotheses, replays: hypotheses + best.len() };
    let findings = replay(setup.inputs.len(), best)?;
    Ok((findings, considered))
}
