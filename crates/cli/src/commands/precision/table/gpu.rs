//! Policies on a GPU: their actions, and how long an inference of the full size takes.

use super::Subject;
use super::accuracy::{Accuracy, EpisodeRun};
use super::report::{DeviceName, Latency, Tried};
use crate::commands::bench::{self, WorkloadName};
use crate::commands::precision::args::TableArgs;
use crate::engines::{Options, cuda};
use crate::options::words_of;
use crate::outcome::describe;
use crate::output::note;
use crate::progress::Progress;
use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use std::ffi::OsString;
use steadyhand_gr00t::engine::Backend;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::{Error, synthetic};

/// A GPU that engines can be opened on.
pub struct Gpu {
    gpu: cuda::Gpu,
    backend: Box<dyn Backend>,
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
            ensure!(known, "--latency: expected random weights such as synth:n1.6, found `{model}`");
        }
        // Refuses options of a GPU where none is asked for.
        args.device.backend(&args.engine)?;
        if args.engine.name() == "cpu" {
            ensure!(
                args.max_ratio.is_none(),
                "--max-ratio: expected with --engine cuda or auto, found with cpu"
            );
            ensure!(args.latency.is_none(), "--latency: expected with --engine cuda or auto, found with cpu");
            return Ok(None);
        }
        match Gpu::new(args) {
            Ok(gpu) => Ok(Some(gpu)),
            Err(error) if args.engine.name() == "auto" && args.latency.is_none() => {
                note!("engine: cpu alone, because cuda cannot run: {}", describe(&error));
                Ok(None)
            }
            Err(error) if args.latency.is_some() => {
                Err(error.context("--latency: expected a GPU to measure"))
            }
            Err(error) => Err(error),
        }
    }

    fn new(args: &TableArgs) -> Result<Self> {
        let options = args.device.options();
        let workloads = match &args.workload[..] {
            [] => WorkloadName::value_variants().to_vec(),
            chosen => chosen.to_vec(),
        };
        Ok(Gpu {
            gpu: cuda::Gpu::open(&options)?,
            backend: cuda::backend(&options)?,
            options,
            latency: args.latency.clone().map(|model| (model, workloads)),
        })
    }

    /// What it is.
    pub fn name(&self) -> DeviceName {
        DeviceName {
            name: self.gpu.name.clone(),
            compute_capability: self.gpu.compute_capability.clone(),
            driver_version: self.gpu.driver_version.clone(),
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
        progress: &Progress,
    ) -> Result<Tried<Accuracy>> {
        let mut opened = match subject.open(self.backend.as_ref(), policy) {
            Ok(opened) => opened,
            Err(error) => return Ok(Tried::Refused { refused: error.to_string() }),
        };
        let runs = match subject.trial.run(&mut opened, &mut || progress.inc()) {
            Err(error @ Error::Engine(_)) => {
                return Err(anyhow::Error::new(error).context(format!("precision {policy} on cuda")));
            }
            Err(error) => return Ok(Tried::Failed { failed: describe(&error.into()) }),
            Ok(runs) => runs,
        };
        Ok(match Accuracy::of(&runs, reference) {
            Ok(accuracy) => Tried::Done(accuracy),
            Err(error) => Tried::Failed { failed: describe(&error) },
        })
    }

    /// The inference of every workload at a precision, measured as `steady bench` does; nothing where no latency was
    /// asked for. A calibrated policy is calibrated again, on the model that is measured.
    ///
    /// # Errors
    /// A workload without a name.
    pub fn latency(&self, name: &str, policy: &PrecisionPolicy) -> Result<Vec<Latency>> {
        let Some((model, workloads)) = &self.latency else { return Ok(Vec::new()) };
        let measure = |workload: &WorkloadName| {
            let value = workload.to_possible_value().context("a workload without a name")?;
            let calibrate = policy.calibration().is_some();
            let milliseconds = match self.measure(model, value.get_name(), name, calibrate) {
                Ok(statistics) => Tried::Done(statistics),
                Err(error) => Tried::Refused { refused: describe(&error) },
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
        let words =
            ["--engine", "cuda", "--checkpoint", model, "--workload", workload, "--precision", precision];
        let mut options: Vec<OsString> = words.map(OsString::from).into();
        options.extend(calibrate.then(|| OsString::from("--calibrate")));
        if let Some(device) = self.options.device {
            options.extend(["--device".into(), device.to_string().into()]);
        }
        let folders =
            [("--kernel-cache", &self.options.kernel_cache), ("--kernel-dir", &self.options.kernel_dir)];
        for (option, folder) in folders {
            if let Some(folder) = folder {
                options.extend([option.into(), folder.clone().into_os_string()]);
            }
        }
        bench::measure(&words_of(options)?)?.inference().context("bench: no inference was measured")
    }
}
