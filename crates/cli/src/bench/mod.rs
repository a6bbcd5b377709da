//! `steady bench`: how long an inference takes, where the time goes, and what the machine would allow.

mod args;
mod measured;
mod report;
mod statistics;
pub mod subject;

pub use args::BenchArgs;

use crate::Outcome;
use crate::report::write_file;
use anyhow::{Context, Result};
use measured::{Measured, StageTimes};
use report::{Host, Named, Report, WorkloadReport};
use std::io::Write;
use std::time::Instant;
use steadyhand_fidelity::Format;
use steadyhand_gr00t::engine::ModelInput;
use steadyhand_gr00t::noise::gaussian;
use steadyhand_gr00t::ops::ModelSite;
use steadyhand_gr00t::policy::prepare_into;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::processor::Processor;
use steadyhand_gr00t::workload::{self, Layout};
use steadyhand_gr00t::{Matrix, Observation};
use subject::Subject;

/// Measures and prints the tables.
pub fn run(args: &BenchArgs) -> Result<Outcome> {
    let started = Instant::now();
    let subject = Subject::load(args)?;
    let config = subject.model.config.clone();
    let steps = usize::from(args.denoising_steps);
    let operands = narrowest_operands(&subject.precision, &subject.model.sites()?);
    let bytes_per_parameter = u64::from(operands.bits() / 8);
    let mut engine = measured::open(args, subject.model, subject.precision, steps)?;
    let load_ms = milliseconds(started);

    let mut run = Run {
        processor: &subject.processor,
        observations: &subject.observations,
        noise_shape: [config.action_horizon, config.max_action_dim],
        seed: args.seed,
        inference: 0,
        inputs: vec![ModelInput::default(); subject.observations.len()],
    };
    run.once(engine.as_mut(), &mut Phases::default())?;
    let first_actions_ms = milliseconds(started);
    for _ in 0..args.warmup {
        run.once(engine.as_mut(), &mut Phases::default())?;
    }
    let mut phases = Phases::default();
    for _ in 0..args.iterations {
        run.once(engine.as_mut(), &mut phases)?;
    }
    let stages = engine.stages(&run.inputs, args.iterations as usize)?;
    // Measured last: what the device is asked to do for its rates must not disturb the inferences.
    let device = engine.device(operands)?;

    let layout = Layout::of(&run.inputs, steps);
    let counted = workload::stages(&config, &layout);
    let workload =
        WorkloadReport::new(&layout, config.action_horizon, &counted, bytes_per_parameter, device.as_ref());
    let latency_ms: Vec<Named> = phases.named().iter().filter_map(Named::of).collect();
    let inference = latency_ms.iter().find(|named| named.name == INFERENCE).map(|named| named.statistics.p50);
    let floor_ms = workload.floor_ms();
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        label: args.label.clone(),
        checkpoint: args.checkpoint.clone(),
        engine: engine.engine().name().to_owned(),
        precision: engine.engine().precision().name().to_owned(),
        host: Host { cpu: cpu_name(), threads: rayon::current_num_threads() },
        device,
        workload,
        seed: args.seed,
        warmup: args.warmup,
        iterations: args.iterations as usize,
        load_ms,
        first_actions_ms,
        latency_ms,
        stage_clock: engine.clock(),
        stages_ms: stages.iter().filter_map(Named::of).collect(),
        floor_ms,
        ratio_to_floor: inference.zip(floor_ms).map(|(inference, floor)| inference / floor),
    };
    if let Some(path) = &args.json {
        let mut json = serde_json::to_string_pretty(&report).context("writing the report as JSON")?;
        json.push('\n');
        write_file(path, json.as_bytes())?;
    }
    std::io::stdout().lock().write_all(report.page().as_bytes())?;
    Ok(Outcome::Success)
}

/// The format of fewest bits that some product multiplies: with it for all of them, floors stay floors where a policy
/// has several.
fn narrowest_operands(policy: &PrecisionPolicy, sites: &[ModelSite]) -> Format {
    let products = sites.iter().filter(|site| site.operation.multiplies());
    let formats = products.map(|site| policy.formats_of(&site.path).compute);
    formats.min_by_key(|format| format.bits()).unwrap_or(Format::F32)
}

/// The name of the phase that the floor is compared with.
const INFERENCE: &str = "inference";

/// Milliseconds of each phase, one value a repetition.
#[derive(Debug, Default)]
struct Phases {
    noise: Vec<f64>,
    preprocessing: Vec<f64>,
    inference: Vec<f64>,
    postprocessing: Vec<f64>,
    end_to_end: Vec<f64>,
}

impl Phases {
    fn named(&self) -> [StageTimes; 5] {
        [
            ("noise", &self.noise),
            ("preprocessing", &self.preprocessing),
            (INFERENCE, &self.inference),
            ("postprocessing", &self.postprocessing),
            ("end to end", &self.end_to_end),
        ]
        .map(|(name, milliseconds)| StageTimes { name: name.to_owned(), milliseconds: milliseconds.clone() })
    }
}

/// Inferences of the same observations, each with noise of its own.
struct Run<'a> {
    processor: &'a Processor,
    observations: &'a [Observation],
    noise_shape: [usize; 2],
    seed: u64,
    inference: u32,
    /// What the engine was given last; its memory is used again, as in a control loop.
    inputs: Vec<ModelInput>,
}

impl Run<'_> {
    /// One inference, from frames to physical actions.
    fn once(&mut self, engine: &mut dyn Measured, phases: &mut Phases) -> Result<()> {
        // Noise does not depend on the frames: a control loop draws it while it waits for them.
        let drawn = Instant::now();
        let noise = self.noise();
        let start = Instant::now();
        for ((observation, noise), input) in self.observations.iter().zip(noise).zip(&mut self.inputs) {
            prepare_into(self.processor, observation, noise, input)?;
        }
        let prepared = Instant::now();
        let actions = engine.engine().infer(&self.inputs, None)?;
        let inferred = Instant::now();
        for (actions, observation) in actions.iter().zip(self.observations) {
            std::hint::black_box(self.processor.decode(actions, observation)?);
        }
        let end = Instant::now();
        let between = |from: Instant, to: Instant| (to - from).as_secs_f64() * 1e3;
        phases.noise.push(between(drawn, start));
        phases.preprocessing.push(between(start, prepared));
        phases.inference.push(between(prepared, inferred));
        phases.postprocessing.push(between(inferred, end));
        phases.end_to_end.push(between(start, end));
        Ok(())
    }

    /// The noise of each member of the batch.
    fn noise(&mut self) -> Vec<Matrix> {
        let [rows, cols] = self.noise_shape;
        let inference = self.inference;
        self.inference = inference.wrapping_add(1);
        (0..self.observations.len()).map(|i| gaussian(self.seed, i as u32, inference, rows, cols)).collect()
    }
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// The processor's name as Linux gives it.
fn cpu_name() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
