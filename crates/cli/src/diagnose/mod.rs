//! `steady diagnose`: whether an engine gives the reference's actions, and if not, why.

mod actions;
mod args;
pub mod compare;
mod euler;
mod html;
mod scene;
mod stored;
mod swaps;
mod taps;
mod types;
mod verdict;

pub use actions::F32_ACTIONS;
pub use args::{CompareArgs, DiagnoseArgs};
pub use stored::{OfInference, TapWriter};

use crate::outcome::Outcome;
use crate::report::memory::peak_rss_bytes;
use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use scene::{Scene, Subject};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::Write;
use std::rc::Rc;
use steadyhand_fidelity::{Match, MatchContext};
use steadyhand_gr00t::Matrix;
use steadyhand_gr00t::engine::Engine;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::probe::Probe;
use steadyhand_gr00t_lab::diagnosis::{
    ActionsOnly, Examination, Finding, Inputs, LocalError, Observed, Progress, catalogue,
};
use steadyhand_gr00t_lab::fault::Results;
use stored::Scratch;
use swaps::Exchange;
use types::{Considered, Diagnosis, Inference};

/// What is known of the engine after it was looked at.
struct Evidence {
    /// Normalized actions of each inference.
    actions: Vec<Matrix>,
    /// The tensors of inferences, by number, where the engine shows any; of a running engine the last ones only.
    taps: BTreeMap<usize, OfInference>,
    audit: Vec<String>,
    determinism: String,
    inputs: Inputs,
}

impl Evidence {
    /// The last inference and its tensors, where the engine shows any.
    fn last(&self) -> Option<(usize, &OfInference)> {
        self.taps.last_key_value().map(|(inference, taps)| (*inference, taps))
    }
}

/// Diagnoses, prints the verdict and leaves JSON and a page.
pub fn run(args: &DiagnoseArgs) -> Result<Outcome> {
    ensure!(!args.isolated || args.b.name() == "trace", "--isolated: expected with trace:DIR");
    ensure!(
        !args.swaps || args.b.exchanges(),
        "--swaps: expected with cpu, cuda or fault, whose components take tensors from outside, found {}",
        args.b
    );
    let mut scene = Scene::load(&args.observations, args.b.noise())?;
    let claimed = args.b_precision.as_deref().unwrap_or(args.b.precision());
    let policy = scene.policy(claimed)?;
    let scratch = Scratch::new(args.scratch.as_deref())?;
    let mut subject = scene.subject(&args.b, &policy)?;
    let inputs = if args.isolated { Inputs::Recorded } else { Inputs::Own };
    // The one before the last is what a stale buffer still holds.
    let mut evidence = look(&mut subject, &mut scene, &policy, (inputs, &scratch, 2))?;
    let mut keeps_state = false;
    if let Subject::Live(engine) | Subject::Closed(engine) = &mut subject {
        keeps_state = !repeats(engine.as_mut(), &scene, &evidence.actions[0])?;
        evidence.determinism = if keeps_state { NOT_REPEATED } else { REPEATED }.to_owned();
    }
    let reference = actions::Reference::run(&scene, &policy, evidence.last().is_some().then_some(&scratch))?;
    let Explained { errors, findings, matches, considered } =
        explain(&scene, &policy, &evidence, &reference)?;
    let faulty = errors.iter().any(LocalError::is_fault);
    let actions = actions::compare(&scene, &reference.actions, &evidence.actions, reference.expected())?;
    let euler = match evidence.last() {
        Some((_, taps)) if inputs == Inputs::Own => euler::split(&scene, taps)?,
        _ => None,
    };
    let swaps = match (&mut subject, evidence.actions.last()) {
        (Subject::Live(engine), Some(actions)) => {
            let exchange = Exchange { engine: engine.as_mut(), actions, keeps_state, always: args.swaps };
            swaps::run(&scene, &reference, exchange)?
        }
        _ => None,
    };
    let shown = reference.taps.as_ref().zip(evidence.last());
    let diagnosis = Diagnosis {
        checkpoint: scene.checkpoint.clone(),
        dataset: scene.dataset.clone(),
        embodiment_tag: scene.processor.embodiment_tag().to_owned(),
        a: args.a.clone(),
        b: args.b.to_string(),
        inferences: scene
            .steps
            .iter()
            .map(|step| Inference { episode: scene.episode, step: *step })
            .collect(),
        verdict: verdict::judge(&actions, faulty, &findings, &euler, policy.name()),
        taps: shown.map_or(Vec::new(), |(rounding, (_, taps))| taps::table(rounding, taps, &errors)),
        hypotheses: verdict::hypotheses(&findings, &matches),
        considered,
        trajectories: actions::trajectories(&scene, &reference, &evidence.actions)?,
        audit: evidence.audit,
        determinism: evidence.determinism,
        actions,
        euler,
        swaps,
        peak_rss_bytes: peak_rss_bytes(),
    };
    std::fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    let json = args.out.join("diagnosis.json");
    std::fs::write(&json, serde_json::to_string_pretty(&diagnosis)?)
        .with_context(|| json.display().to_string())?;
    let page = args.out.join("diagnosis.html");
    std::fs::write(&page, html::page(&diagnosis)).with_context(|| page.display().to_string())?;
    let mut out = std::io::stdout().lock();
    verdict::print(&diagnosis, &mut out)?;
    writeln!(out, "Page: {}\nJSON: {}", page.display(), json.display())?;
    Ok(if diagnosis.verdict.status == types::Status::NoFault { Outcome::Success } else { Outcome::Failure })
}

/// Runs the engine, or reads what it left. Cuts the scene to the inferences that are known. Of a running engine the
/// tensors of the last `kept` inferences are kept in `scratch`.
fn look(
    subject: &mut Subject,
    scene: &mut Scene,
    policy: &PrecisionPolicy,
    (inputs, scratch, kept): (Inputs, &Scratch, usize),
) -> Result<Evidence> {
    let mut evidence = Evidence {
        actions: Vec::new(),
        taps: BTreeMap::new(),
        audit: Vec::new(),
        determinism: "not known: the engine is known by a recording".to_owned(),
        inputs,
    };
    match subject {
        Subject::Live(engine) => {
            for (inference, input) in scene.inputs.iter().enumerate() {
                if inference + kept < scene.inputs.len() {
                    let input = std::slice::from_ref(input);
                    evidence.actions.extend(engine.infer(input, Some(&mut Unseen))?);
                } else {
                    let (actions, taps) = scratch.record(engine.as_mut(), input)?;
                    evidence.actions.push(actions);
                    evidence.taps.insert(inference, taps);
                }
            }
        }
        Subject::Closed(engine) => {
            for input in &scene.inputs {
                evidence.actions.extend(engine.infer(std::slice::from_ref(input), None)?);
            }
        }
        Subject::Actions(actions) => {
            ensure!(!actions.is_empty(), "the recording holds no inference");
            cut(scene, actions.len());
            evidence.actions = actions.iter().take(scene.inputs.len()).cloned().collect();
        }
        Subject::Trace(trace) => {
            let of = |inference| OfInference { trace: Rc::clone(trace), inference };
            let held = (0..scene.inputs.len()).take_while(|i| !of(*i).taps().is_empty());
            let held = held.count();
            ensure!(
                held > 0,
                "{}: no tensor of inference 000 (names begin with 000/)",
                trace.path().display()
            );
            cut(scene, held);
            for inference in 0..held {
                let taps = of(inference);
                if inference == 0 {
                    evidence.audit = taps::audit(scene, policy, &taps)?;
                }
                evidence.actions.push(actions::of_trace(scene, policy, inference, &taps)?);
                evidence.taps.insert(inference, taps);
            }
        }
    }
    Ok(evidence)
}

fn cut(scene: &mut Scene, inferences: usize) {
    scene.inputs.truncate(inferences);
    scene.observations.truncate(inferences);
    scene.steps.truncate(inferences);
}

/// A probe that looks away: every inference is run as those are whose tensors are kept.
struct Unseen;

impl Probe for Unseen {
    fn tap(&mut self, _: &str, _: &[usize], _: &[f32]) {}
}

const REPEATED: &str = "the first inference, run again after the others, gave the same bits";
const NOT_REPEATED: &str = "the first inference, run again after the others, gave other bits: the engine keeps state \
                            or is not deterministic";

/// Whether the first inference, run once more after the others and without a probe, gives its bits again.
fn repeats(engine: &mut dyn Engine, scene: &Scene, first: &Matrix) -> Result<bool> {
    let again = engine.infer(&scene.inputs[..1], None)?;
    let bits = |matrix: &Matrix| matrix.data.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    Ok(bits(&again[0]) == bits(first))
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
    scene: &Scene,
    policy: &PrecisionPolicy,
    evidence: &Evidence,
    reference: &actions::Reference,
) -> Result<Explained> {
    let Some((last, taps)) = evidence.last() else {
        let error = reference.distance(&evidence.actions);
        if error <= reference.expected() * actions::MARGIN {
            return Ok(Explained::default());
        }
        let (findings, considered) = search(scene, policy, evidence, reference)?;
        return Ok(Explained { findings, considered, ..Explained::default() });
    };
    // Stages that ran by themselves had the recording's inputs, which an f32 run made.
    let recorded = PrecisionPolicy::preset("f32")?;
    let (runs_at, expected) = match (evidence.inputs, &reference.taps) {
        (Inputs::Recorded, Some(rounding)) => (&recorded, rounding.all_allowed()),
        _ => (policy, BTreeMap::new()),
    };
    let examine = |inference: usize| Examination {
        expected: &expected,
        model: &scene.model,
        policy: runs_at,
        denoising_steps: scene.denoising_steps,
        input: &scene.inputs[inference],
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
    let bar = progress_bar("hypotheses replayed");
    let replays = Cell::new(0);
    let findings = examine(last).explain(&previous, &base, &|progress| {
        replays.set(progress.of);
        show(&bar, progress);
    })?;
    bar.finish_and_clear();
    let mut matches = None;
    if let Some((shape, found)) = taps.read(&place.name) {
        let right = examine(last).results_at(&place.path, Some(&base))?;
        let text = &scene.model.config.eagle_config.text_config;
        let groups = [
            scene.model.config.diffusion_model_cfg.num_attention_heads,
            scene.model.config.eagle_config.vision_config.num_attention_heads,
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
    scene: &Scene,
    policy: &PrecisionPolicy,
    evidence: &Evidence,
    reference: &actions::Reference,
) -> Result<(Vec<Finding>, Considered)> {
    /// Two, because a stale buffer shows only in the second.
    const SCREENED: usize = 2;
    const KEPT: usize = 12;
    let floor = reference.expected() * actions::MARGIN;
    let bar = progress_bar("hypotheses replayed");
    let replay = |inferences: usize, faults| {
        let inferences = inferences.min(scene.inputs.len());
        let engine = ActionsOnly {
            model: &scene.model,
            policy,
            denoising_steps: scene.denoising_steps,
            inputs: &scene.inputs[..inferences],
            found: &evidence.actions[..inferences],
            floor,
        };
        engine.explain(faults, &|progress| show(&bar, progress))
    };
    let screened = replay(SCREENED, catalogue(&scene.model.config))?;
    let hypotheses = screened.len();
    let best: Vec<_> = screened.into_iter().take(KEPT).map(|finding| finding.fault).collect();
    let considered = Considered { hypotheses, replays: hypotheses + best.len() };
    let findings = replay(scene.inputs.len(), best)?;
    bar.finish_and_clear();
    Ok((findings, considered))
}

/// Replays and mixtures cost up to an inference each: minutes on a model of full size.
fn progress_bar(what: &str) -> ProgressBar {
    let style = format!("[{{bar:40}}] {{pos}}/{{len}} {what}, {{eta}} left");
    let style = ProgressStyle::with_template(&style).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style.progress_chars("=> "))
}

fn show(bar: &ProgressBar, progress: Progress) {
    bar.set_length(progress.of as u64);
    bar.set_position(progress.done as u64);
}
