//! `steady precision table`: what number formats cost, side by side, and whether their emulation predicts a GPU.

mod accuracy;
mod gpu;
mod plot;
mod report;

use super::args::TableArgs;
use crate::options::chosen;
use crate::outcome::{Outcome, describe};
use crate::output;
use crate::progress::Progress;
use crate::report::output::{WRITTEN_BY, claim, write_json};
use accuracy::{Accuracy, EpisodeRun, Trial};
use anyhow::{Context, Result};
use gpu::Gpu;
use report::{PolicyTable, Row, Tried};
use steadyhand_gr00t::engine::{Backend, Reference};
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::session::{CalibrationUsed, NoiseSource, RolloutConfig, rollout};
use steadyhand_gr00t::{Policy, Session};

/// Everything that is known before an engine runs.
struct Subject {
    session: Session,
    policies: Vec<Asked>,
    episodes: Vec<usize>,
    trial: Trial,
    denoising_steps: usize,
}

/// The factor of --max-ratio where none is given.
const MAX_RATIO: f64 = 1.5;

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
        claim(path)?;
    }
    let table = fill(args, &subject, gpu.as_ref())?;
    let printed = output::print(&table.page());
    if let Some(path) = &args.json {
        write_json(path, &table)?;
    }
    if let Some(path) = &args.png {
        plot::write_png(&table, path)?;
    }
    printed?;
    Ok(if table.holds() { Outcome::Success } else { Outcome::Failure })
}

impl Subject {
    fn load(args: &TableArgs) -> Result<Self> {
        let session = args.source.open(args.seed, args.allow_stale_calibration)?;
        let dataset = session.dataset().context("--dataset-path: expected one to evaluate on, found none")?;
        let action_horizon = usize::from(args.action_horizon);
        let processor = &session.parts.processor;
        rollout::check_horizon(processor.modalities(), processor.embodiment_tag(), action_horizon)?;
        let mut policies = Vec::new();
        for name in &args.precisions {
            let policy = session.parts.precision(name)?;
            let calibration = session.calibration(&policy)?;
            policies.push(Asked { name: name.clone(), policy, calibration });
        }
        let episodes = match &args.traj_ids[..] {
            [] if args.source.is_demo() => (0..dataset.len()).collect(),
            [] => vec![0],
            words => chosen(words, dataset)?,
        };
        let config = RolloutConfig {
            steps: args.steps as usize,
            action_horizon,
            noise: args.noise.clone().map_or(NoiseSource::Seed(args.seed), NoiseSource::Recorded),
        };
        let loaded = episodes.iter().map(|index| Ok(dataset.episode(*index)?));
        let trial = Trial { episodes: loaded.collect::<Result<_>>()?, config };
        let denoising_steps = usize::from(args.denoising_steps);
        Ok(Subject { policies, episodes, trial, denoising_steps, session })
    }

    /// A policy of formats that were checked before.
    fn open(&self, backend: &dyn Backend, formats: &PrecisionPolicy) -> steadyhand_gr00t::Result<Policy> {
        let parts = &self.session.parts;
        let engine = backend.open(parts.model.clone(), formats.clone(), self.denoising_steps)?;
        // Every episode has noise of its own: a seed is not asked.
        Ok(Policy::new(parts, engine, 0))
    }

    /// Runs a policy on the CPU engine.
    fn emulate(&self, policy: &PrecisionPolicy, progress: &Progress) -> Result<Vec<EpisodeRun>> {
        Ok(self.trial.run(&mut self.open(&Reference, policy)?, &mut || progress.inc())?)
    }
}

fn fill(args: &TableArgs, subject: &Subject, gpu: Option<&Gpu>) -> Result<PolicyTable> {
    let f32 = PrecisionPolicy::preset("f32")?;
    let inferences = subject.trial.inferences();
    let emulated = subject.policies.iter().filter(|asked| asked.policy != f32).count();
    let on_gpu = gpu.map_or(0, |_| subject.policies.len());
    let all = inferences * (1 + emulated + on_gpu);
    let progress = Progress::new("reference", "inferences", all as u64);
    let reference = subject.emulate(&f32, &progress)?;
    let mut rows = Vec::new();
    for Asked { name, policy, calibration } in &subject.policies {
        progress.now(name.clone());
        let accuracy = match *policy == f32 {
            true => Accuracy::of(&reference, &reference),
            false => subject.emulate(policy, &progress).and_then(|runs| Accuracy::of(&runs, &reference)),
        };
        // The reference ran on the same data: what fails here is the policy's, such as a number beyond fp16.
        let accuracy = accuracy.map_or_else(|e| Tried::Failed { failed: describe(&e) }, Tried::Done);
        let cuda = gpu.map(|gpu| gpu.accuracy(subject, policy, &reference, &progress)).transpose()?;
        let latency = gpu.map_or(Ok(Vec::new()), |gpu| gpu.latency(name, policy))?;
        let row = Row::new(policy.name(), accuracy, cuda, latency, args.max_ratio.unwrap_or(MAX_RATIO));
        rows.push(Row { calibration: calibration.clone(), ..row });
    }
    drop(progress);
    Ok(PolicyTable {
        written_by: WRITTEN_BY,
        version: env!("CARGO_PKG_VERSION"),
        checkpoint: subject.session.parts.name(),
        dataset: subject.session.observed(),
        embodiment_tag: subject.session.parts.processor.embodiment_tag().to_owned(),
        episodes: subject.episodes.clone(),
        inferences,
        steps: subject.trial.config.steps,
        action_horizon: subject.trial.config.action_horizon,
        denoising_steps: subject.denoising_steps,
        seed: args.seed,
        noise: args.noise.as_ref().map(|path| path.display().to_string()),
        device: gpu.map(Gpu::name),
        max_ratio: args.max_ratio.unwrap_or(MAX_RATIO),
        latency_model: args.latency.clone(),
        policies: rows,
    })
}
