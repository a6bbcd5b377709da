//! `steady tune`: the cheapest precision policy that keeps the actions.

mod args;
mod plot;
mod subject;
mod verdict;

pub use args::TuneArgs;

use crate::engines::cuda;
use crate::outcome::Outcome;
use crate::output::{self, note};
use crate::progress::Progress;
use crate::report::output::{WRITTEN_BY, claim, write_file, write_json};
use anyhow::{Context, Result, ensure};
use serde::Serialize;
use std::path::{Path, PathBuf};
use steadyhand_gr00t::precision::Calibration;
use steadyhand_gr00t_lab::tuning::{
    self, CpuTarget, Deadline, Event, MeasuredPolicy, State, Subject, Target, TimedTarget,
};
use subject::Loaded;

/// The measurements' file in the folder of --out.
const STATE: &str = "state.jsonl";
const CALIBRATION: &str = "calibration.json";
const POLICY: &str = "policy.toml";
const PARETO: &str = "pareto";
const PLOT: &str = "tuning.png";
const EVIDENCE: &str = "tuning.json";

/// The evidence, and who wrote it.
#[derive(Serialize)]
struct Evidence<'a> {
    written_by: &'static str,
    #[serde(flatten)]
    outcome: &'a tuning::Outcome,
}

/// Tunes, prints the verdict and leaves policies, plot and evidence.
pub fn run(args: &TuneArgs) -> Result<Outcome> {
    let outputs = [POLICY, CALIBRATION, PLOT, EVIDENCE].map(|name| args.out.join(name));
    for path in outputs.into_iter().chain(earlier(&args.out.join(PARETO))) {
        claim(&path)?;
    }
    let deadline = Deadline::after(Some(args.time_limit));
    if args.target.name() == "cpu" {
        for (option, given) in [
            ("--device", args.device.device.is_some()),
            ("--kernel-cache", args.device.kernel_cache.is_some()),
            ("--kernel-dir", args.device.kernel_dir.is_some()),
        ] {
            ensure!(!given, "{option}: expected with --target cuda, found with --target cpu");
        }
    }
    let backend = args.device.backend(&args.target)?;
    let loaded = Loaded::load(args)?;
    let parts = &loaded.session.parts;
    let steps = usize::from(args.denoising_steps);
    let mut target: Box<dyn Target> = match args.target.name() {
        "cpu" => {
            let target = CpuTarget::new(parts.model.clone(), steps);
            // A policy that nothing but the emulation runs helps nobody.
            Box::new(target.deployed_where(cuda::admits)?)
        }
        _ => Box::new(TimedTarget::new(backend, parts.model.clone(), steps)?),
    };
    let subject = Subject {
        model: &parts.model,
        processor: &parts.processor,
        inputs: loaded.inputs()?,
        observations: loaded.frames.iter().map(|frame| frame.observation.clone()).collect(),
        spread: loaded.spread.clone(),
        checkpoint: parts.fingerprint(),
        dataset: loaded.session.dataset_hash()?.unwrap_or("random observations").to_owned(),
        seed: args.seed,
        denoising_steps: steps,
    };
    let state_path = args.out.join(STATE);
    let state = State::open(&state_path, &subject.header(target.as_ref()))?;
    if state.torn {
        note!("{}: the last line was cut short and is dropped", state_path.display());
    }
    if state.taken_over > 0 {
        note!("{} measurements taken over from {}", state.taken_over, state_path.display());
    }
    let bar = Progress::new("tuning", "measurements", 0);
    let (outcome, calibration) =
        tuning::tune(&subject, target.as_mut(), &args.budget, state, deadline, &mut |event| {
            show(&bar, event)
        })?;
    drop(bar);
    // A reader that leaves early costs no file, a full disk no verdict.
    let printed = output::print(&verdict::page(&outcome, &loaded.name, &args.out));
    write(&args.out, &outcome, &calibration, &loaded.name)?;
    printed?;
    Ok(Outcome::Success)
}

fn show(bar: &Progress, event: Event) {
    match event {
        Event::Phase { name, total } => bar.phase(name, total as u64),
        Event::Done => bar.inc(),
    }
}

/// Leaves the chosen policy, the front's policies, the plot and the evidence.
fn write(out: &Path, outcome: &tuning::Outcome, calibration: &Calibration, name: &str) -> Result<()> {
    let front: Vec<&MeasuredPolicy> = outcome.pareto.iter().map(|index| &outcome.policies[*index]).collect();
    if front.iter().chain([&outcome.choice()]).any(|policy| policy.policy.calibration().is_some()) {
        calibration.save(&out.join(CALIBRATION))?;
    }
    write_policy(outcome, outcome.choice(), &out.join(POLICY), CALIBRATION)?;
    let folder = out.join(PARETO);
    // Another front may have fewer.
    for path in earlier(&folder) {
        std::fs::remove_file(&path).with_context(|| path.display().to_string())?;
    }
    for (place, policy) in front.into_iter().enumerate() {
        let file = folder.join(format!("{:02}-{}.toml", place + 1, policy.name));
        write_policy(outcome, policy, &file, &format!("../{CALIBRATION}"))?;
    }
    plot::write_png(outcome, name, &out.join(PLOT))?;
    write_json(&out.join(EVIDENCE), &Evidence { written_by: WRITTEN_BY, outcome })
}

/// A policy with a line on what was measured.
fn write_policy(
    outcome: &tuning::Outcome,
    policy: &MeasuredPolicy,
    path: &Path,
    calibration: &str,
) -> Result<()> {
    let calibration = policy.policy.calibration().map(|_| calibration);
    let text = format!(
        "# {}, on {}: {}\n# written by {WRITTEN_BY}\n{}",
        policy.name,
        outcome.of.device,
        verdict::measured(outcome, policy),
        policy.policy.to_toml_with(calibration)
    );
    write_file(path, text.as_bytes())
}

/// Policies that an earlier run left, by their names.
fn earlier(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let ours = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let numbered = name.split_once('-').is_some_and(|(number, _)| number.parse::<usize>().is_ok());
        numbered && name.ends_with(".toml")
    };
    entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).filter(ours).collect()
}
