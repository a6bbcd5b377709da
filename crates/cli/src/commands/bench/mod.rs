//! `steady bench`: how long an inference takes, where the time goes, and what the machine would allow.

mod args;
mod counts;
mod report;
mod statistics;
mod subject;
mod sweep;

pub use args::{BenchArgs, WorkloadName};
pub use report::Report;
pub use statistics::Statistics;

use super::doctor::cpu_name;
use crate::options::one_precision;
use crate::outcome::Outcome;
use crate::output;
use crate::progress::Progress;
use crate::report::output::{WRITTEN_BY, claim, write_json};
use anyhow::{Result, ensure};
use counts::Counts;
use report::{END_TO_END, Host, INFERENCE, Named, WorkloadReport};
use std::time::{Duration, Instant};
use steadyhand_fidelity::Format;
use steadyhand_gr00t::calibration::Collector;
use steadyhand_gr00t::engine::{CpuEngine, Engine, ModelInput, StageTimes};
use steadyhand_gr00t::noise::gaussian;
use steadyhand_gr00t::ops::ModelSite;
use steadyhand_gr00t::policy::{Parts, Preparation, prepare};
use steadyhand_gr00t::precision::{Calibration, PrecisionPolicy};
use steadyhand_gr00t::workload;
use steadyhand_gr00t::{Matrix, Observation};
use subject::Subject;
use sweep::Sweeps;

/// Measures and prints the tables.
pub fn run(args: &BenchArgs) -> Result<Outcome> {
    for path in args.json.iter().chain(&args.plot) {
        claim(path)?;
    }
    if !args.sweep.is_empty() {
        return run_sweeps(args);
    }
    let report = measure(args)?;
    let printed = output::print(&report.page());
    if let Some(path) = &args.json {
        write_json(path, &report)?;
    }
    printed?;
    Ok(Outcome::Success)
}

fn run_sweeps(args: &BenchArgs) -> Result<Outcome> {
    let sweeps = Sweeps::measure(args)?;
    let printed = output::print(&sweeps.page());
    if let Some(path) = &args.json {
        write_json(path, &sweeps)?;
    }
    if let Some(path) = &args.plot {
        sweeps.draw(path)?;
    }
    printed?;
    Ok(sweeps.outcome())
}

/// Measures what the options ask for; where the report goes is the caller's.
///
/// # Errors
/// A checkpoint, a precision or an option that does not fit; an engine that cannot run here.
pub fn measure(args: &BenchArgs) -> Result<Report> {
    let started = Instant::now();
    let name = one_precision(args.precision.as_deref(), &args.engine, "bf16")?;
    let subject = Subject::load(args, name)?;
    let backend = args.device.backend(&args.engine)?;
    let parts = &subject.session.parts;
    let config = &parts.model.config;
    let steps = usize::from(args.denoising_steps);
    let operands = narrowest_operands(&subject.precision, &parts.model.sites()?);
    let bytes_per_parameter = u64::from(operands.bits() / 8);
    let mut run = Run {
        parts,
        observations: &subject.observations,
        seed: args.seed,
        inference: 0,
        inputs: vec![ModelInput::default(); subject.observations.len()],
        processed: Vec::new(),
    };
    let mut precision = subject.precision;
    let mut calibrating = Duration::ZERO;
    if args.calibrate {
        ensure!(
            operands.bits() == 8,
            "--calibrate: expected --precision with operands of 8 bits, found {name}"
        );
        let start = Instant::now();
        precision = precision.with_calibration(run.calibration(steps)?);
        calibrating = start.elapsed();
    }
    let started = started + calibrating;
    let mut engine = backend.open(parts.model.clone(), precision, steps)?;
    if engine.takes_raw_images() {
        run.processed = run.processed()?;
    }
    let load_ms = milliseconds(started);
    let first = Instant::now();
    run.once(engine.as_mut(), &mut Phases::default())?;
    let first_actions_ms = milliseconds(started);
    let counts = Counts::new(args, engine.name(), first.elapsed());
    let Counts { warmup, iterations } = counts;
    counts.tell(first.elapsed());
    let progress = Progress::new("measuring", "inferences", u64::from(warmup + iterations));
    for _ in 0..warmup {
        run.once(engine.as_mut(), &mut Phases::default())?;
        progress.inc();
    }
    let mut phases = Phases::default();
    for _ in 0..iterations {
        run.once(engine.as_mut(), &mut phases)?;
        progress.inc();
    }
    drop(progress);
    let (mut stages, mut device, mut stage_clock) =
        (Vec::new(), None, "not known: the engine shows its actions only");
    if let Some(profile) = engine.profile() {
        stage_clock = profile.clock();
        stages = profile.stages(&run.inputs, iterations as usize)?;
        // Measured last: what the device is asked to do for its rates must not disturb the inferences.
        device = profile.device(operands)?;
    }

    let layout = workload::layout(config, &run.inputs, steps);
    let counted = workload::stages(&parts.model, &layout)?;
    let workload =
        WorkloadReport::new(&layout, config.action_horizon, &counted, bytes_per_parameter, device.as_ref());
    let floor_ms = workload.floor_ms();
    let mut report = Report {
        written_by: WRITTEN_BY,
        version: env!("CARGO_PKG_VERSION"),
        label: args.label.clone(),
        checkpoint: args.checkpoint.display().to_string(),
        engine: engine.name().to_owned(),
        precision: engine.precision().name().to_owned(),
        activation_scales: activation_scales(engine.precision(), operands),
        host: Host { cpu: cpu_name(), threads: rayon::current_num_threads() },
        device,
        workload,
        seed: args.seed,
        warmup: warmup as usize,
        iterations: iterations as usize,
        load_ms,
        first_actions_ms,
        latency_ms: phases.named().iter().filter_map(Named::of).collect(),
        stage_clock,
        stages_ms: stages.iter().filter_map(Named::of).collect(),
        floor_ms,
        ratio_to_floor: None,
    };
    report.ratio_to_floor = report.inference().zip(floor_ms).map(|(inference, floor)| inference.p50 / floor);
    Ok(report)
}

/// The format of fewest bits that some product multiplies: with it for all of them, floors stay floors where a policy
/// has several.
fn narrowest_operands(policy: &PrecisionPolicy, sites: &[ModelSite]) -> Format {
    let products = sites.iter().filter(|site| site.operation.multiplies());
    let formats = products.map(|site| policy.formats_of(&site.path).compute);
    formats.min_by_key(|format| format.bits()).unwrap_or(Format::F32)
}

/// Where the scales of activations of 8 bits come from.
fn activation_scales(policy: &PrecisionPolicy, operands: Format) -> Option<&'static str> {
    let calibrated = policy.calibration().is_some();
    (operands.bits() == 8).then_some(if calibrated { "calibrated" } else { "dynamic" })
}

/// Milliseconds of each phase, one value a repetition.
#[derive(Debug, Default)]
struct Phases {
    noise: Vec<f64>,
    preprocessing: Vec<f64>,
    /// From images that are processed.
    inference: Vec<f64>,
    /// From frames, of an engine that processes them.
    inference_of_frames: Vec<f64>,
    postprocessing: Vec<f64>,
    end_to_end: Vec<f64>,
}

impl Phases {
    fn named(&self) -> [StageTimes; 6] {
        [
            ("noise", &self.noise),
            ("preprocessing", &self.preprocessing),
            (INFERENCE, &self.inference),
            ("inference of frames", &self.inference_of_frames),
            ("postprocessing", &self.postprocessing),
            (END_TO_END, &self.end_to_end),
        ]
        .map(|(name, milliseconds)| StageTimes { name: name.to_owned(), milliseconds: milliseconds.clone() })
    }
}

/// Inferences of the same observations, each with noise of its own.
struct Run<'a> {
    parts: &'a Parts,
    observations: &'a [Observation],
    seed: u64,
    inference: u32,
    /// What the engine was given last; its memory is used again, as in a control loop.
    inputs: Vec<ModelInput>,
    /// The same observations with processed images, where the engine takes frames: the inference by itself is measured on
    /// them.
    processed: Vec<ModelInput>,
}

impl Run<'_> {
    /// The largest activations of the f32 reference in an inference of the observations.
    fn calibration(&mut self, steps: usize) -> Result<Calibration> {
        let collector = Collector::default();
        let (model, processor) = (self.parts.model.clone(), &self.parts.processor);
        let mut engine =
            CpuEngine::new(model, PrecisionPolicy::preset("f32")?, steps).with_intervention(&collector);
        engine.infer(&self.processed()?, None)?;
        let (frames, dataset) = (self.observations.len(), "observations of random pixels");
        let tag = processor.embodiment_tag();
        let amax = collector.amax(100.0)?;
        Ok(Calibration::new(self.parts.name(), tag, dataset, frames, steps, 100.0, amax))
    }

    /// The observations with processed images.
    fn processed(&mut self) -> Result<Vec<ModelInput>> {
        let noise = self.noise();
        let pairs = self.observations.iter().zip(noise);
        let inputs = pairs.map(|(observation, noise)| prepare(&self.parts.processor, observation, noise));
        Ok(inputs.collect::<Result<_, _>>()?)
    }

    /// One inference, from frames to physical actions.
    fn once(&mut self, engine: &mut dyn Engine, phases: &mut Phases) -> Result<()> {
        let processor = self.parts.processor.as_ref();
        let preparation = Preparation::new(&self.parts.processor, engine);
        // Noise does not depend on the frames: a control loop draws it while it waits for them.
        let drawn = Instant::now();
        let noise = self.noise();
        let start = Instant::now();
        for ((observation, noise), input) in self.observations.iter().zip(noise).zip(&mut self.inputs) {
            preparation.prepare_into(observation, noise, input)?;
        }
        let prepared = Instant::now();
        let actions = engine.infer(&self.inputs, None)?;
        let inferred = Instant::now();
        for (actions, observation) in actions.iter().zip(self.observations) {
            std::hint::black_box(processor.decode(actions, observation)?);
        }
        let end = Instant::now();
        let between = |from: Instant, to: Instant| (to - from).as_secs_f64() * 1e3;
        phases.noise.push(between(drawn, start));
        phases.preprocessing.push(between(start, prepared));
        match self.processed.is_empty() {
            true => phases.inference.push(between(prepared, inferred)),
            false => phases.inference_of_frames.push(between(prepared, inferred)),
        }
        phases.postprocessing.push(between(inferred, end));
        phases.end_to_end.push(between(start, end));
        if !self.processed.is_empty() {
            let start = Instant::now();
            engine.infer(&self.processed, None)?;
            phases.inference.push(between(start, Instant::now()));
        }
        Ok(())
    }

    /// The noise of each member of the batch.
    fn noise(&mut self) -> Vec<Matrix> {
        let [rows, cols] = self.parts.noise_shape();
        let inference = self.inference;
        self.inference = inference.wrapping_add(1);
        (0..self.observations.len()).map(|i| gaussian(self.seed, i as u32, inference, rows, cols)).collect()
    }
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
