//! `steady compare`: two engines on the same observations and the same noise, in numbers.

use super::actions::{self, Reference};
use super::scene::{Scene, Subject};
use super::stored::{OfInference, Scratch};
use super::taps::Rounding;
use super::types::{ActionError, Inference};
use super::{CompareArgs, look};
use crate::engines::EngineSpec;
use crate::outcome::Outcome;
use crate::report::growth::{self, Growth};
use crate::report::memory::peak_rss_bytes;
use crate::report::table::Table;
use anyhow::{Context, Result, ensure};
use serde::Serialize;
use std::io::Write;
use steadyhand_fidelity::relative_l2;
use steadyhand_gr00t::Matrix;
use steadyhand_gr00t_lab::diagnosis::{Inputs, Observed};

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
    /// The most memory that the process had in use, where the system tells.
    peak_rss_bytes: Option<u64>,
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
    let policy = scene.policy(args.b.precision())?;
    let scratch = Scratch::new(args.scratch.as_deref())?;
    let mut subject_b = open(&args.b, &scene)?;
    let b = look(&mut subject_b, &mut scene, &policy, (Inputs::Own, &scratch, 1))?;
    let reference = Reference::run(&scene, &policy, b.last().is_some().then_some(&scratch))?;
    let a = if args.a.is_reference() {
        // The reference ran already.
        A { actions: reference.actions.clone(), taps: reference.taps.as_ref().map(|of| of.reference.clone()) }
    } else {
        let mut subject_a = open(&args.a, &scene)?;
        let policy_a = scene.policy(args.a.precision())?;
        let found = look(&mut subject_a, &mut scene, &policy_a, (Inputs::Own, &scratch, 1))?;
        A { taps: found.last().map(|(_, taps)| taps.clone()), actions: found.actions }
    };
    let known = a.actions.len().min(b.actions.len());
    ensure!(known == b.actions.len(), "a: {known} inferences are known, of b {}", b.actions.len());

    let actions = actions::compare(&scene, &a.actions, &b.actions, reference.expected())?;
    let taps = match (&a.taps, b.last(), &reference.taps) {
        (Some(a), Some((_, b)), Some(rounding)) => distances(a, b, rounding),
        _ => Vec::new(),
    };
    let comparison = Comparison {
        checkpoint: scene.checkpoint.clone(),
        dataset: scene.dataset.clone(),
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
        peak_rss_bytes: peak_rss_bytes(),
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

/// What is known of a.
struct A {
    actions: Vec<Matrix>,
    taps: Option<OfInference>,
}

fn open(spec: &EngineSpec, scene: &Scene) -> Result<Subject> {
    scene.subject(spec, &scene.policy(spec.precision())?)
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
        "Actions: {:.3e} apart (relative L2), where rounding at b's precision gives {:.3e}.",
        actions.relative_l2, actions.expected
    )?;
    if let (Some(a), Some(b)) = (actions.mse_a, actions.mse_b) {
        writeln!(out, "Mean squared error against the recording: {a:.6} for a, {b:.6} for b.")?;
    }
    writeln!(out)?;
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
