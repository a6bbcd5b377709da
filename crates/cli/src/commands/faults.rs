//! `steady faults`: how well the diagnosis finds faults that are known because they were put there.

use crate::options::{demo, precision};
use crate::outcome::Outcome;
use crate::report::table::Table;
use anyhow::{Result, bail};
use clap::Args;
use rayon::prelude::*;
use std::collections::BTreeMap;
use steadyhand_gr00t::Session;
use steadyhand_gr00t::engine::{CpuEngine, Engine, ModelInput};
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::probe::Recorder;
use steadyhand_gr00t::session::{Frames, NoiseSource, Options};
use steadyhand_gr00t_lab::diagnosis::{Examination, Finding, Inputs};
use steadyhand_gr00t_lab::fault::{Case, Fault, FaultyEngine, suite};

#[derive(Debug, Args)]
pub struct FaultsArgs {
    /// What the engine runs at, but for the fault.
    #[arg(long, default_value = "f32", value_parser = precision)]
    pub precision: String,
}

/// Observations of the demo's first episode that the engines are shown, 16 steps apart. A stale buffer needs two.
const SHOWN: Frames = Frames::Along { episode: 0, count: 2, spacing: 16, noise: &NoiseSource::Seed(42) };

/// Diagnoses every fault of the suite, strong and weak, and healthy engines; prints a table.
pub fn run(args: &FaultsArgs) -> Result<Outcome> {
    let demo = demo::temporary()?;
    let options = Options { dataset: Some(demo.dataset), ..Options::default() };
    let session = Session::open(&demo.checkpoint, &options)?;
    let policy = session.precision(&args.precision)?;
    let scene = session.scene(SHOWN)?;
    let bench = Bench { model: scene.session.parts.model.clone(), policy, inputs: scene.inputs };
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
