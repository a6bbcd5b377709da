//! Engines by their command line name.

use crate::args::{EngineArgs, EngineKind};
use anyhow::{Result, ensure};
use std::path::Path;
use steadyhand_external::onnxruntime::{OnnxRuntimeEngine, RuntimeOptions};
use steadyhand_gr00t::checkpoint::Checkpoint;
use steadyhand_gr00t::engine::{CpuEngine, Engine};
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t_cuda::{CudaEngine, Options};

/// The policy of this name, a preset or a `.toml` file, which fits `model`. `checkpoint` is where the model was found;
/// a calibration must be of it, and of the embodiment where that is known.
///
/// # Errors
/// An unknown preset, a file that cannot be read, a rule that reaches no site of the model, formats that do not go
/// together at some site, a calibration of something else.
pub fn policy(
    name: &str,
    checkpoint: &Path,
    model: &Model,
    embodiment_tag: Option<&str>,
) -> Result<PrecisionPolicy> {
    let policy = fitting(name, model)?;
    if let Some(calibration) = policy.calibration() {
        calibration.expect_model(&Checkpoint::open(checkpoint)?, embodiment_tag)?;
    }
    Ok(policy)
}

/// The policy of this name, which fits `model`; what its calibration is of was not looked at.
///
/// # Errors
/// As [`policy`], but for the calibration.
pub fn fitting(name: &str, model: &Model) -> Result<PrecisionPolicy> {
    checked(PrecisionPolicy::load(name)?, model)
}

/// [`fitting`] without the policy's calibration, which may be of another model.
///
/// # Errors
/// As there.
pub fn uncalibrated(name: &str, model: &Model) -> Result<PrecisionPolicy> {
    checked(PrecisionPolicy::load(name)?.without_calibration(), model)
}

fn checked(policy: PrecisionPolicy, model: &Model) -> Result<PrecisionPolicy> {
    policy.check(&model.sites()?)?;
    Ok(policy)
}

/// The engine that the arguments ask for, at their precision. `model` was found in `checkpoint`.
///
/// # Errors
/// A precision as for [`policy`], an option that belongs to another engine, or a runtime that is not there.
pub fn make(
    args: &EngineArgs,
    checkpoint: &Path,
    model: Model,
    embodiment_tag: Option<&str>,
    denoising_steps: usize,
) -> Result<Box<dyn Engine>> {
    let policy = policy(&args.precision, checkpoint, &model, embodiment_tag)?;
    if matches!(args.engine, EngineKind::Cpu | EngineKind::Onnxruntime) {
        refuse_cuda_options(args.device, args.kernel_cache.as_deref())?;
    }
    match args.engine {
        EngineKind::Cpu | EngineKind::Cuda | EngineKind::Auto => {
            let given = [("--onnx", args.onnx.is_some()), ("--provider", args.provider.is_some())];
            for (option, given) in given {
                ensure!(!given, "{option}: expected with --engine onnxruntime, found with another engine");
            }
            native(args, model, policy, denoising_steps)
        }
        EngineKind::Onnxruntime => {
            let fingerprint = Checkpoint::open(checkpoint)?.fingerprint();
            let runtime = RuntimeOptions {
                library: args.onnxruntime.clone(),
                provider: args.provider.unwrap_or_default(),
            };
            let engine = match &args.onnx {
                Some(file) => OnnxRuntimeEngine::from_file(
                    model,
                    &fingerprint,
                    policy,
                    denoising_steps,
                    &runtime,
                    file,
                )?,
                None => OnnxRuntimeEngine::exporting(model, &fingerprint, policy, denoising_steps, &runtime)?,
            };
            Ok(Box::new(engine))
        }
    }
}

/// The reference, or the engine on a GPU.
fn native(
    args: &EngineArgs,
    model: Model,
    policy: PrecisionPolicy,
    denoising_steps: usize,
) -> Result<Box<dyn Engine>> {
    let options = cuda_options(args.device, args.kernel_cache.as_deref());
    match args.engine {
        EngineKind::Cuda => Ok(Box::new(CudaEngine::new(model, policy, denoising_steps, options)?)),
        EngineKind::Auto => match cuda(&model, &policy, denoising_steps, options) {
            Some(engine) => Ok(Box::new(engine)),
            None => Ok(Box::new(CpuEngine::new(model, policy, denoising_steps))),
        },
        _ => Ok(Box::new(CpuEngine::new(model, policy, denoising_steps))),
    }
}

/// How a CUDA engine is opened.
pub fn cuda_options(device: Option<usize>, kernel_cache: Option<&Path>) -> Options {
    Options { device: device.unwrap_or(0), kernel_cache: kernel_cache.map(Path::to_path_buf) }
}

/// Fails where options of the CUDA engine were given to another one.
///
/// # Errors
/// The first of them.
pub fn refuse_cuda_options(device: Option<usize>, kernel_cache: Option<&Path>) -> Result<()> {
    for (option, given) in [("--device", device.is_some()), ("--kernel-cache", kernel_cache.is_some())] {
        ensure!(!given, "{option}: expected with --engine cuda or auto, found with another engine");
    }
    Ok(())
}

/// The engine on a GPU where it can run; says which engine it will be, and why.
pub fn cuda(
    model: &Model,
    policy: &PrecisionPolicy,
    denoising_steps: usize,
    options: Options,
) -> Option<CudaEngine> {
    match CudaEngine::new(model.clone(), policy.clone(), denoising_steps, options) {
        Ok(engine) => {
            eprintln!("engine: cuda on {}", engine.device().properties().name);
            Some(engine)
        }
        Err(error) => {
            eprintln!("engine: cpu, because cuda cannot run: {error}");
            None
        }
    }
}
