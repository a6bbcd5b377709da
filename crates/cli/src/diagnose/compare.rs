//! `steady compare`: two engines on the same observations and the same noise, in numbers.

use super::subject::Subject;
use super::types::{ActionError, Inference};
use super::{Evidence, Scene, Spec, actions, look, taps};
use crate::Outcome;
use crate::args::CompareArgs;
use crate::report::growth::{self, Growth};
use crate::table::Table;
use anyhow::{Context, Result, ensure};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::Write;
use steadyhand_fidelity::relative_l2;
use steadyhand_gr00t::diagnosis::{Examination, Inputs};
use steadyhand_gr00t::precision::PrecisionPolicy;

/// Taps that the terminal shows: where one part of the model hands over to the next.
const SHOWN: [&str; 7] = [
    "vision.post_layernorm",
    "connector",
    "language.norm",
    "action_head.vl_norm",
    "action_head.state_features",
    "dit.output",
    "euler",
];

/// The comparison, for JSON.
#[derive(Serialize)]
struct Comparison {
    checkpoint: String,
    dataset: String,
    a: String,
    b: String,
    inferences: Vec<Inference>,
    actions: ActionError,
    /// The first tap, in the order of execution, that differs by more than rounding at b's precision gives.
    first_above_rounding: Option<String>,
    taps: Vec<TapDistance>,
}

/// One tap of the last inference.
#[derive(Serialize)]
struct TapDistance {
    name: String,
    /// Relative L2 of b's tensor to a's.
    distance: f64,
    /// What rounding at b's precision gives here.
    rounding: f64,
}

/// Compares, prints tables and leaves JSON and a plot.
pub fn run(args: &CompareArgs) -> Result<Outcome> {
    let noise = args.b.noise().or_else(|| args.a.noise());
    let mut scene = Scene::load(&args.observations, noise)?;
    let (mut subject_a, mut subject_b) = (open(&args.a, &scene)?, open(&args.b, &scene)?);
    let policy = scene.policy(args.b.precision())?;
    let b = look(&mut subject_b, &mut scene, &policy, Inputs::Own)?;
    let policy_a = scene.policy(args.a.precision())?;
    let a = look(&mut subject_a, &mut scene, &policy_a, Inputs::Own)?;
    let known = a.actions.len().min(b.actions.len());
    ensure!(known == b.actions.len(), "a: {known} inferences are known, of b {}", b.actions.len());

    let mut reference = actions::Reference::run(&scene, &policy)?;
    reference.actions.clone_from(&a.actions);
    let actions = actions::compare(&scene, &reference, &b.actions)?;
    let taps = distances(&scene, &policy, &a, &b)?;
    let comparison = Comparison {
        checkpoint: scene.checkpoint.display().to_string(),
        dataset: scene.dataset.display().to_string(),
        a: args.a.to_string(),
        b: args.b.to_string(),
        inferences: scene
            .steps
            .iter()
            .map(|step| Inference { episode: scene.episode, step: *step })
            .collect(),
        actions,
        first_above_rounding: taps.iter().find(|tap| tap.distance > tap.rounding).map(|tap| tap.name.clone()),
        taps,
    };
    std::fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    let (json, png) = (args.out.join("comparison.json"), args.out.join("comparison.png"));
    std::fs::write(&json, serde_json::to_string_pretty(&comparison)?)
        .with_context(|| json.display().to_string())?;
    growth::write_png(&plot(&comparison), &png)?;
    let mut out = std::io::stdout().lock();
    print(&comparison, &mut out)?;
    writeln!(out, "Plot: {}\nJSON: {}", png.display(), json.display())?;
    Ok(Outcome::Success)
}

fn open(spec: &Spec, scene: &Scene) -> Result<Subject> {
    Subject::open(spec, scene, &scene.policy(spec.precision())?)
}

/// Every tap that both engines gave for the last inference, in the order of execution.
fn distances(
    scene: &Scene,
    policy: &PrecisionPolicy,
    a: &Evidence,
    b: &Evidence,
) -> Result<Vec<TapDistance>> {
    let (Some(taps_a), Some(taps_b), Some(input)) = (a.taps.last(), b.taps.last(), scene.inputs.last())
    else {
        return Ok(Vec::new());
    };
    let rounding = taps::rounding(scene, policy)?;
    let examination = Examination {
        model: &scene.model,
        policy,
        denoising_steps: scene.denoising_steps,
        input,
        observed: taps_b.as_ref(),
        inputs: Inputs::Own,
        expected: &BTreeMap::new(),
    };
    let distance = |name: String| {
        let (_, a) = taps_a.read(&name)?;
        let (_, b) = taps_b.read(&name)?;
        let rounding = rounding.get(&name).copied()?;
        Some(TapDistance { distance: relative_l2(&b, &a), rounding, name })
    };
    let in_order = examination.localize(None)?.errors.into_iter().map(|error| error.name);
    Ok(in_order.filter_map(distance).collect())
}

fn plot(comparison: &Comparison) -> Growth<'_> {
    let taps = &comparison.taps;
    Growth {
        title: format!("{} against {}", comparison.b, comparison.a),
        subtitle: format!(
            "actions {:.2e} apart (relative L2), rounding gives {:.2e}",
            comparison.actions.relative_l2, comparison.actions.expected
        ),
        depth: taps.iter().map(|tap| (tap.name.as_str(), tap.distance, tap.rounding)).collect(),
        chunk: &comparison.actions.chunk_positions,
    }
}

fn print(comparison: &Comparison, out: &mut impl Write) -> Result<()> {
    let actions = &comparison.actions;
    writeln!(
        out,
        "Actions: {:.3e} apart (relative L2), where rounding at b's precision gives {:.3e}.\nMean squared error \
         against the recording: {:.6} for a, {:.6} for b.\n",
        actions.relative_l2, actions.expected, actions.mse_a, actions.mse_b
    )?;
    let mut groups = Table::new(&["joint group", "mean absolute difference"]);
    actions.groups.iter().for_each(|(name, error)| groups.row([name.clone(), format!("{error:.3e}")]));
    writeln!(out, "{groups}")?;
    let mut taps = Table::new(&["tap", "distance", "rounding"]);
    for tap in &comparison.taps {
        if SHOWN.iter().any(|path| tap.name == *path || tap.name.ends_with(&format!(".{path}"))) {
            taps.row([tap.name.clone(), format!("{:.3e}", tap.distance), format!("{:.3e}", tap.rounding)]);
        }
    }
    match (&comparison.first_above_rounding, comparison.taps.is_empty()) {
        (_, true) => writeln!(out, "One of the engines shows its actions only.")?,
        (None, _) => writeln!(out, "{taps}\nEvery tap lies within what rounding gives.")?,
        (Some(name), _) => writeln!(out, "{taps}\nThe first tap beyond what rounding gives: {name}.")?,
    }
    Ok(())
}
