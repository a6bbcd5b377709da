//! The command line of `steady engine`.

use crate::options::{NamesArg, ProductsArg, image_size, precision};
use clap::{Args, Subcommand};
use std::path::PathBuf;
use steadyhand_external::tensorrt::{BuilderFlag, Range, Target};
use steadyhand_gr00t::Error;
use steadyhand_gr00t::export::Component;

#[derive(Debug, Args)]
pub struct EngineCommandArgs {
    #[command(subcommand)]
    pub what: EngineCommand,
}

#[derive(Debug, Subcommand)]
pub enum EngineCommand {
    /// Build an engine of TensorRT-RTX, without a GPU, or of TensorRT, on the GPU that it is for, from a checkpoint or an
    /// ONNX graph.
    Build(BuildArgs),
    /// Show what an engine takes, gives and was built from, and audit it against a precision policy.
    Inspect(InspectEngineArgs),
    /// Run an engine, or an ONNX graph, on what `steady record` wrote, for `steady diagnose --b trace:DIR`.
    Run(RunArgs),
}

/// What of a checkpoint an engine is.
#[derive(Debug, Clone, Args)]
pub struct GraphArgs {
    /// Number formats: f32, bf16, fp16, mixed, mixed-fp16, or the path of a TOML file; f32 otherwise.
    #[arg(long, value_parser = precision, requires = "checkpoint")]
    pub precision: Option<String>,
    /// A component that `steady export onnx` knows, such as dit.blocks.0:8; dit otherwise.
    #[arg(long, requires = "checkpoint")]
    pub component: Option<Component>,
    /// How matrix products of narrow operands are written; native otherwise.
    #[arg(long, value_enum, requires = "checkpoint")]
    pub products: Option<ProductsArg>,
    /// Names of inputs and outputs: ours, with floats in f32 (the default), or those of NVIDIA's exporter for a
    /// part that it cuts, with floats in the storage format.
    #[arg(long, value_enum, requires = "checkpoint")]
    pub io_names: Option<NamesArg>,
    /// Euler steps to unroll; the checkpoint's number otherwise.
    #[arg(long, requires = "checkpoint", value_parser = clap::value_parser!(u16).range(1..))]
    pub denoising_steps: Option<u16>,
    /// Size of an image, once for each image of a prompt (vit, backbone, policy).
    #[arg(long, value_name = "HEIGHTxWIDTH", value_parser = image_size, requires = "checkpoint")]
    pub image: Vec<[usize; 2]>,
    /// State rows of one observation; 1 otherwise.
    #[arg(long, requires = "checkpoint", value_parser = clap::value_parser!(u16).range(1..))]
    pub state_horizon: Option<u16>,
}

impl GraphArgs {
    /// The first option that was given.
    pub fn given(&self) -> Option<&'static str> {
        let options = [
            ("--precision", self.precision.is_some()),
            ("--component", self.component.is_some()),
            ("--products", self.products.is_some()),
            ("--io-names", self.io_names.is_some()),
            ("--denoising-steps", self.denoising_steps.is_some()),
            ("--image", !self.image.is_empty()),
            ("--state-horizon", self.state_horizon.is_some()),
        ];
        options.into_iter().find(|(_, given)| *given).map(|(option, _)| option)
    }
}

#[derive(Debug, Args)]
pub struct BuildArgs {
    /// The graph; every open dimension needs --shapes.
    #[arg(long, value_name = "FILE", conflicts_with = "checkpoint", required_unless_present = "checkpoint")]
    pub onnx: Option<PathBuf>,
    /// Checkpoint folder, or synth:n1.6 or synth:tiny, whose graph is exported for the build.
    #[arg(long, visible_alias = "model-path", value_name = "DIR")]
    pub checkpoint: Option<PathBuf>,
    #[command(flatten)]
    pub graph: GraphArgs,
    /// Sizes of an open dimension: the smallest, the one to be fastest at, the largest; or one size. For a checkpoint,
    /// 1 to 8 observations and prompts of up to 512 tokens otherwise.
    #[arg(long, num_args = 1.., value_name = "DIM=MIN:BEST:MAX", value_parser = dimension)]
    pub shapes: Vec<(String, Range)>,
    /// A flag of the builder: refit, strict-nans, distributive-independence; for tensorrt:8.5 and 8.6 refit, fp16, tf32,
    /// obey-precision-constraints, prefer-precision-constraints. Where networks are strongly typed, those that choose
    /// precisions are refused.
    #[arg(long, num_args = 1.., value_name = "FLAG", value_parser = flag)]
    pub builder_flag: Vec<BuilderFlag>,
    /// Let TensorRT 8 choose products of cuBLAS and cuBLASLt, which it loads then.
    #[arg(long)]
    pub cublas: bool,
    /// What a layer may use of the GPU's memory, in MiB; the library's limit otherwise.
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..))]
    pub workspace: Option<u32>,
    /// TensorRT's builderOptimizationLevel, 0 to 5: how long the builder looks for what is faster, 0 being the shortest; the
    /// library's own, 3, otherwise. TensorRT 8.5 has none.
    #[arg(long, value_name = "LEVEL", value_parser = clap::value_parser!(u8).range(0..=5))]
    pub optimization_level: Option<u8>,
    /// Times that the builder measured: read where the file is there, and written after the build. For TensorRT, on the
    /// GPU that they were measured on.
    #[arg(long, value_name = "FILE")]
    pub timing_cache: Option<PathBuf>,
    /// All that the builder says, with the seconds.
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// rtx, tensorrt or tensorrt:VERSION, such as tensorrt:8.5; what is found otherwise, TensorRT-RTX first.
    #[arg(long, value_name = "TARGET", value_parser = target)]
    pub target: Option<Target>,
    /// The library, or the folder that it is in; looked for otherwise.
    #[arg(long, value_name = "PATH")]
    pub tensorrt: Option<PathBuf>,
    /// The engine; what it was built from goes to FILE.json.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

#[derive(Debug, Args)]
pub struct InspectEngineArgs {
    /// The engine.
    #[arg(value_name = "FILE")]
    pub engine: PathBuf,
    /// Audit the engine against a policy of this checkpoint.
    #[arg(long, visible_alias = "model-path", value_name = "DIR", requires = "precision")]
    pub checkpoint: Option<PathBuf>,
    /// Of what the engine's record does not say; --precision must be given.
    #[command(flatten)]
    pub graph: GraphArgs,
    /// Where the engine's own account of its layers goes, as JSON; needs a GPU that runs it.
    #[arg(long, value_name = "FILE")]
    pub layers: Option<PathBuf>,
    /// The library of what built the engine, or the folder that it is in; looked for otherwise.
    #[arg(long, value_name = "PATH")]
    pub tensorrt: Option<PathBuf>,
    /// Number of the GPU that reads the engine.
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    pub device: usize,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    /// An engine of TensorRT or TensorRT-RTX, or an ONNX graph (.onnx), which ONNX Runtime runs on the CPU. Several are the
    /// blocks of a DiT, in their order, and run as one.
    #[arg(value_name = "FILE", required = true)]
    pub engine: Vec<PathBuf>,
    /// What `steady record` wrote.
    #[arg(long, value_name = "DIR")]
    pub bindings: PathBuf,
    /// Round recorded floats to a binding's narrower type; otherwise values that it does not hold are an error.
    #[arg(long)]
    pub round_inputs: bool,
    /// Then run an engine this often on the first call's inputs, and say how long a run takes.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pub repeat: Option<u32>,
    /// A folder that does not exist yet, for the engine's outputs in their own types.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// The library of what built the engine, or the folder that it is in; looked for otherwise.
    #[arg(long, value_name = "PATH")]
    pub tensorrt: Option<PathBuf>,
    /// ONNX Runtime's library, or the folder that it is in; looked for otherwise.
    #[arg(long, value_name = "PATH")]
    pub onnxruntime: Option<PathBuf>,
    /// Number of the GPU that runs an engine; the first otherwise.
    #[arg(long, value_name = "NUMBER")]
    pub device: Option<usize>,
}

/// Reads `DIM=MIN:BEST:MAX`.
fn dimension(text: &str) -> Result<(String, Range), String> {
    let (name, range) = text.split_once('=').ok_or("expected DIM=MIN:BEST:MAX, such as tokens=1:121:512")?;
    let range = range.parse().map_err(|error: Error| error.to_string())?;
    Ok((name.to_owned(), range))
}

/// Reads a target's name.
pub fn target(text: &str) -> Result<Target, String> {
    text.parse().map_err(|error: Error| error.to_string())
}

fn flag(text: &str) -> Result<BuilderFlag, String> {
    text.parse().map_err(|error: Error| error.to_string())
}
