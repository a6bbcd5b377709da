//! `steady faults`: how well the diagnosis finds faults that are known because they were put there.

use crate::Outcome;
use crate::args::FaultsArgs;
use crate::calibration::DatasetAtHand;
use crate::demo_assets;
use crate::engines;
use crate::episodes::Observations;
use crate::table::Table;
use anyhow::{Result, bail};
use rayon::prelude::*;
use std::collections::BTreeMap;
use steadyhand_gr00t::engine::{CpuEngine, Engine, ModelInput};
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::noise;
use steadyhand_gr00t::policy::{load_model, prepare};
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::probe::Recorder;
use steadyhand_gr00t::processor::Processor;
use steadyhand_gr00t_lab::diagnosis::{Examination, Finding, Inputs};
use steadyhand_gr00t_lab::fault::{Case, Fault, FaultyEngine, suite};
use steadyhand_lerobot::Dataset;

/// Steps of the demo's first episode that the engines are shown. A stale buffer needs two.
const STEPS: [usize; 2] = [0, 16];

/// Diagnoses every fault of the suite, strong and weak, and healthy engines; prints a table.
pub fn run(args: &FaultsArgs) -> Result<Outcome> {
    let demo = demo_assets::temporary()?;
    let model = load_model(&demo.checkpoint)?;
    let processor = Processor::load(&demo.checkpoint, "new_embodiment", None)?;
    let tag = Some(processor.embodiment_tag());
    let policy = engines::policy(&args.precision, &demo.checkpoint, &model, tag)?;
    DatasetAtHand::new(&demo.dataset, false).check(&policy)?;
    let episode = Dataset::open(&demo.dataset)?.episode(0)?;
    let mut inputs = Vec::new();
    for (index, observed) in Observations::open(&processor, &episode, STEPS.to_vec())?.enumerate() {
        let shape = [model.config.action_horizon, model.config.max_action_dim];
        let noise = noise::gaussian(42, 0, index as u32, shape[0], shape[1]);
        inputs.push(prepare(&processor, &observed?.1, noise)?);
    }
    let bench = Bench { model, policy, inputs };
    let mut table = Table::new(&["fault", "variant", "rank", "first", "place", "residual", "proven"]);
    let mut found = [0, 0];
    let cases = suite(&bench.model.config);
    let trials: Vec<_> = cases.iter().flat_map(|case| variants(case).map(|trial| (case, trial))).collect();
    let findings: Vec<_> =
        trials.par_iter().map(|(_, (_, fault))| bench.diagnose(fault)).collect::<Result<_>>()?;
    for ((case, (variant, fault)), findings) in trials.into_iter().zip(&findings) {
        let rank = findings.iter().position(|finding| same(&finding.fault, fault));
        found[usize::from(variant == "weak")] += usize::from(rank == Some(0));
        table.row(row(case, variant, rank, findings.first()));
    }
    println!("{table}");
    let total = cases.len();
    println!("right cause first: {} of {total} strong, {} of {total} weak", found[0], found[1]);
    let (alarms, healthy) = bench.healthy()?;
    println!("false alarms: {alarms} of {healthy} healthy engines");
    let held = found[0] >= 22 && found[1] >= 18 && alarms == 0;
    Ok(if held { Outcome::Success } else { Outcome::Failure })
}

fn variants(case: &Case) -> [(&'static str, &Fault); 2] {
    [("strong", &case.strong), ("weak", &case.weak)]
}

/// The same kind of mistake in the same place, whatever its parameters.
fn same(a: &Fault, b: &Fault) -> bool {
    let within = |path: &str, part: &str| {
        path.strip_prefix(part).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    a.kind() == b.kind() && (within(a.place(), b.place()) || within(b.place(), a.place()))
}

fn row(case: &Case, variant: &str, rank: Option<usize>, first: Option<&Finding>) -> Vec<String> {
    let rank = rank.map_or("-".to_owned(), |rank| (rank + 1).to_string());
    let mut cells = vec![case.name.to_owned(), variant.to_owned(), rank];
    match first {
        Some(first) => cells.extend([
            first.fault.kind().to_owned(),
            first.fault.place().to_owned(),
            format!("{:.2e}", first.residual),
            if first.proven { "yes" } else { "no" }.to_owned(),
        ]),
        None => cells.push("no fault".to_owned()),
    }
    cells
}

struct Bench {
    model: Model,
    policy: PrecisionPolicy,
    inputs: Vec<ModelInput>,
}

impl Bench {
    fn steps(&self) -> usize {
        self.model.config.num_inference_timesteps
    }

    fn diagnose(&self, fault: &Fault) -> Result<Vec<Finding>> {
        let engine = FaultyEngine::new(&self.model, &self.policy, self.steps(), fault.clone());
        self.examine(Box::new(engine), &self.policy)
    }

    /// What is found when this engine, which says it runs at `policy`, is examined.
    fn examine(&self, mut engine: Box<dyn Engine>, policy: &PrecisionPolicy) -> Result<Vec<Finding>> {
        let mut recorders = Vec::new();
        for input in &self.inputs {
            let mut recorder = Recorder::all();
            engine.infer(std::slice::from_ref(input), Some(&mut recorder))?;
            recorders.push(recorder);
        }
        let [first, last] = &self.inputs[..] else { bail!("expected two observations") };
        let expected = BTreeMap::new();
        let examine = |index: usize, input| Examination {
            model: &self.model,
            policy,
            denoising_steps: self.steps(),
            input,
            observed: &recorders[index],
            inputs: Inputs::Own,
            expected: &expected,
        };
        let base = examine(1, last).localize()?;
        let Some(place) = base.errors.iter().find(|error| error.is_fault()) else { return Ok(Vec::new()) };
        let previous = examine(0, first).results_at(&place.path, None)?;
        Ok(examine(1, last).explain(&previous, &base, &|_| {})?)
    }

    /// Healthy engines in which something is found, and how many were examined.
    fn healthy(&self) -> Result<(usize, usize)> {
        let mut policies = Vec::new();
        for name in PrecisionPolicy::PRESETS {
            let policy = PrecisionPolicy::preset(name)?;
            // Rounding at random errs as rounding to the nearest does, and up to twice as far.
            let seeds = if matches!(name, "bf16" | "fp16") { 8 } else { 0 };
            policies.extend((0..seeds).map(|seed| (policy.clone().stochastic(seed), policy.clone())));
            policies.push((policy.clone(), policy));
        }
        let examine = |(runs, says): &(PrecisionPolicy, PrecisionPolicy)| -> Result<bool> {
            let engine = CpuEngine::new(self.model.clone(), runs.clone(), self.steps());
            Ok(!self.examine(Box::new(engine), says)?.is_empty())
        };
        let alarms = policies.par_iter().map(examine).collect::<Result<Vec<_>>>()?;
        Ok((alarms.iter().filter(|alarm| **alarm).count(), policies.len()))
    }
}
