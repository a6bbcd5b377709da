//! `steady compare`: two engines on the same observations and the same noise, in numbers.

use super::diagnose::{Inference, Opened, Scene, inferences, named};
use crate::engines::remote::AskArgs;
use crate::engines::{EngineSpec, Options};
use crate::options::{EngineOptions, ObservationArgs};
use crate::outcome::Outcome;
use crate::output::say;
use crate::progress::Progress;
use crate::report::growth::{self, Growth};
use crate::report::memory::peak_rss_bytes;
use crate::report::output::{WRITTEN_BY, claim, write_json};
use crate::report::table::Table;
use anyhow::Result;
use clap::Args;
use serde::Serialize;
use std::io::Write;
use std::path::PathBuf;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::topology::Topology;
use steadyhand_gr00t_lab::diagnosis::{ActionError, TapDistance, compare};

/// Its options.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// One engine, named as for diagnose; taken as the reference.
    #[arg(long, value_name = "ENGINE", default_value = "cpu:f32")]
    pub a: EngineSpec,
    /// The other; its precision says what rounding gives.
    #[arg(long, value_name = "ENGINE")]
    pub b: EngineSpec,
    #[command(flatten)]
    pub ask: AskArgs,
    #[command(flatten)]
    pub options: EngineOptions,
    #[command(flatten)]
    pub observations: ObservationArgs,
    /// Where comparison.json and comparison.png go.
    #[arg(long, default_value = "steady-out", value_name = "DIR")]
    pub out: PathBuf,
    /// Where the tensors of running engines are kept until the end, in a folder of their own; the system's folder for
    /// temporary files otherwise.
    #[arg(long, value_name = "DIR")]
    pub scratch: Option<PathBuf>,
}

/// The comparison and what it is of, for JSON.
#[derive(Serialize)]
struct Report {
    written_by: &'static str,
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
    let (json, png) = (args.out.join("comparison.json"), args.out.join("comparison.png"));
    claim(&json)?;
    claim(&png)?;
    let scene = Scene::load(&args.observations, &[&args.b, &args.a])?;
    let options = Options { server: args.ask.options(), ..args.options.engines() };
    options.check(&[&args.a, &args.b])?;
    let (mut b, policy_b) = open(&args.b, &scene, &options)?;
    // The f32 reference runs anyway.
    let mut a = (!args.a.is_reference()).then(|| open(&args.a, &scene, &options)).transpose()?;
    let a = a.as_mut().map(|(opened, policy)| (opened.subject(), policy.clone()));
    let scratch = args.scratch.as_deref();
    let progress = Progress::of_unknown_length("comparing");
    let found = compare(&scene.setup(), a, (b.subject(), policy_b), scratch).map_err(named(scratch))?;
    drop(progress);
    let report = Report {
        written_by: WRITTEN_BY,
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
    // A reader that leaves early costs no file, a full disk no number.
    let printed = print(&report, &scene.model.topology, &mut std::io::stdout().lock());
    write_json(&json, &report)?;
    growth::write_png(&plot(&report), &png)?;
    printed?;
    say!("Plot: {}\nJSON: {}", png.display(), json.display())?;
    Ok(Outcome::Success)
}

fn open(spec: &EngineSpec, scene: &Scene, options: &Options) -> Result<(Opened, PrecisionPolicy)> {
    let policy = scene.policy(spec.precision()?)?;
    Ok((scene.engine(spec, &policy, options)?, policy))
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

/// The actions, and the taps where one piece of the model hands over to the next.
fn print(comparison: &Report, topology: &Topology, out: &mut impl Write) -> Result<()> {
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
        let shown = |path: &str| tap.name == path || tap.name.ends_with(&format!(".{path}"));
        if topology.cut_outputs().any(shown) {
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
