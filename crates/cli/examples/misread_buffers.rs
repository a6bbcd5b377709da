//! What a host makes of an engine that is right by taking its 16-bit buffers for another type: the open-loop error, and what
//! the diagnosis says of it.
//!
//! `cargo run --release -p steady --example misread_buffers -- ENGINE [CHECKPOINT DATASET]`, from the repository's root.
//! ENGINE is an engine of TensorRT with fp16 bindings (`steady engine build --precision fp16 --io-names nvidia`) or such a
//! graph in ONNX (`steady export onnx`), of the demo's DiT. `steady` itself has no way to hand over a buffer of another type.

use std::path::{Path, PathBuf};
use steadyhand_external::bindings::{Bindings, Runner, Tensor};
use steadyhand_external::composed::ComposedEngine;
use steadyhand_external::onnxruntime::OnnxRunner;
use steadyhand_external::tensorrt::EngineFiles;
use steadyhand_fidelity::trace::Dtype;
use steadyhand_gr00t::engine::{Backend, Engine};
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::ops::ModelSite;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::session::{Frames, NoiseSource, Options, RolloutConfig, rollout};
use steadyhand_gr00t::{Error, Result, Session};
use steadyhand_gr00t_lab::diagnosis::{self, Inputs, Setup, Subject, SwapWhen, diagnose};

const DENOISING_STEPS: usize = 4;
const SEED: u64 = 42;

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let engine = PathBuf::from(arguments.next().ok_or("expected an engine, found none")?);
    let checkpoint = arguments.next().unwrap_or_else(|| "demo/checkpoint".to_owned());
    let dataset = arguments.next().unwrap_or_else(|| "demo/dataset".to_owned());
    let options = Options { dataset: Some(dataset.into()), ..Options::default() };

    for host in [Host::Typed, Host::InputsMisread, Host::OutputsMisread, Host::BothMisread] {
        let session = Session::open(&checkpoint, &options)?;
        let backend = HostBackend { engine: engine.clone(), host };
        let precision = session.precision(precision_of(&engine)?)?;
        match mse(&session, &backend, precision.clone()) {
            Ok(mse) => println!("{}: open-loop MSE {mse:.6}", host.name()),
            // Actions that are no numbers.
            Err(error @ Error::Input { .. }) => println!("{}: no open-loop MSE: {error}", host.name()),
            Err(error) => return Err(error.into()),
        }

        let noise = NoiseSource::Seed(SEED);
        let scene = session.scene(Frames::Along { episode: 0, count: 4, spacing: 16, noise: &noise })?;
        let parts = &scene.session.parts;
        let mut engine = backend.open(parts.model.clone(), precision.clone(), DENOISING_STEPS)?;
        let setup = Setup {
            model: &parts.model,
            processor: &parts.processor,
            denoising_steps: DENOISING_STEPS,
            observations: &scene.observations,
            inputs: &scene.inputs,
            steps: &scene.steps,
            recorded: &scene.recorded,
            names: &scene.names,
            physical: false,
        };
        let options = diagnosis::Options {
            policy: precision,
            inputs: Inputs::Own,
            swaps: SwapWhen::Never,
            scratch: None,
        };
        let found = diagnose(&setup, Subject::Live(engine.as_mut()), &options, &|_| ())?;
        println!("  {}\n  {}", found.verdict.headline, found.verdict.paragraph);
    }
    Ok(())
}

/// The mean squared error over all episodes, as `steady eval` has it.
fn mse(session: &Session, backend: &dyn Backend, precision: PrecisionPolicy) -> Result<f64> {
    let mut policy = session.parts.policy(backend, precision, DENOISING_STEPS, SEED)?;
    let dataset = session.dataset().ok_or_else(|| Error::input("dataset", "expected one, found none"))?;
    let config = RolloutConfig { steps: 200, action_horizon: 16, noise: NoiseSource::Seed(SEED) };
    let (mut sum, mut episodes) = (0.0, 0usize);
    for index in 0..dataset.len() {
        let rollout = rollout::run(&mut policy, &dataset.episode(index)?, &config, &mut || Ok(()))?;
        let pairs = rollout.prediction.iter().flatten().zip(rollout.ground_truth.iter().flatten());
        let squares: Vec<f64> = pairs.map(|(a, b)| f64::from(a - b).powi(2)).collect();
        sum += squares.iter().sum::<f64>() / squares.len() as f64;
        episodes += 1;
    }
    Ok(sum / episodes as f64)
}

/// What the host takes the engine's 16-bit buffers for.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Host {
    Typed,
    InputsMisread,
    OutputsMisread,
    BothMisread,
}

impl Host {
    fn name(self) -> &'static str {
        match self {
            Host::Typed => "buffers of the bindings' own types",
            Host::InputsMisread => "bf16 bytes handed to fp16 inputs",
            Host::OutputsMisread => "an fp16 output read as bf16",
            Host::BothMisread => "both",
        }
    }
}

struct HostBackend {
    engine: PathBuf,
    host: Host,
}

fn is_graph(engine: &Path) -> bool {
    engine.extension().is_some_and(|extension| extension == "onnx")
}

fn open(engine: &Path) -> Result<Box<dyn Runner + Send>> {
    match is_graph(engine) {
        true => Ok(Box::new(OnnxRunner::load(engine, None)?)),
        false => Ok(Box::new(EngineFiles::read(&[engine])?.open(None, 0)?)),
    }
}

fn precision_of(engine: &Path) -> Result<PrecisionPolicy> {
    let found = match is_graph(engine) {
        true => OnnxRunner::load(engine, None)?
            .precision()
            .map(|said| PrecisionPolicy::from_identity(&said, engine)),
        false => EngineFiles::read(&[engine])?.precision().transpose(),
    };
    found.unwrap_or_else(|| Err(Error::file(engine, "expected it to say its precision, found nothing")))
}

impl Backend for HostBackend {
    fn name(&self) -> &'static str {
        "host"
    }

    fn device(&self) -> Result<String> {
        Ok("the engine's".to_owned())
    }

    fn check(&self, policy: &PrecisionPolicy, sites: &[ModelSite]) -> Result<()> {
        policy.check(sites)
    }

    fn open(&self, model: Model, policy: PrecisionPolicy, steps: usize) -> Result<Box<dyn Engine + Send>> {
        let runner = Box::new(Misread { runner: open(&self.engine)?, host: self.host });
        Ok(Box::new(ComposedEngine::new("host", model, policy, steps, runner)?))
    }
}

/// An engine whose host takes its buffers for another type.
struct Misread {
    runner: Box<dyn Runner + Send>,
    host: Host,
}

impl Runner for Misread {
    fn bindings(&self) -> &Bindings {
        self.runner.bindings()
    }

    fn run(&mut self, inputs: Vec<(String, Tensor)>) -> Result<Vec<(String, Tensor)>> {
        let into = |tensor: Tensor| match tensor.dtype() {
            Dtype::F16 if matches!(self.host, Host::InputsMisread | Host::BothMisread) => {
                taken_for(tensor.in_format(Dtype::Bf16).0, Dtype::F16)
            }
            _ => Ok(tensor),
        };
        let inputs = inputs.into_iter().map(|(name, tensor)| Ok((name, into(tensor)?)));
        let outputs = self.runner.run(inputs.collect::<Result<_>>()?)?.into_iter();
        let out_of = |tensor: Tensor| match tensor.dtype() {
            Dtype::F16 if matches!(self.host, Host::OutputsMisread | Host::BothMisread) => {
                taken_for(tensor, Dtype::Bf16)
            }
            _ => Ok(tensor),
        };
        outputs.map(|(name, tensor)| Ok((name, out_of(tensor)?))).collect()
    }
}

/// The same bytes under another type.
fn taken_for(tensor: Tensor, dtype: Dtype) -> Result<Tensor> {
    Tensor::new(dtype, tensor.shape(), tensor.bytes().to_vec())
}
