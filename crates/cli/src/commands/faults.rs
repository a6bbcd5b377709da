//! `steady faults`: how well the diagnosis finds faults that are known because they were put there.

use crate::options::{SourceArgs, precision};
use crate::outcome::Outcome;
use crate::output::say;
use crate::progress::Progress;
use crate::report::table::Table;
use anyhow::Result;
use clap::Args;
use rayon::prelude::*;
use steadyhand_gr00t::engine::{CpuEngine, Engine};
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::session::{Frames, NoiseSource, Scene};
use steadyhand_gr00t::synthetic::{tiny, tiny_n1_7};
use steadyhand_gr00t_lab::diagnosis::{
    Diagnosis, Hypothesis, Inputs, Options, Setup, Status, Subject, SwapWhen, diagnose,
};
use steadyhand_gr00t_lab::fault::{Case, Fault, FaultyEngine, suite};

#[derive(Debug, Args)]
#[command(after_help = names())]
pub struct FaultsArgs {
    #[command(flatten)]
    pub source: SourceArgs,
    /// What the engine runs at, but for the fault.
    #[arg(long, default_value = "f32", value_parser = precision)]
    pub precision: String,
    /// Plant so many pairs of faults too, chosen from the suite at random, and see whether both are named.
    #[arg(long, default_value_t = 0, value_name = "COUNT")]
    pub pairs: usize,
}

/// The faults by the names that `fault:NAME` takes, those of all versions of the model.
fn names() -> String {
    let models = [tiny(), tiny_n1_7()].into_iter().filter_map(|config| Model::synthetic(config, 0).ok());
    let mut names: Vec<String> = Vec::new();
    for case in models.flat_map(|model| suite(&model)) {
        let name = case.name.replace(' ', "-");
        if !names.contains(&name) {
            names.push(name);
        }
    }
    format!(
        "Faults, each also as fault:NAME or fault:NAME:weak in diagnose and compare where the model has its place: {}",
        names.join(", ")
    )
}

/// Seed of the noise, and of everything that is made up.
const SEED: u64 = 42;
/// Observations of the first episode that the engines are shown, 16 steps apart. A stale buffer needs two.
const SHOWN: Frames = Frames::Along { episode: 0, count: 2, spacing: 16, noise: &NoiseSource::Seed(SEED) };
/// How many strong and weak faults of the suite may be missed.
const MISSED: [usize; 2] = [2, 6];

/// Diagnoses every fault of the suite, strong and weak, and healthy engines; prints a table.
pub fn run(args: &FaultsArgs) -> Result<Outcome> {
    let session = args.source.open(SEED, false)?;
    let policy = session.precision(&args.precision)?;
    let bench = Bench { scene: session.scene(SHOWN)?, policy };
    let mut table = Table::new(&["fault", "variant", "rank", "first", "place", "residual", "proven"]);
    let mut found = [0, 0];
    let cases = suite(&bench.scene.session.parts.model);
    let trials: Vec<_> = cases.iter().flat_map(|case| variants(case).map(|trial| (case, trial))).collect();
    let progress = Progress::new("faults planted", "engines", trials.len() as u64);
    let plant = |faults| bench.plant(faults).inspect(|_| progress.inc());
    let diagnoses: Vec<_> =
        trials.par_iter().map(|(_, (_, fault))| plant(vec![(*fault).clone()])).collect::<Result<_>>()?;
    drop(progress);
    for ((case, (variant, fault)), diagnosis) in trials.into_iter().zip(&diagnoses) {
        let hypotheses = &diagnosis.hypotheses;
        let rank = hypotheses.iter().position(|hypothesis| same(hypothesis, fault));
        found[usize::from(variant == "weak")] += usize::from(rank == Some(0));
        table.row(row(case, variant, rank, hypotheses.first()));
    }
    say!("{table}")?;
    let total = cases.len();
    say!("right cause first: {} of {total} strong, {} of {total} weak", found[0], found[1])?;
    let (alarms, healthy) = bench.healthy()?;
    say!("false alarms: {alarms} of {healthy} healthy engines")?;
    if args.pairs > 0 {
        pairs(&bench, &cases, args.pairs)?;
    }
    let held = found[0] + MISSED[0] >= total && found[1] + MISSED[1] >= total && alarms == 0;
    Ok(if held { Outcome::Success } else { Outcome::Failure })
}

/// Plants pairs of faults that lie in different places; prints what is named.
fn pairs(bench: &Bench, cases: &[Case], count: usize) -> Result<()> {
    let chosen = (0u64..).map(|seed| {
        // Two draws of a linear congruential generator, whose high bits are good enough for a choice.
        let draw = |seed: u64| {
            (seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407)) >> 33
        };
        let pick = |seed: u64| &cases[draw(seed) as usize % cases.len()].strong;
        (pick(2 * seed), pick(draw(2 * seed + 1)))
    });
    let apart = |(a, b): &(&Fault, &Fault)| !within(&a.place, &b.place) && !within(&b.place, &a.place);
    let chosen: Vec<(&Fault, &Fault)> = chosen.filter(apart).take(count).collect();
    let progress = Progress::new("pairs planted", "engines", chosen.len() as u64);
    let plant = |faults| bench.plant(faults).inspect(|_| progress.inc());
    let diagnoses: Vec<_> =
        chosen.par_iter().map(|(a, b)| plant(vec![(*a).clone(), (*b).clone()])).collect::<Result<_>>()?;
    drop(progress);
    let mut table = Table::new(&["first fault", "second fault", "named", "false", "headline"]);
    let (mut both, mut wrong) = (0, 0);
    for ((a, b), diagnosis) in chosen.into_iter().zip(&diagnoses) {
        let found = &diagnosis.verdict.judgement().found;
        // A fault that is only known by its place is named by its place.
        let names = |fault: &Fault| {
            found.iter().any(|one| match &one.cause {
                Some(cause) => cause.kind == fault.kind && near(&cause.place, fault),
                None => fault.opaque && near(&one.place, fault),
            })
        };
        let is_false = found
            .iter()
            .filter_map(|one| one.cause.as_ref())
            .any(|cause| ![a, b].iter().any(|fault| cause.kind == fault.kind && near(&cause.place, fault)));
        let named = usize::from(names(a)) + usize::from(names(b));
        both += usize::from(named == 2);
        wrong += usize::from(is_false);
        table.row([
            format!("{} {}", a.kind, a.place),
            format!("{} {}", b.kind, b.place),
            named.to_string(),
            if is_false { "yes" } else { "no" }.to_owned(),
            diagnosis.verdict.headline.clone(),
        ]);
    }
    say!("{table}")?;
    say!("both of a pair named: {both} of {}; a cause that is none: {wrong}", diagnoses.len())?;
    Ok(())
}

fn within(path: &str, part: &str) -> bool {
    path.strip_prefix(part).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Whether a place is the fault's, a part of it or around it.
fn near(place: &str, fault: &Fault) -> bool {
    within(place, &fault.place) || within(&fault.place, place)
}

fn variants(case: &Case) -> [(&'static str, &Fault); 2] {
    [("strong", &case.strong), ("weak", &case.weak)]
}

/// The same kind of mistake in the same place, whatever its parameters.
fn same(found: &Hypothesis, planted: &Fault) -> bool {
    found.kind == planted.kind && near(&found.place, planted)
}

fn row(case: &Case, variant: &str, rank: Option<usize>, first: Option<&Hypothesis>) -> Vec<String> {
    let rank = rank.map_or("-".to_owned(), |rank| (rank + 1).to_string());
    let mut cells = vec![case.name.to_owned(), variant.to_owned(), rank];
    match first {
        Some(first) => cells.extend([
            first.kind.clone(),
            first.place.clone(),
            format!("{:.2e}", first.residual),
            if first.proven { "yes" } else { "no" }.to_owned(),
        ]),
        None => cells.push("no fault".to_owned()),
    }
    cells
}

struct Bench {
    scene: Scene,
    policy: PrecisionPolicy,
}

impl Bench {
    fn steps(&self) -> usize {
        self.scene.session.parts.model.config.num_inference_timesteps
    }

    /// What is said of the engine with these faults in it.
    fn plant(&self, faults: Vec<Fault>) -> Result<Diagnosis> {
        let model = &self.scene.session.parts.model;
        let mut engine = FaultyEngine::with_all(model, &self.policy, self.steps(), faults);
        self.diagnose(&mut engine, &self.policy)
    }

    /// What is said of an engine that claims to run at `policy`.
    fn diagnose(&self, engine: &mut dyn Engine, policy: &PrecisionPolicy) -> Result<Diagnosis> {
        let (scene, parts) = (&self.scene, &self.scene.session.parts);
        let setup = Setup {
            model: &parts.model,
            processor: &parts.processor,
            denoising_steps: self.steps(),
            observations: &scene.observations,
            inputs: &scene.inputs,
            steps: &scene.steps,
            recorded: &[],
            names: &[],
            physical: false,
        };
        let options =
            Options { policy: policy.clone(), inputs: Inputs::Own, swaps: SwapWhen::Never, scratch: None };
        Ok(diagnose(&setup, Subject::Live(engine), &options, &|_| {})?)
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
            let model = self.scene.session.parts.model.clone();
            let mut engine = CpuEngine::new(model, runs.clone(), self.steps());
            Ok(self.diagnose(&mut engine, says)?.verdict.status != Status::NoFault)
        };
        let progress = Progress::new("healthy engines", "engines", policies.len() as u64);
        let examine = |engine| examine(engine).inspect(|_| progress.inc());
        let alarms = policies.par_iter().map(examine).collect::<Result<Vec<_>>>()?;
        drop(progress);
        Ok((alarms.iter().filter(|alarm| **alarm).count(), policies.len()))
    }
}
