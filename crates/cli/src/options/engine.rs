//! What runs the model, and at which number formats.

use crate::engines::{self, EngineSpec, precision};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use std::ffi::OsString;
use std::path::PathBuf;
use steadyhand_external::onnxruntime::Provider;
use steadyhand_gr00t::Error;
use steadyhand_gr00t::engine::Backend;
use steadyhand_gr00t::precision::PrecisionPolicy;

/// Numbers of GPUs: one but where a command takes several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Devices(pub Vec<usize>);

impl Devices {
    /// Reads one number.
    pub fn one(text: &str) -> Result<Self, String> {
        text.parse()
            .map(|number| Devices(vec![number]))
            .map_err(|_| "expected the number of one GPU".to_owned())
    }

    /// Reads different numbers with commas between them.
    pub fn several(text: &str) -> Result<Self, String> {
        let numbers: Result<Vec<usize>, _> = text.split(',').map(str::parse).collect();
        let numbers = numbers.map_err(|_| "expected numbers of GPUs, such as 0,1".to_owned())?;
        let mut places = numbers.iter().enumerate();
        match places.find(|(place, number)| numbers[..*place].contains(number)) {
            Some((_, twice)) => Err(format!("expected each GPU once, found {twice} twice")),
            None => Ok(Devices(numbers)),
        }
    }
}

/// A GPU.
#[derive(Debug, Clone, Default, Args)]
pub struct DeviceArgs {
    /// Number of the GPU for cuda; the first otherwise.
    #[arg(long, value_name = "NUMBER", value_parser = Devices::one)]
    pub device: Option<Devices>,
    /// Where cuda keeps its compiled kernels; the user's cache folder otherwise.
    #[arg(long, value_name = "DIR")]
    pub kernel_cache: Option<PathBuf>,
    /// Compile cuda's kernels from the .cu and .cuh files in this folder instead of the program's own.
    #[arg(long, value_name = "DIR")]
    pub kernel_dir: Option<PathBuf>,
}

/// Options that only some engines read.
#[derive(Debug, Clone, Args)]
pub struct EngineOptions {
    /// ONNX Runtime's library, or the folder that it is in; looked for otherwise.
    #[arg(long, value_name = "PATH")]
    pub onnxruntime: Option<PathBuf>,
    /// What onnxruntime computes with: cpu (the default), cuda, tensorrt or nv-tensorrt-rtx; its library must have it.
    #[arg(long, value_name = "PROVIDER", value_parser = provider)]
    pub provider: Option<Provider>,
    /// A policy, an action head or a part of one for onnxruntime; a policy is exported to a temporary folder otherwise.
    #[arg(long, value_name = "FILE")]
    pub onnx: Option<PathBuf>,
    /// TensorRT's library, or the folder that it is in; looked for otherwise.
    #[arg(long, value_name = "PATH")]
    pub tensorrt: Option<PathBuf>,
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// An engine with its options.
#[derive(Debug, Clone, Args)]
pub struct EngineArgs {
    #[arg(long, default_value = "cpu", value_name = "ENGINE", value_parser = EngineSpec::running,
          help = EngineSpec::running_help())]
    pub engine: EngineSpec,
    /// Number formats: f32, bf16 (as the official code rounds), fp16, mixed, mixed-fp16, fp8, or the path of a TOML
    /// file. [default: f32]
    #[arg(long, value_parser = precision)]
    pub precision: Option<String>,
    #[command(flatten)]
    pub options: EngineOptions,
}

impl DeviceArgs {
    /// The backend of `engine`.
    ///
    /// # Errors
    /// As [`EngineSpec::backend`].
    pub fn backend(&self, engine: &EngineSpec) -> Result<Box<dyn Backend>> {
        engine.backend(&self.options())
    }

    /// The same options as engines take them.
    pub fn options(&self) -> engines::Options {
        engines::Options {
            device: self.device.as_ref().and_then(|devices| devices.0.first().copied()),
            kernel_cache: self.kernel_cache.clone(),
            kernel_dir: self.kernel_dir.clone(),
            ..engines::Options::default()
        }
    }
}

impl EngineOptions {
    /// The same options as engines take them.
    pub fn engines(&self) -> engines::Options {
        engines::Options {
            onnxruntime: self.onnxruntime.clone(),
            provider: self.provider,
            onnx: self.onnx.clone(),
            tensorrt: self.tensorrt.clone(),
            ..self.device.options()
        }
    }

    /// The options that were given as words that give them again.
    pub fn words(&self) -> Vec<OsString> {
        let EngineOptions { onnxruntime, provider, onnx, tensorrt, device } = self;
        let DeviceArgs { device, kernel_cache, kernel_dir } = device;
        let path = |path: &Option<PathBuf>| path.clone().map(PathBuf::into_os_string);
        let provider = Provider::ALL.iter().find(|(_, known)| Some(*known) == *provider);
        let numbers =
            |devices: &Devices| devices.0.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
        let options = [
            ("--onnxruntime", path(onnxruntime)),
            ("--provider", provider.map(|(name, _)| OsString::from(name))),
            ("--onnx", path(onnx)),
            ("--tensorrt", path(tensorrt)),
            ("--device", device.as_ref().map(|devices| numbers(devices).into())),
            ("--kernel-cache", path(kernel_cache)),
            ("--kernel-dir", path(kernel_dir)),
        ];
        let given = options.into_iter().filter_map(|(option, value)| Some([option.into(), value?]));
        given.flatten().collect()
    }
}

impl EngineArgs {
    /// The backend of the engine that is asked for.
    ///
    /// # Errors
    /// As [`EngineSpec::backend`].
    pub fn backend(&self) -> Result<Box<dyn Backend>> {
        self.engine.backend(&self.options.engines())
    }

    /// As [`engine_precision`].
    ///
    /// # Errors
    /// As there.
    pub fn precision(&self) -> Result<PrecisionPolicy> {
        engine_precision(self.precision.as_deref(), &self.engine)
    }
}

/// The precision that is asked for: of --precision, of --engine, or of the engine's file; f32 where none says.
///
/// # Errors
/// Two say one, and not the same; a preset or a file that cannot be read; an engine's file alone, which does not say.
pub fn engine_precision(option: Option<&str>, engine: &EngineSpec) -> Result<PrecisionPolicy> {
    let Some(stored) = engine.stored_precision()? else {
        return match option {
            Some(_) => Ok(PrecisionPolicy::load(one_precision(option, engine, "f32")?)?),
            None => engine.precision().context("--precision"),
        };
    };
    let Some(given) = option else { return Ok(stored) };
    let loaded = PrecisionPolicy::load(given)?;
    ensure!(
        loaded.identity() == stored.identity(),
        "--precision: expected {}, which --engine {engine} was built at, found {given}",
        stored.name()
    );
    Ok(loaded)
}

/// The precision of an option or of an engine, `otherwise` where neither says.
///
/// # Errors
/// Both say one, and not the same.
pub fn one_precision<'a>(
    option: Option<&'a str>,
    engine: &'a EngineSpec,
    otherwise: &'a str,
) -> Result<&'a str> {
    match (option, engine.named_precision()) {
        (Some(option), Some(of_engine)) if option != of_engine => {
            bail!("--precision: expected {of_engine} as in --engine {engine}, found {option}")
        }
        (option, of_engine) => Ok(option.or(of_engine).unwrap_or(otherwise)),
    }
}

fn provider(name: &str) -> Result<Provider, String> {
    name.parse().map_err(|error: Error| error.to_string().trim_start_matches("provider: ").to_owned())
}
