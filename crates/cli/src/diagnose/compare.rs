//! `steady compare`: two engines on the same observations and the same noise, in numbers.

use super::report::{Inference, inferences};
use super::scene::{Opened, Scene};
use super::{CompareArgs, named};
use crate::engines::EngineSpec;
use crate::outcome::Outcome;
use crate::report::growth::{self, Growth};
use crate::report::memory::peak_rss_bytes;
use crate::report::table::Table;
use anyhow::{Context, Result};
use serde::Serialize;
use std::io::Write;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t_lab::diagnosis::{ActionError, TapDistance, compare};

/// Taps that the terminal shows besides what parts of the backbone hand over.
const SHOWN: [&str; 4] = ["action_head.vl_norm", "action_head.state_features", "dit.output", "euler"];

/// The comparison and what it is of, for JSON.
#[derive(Serialize)]
struct Report {
    checkpoint: String,
    dataset: String,
    a: String,
    b: String,
    inferences: Vec<Inference>,
    actions: ActionError,
    first_above_rounding: Option<String>,
    taps: Vec<TapDistance>,
    /// The most memory that the process had in use, where the system tells.
    peak_rss_bytes: Option<u64>,
}

/// Compares, prints tables and leaves JSON and a plot.
pub fn run(args: &CompareArgs) -> Result<Outcome> {
    let noise = args.b.noise().or_else(|| args.a.noise());
    let scene = Scene::load(&args.observations, noise)?;
    let (mut b, policy_b) = open(&args.b, &scene)?;
    // The f32 reference runs anyway.
    let mut a = (!args.a.is_reference()).then(|| open(&args.a, &scene)).transpose()?;
    let a = a.as_mut().map(|(opened, policy)| (opened.subject(), policy.clone()));
    let scratch = args.scratch.as_deref();
    let found = compare(&scene.setup(), a, (b.subject(), policy_b), scratch).map_err(named(scratch))?;
    let report = Report {
        checkpoint: scene.checkpoint.clone(),
        dataset: scene.dataset.clone(),
        a: args.a.to_string(),
        b: args.b.to_string(),
        inferences: inferences(&scene, found.inferences),
        actions: found.actions,
        first_above_rounding: found.first_above_rounding,
        taps: found.taps,
        peak_rss_bytes: peak_rss_bytes(),
    };
    std::fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    let (json, png) = (args.out.join("comparison.json"), args.out.join("comparison.png"));
    std::fs::write(&json, serde_json::to_string_pretty(&report)?)
        .with_context(|| json.display().to_string())?;
    growth::write_png(&plot(&report), &png)?;
    let mut out = std::io::stdout().lock();
    let setup = scene.setup();
    let handed_over: Vec<String> =
        setup.model.topology.separating().flat_map(|part| part.outputs.clone()).collect();
    print(&report, &handed_over, &mut out)?;
    writeln!(out, "Plot: {}\nJSON: {}", png.display(), json.display())?;
    Ok(Outcome::Success)
}

fn open(spec: &EngineSpec, scene: &Scene) -> Result<(Opened, PrecisionPolicy)> {
    let policy = scene.policy(spec.precision())?;
    Ok((scene.engine(spec, &policy)?, policy))
}

fn plot(comparison: &Report) -> Growth<'_> {
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

fn print(comparison: &Report, handed_over: &[String], out: &mut impl Write) -> Result<()> {
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
        let shown = SHOWN.iter().copied().chain(handed_over.iter().map(String::as_str));
        if shown.into_iter().any(|path| tap.name == path || tap.name.ends_with(&format!(".{path}"))) {
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
