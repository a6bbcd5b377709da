//! Policies on a GPU: their actions, and how long an inference of the full size takes.

use super::Subject;
use super::accuracy::{Accuracy, EpisodeRun};
use super::report::{DeviceName, Latency, Tried};
use crate::args::{Cli, Command};
use crate::bench::{self, BenchEngine, WorkloadName};
use crate::commands::policy::args::TableArgs;
use crate::engines;
use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use indicatif::ProgressBar;
use std::ffi::OsString;
use steadyhand_cuda_driver::Device;
use steadyhand_cuda_driver::compile::Compiler;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::{Error, synthetic};
use steadyhand_gr00t_cuda::{CudaEngine, Options};

/// A GPU that engines can be opened on.
pub struct Gpu {
    /// Held, so that its context outlives the engines that come and go.
    device: Device,
    options: Options,
    /// The model whose inferences are measured, and in which shapes.
    latency: Option<(String, Vec<WorkloadName>)>,
}

impl Gpu {
    /// The GPU that the options ask for; `None` where they ask for none, or where there is none for `auto`.
    ///
    /// # Errors
    /// An option that needs a GPU without one; `cuda` without a GPU or NVRTC.
    pub fn open(args: &TableArgs) -> Result<Option<Self>> {
        if let Some(model) = &args.latency {
            let known = synthetic::config(model)?.is_some();
            ensure!(known, "--latency: expected synth:n1.6 or synth:tiny, found `{model}`");
        }
        let opened = match args.engine {
            BenchEngine::Cpu => {
                engines::refuse_cuda_options(args.device, args.kernel_cache.as_deref())?;
                ensure!(
                    args.latency.is_none(),
                    "--latency: expected with --engine cuda or auto, found with cpu"
                );
                return Ok(None);
            }
            BenchEngine::Cuda | BenchEngine::Auto => Gpu::new(args),
        };
        match opened {
            Ok(gpu) => Ok(Some(gpu)),
            Err(error) if args.engine == BenchEngine::Auto && args.latency.is_none() => {
                eprintln!("engine: cpu alone, because cuda cannot run: {}", crate::describe(&error));
                Ok(None)
            }
            Err(error) if args.latency.is_some() => {
                Err(error.context("--latency: expected a GPU to measure"))
            }
            Err(error) => Err(error),
        }
    }

    fn new(args: &TableArgs) -> Result<Self> {
        let options = engines::cuda_options(args.device, args.kernel_cache.as_deref());
        let device = Device::open(options.device)?;
        // Without a compiler every policy would be refused for the same reason.
        Compiler::open(Some(device.properties().driver_version), options.kernel_cache.clone())?;
        let workloads = match &args.workload[..] {
            [] => WorkloadName::value_variants().to_vec(),
            chosen => chosen.to_vec(),
        };
        Ok(Gpu { device, options, latency: args.latency.clone().map(|model| (model, workloads)) })
    }

    /// What it is.
    pub fn name(&self) -> DeviceName {
        let properties = self.device.properties();
        let ((major, minor), driver) = (properties.compute_capability, properties.driver_version);
        DeviceName {
            name: properties.name.clone(),
            compute_capability: format!("{major}.{minor}"),
            driver_version: format!("{}.{}", driver / 1000, driver % 1000 / 10),
        }
    }

    /// Runs a policy on the CUDA engine; distances are from `reference`.
    ///
    /// # Errors
    /// The device failed.
    pub(super) fn accuracy(
        &self,
        subject: &Subject,
        policy: &PrecisionPolicy,
        reference: &[EpisodeRun],
        progress: &ProgressBar,
    ) -> Result<Tried<Accuracy>> {
        let (model, steps) = (subject.model.clone(), subject.denoising_steps);
        let mut engine = match CudaEngine::new(model, policy.clone(), steps, self.options.clone()) {
            Ok(engine) => engine,
            Err(error) => return Ok(Tried::Refused { refused: error.to_string() }),
        };
        let runs = subject.trial.run(&mut engine, &mut || progress.inc(1));
        match runs.and_then(|runs| Accuracy::of(&runs, reference)) {
            Ok(accuracy) => Ok(Tried::Done(accuracy)),
            Err(error) if matches!(error.downcast_ref(), Some(Error::Engine(_))) => {
                Err(error.context(format!("precision {policy} on cuda")))
            }
            Err(error) => Ok(Tried::Failed { failed: crate::describe(&error) }),
        }
    }

    /// The inference of every workload at a precision, measured as `steady bench` does; nothing where no latency was
    /// asked for. A calibrated policy is calibrated again, on the model that is measured.
    ///
    /// # Errors
    /// The command line of `steady bench` has changed.
    pub fn latency(&self, name: &str, policy: &PrecisionPolicy) -> Result<Vec<Latency>> {
        let Some((model, workloads)) = &self.latency else { return Ok(Vec::new()) };
        let measure = |workload: &WorkloadName| {
            let value = workload.to_possible_value().context("a workload without a name")?;
            let calibrate = policy.calibration().is_some();
            let milliseconds = match self.measure(model, value.get_name(), name, calibrate) {
                Ok(statistics) => Tried::Done(statistics),
                Err(error) => Tried::Refused { refused: crate::describe(&error) },
            };
            Ok(Latency { workload: value.get_name().to_owned(), milliseconds })
        };
        workloads.iter().map(measure).collect()
    }

    fn measure(
        &self,
        model: &str,
        workload: &str,
        precision: &str,
        calibrate: bool,
    ) -> Result<bench::Statistics> {
        let device = self.options.device.to_string();
        let words = ["steady", "bench", "--engine", "cuda", "--checkpoint", model, "--workload", workload];
        let mut command: Vec<OsString> = words.map(OsString::from).into();
        command.extend(["--precision", precision, "--device", &device].map(OsString::from));
        command.extend(calibrate.then(|| OsString::from("--calibrate")));
        if let Some(folder) = &self.options.kernel_cache {
            command.extend(["--kernel-cache".into(), folder.clone().into_os_string()]);
        }
        match Cli::try_parse_from(command)?.command {
            Command::Bench(args) => {
                bench::measure(&args)?.inference().context("bench: no inference was measured")
            }
            _ => bail!("bench: expected its own options"),
        }
    }
}
