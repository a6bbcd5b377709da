//! The command line. Options that NVIDIA's `standalone_inference_script.py` has keep their names and defaults.

use crate::bench::BenchArgs;
use crate::commands::doctor::DoctorArgs;
use crate::commands::engine::EngineCommandArgs;
use crate::commands::policy::PolicyArgs;
use crate::diagnose::Spec;
use crate::tune::TuneArgs;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use steadyhand_external::onnxruntime::Provider;
use steadyhand_gr00t::Error;
use steadyhand_gr00t::export::{Component, DEFAULT_OPSET, Names};
use steadyhand_gr00t::ops::onnx::Products;
use steadyhand_gr00t::precision::PrecisionPolicy;

/// Runs GR00T robot policies as deployed engines, and proves that they give the reference's actions.
#[derive(Debug, Parser)]
#[command(name = "steady", version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Evaluate the embedded policy on its embedded dataset; needs nothing else.
    Demo(DemoArgs),
    /// Evaluate a checkpoint on the episodes of a LeRobot dataset (open loop).
    Eval(EvalArgs),
    /// Check this build against results of the official code.
    Verify(VerifyArgs),
    /// Put two engines side by side: actions, taps, growth of the error.
    Compare(CompareArgs),
    /// Say whether an engine gives the reference's actions, and if not, why.
    Diagnose(DiagnoseArgs),
    /// Write the reference's tensors for some observations, to run other engines on.
    Record(RecordArgs),
    /// Write a checkpoint's model as a file that other runtimes read.
    Export(ExportArgs),
    /// Build, inspect and run engines of TensorRT-RTX.
    Engine(EngineCommandArgs),
    /// Put known faults into the demo's engine and see whether the diagnosis finds them.
    Faults(FaultsArgs),
    /// Measure how long inferences take and where the time goes.
    Bench(BenchArgs),
    /// Say what this machine has, which policies run on it natively, and what to install or mend.
    Doctor(DoctorArgs),
    /// Show, compare and calibrate precision policies; what each of them costs.
    Policy(PolicyArgs),
    /// Find the cheapest precision policy that keeps the actions, by measuring.
    Tune(TuneArgs),
    /// Show what is in a checkpoint or a dataset.
    Inspect(InspectArgs),
}

/// What runs the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EngineKind {
    /// The reference on the CPU.
    Cpu,
    /// The engine on an NVIDIA GPU.
    Cuda,
    /// cuda where it can run, else cpu; says which and why.
    Auto,
    /// ONNX Runtime, on an exported policy.
    Onnxruntime,
}

#[derive(Debug, Clone, Args)]
pub struct EngineArgs {
    /// What runs the model.
    #[arg(long, value_enum, default_value = "cpu")]
    pub engine: EngineKind,
    /// Number formats: f32, bf16 (as the official code rounds), fp16, mixed, mixed-fp16, fp8, or the path of a policy
    /// in TOML.
    #[arg(long, default_value = "f32", value_parser = precision)]
    pub precision: String,
    /// ONNX Runtime's library, or the folder that it is in; looked for otherwise.
    #[arg(long, value_name = "PATH")]
    pub onnxruntime: Option<PathBuf>,
    /// What onnxruntime computes with: cpu (the default), cuda, tensorrt or nv-tensorrt-rtx; its library must have it.
    #[arg(long, value_name = "PROVIDER", value_parser = provider)]
    pub provider: Option<Provider>,
    /// A policy or an action head for onnxruntime; exported to a temporary folder otherwise.
    #[arg(long, value_name = "FILE")]
    pub onnx: Option<PathBuf>,
    /// Number of the GPU for cuda; the first otherwise.
    #[arg(long, value_name = "NUMBER")]
    pub device: Option<usize>,
    /// Where cuda keeps its compiled kernels; the user's cache folder otherwise.
    #[arg(long, value_name = "DIR")]
    pub kernel_cache: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct DemoArgs {
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Where the plots, the JSON and the demo's own files go.
    #[arg(long, default_value = "steady-out", value_name = "DIR")]
    pub out: PathBuf,
}

#[derive(Debug, Args)]
pub struct EvalArgs {
    /// Checkpoint folder.
    #[arg(long, alias = "checkpoint", value_name = "DIR")]
    pub model_path: PathBuf,
    /// LeRobot dataset folder (v2.0, v2.1 or v3.0).
    #[arg(long, alias = "dataset", value_name = "DIR")]
    pub dataset_path: PathBuf,
    /// Embodiment tag; may be left out where the checkpoint has only one.
    #[arg(long, value_name = "TAG")]
    pub embodiment_tag: Option<String>,
    /// Episodes to evaluate.
    #[arg(long, num_args = 1.., default_value = "0", value_name = "ID")]
    pub traj_ids: Vec<usize>,
    /// Most steps of an episode to evaluate.
    #[arg(long, default_value_t = 200)]
    pub steps: usize,
    /// Steps taken of each action chunk before the next inference.
    #[arg(long, default_value_t = 16)]
    pub action_horizon: usize,
    /// Euler steps of an inference.
    #[arg(long, default_value_t = 4)]
    pub denoising_steps: usize,
    /// Inferences at the start of each episode that the timings leave out.
    #[arg(long, default_value_t = 1)]
    pub skip_timing_steps: usize,
    /// Seed of the initial noise.
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    /// Read the noise from tensor `noise` [inferences, horizon, dim] of DIR/episode_NNNNNN.safetensors.
    #[arg(long, value_name = "DIR")]
    pub noise: Option<PathBuf>,
    /// Where the plots go: a folder, or a .png file (several episodes add their number to its name).
    #[arg(long, value_name = "PATH")]
    pub save_plot_path: Option<PathBuf>,
    /// Where the JSON goes; report.json in the folder of --out otherwise.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Where the plots and the JSON go unless told otherwise.
    #[arg(long, default_value = "steady-out", value_name = "DIR")]
    pub out: PathBuf,
    /// A tokenizer.json, or a folder with one or with vocab.json and merges.txt; the checkpoint's otherwise.
    #[arg(long, value_name = "PATH")]
    pub tokenizer: Option<PathBuf>,
    /// Take a policy's scales of activations although they were found on another dataset; the report says so.
    #[arg(long)]
    pub allow_stale_calibration: bool,
    #[command(flatten)]
    pub engine: EngineArgs,
}

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Fixture folders: model goldens, processor goldens or expected results of the demo.
    #[arg(required = true, value_name = "DIR")]
    pub fixtures: Vec<PathBuf>,
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Fail above this distance, in place of the limits that the fixtures come with.
    #[arg(long, value_name = "LIMIT")]
    pub max_relative_l2: Option<f64>,
    /// The tokenizer that processor goldens were made with; without it their token ids are not compared.
    #[arg(long, value_name = "PATH")]
    pub tokenizer: Option<PathBuf>,
    /// Checkpoint of expected demo results; beside them, or the embedded one, otherwise.
    #[arg(long, alias = "model-path", value_name = "DIR")]
    pub checkpoint: Option<PathBuf>,
    /// Dataset of expected demo results; beside them, or the embedded one, otherwise.
    #[arg(long, alias = "dataset", value_name = "DIR")]
    pub dataset_path: Option<PathBuf>,
    /// How many of the worst rows to show.
    #[arg(long, default_value_t = 10)]
    pub rows: usize,
}

/// Observations of one episode, and the noise that the actions start from.
#[derive(Debug, Args)]
pub struct ObservationArgs {
    /// Checkpoint folder, the embedded demo's otherwise; synth:n1.6 for random weights of the published size and
    /// observations of random pixels, synth:tiny for a very small model.
    #[arg(long, alias = "checkpoint", value_name = "DIR")]
    pub model_path: Option<PathBuf>,
    /// LeRobot dataset folder; the embedded demo's otherwise.
    #[arg(long, alias = "dataset", value_name = "DIR")]
    pub dataset_path: Option<PathBuf>,
    /// Embodiment tag; may be left out where the checkpoint has only one.
    #[arg(long, value_name = "TAG")]
    pub embodiment_tag: Option<String>,
    /// A tokenizer.json, or a folder with one or with vocab.json and merges.txt; the checkpoint's otherwise.
    #[arg(long, value_name = "PATH")]
    pub tokenizer: Option<PathBuf>,
    /// Episode to observe. [default: 0]
    #[arg(long, value_name = "ID")]
    pub traj_id: Option<usize>,
    /// Observations to take, from the episode's start.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    pub inferences: u16,
    /// Steps between two observations. [default: 16]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub action_horizon: Option<u16>,
    /// Euler steps of an inference.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    pub denoising_steps: u16,
    /// Seed of the initial noise; with a synthetic checkpoint, of everything.
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    /// Read the noise from tensor `noise` [inferences, horizon, dim] of DIR/episode_NNNNNN.safetensors.
    #[arg(long, value_name = "DIR")]
    pub noise: Option<PathBuf>,
    /// Take a policy's scales of activations although they were found on another dataset; said when it happens.
    #[arg(long)]
    pub allow_stale_calibration: bool,
}

#[derive(Debug, Args)]
pub struct CompareArgs {
    /// One engine, named as for diagnose; taken as the reference.
    #[arg(long, value_name = "ENGINE", default_value = "cpu:f32")]
    pub a: Spec,
    /// The other; its precision says what rounding gives.
    #[arg(long, value_name = "ENGINE")]
    pub b: Spec,
    #[command(flatten)]
    pub observations: ObservationArgs,
    /// Where comparison.json and comparison.png go.
    #[arg(long, default_value = "steady-out", value_name = "DIR")]
    pub out: PathBuf,
    /// Where the tensors of running engines are kept until the end, in a folder of their own; the system's folder for
    /// temporary files otherwise.
    #[arg(long, value_name = "DIR")]
    pub scratch: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct DiagnoseArgs {
    /// The reference.
    #[arg(long, default_value = "cpu:f32", value_parser = ["cpu:f32"])]
    pub a: String,
    /// The engine: cpu:PRECISION, cuda:PRECISION, onnxruntime:PRECISION (a preset or a .toml file), trace:DIR,
    /// expected:DIR#NAME, fault:NAME or fault:NAME:weak.
    #[arg(long, value_name = "ENGINE")]
    pub b: Spec,
    /// What the engine says it runs at, which its rounding is judged by: its own PRECISION, f32 for a fault, bf16
    /// for a recording otherwise.
    #[arg(long, value_parser = precision)]
    pub b_precision: Option<String>,
    /// The trace's tensors were computed stage by stage from the reference's recorded inputs.
    #[arg(long)]
    pub isolated: bool,
    /// Exchange components with the reference also where the actions lie within what rounding gives: cpu, cuda and
    /// fault engines, at the cost of 18 inferences of both.
    #[arg(long)]
    pub swaps: bool,
    #[command(flatten)]
    pub observations: ObservationArgs,
    /// Where diagnosis.json and diagnosis.html go.
    #[arg(long, default_value = "steady-out", value_name = "DIR")]
    pub out: PathBuf,
    /// Where the tensors of running engines are kept until the end, in a folder of their own; the system's folder for
    /// temporary files otherwise.
    #[arg(long, value_name = "DIR")]
    pub scratch: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct RecordArgs {
    #[command(flatten)]
    pub observations: ObservationArgs,
    /// Number formats of the recorded run.
    #[arg(long, default_value = "f32", value_parser = precision)]
    pub precision: String,
    /// Record the result of every operation, not only what enters and leaves the stages.
    #[arg(long)]
    pub all: bool,
    /// A folder that does not exist yet.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

#[derive(Debug, Args)]
pub struct ExportArgs {
    #[command(subcommand)]
    pub format: ExportFormat,
}

#[derive(Debug, Subcommand)]
pub enum ExportFormat {
    /// An ONNX graph, and its tensors in a file beside it.
    Onnx(OnnxArgs),
}

#[derive(Debug, Args)]
pub struct OnnxArgs {
    /// Checkpoint folder.
    #[arg(long, alias = "model-path", value_name = "DIR")]
    pub checkpoint: PathBuf,
    /// What is exported: dit, action_head, backbone or policy.
    #[arg(long, default_value = "policy")]
    pub component: Component,
    /// Number formats: f32, bf16 (as the official code rounds), fp16, mixed, mixed-fp16, fp8, or the path of a policy
    /// in TOML.
    #[arg(long, default_value = "f32", value_parser = precision)]
    pub precision: String,
    /// How matrix products of narrow operands are written.
    #[arg(long, value_enum, default_value = "native")]
    pub products: ProductsArg,
    /// Version of ONNX's operators, 18 to 23.
    #[arg(long, default_value_t = DEFAULT_OPSET)]
    pub opset: i64,
    /// The graph; its tensors go to FILE.data.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Names of inputs and outputs: ours, with floats in f32, or those of NVIDIA's exporter for a dit, with
    /// floats in the storage format.
    #[arg(long, value_enum, default_value = "steady")]
    pub io_names: NamesArg,
    /// Euler steps to unroll; the checkpoint's number otherwise.
    #[arg(long)]
    pub denoising_steps: Option<usize>,
    /// Size of an image, once for each image of a prompt (backbone, policy).
    #[arg(long, value_name = "HEIGHTxWIDTH", value_parser = image_size)]
    pub image: Vec<[usize; 2]>,
    /// State rows of one observation (action_head, policy).
    #[arg(long, default_value_t = 1)]
    pub state_horizon: usize,
}

/// [`Products`] as an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProductsArg {
    /// In the narrow format, results included: what accelerators run fast.
    Native,
    /// In f32 on rounded operands: the reference's numbers, and all that ONNX Runtime runs on a CPU.
    Widened,
}

impl From<ProductsArg> for Products {
    fn from(products: ProductsArg) -> Self {
        match products {
            ProductsArg::Native => Products::Native,
            ProductsArg::Widened => Products::Widened,
        }
    }
}

/// [`Names`] as an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum NamesArg {
    /// Ours.
    Steady,
    /// Those of NVIDIA's exporter.
    Nvidia,
}

impl From<NamesArg> for Names {
    fn from(names: NamesArg) -> Self {
        match names {
            NamesArg::Steady => Names::Steady,
            NamesArg::Nvidia => Names::Nvidia,
        }
    }
}

/// A preset's name, or the path of a policy, which is read where the model is known.
pub fn precision(text: &str) -> Result<String, String> {
    if !text.ends_with(".toml") {
        let what = |error: Error| error.to_string().trim_start_matches("precision: ").to_owned();
        PrecisionPolicy::preset(text).map_err(what)?;
    }
    Ok(text.to_owned())
}

fn provider(name: &str) -> Result<Provider, String> {
    name.parse().map_err(|error: Error| error.to_string().trim_start_matches("provider: ").to_owned())
}

/// Reads `HEIGHTxWIDTH`.
pub fn image_size(text: &str) -> Result<[usize; 2], String> {
    let sizes = text.split_once('x').and_then(|(h, w)| Some([h.parse().ok()?, w.parse().ok()?]));
    sizes.ok_or_else(|| "expected HEIGHTxWIDTH, such as 252x252".to_owned())
}

#[derive(Debug, Args)]
pub struct FaultsArgs {
    /// What the engine runs at, but for the fault.
    #[arg(long, default_value = "f32", value_parser = precision)]
    pub precision: String,
}

#[derive(Debug, Args)]
pub struct InspectArgs {
    #[command(subcommand)]
    pub what: Inspected,
}

#[derive(Debug, Subcommand)]
pub enum Inspected {
    /// Sizes, tensors and embodiments of a checkpoint folder.
    Checkpoint {
        /// The folder.
        path: PathBuf,
    },
    /// Features, modalities, episodes and videos of a LeRobot dataset.
    Dataset {
        /// The folder.
        path: PathBuf,
    },
}

/// The arguments with `--option_name` written `--option-name`: both are accepted, as the official scripts do.
pub fn with_dashes(args: impl Iterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    args.map(|arg| match arg.to_str() {
        Some(text) if text.starts_with("--") => {
            let (name, value) =
                text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
            let name = name.replace('_', "-");
            OsString::from(value.map_or(name.clone(), |value| format!("{name}={value}")))
        }
        _ => OsStr::to_os_string(&arg),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eval(args: &[&str]) -> EvalArgs {
        let all = ["steady", "eval"].iter().chain(args).map(OsString::from);
        match Cli::parse_from(with_dashes(all)).command {
            Command::Eval(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_official_command_line_is_understood() {
        let args = eval(&[
            "--model_path=a_b",
            "--dataset_path",
            "d_e",
            "--embodiment_tag",
            "GR1",
            "--traj-ids",
            "0",
            "1",
            "2",
        ]);
        assert_eq!((args.model_path, args.dataset_path), ("a_b".into(), "d_e".into()));
        assert_eq!((args.traj_ids, args.embodiment_tag.as_deref()), (vec![0, 1, 2], Some("GR1")));
        let defaults =
            (args.steps, args.action_horizon, args.denoising_steps, args.skip_timing_steps, args.seed);
        assert_eq!(defaults, (200, 16, 4, 1, 42));
    }

    #[test]
    fn checkpoint_is_another_name_of_model_path() {
        assert_eq!(eval(&["--checkpoint", "c", "--dataset", "d"]).model_path, PathBuf::from("c"));
    }
}
