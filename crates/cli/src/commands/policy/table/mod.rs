//! `steady policy table`: what policies cost, side by side, and whether their emulation predicts a GPU.

mod accuracy;
mod gpu;
mod plot;
mod report;

use super::args::TableArgs;
use crate::calibration::{CalibrationUsed, DatasetAtHand};
use crate::commands::eval::load_parts;
use crate::demo_assets::{self, Demo};
use crate::noise::NoiseSource;
use crate::report::{make_folder_of, write_file};
use crate::rollout::{self, RolloutConfig};
use crate::{Outcome, engines};
use accuracy::{Accuracy, EpisodeRun, Trial};
use anyhow::{Context, Result, ensure};
use gpu::Gpu;
use indicatif::{ProgressBar, ProgressStyle};
use report::{PolicyTable, Row, Tried};
use std::io::Write;
use std::path::PathBuf;
use steadyhand_gr00t::engine::CpuEngine;
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_lerobot::Dataset;

/// Everything that is known before an engine runs.
struct Subject {
    checkpoint: PathBuf,
    dataset: PathBuf,
    model: Model,
    policies: Vec<Asked>,
    episodes: Vec<usize>,
    trial: Trial,
    denoising_steps: usize,
}

/// A policy that was asked for.
struct Asked {
    /// A preset or a file.
    name: String,
    policy: PrecisionPolicy,
    calibration: Option<CalibrationUsed>,
}

/// Runs every policy and prints the table; fails where an emulation does not predict CUDA's error.
pub(super) fn run(args: &TableArgs) -> Result<Outcome> {
    let gpu = Gpu::open(args)?;
    let subject = Subject::load(args)?;
    // What cannot be written is better known before the runs than after them.
    for path in [&args.json, &args.png].into_iter().flatten() {
        make_folder_of(path)?;
    }
    let table = fill(args, &subject, gpu.as_ref())?;
    if let Some(path) = &args.json {
        let mut json = serde_json::to_string_pretty(&table).context("writing the table as JSON")?;
        json.push('\n');
        write_file(path, json.as_bytes())?;
    }
    if let Some(path) = &args.png {
        plot::write_png(&table, path)?;
    }
    std::io::stdout().lock().write_all(table.page().as_bytes())?;
    Ok(if table.holds() { Outcome::Success } else { Outcome::Failure })
}

impl Subject {
    fn load(args: &TableArgs) -> Result<Self> {
        let demo = args.checkpoint.is_none();
        let Demo { checkpoint, dataset } =
            demo_assets::unless_given(args.checkpoint.as_deref(), args.dataset_path.as_deref())?;
        let (processor, model) =
            load_parts(&checkpoint, args.embodiment_tag.as_deref(), args.tokenizer.as_deref())?;
        let action_horizon = usize::from(args.action_horizon);
        rollout::check_horizon(&processor, action_horizon)?;
        let at_hand = DatasetAtHand::new(&dataset, args.allow_stale_calibration);
        let mut policies = Vec::new();
        for name in &args.precisions {
            let policy = engines::policy(name, &checkpoint, &model, Some(processor.embodiment_tag()))?;
            let calibration = at_hand.check(&policy)?;
            policies.push(Asked { name: name.clone(), policy, calibration });
        }
        let opened = Dataset::open(&dataset)?;
        let episodes = match &args.traj_ids[..] {
            [] if demo => (0..opened.len()).collect(),
            [] => vec![0],
            chosen => chosen.to_vec(),
        };
        let config = RolloutConfig {
            steps: args.steps as usize,
            action_horizon,
            noise: args.noise.clone().map_or(NoiseSource::Seed(args.seed), NoiseSource::Recorded),
            noise_shape: [model.config.action_horizon, model.config.max_action_dim],
        };
        let loaded = episodes.iter().map(|index| {
            ensure!(*index < opened.len(), "--traj-ids: expected below {}, found {index}", opened.len());
            Ok(opened.episode(*index)?)
        });
        let trial = Trial { episodes: loaded.collect::<Result<_>>()?, processor, config };
        let denoising_steps = usize::from(args.denoising_steps);
        Ok(Subject { checkpoint, dataset, model, policies, episodes, trial, denoising_steps })
    }

    /// Runs a policy on the CPU engine.
    fn emulate(&self, policy: &PrecisionPolicy, progress: &ProgressBar) -> Result<Vec<EpisodeRun>> {
        let mut engine = CpuEngine::new(self.model.clone(), policy.clone(), self.denoising_steps);
        self.trial.run(&mut engine, &mut || progress.inc(1))
    }
}

fn fill(args: &TableArgs, subject: &Subject, gpu: Option<&Gpu>) -> Result<PolicyTable> {
    let f32 = PrecisionPolicy::preset("f32")?;
    let inferences = subject.trial.inferences();
    let emulated = subject.policies.iter().filter(|asked| asked.policy != f32).count();
    let on_gpu = gpu.map_or(0, |_| subject.policies.len());
    let progress = progress_bar(inferences * (1 + emulated + on_gpu))?;
    progress.set_message("reference");
    let reference = subject.emulate(&f32, &progress)?;
    let mut rows = Vec::new();
    for Asked { name, policy, calibration } in &subject.policies {
        progress.set_message(name.clone());
        let accuracy = match *policy == f32 {
            true => Accuracy::of(&reference, &reference),
            false => subject.emulate(policy, &progress).and_then(|runs| Accuracy::of(&runs, &reference)),
        };
        // The reference ran on the same data: what fails here is the policy's, such as a number beyond fp16.
        let accuracy = accuracy.map_or_else(|e| Tried::Failed { failed: crate::describe(&e) }, Tried::Done);
        let cuda = gpu.map(|gpu| gpu.accuracy(subject, policy, &reference, &progress)).transpose()?;
        let latency = gpu.map_or(Ok(Vec::new()), |gpu| gpu.latency(name, policy))?;
        let row = Row::new(policy.name(), accuracy, cuda, latency, args.max_ratio);
        rows.push(Row { calibration: calibration.clone(), ..row });
    }
    progress.finish_and_clear();
    Ok(PolicyTable {
        version: env!("CARGO_PKG_VERSION"),
        checkpoint: subject.checkpoint.display().to_string(),
        dataset: subject.dataset.display().to_string(),
        embodiment_tag: subject.trial.processor.embodiment_tag().to_owned(),
        episodes: subject.episodes.clone(),
        inferences,
        steps: subject.trial.config.steps,
        action_horizon: subject.trial.config.action_horizon,
        denoising_steps: subject.denoising_steps,
        seed: args.seed,
        noise: args.noise.as_ref().map(|path| path.display().to_string()),
        device: gpu.map(Gpu::name),
        max_ratio: args.max_ratio,
        latency_model: args.latency.clone(),
        policies: rows,
    })
}

fn progress_bar(inferences: usize) -> Result<ProgressBar> {
    let style = "{msg} [{bar:40}] {pos}/{len} inferences, {eta} left";
    let bar = ProgressBar::new(inferences as u64);
    Ok(bar.with_style(ProgressStyle::with_template(style)?.progress_chars("=> ")))
}
